"""Families: an expression made ready for exact points, with every hypothesis that this rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..algebra.expression import Expr
from ..algebra.leaves import exact
from ..algebra.nodes import (
    AtStart,
    Base,
    BaseBias,
    Frozen,
    Leaf,
    Map,
    MatrixFunction,
    Parameter,
    Scale,
)
from ..algebra.snapshot import distribute_snapshots, snapshot_name
from ..algebra.walk import leaves, rewrite, start_of, topological
from ..errors import StructureError, TensorAdaptError, near
from ..run.arrays import Array
from ..run.evaluate import evaluate
from .constants import generic_constants
from .exact_point import RATIONAL_FUNCTIONS, RATIONAL_MATRIX_FUNCTIONS
from .independence import arguments, is_nested, shown_independent, tested_independent
from .modular import UnluckyPoint
from .pieces import is_piecewise, pieced
from .points import SEEDED, Drawing, Given, Point, decomposed_starts, draw_point, is_free
from .primes import draw_prime
from .real_points import real_point
from .residues import ResidueArithmetic
from .spectral import order_needed
from .substitution import Substituted, substitute
from .transcendental import TRANSCENDENTAL

FROZEN = ("generic", "values")
SIZES = (1.0, 1e-3, 1e3)
"""Deviations of trained leaves at which piecewise functions are looked at."""


@dataclass(frozen=True, slots=True)
class Family:
    """An expression whose generic properties can be certified.

    Parameters
    ----------
    original : Expr
        As it was given.
    plain : Expr
        The same over leaves alone: without ``at_start``, and without leaves that start as values.
    given : Given
        What the caller fixed, and the masks of piecewise functions.
    done : Substituted
        The expression of the same family, rational where it could be made so.
    constants : tuple of str
        Irrational numbers that stand as generic ones.
    obstacles : tuple of str
        Operations that have no exact point.
    shown : bool
        Whether the expression itself shows that sines may be free numbers.
    order : int
        The order of the roots of unity that transforms need.
    is_piecewise : bool
        Whether the update is analytic on pieces only, so that ranks may differ on them.
    """

    original: Expr
    plain: Expr
    given: Given
    done: Substituted
    constants: tuple[str, ...]
    obstacles: tuple[str, ...]
    shown: bool
    order: int
    is_piecewise: bool

    @property
    def reservation(self) -> str:
        """What a status adds where something generic stands for something special."""
        if self.done.free_scales:
            return " for free scales"
        if self.is_piecewise:
            return " on an open set"
        return " for generic constants" if self.constants else ""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the statement rests on, one sentence each."""
        return (*_leaf_assumptions(self), *self.done.notes, *_constant_assumptions(self))

    def prime(self, seed: int, trial: int) -> int:
        """The prime of a trial."""
        return draw_prime(seed, trial, self.order)

    def drawing(self, p: int, seed: int, number: int = 0) -> Drawing:
        """Where the numbers of a point come from; other numbers give other points."""
        arithmetic = ResidueArithmetic(
            p, self.order, seed=seed, norms=bool(self.done.cones), analytic=True
        )
        names = frozenset(
            sub.name for sub in topological(self.original, True) if isinstance(sub, Frozen)
        )
        cones = {cone.name: cone for cone in self.done.cones}
        own = seed if number == 0 else seed * 1_000_003 + number
        starts = decomposed_starts(self.plain, self.given)
        return Drawing(self.original, self.given, arithmetic, own, names, starts, cones)

    def point(self, p: int, seed: int) -> tuple[Point, ResidueArithmetic]:
        """Draw a point at which everything is defined and every hypothesis holds.

        Raises
        ------
        UnluckyPoint
            If a number that must not be 0 is, or the sines are not seen to be independent.
        """
        drawing = self.drawing(p, seed)
        point = draw_point((self.done.expr, *self.done.nonzero), drawing)
        for squares in self.done.nonzero:
            if not read(squares, point, drawing.arithmetic).all():
                raise UnluckyPoint("a norm that divides is 0 here")
        if not self.shown and not self._tested(p, seed, point):
            raise UnluckyPoint("the arguments of sin, cos, tanh or exp depend on each other")
        return point, drawing.arithmetic

    def _tested(self, p: int, seed: int, first: Point) -> bool:
        known: dict[int, Point] = {0: first}

        def at(operand: Expr, number: int) -> np.ndarray:
            if number not in known:
                known[number] = draw_point((self.done.expr,), self.drawing(p, seed, number))
            return read(operand, known[number], self.drawing(p, seed).arithmetic)

        return tested_independent(arguments(self.done.expr), at, p)


def read(expr: Expr, point: Point, arithmetic: object) -> np.ndarray:
    """Evaluate an expression at a point."""
    values: Mapping[str, Array] = point.values
    return np.asarray(evaluate(expr, values, point.base, point.bias, arithmetic=arithmetic))  # type: ignore[arg-type]


def family_of(expr: Expr, given: Given, seed: int = 0) -> Family:
    """Make an expression ready for exact points.

    A piecewise function is taken on the open set around a real point that the seed chooses.

    Raises
    ------
    StructureError
        If ``given.frozen`` is unknown, or a value is given of a leaf that trains.
    """
    _check_given(expr, given)
    plain = inlined(distribute_snapshots(expr), given)
    if not is_piecewise(plain):
        return _smooth_family(expr, plain, plain, given)
    found: Family | None = None
    for size in SIZES:
        try:
            piece = pieced(plain, real_point(expr, plain, given, seed, size))
        except TensorAdaptError:
            break
        if piece is not None:
            with_masks = replace(given, values={**given.values, **piece.masks})
            found = _smooth_family(expr, plain, piece.expr, with_masks)
            if not found.done.free_scales:
                return found
    return found or _smooth_family(expr, plain, plain, given)


