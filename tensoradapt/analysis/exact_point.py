"""Exact ranks at given values: by residues where the update is rational, else by balls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import Map, MatrixFunction, Norm
from ..algebra.snapshot import distribute_snapshots
from ..algebra.walk import topological
from ..errors import ShapeError, UnsupportedError
from ..run.evaluate import evaluate
from .ball_minors import certify_square, chosen_minor, divided_by_zero, sub_minor
from .classes import Classes, classes_of
from .eliminate import pivots
from .failure import Size, miss_probability, size_of
from .modular import UnluckyPoint
from .primes import draw_prime
from .rationals import RationalArithmetic, rational_matrix
from .residues import ResidueArithmetic, residues_of
from .spectral import order_needed

RATIONAL_FUNCTIONS = ("polynomial", "reciprocal")
RATIONAL_MATRIX_FUNCTIONS = ("cayley", "neumann", "householder")
TRIALS = 3
MOST_EXACT = 2**14
"""Elements up to which the rank over the rationals is computed outright."""
MOST_BALLS = 2**20


@dataclass(frozen=True, slots=True)
class Values:
    """Leaves by name, W0 and b0, in float64 (every shorter float is one of those)."""

    leaves: Mapping[str, np.ndarray]
    base: np.ndarray | None = None
    bias: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Bounds of a rank, and how they were found."""

    lower: int
    upper: int
    status: str
    why: str
    failure_probability: float | None = 0.0
    precision: int = 0
    row_classes: int = 0
    column_classes: int = 0


def is_rational(expr: Expr) -> bool:
    """Whether an expression is a rational function of its leaves (and of roots of unity)."""
    return not any(_is_irrational(sub) for sub in topological(distribute_snapshots(expr)))


def _is_irrational(sub: Expr) -> bool:
    match sub:
        case Norm():
            return True
        case Map(_, function):
            return function.name not in RATIONAL_FUNCTIONS
        case MatrixFunction(_, kind, _):
            return kind not in RATIONAL_MATRIX_FUNCTIONS
        case _:
            return False


# --- rational updates --------------------------------------------------------------------


def by_residues(expr: Expr, given: Values, bound: int, here: int, seed: int) -> Found:
    """The rank of a rational update, modulo primes; small ones over the rationals as well.

    Parameters
    ----------
    expr : Expr
        The update.
    given : Values
        Its leaves.
    bound, here : int
        The structure's bound, and the one at these values.
    seed : int
        Chooses the primes.
    """
    limit, best, primes = min(bound, here), -1, list[int]()
    for trial in range(4 * TRIALS):
        matrix = _residues_at(expr, given, p := draw_prime(seed, trial, order_needed(expr)))
        if matrix is None:
            continue
        primes.append(p)
        best = max(best, pivots(matrix, p).rank)
        if best >= limit or len(primes) == TRIALS:
            break
    if best >= limit:
        return _met(limit, bound, f"≥ {limit}  a minor is not 0 modulo {primes[-1]}")
    exact = _rational_rank(expr, given) if expr.size <= MOST_EXACT else None
    if exact is not None:
        return _met(exact, bound, f"= {exact}  elimination over the rational numbers")
    if best < 0:
        raise divided_by_zero(expr)
    size = size_of(distribute_snapshots(expr), frozenset((*given.leaves, "W0", "b0")))
    missed = miss_probability(size, best + 1, 2**30) ** len(primes)
    why = (
        f"≥ {best}  a minor is not 0 modulo {primes[-1]}\n≤ {limit}  the structure at these values"
    )
    return Found(best, limit, "bounded", why, missed, 0, *_sides(expr))


def _met(rank: int, bound: int, lower: str) -> Found:
    if rank == bound:
        return Found(rank, rank, "certified", f"{lower}\n≤ {rank}  the structure")
    upper = f"≤ {rank}  zeros and relations at these values; the structure alone allows {bound}"
    return Found(rank, rank, "singular by structure", f"{lower}\n{upper}")


def _sides(expr: Expr) -> tuple[int, int]:
    return expr.shape[0], expr.size // max(expr.shape[0], 1)


def _residues_at(expr: Expr, given: Values, p: int) -> np.ndarray | None:
    arithmetic = ResidueArithmetic(p, order_needed(expr), constants="dyadic")
    leaves = {n: residues_of(a, p, f"the leaf {n!r}") for n, a in given.leaves.items()}
    base = None if given.base is None else residues_of(given.base, p)
    bias = None if given.bias is None else residues_of(given.bias, p)
    try:
        matrix = np.asarray(evaluate(expr, leaves, base, bias, arithmetic=arithmetic))
    except UnluckyPoint:
        return None
    return matrix.reshape(matrix.shape[0], -1)


