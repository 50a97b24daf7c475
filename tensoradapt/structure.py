"""Structures: a method with its settings, independent of the weight it will be laid on.

A method is a short function from a weight ``w`` (the node ``Base``) to an expression for ΔW.
``@method`` registers it; calling it with settings gives a ``Structure``: frozen, printed as it
was written, compared by value, to and from text and JSON. ``structure.on(shape)`` gives the
expression.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, overload

from .algebra.expression import Expr, Shape
from .algebra.leaves import names_in_use
from .algebra.nodes import Base
from .algebra.walk import leaves, rename_leaves
from .errors import ShapeError, StructureError, TensorAdaptError, near


@dataclass(frozen=True, slots=True)
class Update:
    """What a method changes at one site.

    Parameters
    ----------
    weight : Expr, optional
        ΔW, of the weight's shape ``(out, in, *kernel)``.
    bias : Expr, optional
        Δb, ``(out,)``; left out where the site has no bias.
    penalty : Expr, optional
        A scalar to add to the training loss.
    """

    weight: Expr | None = None
    bias: Expr | None = None
    penalty: Expr | None = None

    def rename(self, rename: Callable[[str], str]) -> Update:
        """Rename every leaf of every part."""
        parts = (self.weight, self.bias, self.penalty)
        return Update(*(part and rename_leaves(part, rename) for part in parts))


class Structure:
    """Anything that gives an update for a weight. Abstract; see ``Call``, ``Total``, ``Fixed``."""

    __slots__ = ()

    def updates(self, weights: Sequence[Base]) -> list[Update]:
        """The updates of a group of weights, one per weight."""
        raise NotImplementedError

    @overload
    def on(self, shape: Shape | Base) -> Expr: ...
    @overload
    def on(self, shape: Sequence[Shape]) -> list[Expr]: ...
    def on(self, shape: Any) -> Any:
        """The expression for ΔW at a weight of this shape.

        Parameters
        ----------
        shape : tuple of int, or a sequence of such tuples
            ``(out, in, *kernel)``; a sequence makes one group and gives one expression each.

        Returns
        -------
        Expr or list of Expr
            Of the weight's shape.

        Raises
        ------
        StructureError
            If the settings do not fit the shape, or the structure has no weight part.

        Examples
        --------
        >>> from tensoradapt import zoo
        >>> zoo.lora(rank=4).on((768, 3072)).shape
        (768, 3072)
        """
        given: Any = shape
        parts: list[Any] = [*given] if isinstance(given, list | tuple) else []  # type: ignore[misc]
        if not parts or not all(isinstance(part, list | tuple | Base) for part in parts):
            return _weight(self, self.update(shape))  # type: ignore[arg-type]
        return [_weight(self, update) for update in self.updates([_base(s) for s in parts])]

    def update(self, shape: Shape | Base) -> Update:
        """All parts (weight, bias, penalty) at one weight."""
        return self.updates([_base(shape)])[0]

    def __add__(self, other: Structure) -> Structure:
        if not isinstance(other, Structure):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StructureError(
                f"The structure {self} + {other!r} was asked for.",
                f"{type(other).__name__} is not a structure.",
                "Add structures, as in zoo.lora(rank=4) + zoo.circulant().",
            )
        terms = [t for s in (self, other) for t in (s.terms if isinstance(s, Total) else (s,))]
        return Total(tuple(terms))


def _base(shape: Shape | Base) -> Base:
    if isinstance(shape, Base):
        return shape
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()  # type: ignore[redundant-expr]
    if not sizes or any(type(n) is not int or n < 1 for n in sizes):
        raise ShapeError(
            f"A structure was asked for a weight of shape {shape!r}.",
            "A weight's shape is a tuple of integers of 1 or more.",
            "Give (out, in), as in zoo.lora(rank=4).on((768, 3072)).",
        )
    return Base(sizes)


def _weight(structure: Structure, update: Update) -> Expr:
    if update.weight is None:
        raise StructureError(
            f"The weight update of {structure} was asked for.",
            "This structure changes the bias only.",
            "Read its bias part: structure.update(shape).bias.",
        )
    return update.weight


# --- methods and their registry ----------------------------------------------------------

Returned = Expr | Update


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A registered method: call it with settings to get a structure."""

    name: str
    function: Callable[..., Any]
    paper: str
    scope: str
    defaults: Mapping[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    def __call__(self, /, **settings: Any) -> Structure:
        known = self.defaults
        for name in settings:
            if name not in known:
                raise StructureError(
                    f"{self.name}({name}={settings[name]!r}) was asked for.",
                    f"{self.name} has no setting {name!r}; nearest: {near(name, known)}.",
                    f"Its settings are: {', '.join(known) or 'none'}.",
                )
        kept = {name: _setting(self.name, name, settings[name]) for name in settings}
        missing = [name for name, default in known.items() if default is inspect.Parameter.empty]
        for name in missing:
            if name not in kept:
                raise StructureError(
                    f"{self.name}() was asked for without {name!r}.",
                    f"{name!r} has no default.",
                    f"Give it, as in {self.name}({name}=...).",
                )
        return Call(self, tuple((name, kept[name]) for name in known if name in kept))


_METHODS: dict[str, Method] = {}


def methods() -> Mapping[str, Method]:
    """All registered methods by name, sorted."""
    return MappingProxyType(dict(sorted(_METHODS.items())))


def method(
    *, paper: str, scope: str = "site", name: str | None = None
) -> Callable[[Callable[..., Any]], Method]:
    """Register a function of a weight as a method.

    Parameters
    ----------
    paper : str
        The source, as in ``"Hu et al. 2022, arXiv:2106.09685"``.
    scope : {"site", "group"}
        With ``"group"`` the function receives a list of weights and returns one update each.
    name : str, optional
        The function's own name by default.

    Raises
    ------
    StructureError
        If another function already has that name, or takes positional settings.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> @method(paper="an example")
    ... def twice(w, *, rank=2):
    ...     "ΔW = 2 B A."
    ...     return 2 * low_rank(w, rank)
    >>> twice(rank=3).on((6, 5))
    2 B A
    """

    def register(function: Callable[..., Any]) -> Method:
        title = name or function.__name__
        signature = list(inspect.signature(function).parameters.values())
        if not signature or any(p.kind is not p.KEYWORD_ONLY for p in signature[1:]):
            raise StructureError(
                f"The method {title!r} was registered.",
                "Its settings must be keyword-only, after the weight.",
                f"Write it as def {title}(w, *, rank=8): ...",
            )
        known = _METHODS.get(title)
        place = (function.__module__, function.__qualname__)
        if known and (known.function.__module__, known.function.__qualname__) != place:
            raise StructureError(
                f"A second method named {title!r} was registered.",
                f"The first is {known.function.__module__}.{known.function.__qualname__}.",
                'Give yours another name: @method(paper=..., name="...").',
            )
        defaults = MappingProxyType({p.name: p.default for p in signature[1:]})
        made = Method(title, function, paper, scope, defaults)
        _METHODS[title] = made
        return made

    return register


def find_method(name: str) -> Method:
    """The registered method of that name, or an error that lists near names."""
    if name not in _METHODS:
        raise StructureError(
            f"The method {name!r} was asked for.",
            f"No method of that name is registered; nearest: {near(name, _METHODS)}.",
            "Import the module that registers it (tensoradapt.zoo has the published ones).",
        )
    return _METHODS[name]


def _setting(owner: str, name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | Structure):
        return value
    for kind in (int, float, str):  # plain ones, so that a numpy float prints as a number
        if (
            isinstance(value, kind)
            and value not in (float("inf"), -float("inf"))
            and value == value
        ):
            return kind(value)
    if isinstance(value, list | tuple):
        return tuple(_setting(owner, name, item) for item in value)  # type: ignore[misc]
    raise StructureError(
        f"{owner}({name}={value!r}) was asked for.",
        f"A setting is a finite number, a text, a list of them or a structure, not a "
        f"{type(value).__name__}.",
        "Hand arrays to sample or adapt by a leaf with the start given().",
    )


# --- the three structures ----------------------------------------------------------------


@contextmanager
def _fresh_names() -> Any:
    token = names_in_use.set(set())
    try:
        yield
    finally:
        names_in_use.reset(token)


@dataclass(frozen=True, slots=True, repr=False)
class Call(Structure):
    """A method with settings, as they were written."""

    method: Method
    settings: tuple[tuple[str, Any], ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and (self.method.name, self.settings) == (
            other.method.name,
            other.settings,
        )

    def __hash__(self) -> int:
        return hash((self.method.name, self.settings))

    def __reduce__(self) -> Any:
        return _recall, (self.method.name, self.settings)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.settings)
        return f"{self.method.name}({inside})"

    def with_settings(self, /, **changes: Any) -> Structure:
        """The same method with some settings changed."""
        return self.method(**(dict(self.settings) | changes))

    def updates(self, weights: Sequence[Base]) -> list[Update]:
        bound = dict(self.method.defaults) | dict(self.settings)
        bound = {name: _bind(name, value) for name, value in bound.items()}
        groups = [list(weights)] if self.method.scope == "group" else [[w] for w in weights]
        found: list[Update] = []
        for group in groups:
            with _fresh_names():
                found.extend(self._call(group, bound))
        return [_checked(self, w, update) for w, update in zip(weights, found, strict=True)]

    def _call(self, group: list[Base], bound: dict[str, Any]) -> list[Update]:
        many = self.method.scope == "group"
        try:
            made: Any = self.method.function(group if many else group[0], **bound)
        except TensorAdaptError as error:
            place = f"{self} on a weight of shape {group[0].shape}"
            raise (error if str(self) in error.asked else error.at(place)) from None
        results: list[Any] = list(made) if many and isinstance(made, list | tuple) else [made]  # type: ignore[arg-type]
        if len(results) != len(group) or not all(isinstance(r, Expr | Update) for r in results):
            kinds = ", ".join(type(r).__name__ for r in results) or "nothing"
            raise StructureError(
                f"{self} was laid on {len(group)} weights; its method returned {kinds}.",
                "A method returns an expression or an Update; with scope='group' one per weight.",
                "Check its return statement.",
            )
        return [r if isinstance(r, Update) else Update(r) for r in results]


def _recall(name: str, settings: tuple[tuple[str, Any], ...]) -> Call:
    return Call(find_method(name), settings)


@dataclass(frozen=True, slots=True, repr=False)
class Total(Structure):
    """A sum of structures; the leaves of term k are named ``k.…``."""

    terms: tuple[Structure, ...]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def updates(self, weights: Sequence[Base]) -> list[Update]:
        columns = [
            [update.rename(lambda name, k=k: f"{k}.{name}") for update in term.updates(weights)]
            for k, term in enumerate(self.terms)
        ]
        return [
            Update(
                _total([u.weight for u in row]),
                _total([u.bias for u in row]),
                _total([u.penalty for u in row]),
            )
            for row in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, slots=True, repr=False)
class Fixed(Structure):
    """Updates written down as expressions, each for the weights of its own shape."""

    expressions: tuple[Expr, ...]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.expressions))

    def updates(self, weights: Sequence[Base]) -> list[Update]:
        by_shape = {expr.shape: expr for expr in self.expressions}
        for w in weights:
            if w.shape not in by_shape:
                raise StructureError(
                    f"The expression {self} was laid on a weight of shape {w.shape}.",
                    f"It is written for {', '.join(map(str, by_shape))}.",
                    "Write a method (a function of w) so that it fits every shape.",
                )
        return [_checked(self, w, Update(by_shape[w.shape])) for w in weights]


