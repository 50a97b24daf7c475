"""Sample: the first value of every leaf of an expression.

Values are computed in numpy float64, whatever library they are for, and cast at the end; so
numpy, torch and jax start from the same numbers. Only a leaf that starts as the value of an
expression is computed again in the library and dtype where it will be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..algebra.expression import Expr, Shape, Start
from ..algebra.nodes import Base, BaseBias, Leaf
from ..algebra.snapshot import constant_of, snapshot_name
from ..algebra.starts import normal
from ..algebra.walk import leaves, snapshots, start_of, topological
from ..errors import ShapeError, StructureError, ValueMissingError, near
from .arrays import Array, array_like, hold, namespace, to_numpy
from .draw import draw, signed_qr, signed_svd, stream
from .evaluate import evaluate

MODES = ("initial", "random")


def sample(
    expr: Expr | Sequence[Expr],
    seed: int = 0,
    base: Array | Sequence[Array] | None = None,
    like: Array | None = None,
    start: str = "initial",
    data: Mapping[str, Array] | None = None,
    path: str = "",
    bias: Array | Sequence[Array] | None = None,
) -> dict[str, Array]:
    """Draw a value for every leaf of an expression.

    Parameters
    ----------
    expr : Expr or sequence of Expr
        An expression, or those of one group: a name that occurs in several is one leaf.
    seed : int
        Chooses the random numbers, together with ``path`` and each leaf's name.
    base : array, or a sequence of one array per expression, optional
        W0, for starts that read it.
    like : array, optional
        Decides library, dtype and device of the values; numpy float64 by default.
    start : {"initial", "random"}
        ``"initial"``: as the leaves are declared; ``"B@start"`` equals ``"B"``. ``"random"``:
        every leaf independently N(0, 1), also frozen and derived ones and ``"B@start"``, so
        that nothing is zero by accident and no base is needed; only a ``"B@start"`` whose leaf
        starts as one constant is that constant, as ``evaluate`` defines it.
    data : mapping of str to array, optional
        The arrays of leaves that start as ``given()``, by leaf name.
    path : str
        The site's path, so that two sites draw different numbers. Leaves of scope "group" and
        "model" do not read it.
    bias : array, or a sequence of one array per expression, optional
        b0, for starts that read it.

    Returns
    -------
    dict of str to array
        One value per leaf, of the leaf's shape, in order of first use; then ``"B@start"`` for
        every leaf B that the expression reads through ``at_start``.

    Raises
    ------
    ValueMissingError
        If a start reads W0, b0 or data that is not given.
    ShapeError
        If a derived or given value does not have the leaf's shape, or is too small for the rank.
    StructureError
        If ``start`` is unknown, two different leaves have one name, or given data is not finite.

    Notes
    -----
    Fans are torch's: of ``(rows, columns, *kernel)`` the fan-in is ``columns · kernel`` and the
    fan-out ``rows · kernel``; a vector of n elements has n and n. Decompositions read their
    operand as a matrix ``(out, the rest)``, and their signs are fixed: each left singular vector
    has a positive entry of largest magnitude, R has a diagonal of zero or more. A σ of 0 to a
    negative power is 0. A derived value equals itself on other machines to rounding, others to
    the bit.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> values = sample(low_rank((4, 3), rank=2), seed=1)
    >>> {name: value.shape for name, value in values.items()}
    {'B': (4, 2), 'A': (2, 3)}
    """
    if start not in MODES:
        raise StructureError(
            f"sample(start={start!r}) was asked for.",
            f"Known: {', '.join(map(repr, MODES))}.",
            "Use one of them.",
        )
    exprs = [expr] if isinstance(expr, Expr) else list(expr)
    bases, biases = _per_expression(base, expr, "base"), _per_expression(bias, expr, "bias")
    target = np.zeros(()) if like is None else like
    live: dict[str, np.ndarray] = {}
    begun: dict[str, np.ndarray] = {}
    known: dict[str, Leaf] = {}
    for one, w, b in zip(exprs, bases, biases, strict=True):
        first = _First(seed, path, w, b, data or {})
        if start == "initial":
            first.begin(one)
        read, held = leaves(one), snapshots(one)
        for leaf in dict.fromkeys((*read, *held)):
            _check_same(known.setdefault(leaf.name, leaf), leaf)
        value = first.initial if start == "initial" else first.random
        at_start = first.initial if start == "initial" else first.random_at_start
        live.update((leaf.name, value(leaf)) for leaf in read if leaf.name not in live)
        names = ((snapshot_name(leaf.name), leaf) for leaf in held)
        begun.update((name, at_start(leaf)) for name, leaf in names if name not in begun)
    result = {name: array_like(value, target) for name, value in (live | begun).items()}
    if start == "initial" and like is not None:
        for one, w, b in zip(exprs, bases, biases, strict=True):
            result |= _recomputed(one, result, w, b, like)
    return result


def _recomputed(
    expr: Expr, values: Mapping[str, Array], base: Array, bias: Array, like: Array
) -> dict[str, Array]:
    """The leaves that start as a value, computed where they will be used.

    A magnitude that starts as a norm must equal that norm to the bit, or ΔW would not be zero.
    """
    whole = {"base": base, "bias": bias}
    cast = {k: None if a is None else array_like(to_numpy(a), like) for k, a in whole.items()}
    found: dict[str, Array] = {}
    xp = namespace(like)
    for leaf in (*leaves(expr), *snapshots(expr)):
        begin = start_of(leaf)
        if begin.kind != "value_of" or begin.operand is None:
            continue
        needed = {inner.name for inner in leaves(begin.operand)}
        if needed <= set(values) and not snapshots(begin.operand):
            value = evaluate(begin.operand, values, **cast)
            names = (leaf.name, snapshot_name(leaf.name))
            # A copy each: the value may be another leaf's own array, and training is in place.
            copies = ((name, xp.asarray(hold(value), copy=True)) for name in names)
            found.update((name, copy) for name, copy in copies if name in values)
    return found


def _per_expression(given: Array, expr: Expr | Sequence[Expr], what: str) -> list[Array]:
    if isinstance(expr, Expr):
        return [given]
    if given is None:
        return [None] * len(expr)
    arrays = list(given) if isinstance(given, list | tuple) else [given]
    if len(arrays) != len(expr):
        raise ShapeError(
            f"sample of {len(expr)} expressions was asked for with {len(arrays)} for {what}.",
            f"Each expression has a {what} of its own.",
            f"Pass a list of {len(expr)} arrays: {what}=[...].",
        )
    return arrays


def _check_same(first: Leaf, second: Leaf) -> None:
    if first != second:
        raise StructureError(
            f"Values for two different leaves named {first.name!r} were asked for.",
            f"One has the shape {first.shape}, the other {second.shape}, or they start "
            "differently.",
            "Give one of them another name, or sample the expressions one by one.",
        )


@dataclass(frozen=True, slots=True)
class _First:
    """The first values at one site, each computed once."""

    seed: int
    path: str
    base: Array | None
    bias: Array | None
    data: Mapping[str, Array]
    done: dict[Leaf, np.ndarray] = field(default_factory=dict)
    operands: dict[Expr, np.ndarray] = field(default_factory=dict)
    factors: dict[tuple[str, Expr], tuple[np.ndarray, ...]] = field(default_factory=dict)

    def random(self, leaf: Leaf) -> np.ndarray:
        return draw(normal(), leaf.shape, self._stream(leaf, leaf.name))

    def random_at_start(self, leaf: Leaf) -> np.ndarray:
        number = constant_of(start_of(leaf))
        if number is not None:
            return np.full(leaf.shape, number)
        return draw(normal(), leaf.shape, self._stream(leaf, snapshot_name(leaf.name)))

    def begin(self, expr: Expr) -> None:
        """Compute what starts are computed from before them, so that chains are no recursion."""
        for sub in topological(expr, with_starts=True):
            if isinstance(sub, Leaf):
                self.initial(sub)

    def initial(self, leaf: Leaf) -> np.ndarray:
        if leaf not in self.done:
            self.done[leaf] = self._initial(leaf, start_of(leaf))
        return self.done[leaf]

    def _initial(self, leaf: Leaf, start: Start) -> np.ndarray:
        if start.kind == "given":
            return _given(leaf, self.data)
        if start.operand is None:
            return draw(start, leaf.shape, self._stream(leaf, leaf.name))
        value = self._derived(leaf, start, start.operand)
        if value.shape != leaf.shape:
            raise ShapeError(
                f"The leaf {leaf.name!r} of shape {leaf.shape} starts by {start.kind}.",
                f"That value has the shape {value.shape}.",
                "Give the leaf that shape.",
            )
        return value

    def _stream(self, leaf: Leaf, name: str) -> np.random.RandomState:
        return stream(self.seed, self.path if leaf.scope == "site" else "", name)

    def _derived(self, leaf: Leaf, start: Start, operand: Expr) -> np.ndarray:
        if operand not in self.operands:
            self.operands[operand] = self._operand(leaf, start, operand)
        value = self.operands[operand]
        if start.kind == "value_of":
            return value
        matrix = value.reshape(value.shape[0] if value.ndim else 1, -1)
        first = int(dict(start.settings).get("first", 0))
        last = first + int(start["rank"])
        if first < 0 or last > min(matrix.shape):
            raise ShapeError(
                f"The leaf {leaf.name!r} starts by {start.kind}, numbers {first} to {last - 1}.",
                f"Its operand as a matrix {matrix.shape} has {min(matrix.shape)} of them.",
                f"Use a rank of at most {max(min(matrix.shape) - first, 0)}.",
            )
        kind = "qr" if start.kind.startswith("qr_") else "svd"
        if (kind, operand) not in self.factors:
            self.factors[kind, operand] = (signed_qr if kind == "qr" else signed_svd)(matrix)
        return _factor(start, self.factors[kind, operand], slice(first, last))

    def _operand(self, leaf: Leaf, start: Start, operand: Expr) -> np.ndarray:
        needed = {type(sub) for sub in topological(operand)}
        for kind, given, word, what in (
            (Base, self.base, "base", "weight W0"),
            (BaseBias, self.bias, "bias", "bias b0"),
        ):
            if kind in needed and given is None:
                raise ValueMissingError(
                    f"The leaf {leaf.name!r} of shape {leaf.shape} starts by {start.kind}, "
                    f"which reads the base {what}.",
                    f"No {word} was given.",
                    f"Pass {word}=..., or start='random', which needs none.",
                )
        values = {inner.name: self.initial(inner) for inner in leaves(operand)}
        values |= {snapshot_name(inner.name): self.initial(inner) for inner in snapshots(operand)}
        base = None if self.base is None else to_numpy(self.base)
        bias = None if self.bias is None else to_numpy(self.bias)
        return np.asarray(evaluate(operand, values, base=base, bias=bias))


def _factor(start: Start, factors: tuple[np.ndarray, ...], chosen: slice) -> np.ndarray:
    if start.kind == "qr_q":
        return factors[0][:, chosen]
    if start.kind == "qr_r":
        return factors[1][chosen]
    left, values, right = factors
    scale = _power(values[chosen], float(start["power"]))
    if start.kind == "left_singular":
        return left[:, chosen] * scale
    if start.kind == "right_singular":
        return scale[:, None] * right[chosen]
    return scale


def _power(values: np.ndarray, power: float) -> np.ndarray:
    if power >= 0:
        return values**power
    return np.where(values == 0, 0.0, np.where(values == 0, 1.0, values) ** power)


def _given(leaf: Leaf, data: Mapping[str, Array]) -> np.ndarray:
    if leaf.name not in data:
        raise ValueMissingError(
            f"The leaf {leaf.name!r} of shape {leaf.shape} starts as an array of the user's own.",
            f"data has no {leaf.name!r}; given and near: {near(leaf.name, data)}.",
            f"Pass it: data={{{leaf.name!r}: array}}.",
        )
    value = to_numpy(data[leaf.name])
    _check_data(leaf.name, value, leaf.shape)
    return value


def _check_data(name: str, value: np.ndarray, shape: Shape) -> None:
    if value.shape != shape:
        raise ShapeError(
            f"data[{name!r}] of shape {value.shape} was given.",
            f"The leaf {name!r} has the shape {shape}.",
            "Give an array of that shape.",
        )
    if not np.isfinite(value).all():
        bad = int(np.size(value) - np.isfinite(value).sum())
        raise StructureError(
            f"data[{name!r}] of shape {shape} was given.",
            f"{bad} of its entries are not finite.",
            "Give finite numbers.",
        )
