"""Points: the residues of every leaf at which an expression is evaluated.

Only what is free gets free residues: trained leaves, and under ``frozen="generic"`` seeded ones
and W0. A leaf of one constant is that constant; orthogonal and paired starts keep their relations;
singular vectors and QR factors of W0 enter together with a W0 that has them, or by their floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ..algebra.expression import Expr, Shape, Start
from ..algebra.nodes import Base, BaseBias, Frozen, Leaf, Parameter
from ..algebra.snapshot import SUFFIX, constant_of
from ..algebra.starts import DERIVED
from ..algebra.walk import leaves, start_of, topological
from ..errors import UnsupportedError, ValueMissingError
from ..run.arrays import Array
from ..run.draw import stream
from ..run.sample import sample
from .modular import reciprocal
from .planted import Planted, is_decomposed, plant, reflected_columns, reflections
from .residues import ResidueArithmetic, residues_of
from .substitution import OWN, Cone

SEEDED = (
    "normal",
    "uniform",
    "kaiming_uniform",
    "kaiming_normal",
    "xavier_uniform",
    "xavier_normal",
)


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller fixes: W0, b0, values of frozen leaves, and whether all are meant.

    Parameters
    ----------
    base, bias : array, optional
        W0 and b0; generic without them.
    values : mapping of str to array
        Values of frozen leaves by name.
    frozen : {"generic", "values"}
        Whether seeded leaves are generic or the very numbers that they are drawn as.
    seed : int
        The seed that those numbers are drawn from.
    """

    base: Array | None = None
    bias: Array | None = None
    values: Mapping[str, Array] = field(default_factory=dict)
    frozen: str = "generic"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """Residues of the leaves, of W0 and of b0."""

    values: dict[str, np.ndarray]
    base: np.ndarray | None
    bias: np.ndarray | None


def fixed_number(start: Start) -> float | None:
    """The number that a random or constant start always gives, if it is one number."""
    number = constant_of(start)
    if number is not None:
        return number
    settings = dict(start.settings)
    if start.kind == "normal" and settings["std"] == 0:
        return float(settings["mean"])
    if start.kind == "uniform" and settings["low"] == settings["high"]:
        return float(settings["low"])
    return 0.0 if settings.get("gain") == 0 else None


def is_free(leaf: Expr, given: Given, planted: bool) -> bool:
    """Whether the entries of a leaf are free numbers."""
    if isinstance(leaf, Parameter):
        return True
    if isinstance(leaf, Base):
        return given.base is None and not planted
    if isinstance(leaf, BaseBias):
        return given.bias is None
    if not isinstance(leaf, Frozen) or leaf.name in given.values:
        return False
    if leaf.name.startswith(OWN):
        return True
    return (
        given.frozen == "generic"
        and leaf.recipe.kind in SEEDED
        and fixed_number(leaf.recipe) is None
    )