def _rational_rank(expr: Expr, given: Values) -> int | None:
    try:
        return int(rational_matrix(rationals_at(expr, given)).rank())
    except (UnsupportedError, UnluckyPoint):
        return None


def rationals_at(expr: Expr, given: Values) -> np.ndarray:
    """An expression at given values as a matrix of exact rationals."""
    exact = RationalArithmetic()
    leaves = {name: exact.array(a) for name, a in given.leaves.items()}
    base = None if given.base is None else exact.array(given.base)
    bias = None if given.bias is None else exact.array(given.bias)
    matrix = np.asarray(evaluate(expr, leaves, base, bias, arithmetic=exact))
    return matrix.reshape(matrix.shape[0], -1)


def of_matrix(matrix: np.ndarray, seed: int) -> Found:
    """The exact rank of a matrix of floats, as far as primes tell."""
    full = min(matrix.shape)
    best = 0
    for trial in range(TRIALS):
        p = draw_prime(seed, trial)
        best = max(best, pivots(residues_of(matrix, p), p).rank)
        if best == full:
            why = f"≥ {full}  a minor is not 0 modulo {p}\n≤ {full}  the shape"
            return Found(full, full, "certified", why)
    if matrix.size <= MOST_EXACT:
        rank = int(rational_matrix(RationalArithmetic().array(matrix)).rank())
        return Found(rank, rank, "certified", f"= {rank}  elimination over the rational numbers")
    missed = miss_probability(Size(0, 0, 80.0), best + 1, 2**30) ** TRIALS
    why = f"≥ {best}  a minor is not 0 modulo {TRIALS} primes\n≤ {full}  the shape"
    return Found(best, full, "bounded", why, missed)


# --- updates with sines, norms, … --------------------------------------------------------


def by_balls(expr: Expr, given: Values, bound: int, here: int, cap: int) -> Found:
    """The rank of an update that is not rational, by balls of growing precision.

    Parameters
    ----------
    expr : Expr
        The update.
    given : Values
        Its leaves.
    bound, here : int
        The structure's bound, and the one at these values.
    cap : int
        The largest precision, in bits.

    Raises
    ------
    ShapeError
        If the matrix is too large for balls.
    """
    if expr.size > MOST_BALLS:
        raise ShapeError(
            f"The exact rank of an update of shape {expr.shape} at given values was asked for.",
            f"It is not rational, and balls are for at most {MOST_BALLS} elements.",
            "Use ta.rank_bound and ta.certify_rank, which need no values, or a smaller layer.",
        )
    classes = classes_of(expr, given.leaves, given.base, given.bias, rationals_at_values)
    limit = min(bound, here, classes.bound)
    rows, columns = chosen_minor(expr, given, classes, limit)
    found = certify_square(expr, given, rows, columns, cap)
    if found.regular:
        reason = f"≥ {limit}  balls of {found.precision} bits prove a minor regular"
        met = _met(limit, bound, reason)
        return _with(met, found.precision, classes)
    rows, columns, precision = sub_minor(expr, given, classes, limit, cap)
    status = "undecided at the precision cap"
    why = (
        f"≥ {len(rows)}  balls of {precision} bits prove a minor regular\n"
        f"≤ {limit}  the structure, its equal rows and columns\n"
        f"balls of {found.precision} bits do not tell whether a minor of {limit} is 0"
    )
    bounds = Found(len(rows), limit, status, why, None)
    return _with(bounds, found.precision, classes)


def rationals_at_values(
    expr: Expr, leaves: Mapping[str, np.ndarray], base: np.ndarray | None, bias: np.ndarray | None
) -> np.ndarray | None:
    """The exact matrix of a rational expression that is not too large, else None."""
    if expr.size > MOST_BALLS // 4 or not is_rational(expr):
        return None
    try:
        return rationals_at(expr, Values(leaves, base, bias))
    except (UnsupportedError, UnluckyPoint):
        return None


def _with(found: Found, precision: int, classes: Classes) -> Found:
    return Found(
        found.lower,
        found.upper,
        found.status,
        found.why,
        found.failure_probability,
        precision,
        len(classes.rows),
        len(classes.columns),
    )