@dataclass(frozen=True, slots=True)
class Within:
    """A structure handed to a method as a setting: call it with the weight."""

    prefix: str
    structure: Structure

    def __call__(self, w: Base) -> Expr:
        return _weight(self.structure, self.update(w))

    def update(self, w: Base) -> Update:
        """All parts, with the leaves named ``prefix.…``."""
        return self.structure.update(w).rename(lambda name: f"{self.prefix}.{name}")


def _bind(name: str, value: Any) -> Any:
    if isinstance(value, Structure):
        return Within(name, value)
    if isinstance(value, tuple):
        return tuple(_bind(f"{name}.{k}", item) for k, item in enumerate(value))  # type: ignore[misc]
    return value


def _total(parts: list[Expr | None]) -> Expr | None:
    present = [part for part in parts if part is not None]
    total = present[0] if present else None
    for part in present[1:]:
        total = total + part if total is not None else part
    return total


def _checked(structure: Structure, w: Base, update: Update) -> Update:
    for part, shape in ((update.weight, w.shape), (update.bias, w.shape[:1]), (update.penalty, ())):
        if part is not None and part.shape != shape:
            raise StructureError(
                f"{structure} was laid on a weight of shape {w.shape}.",
                f"Its method returned an expression of shape {part.shape}, not {shape}.",
                "Return ΔW in the weight's own shape; reshape or window the expression.",
            )
    _check_names(structure, update)
    return update


def _check_names(structure: Structure, update: Update) -> None:
    seen: dict[str, Expr] = {}
    for part in (update.weight, update.bias, update.penalty):
        for leaf in leaves(part) if part is not None else ():
            if seen.setdefault(leaf.name, leaf) != leaf:
                raise StructureError(
                    f"{structure} has two different leaves named {leaf.name!r}.",
                    f"One is {seen[leaf.name].shape}, the other {leaf.shape}, or they start "
                    "differently.",
                    "Give one of them another name.",
                )