@dataclass(slots=True)
class Drawing:
    """One point in the making."""

    original: Expr
    given: Given
    arithmetic: ResidueArithmetic
    seed: int
    frozen_names: frozenset[str]
    decomposed: tuple[Start, ...] = ()
    cones: Mapping[str, Cone] = field(default_factory=dict)
    planted: Planted | None = None
    sampled: dict[str, np.ndarray] | None = None

    @property
    def p(self) -> int:
        """The modulus."""
        return self.arithmetic.p

    def source(self, name: str) -> np.random.RandomState:
        """The stream of a leaf; the snapshot of a frozen leaf is that leaf."""
        plain = name.removesuffix(SUFFIX)
        own = plain if plain in self.frozen_names else name
        return stream(self.seed, str(self.p), own)

    def free(self, name: str, shape: Shape) -> np.ndarray:
        """Independent residues other than 0, on the leaf's cone if it has one."""
        source = self.source(name)
        drawn = np.asarray(source.randint(1, self.p, size=shape, dtype=np.int64))
        cone = self.cones.get(name)
        if cone is None:
            return drawn
        other = source.randint(1, self.p, size=cone.kept, dtype=np.int64)
        return on_cone(drawn, cone, other, self.p)

    def number(self, value: float, shape: Shape) -> np.ndarray:
        """One number everywhere."""
        return np.full(shape, self.arithmetic.number(value), dtype=np.int64)

    def leaf(self, leaf: Leaf) -> np.ndarray:
        """The residues of a leaf."""
        if isinstance(leaf, Parameter):
            return self.free(leaf.name, leaf.shape)
        return self.started(leaf, leaf.name)

    def started(self, leaf: Leaf, name: str) -> np.ndarray:
        """The residues of what a leaf starts as; ``name`` keys what is random in it."""
        start = start_of(leaf)
        if name in self.given.values:
            return residues_of(self.given.values[name], self.p, f"the leaf {name!r}")
        if self.given.frozen == "values" and not name.startswith(OWN):
            return self.by_value(name)
        number = fixed_number(start)
        if number is not None:
            return self.number(number, leaf.shape)
        if start.kind in SEEDED:
            return self.free(name, leaf.shape)
        if start.kind == "identity":
            return _identity(leaf.shape)
        if start.kind == "orthogonal":
            return self.orthogonal(name, leaf.shape, float(start["gain"]))
        if start.kind == "paired_columns":
            return self.paired(name, leaf.shape)
        if start.kind in DERIVED:
            return self.derived(leaf, name, start)
        raise ValueMissingError(
            f"The rank of an expression with the given leaf {name!r} was asked for.",
            "Its values are the user's own, so no free numbers can stand for them.",
            f"Pass values={{{name!r}: array}}.",
        )

    def orthogonal(self, name: str, shape: Shape, gain: float) -> np.ndarray:
        """Orthonormal rows or columns, whichever are fewer, times a gain."""
        rows, columns = (shape[0] if shape else 1), prod(shape[1:])
        tall = (max(rows, columns), min(rows, columns))
        vectors = self.free(name, (reflections(tall[0]), tall[0]))
        q = reflected_columns(vectors, tall[1], self.p)
        matrix = (q if rows >= columns else q.T) * self.arithmetic.number(gain) % self.p
        return matrix.reshape(shape)

    def paired(self, name: str, shape: Shape) -> np.ndarray:
        """Columns in equal pairs."""
        if len(shape) < 2 or shape[1] % 2:
            return self.free(name, shape)
        return np.repeat(self.free(name, (shape[0], shape[1] // 2, *shape[2:])), 2, axis=1)

    def derived(self, leaf: Leaf, name: str, start: Start) -> np.ndarray:
        """What is computed from W0: as a factor of a planted one, or by floats."""
        assert start.operand is not None
        if self.given.base is None and is_decomposed(start):
            return self.decomposition().factor(start)
        self.refuse_seeded(leaf, start)
        return residues_of(self.floats(leaf), self.p, f"the leaf {name!r}")

    def refuse_seeded(self, leaf: Leaf, start: Start) -> None:
        """A float of generic numbers is nothing: only W0 may stand behind it."""
        assert start.operand is not None
        if self.given.base is not None and not leaves(start.operand):
            return
        raise UnsupportedError(
            f"The rank of an expression with the leaf {leaf.name!r}, which starts by "
            f"{start.kind}, was asked for.",
            "It depends on W0 or on other leaves, so free numbers must not stand for it.",
            "Pass base=W0 and frozen='values', so that it enters by its floats.",
        )

    def floats(self, leaf: Leaf) -> np.ndarray:
        """The value of a leaf as ``sample`` computes it."""
        drawn = sample(leaf, self.given.seed, self.given.base, bias=self.given.bias)
        return drawn[leaf.name]

    def by_value(self, name: str) -> np.ndarray:
        """The residues of a frozen leaf as it is drawn."""
        if self.sampled is None:
            data = self.given.values
            given = self.given
            self.sampled = sample(self.original, given.seed, given.base, data=data, bias=given.bias)
        return residues_of(self.sampled[name], self.p, f"the leaf {name!r}")

    def decomposition(self) -> Planted:
        """W0 with its factors, drawn once."""
        if self.planted is None:
            source = self.source("W0 with factors")
            self.planted = plant(self.decomposed, source, self.p, self.arithmetic.number)
        return self.planted

    def base(self) -> np.ndarray | None:
        """The residues of W0."""
        if self.given.base is not None:
            return residues_of(self.given.base, self.p, "the base weight W0")
        shape = _shape_of(self.original, Base)
        if shape is None:
            return None
        if self.decomposed:
            return self.decomposition().base.reshape(shape)
        return self.free("W0", shape)

    def bias(self) -> np.ndarray | None:
        """The residues of b0."""
        if self.given.bias is not None:
            return residues_of(self.given.bias, self.p, "the base bias b0")
        shape = _shape_of(self.original, BaseBias)
        return None if shape is None else self.free("b0", shape)


def decomposed_starts(plain: Expr, given: Given) -> tuple[Start, ...]:
    """The starts of frozen leaves that are factors of a W0 that is not given."""
    if given.base is not None or given.frozen == "values":
        return ()
    frozen = [x for x in leaves(plain) if isinstance(x, Frozen) and x.name not in given.values]
    return tuple(dict.fromkeys(x.recipe for x in frozen if is_decomposed(x.recipe)))


def draw_point(exprs: Sequence[Expr], drawing: Drawing) -> Point:
    """Draw the residues of every leaf of some expressions.

    Parameters
    ----------
    exprs : sequence of Expr
        Without ``at_start``.
    drawing : Drawing
        Where the numbers come from.

    Returns
    -------
    Point

    Raises
    ------
    UnsupportedError, ValueMissingError
        If a frozen leaf has neither free numbers, nor a relation, nor values.
    UnluckyPoint
        If a number that must be inverted is 0.
    """
    values = {leaf.name: drawing.leaf(leaf) for expr in exprs for leaf in leaves(expr)}
    return Point(values, drawing.base(), drawing.bias())


def on_cone(a: np.ndarray, cone: Cone, other: np.ndarray, p: int) -> np.ndarray:
    """Change one entry of every group, so that its sum of squares is a square.

    With q the squares of the rest and any c, ``x = (q/c - c)/2`` and ``y = (q/c + c)/2`` satisfy
    ``x² + q = y²``: these are all points of the cone but a line.
    """
    inside = range(-len(cone.axes), 0)
    moved = np.moveaxis(a.reshape(cone.view), cone.axes, inside)
    flat = moved.reshape(*cone.kept, -1).copy()
    rest = (flat[..., 1:] * flat[..., 1:] % p).sum(axis=-1) % p
    flat[..., 0] = (rest * reciprocal(other, p) - other) % p * pow(2, -1, p) % p
    back = np.moveaxis(flat.reshape(moved.shape), inside, cone.axes)
    return np.ascontiguousarray(back).reshape(a.shape)


def _identity(shape: Shape) -> np.ndarray:
    if len(shape) < 2:
        return np.ones(shape, dtype=np.int64)
    at = np.indices(shape)
    return (at[0] == at[1]).astype(np.int64)


def _shape_of(expr: Expr, kind: type[Base] | type[BaseBias]) -> Shape | None:
    found = [sub.shape for sub in topological(expr, with_starts=True) if isinstance(sub, kind)]
    return found[0] if found else None