def _smooth_family(original: Expr, plain: Expr, smooth: Expr, given: Given) -> Family:
    planted = bool(decomposed_starts(plain, given))

    def free(leaf: Expr) -> bool:
        return is_free(leaf, given, planted)

    read_leaves = [sub for sub in topological(smooth) if isinstance(sub, Leaf | Base | BaseBias)]
    done = substitute(smooth, {leaf for leaf in read_leaves if free(leaf)})
    maps = arguments(done.expr)
    return Family(
        original,
        plain,
        given,
        done,
        (*generic_constants(done.expr), *_start_constants(original)),
        _obstacles(done),
        not maps or shown_independent(maps, free),
        order_needed(plain),
        _has_edges(plain),
    )


def _has_edges(plain: Expr) -> bool:
    """Whether a function is defined or analytic on a part of the numbers only."""
    found = [sub for sub in topological(plain) if isinstance(sub, Map)]
    return any(f.function.name not in (*RATIONAL_FUNCTIONS, *TRANSCENDENTAL) for f in found)


def inlined(plain: Expr, given: Given) -> Expr:
    """Replace frozen leaves that start as a value by that value, read at the start.

    A leaf that is the norm of W0 is that norm: an exact relation, where a float would be rounded.
    """
    if given.frozen == "values":
        return plain

    def open_up(sub: Expr) -> Expr:
        if not isinstance(sub, Frozen) or sub.name in given.values:
            return sub
        if sub.recipe.kind != "value_of" or sub.recipe.operand is None:
            return sub
        return distribute_snapshots(AtStart(sub.recipe.operand))

    while True:
        opened = rewrite(plain, open_up)
        if opened == plain:
            return plain
        plain = opened


def _start_constants(expr: Expr) -> tuple[str, ...]:
    """Irrational numbers in what leaves start from."""
    plain = set(topological(expr))
    found = [sub for sub in topological(expr, with_starts=True) if sub not in plain]
    scales = [sub.factor for sub in found if isinstance(sub, Scale)]
    return tuple(f"{float(x):.6g}" for x in scales if isinstance(exact(x), float))


def _check_given(expr: Expr, given: Given) -> None:
    if given.frozen not in FROZEN:
        raise StructureError(
            f"frozen={given.frozen!r} was asked for.",
            f"Known: {', '.join(map(repr, FROZEN))}.",
            'Use "generic" for almost all frozen values, "values" for those of the seed.',
        )
    known = {sub.name for sub in topological(expr, True) if isinstance(sub, Leaf)}
    known |= {snapshot_name(name) for name in known}
    unknown = [name for name in given.values if name not in known]
    if unknown:
        raise StructureError(
            f"A generic rank was asked for with values of the leaf {unknown[0]!r}.",
            f"There is no such leaf; near are: {near(unknown[0], known)}.",
            "Give values of frozen leaves by their names.",
        )
    trained = [x.name for x in leaves(expr) if isinstance(x, Parameter) and x.name in given.values]
    if trained:
        raise StructureError(
            f"A generic rank was asked for with values of {', '.join(trained[:3])}.",
            "That leaf trains, so it is free here.",
            "Use ta.rank_at(expr, values) for the rank at given values.",
        )


def _obstacles(done: Substituted) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for sub in topological(done.expr):
        match sub:
            case Map(_, function) if function.name not in (*RATIONAL_FUNCTIONS, *TRANSCENDENTAL):
                found[str(function)] = None
            case MatrixFunction(_, kind, _) if kind not in RATIONAL_MATRIX_FUNCTIONS:
                found[kind] = None
            case _:
                pass
    if is_nested(done.expr):
        found["an analytic function of another"] = None
    return tuple(found)


def _leaf_assumptions(family: Family) -> list[str]:
    expr, given = family.original, family.given
    found: dict[str, None] = {}
    if any(isinstance(sub, Base) for sub in topological(expr)):
        found[
            "W0 enters exactly, as dyadic rationals" if given.base is not None else "W0 is generic"
        ] = None
    for leaf in leaves(distribute_snapshots(expr)):
        if isinstance(leaf, Frozen):
            found[_frozen_assumption(leaf, given)] = None
    if any(isinstance(leaf, Parameter) for leaf in leaves(expr)):
        found["trained leaves are generic"] = None
    return list(found)


def _frozen_assumption(leaf: Frozen, given: Given) -> str:
    kind = start_of(leaf).kind
    if leaf.name in given.values or given.frozen == "values":
        return f"{leaf.name} enters by its values, exactly"
    if kind in SEEDED:
        return f"{leaf.name} is generic (seeded)"
    if kind in ("orthogonal", "paired_columns"):
        return f"{leaf.name} is generic among its kind ({kind})"
    if start_of(leaf).operand is not None:
        by_float = given.base is not None
        how = "by its float64 values, exactly" if by_float else "by its relation to W0"
        return f"{leaf.name} enters {how} ({kind})"
    return f"{leaf.name} is constant ({kind})"


def _constant_assumptions(family: Family) -> list[str]:
    found = [f"the constant {number} is generic" for number in family.constants]
    if arguments(family.done.expr):
        found.append(
            "sin, cos, tanh, exp of independent arguments are free numbers (Lindemann, Weierstrass)"
        )
    return found
