"""The rank at given values: exact, with what floating point sees of it beside.

A float is a dyadic rational, so a polynomial update of trained factors is an exact rational matrix:
its rank modulo a prime is a lower bound. Sines and norms are enclosed by balls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..algebra.expression import Expr, Shape
from ..errors import StructureError
from ..run.arrays import Array, namespace, to_numpy
from ..run.evaluate import evaluate
from ..structure import Structure
from .ball_minors import float_matrix_at
from .bound import rank_bound
from .exact_point import Found, Values, by_balls, by_residues, is_rational, of_matrix
from .observation import Observation, observe
from .sizes import check_seed, check_size, expression_of
from .support import support_bound

OF = ("update", "merged")


@dataclass(frozen=True, slots=True)
class PointRank:
    """The rank of an update at given values.

    Parameters
    ----------
    of : {"update", "merged"}
        ΔW by exact arithmetic, or W0 + ΔW as rounded to the dtype of W0.
    lower, upper : int
        Proved bounds of the exact rank.
    status : str
        ``"certified"``: they meet at the structure's bound. ``"singular by structure"``: they
        meet below it, because rows, columns or factors are zero or equal here.
        ``"undecided at the precision cap"``: balls of the largest precision do not tell.
        ``"bounded"``: they do not meet; the rank is ``lower`` unless random primes all failed.
    why : str
        What each bound rests on.
    failure_probability : float or None
        How likely the rank is more than ``lower``; 0 where certified, None where unknown.
    precision : int
        Bits of the balls; 0 where the arithmetic was exact.
    row_classes, column_classes : int
        How many rows and columns are not equal up to what the structure identifies; the sizes
        where that was not looked at.
    observed : Observation
        What float64 sees: **not** a proof.
    """

    of: str
    lower: int
    upper: int
    status: str
    why: str
    failure_probability: float | None
    precision: int
    row_classes: int
    column_classes: int
    observed: Observation

    @property
    def rank(self) -> int:
        """The exact rank where it is certified, else the proved lower bound."""
        return self.lower

    @property
    def certified(self) -> bool:
        """Whether the exact rank is proved."""
        return self.lower == self.upper

    def __str__(self) -> str:
        exact = str(self.lower) if self.certified else f"{self.lower} to {self.upper}"
        return f"exact rank {exact} ({self.status})\n{self.why}\n{self.observed}"


def rank_at(
    update: Structure | Expr,
    values: Mapping[str, Array],
    base: Array | None = None,
    bias: Array | None = None,
    *,
    shape: Shape | None = None,
    of: str = "update",
    tolerance: float | None = None,
    cap: int = 4096,
    seed: int = 0,
) -> PointRank:
    """Certify the rank of an update at given (trained) values.

    Parameters
    ----------
    update : Structure or Expr
        The update.
    values : mapping of str to array
        Every leaf by name, floats of any library; what ``at_start`` reads as ``"B@start"``.
    base, bias : array, optional
        W0 and b0, where the update reads them; W0 also for ``of="merged"``.
    shape : tuple of int, optional
        The weight's shape; needed with a structure.
    of : {"update", "merged"}
        The rank of ΔW, or of W0 + ΔW summed in float32 or wider and rounded to W0's dtype.
    tolerance : float, optional
        What counts as zero beside the largest singular value, for the observed rank; by default
        ``max(rows, columns)`` times the eps of the values' dtype.
    cap : int
        The largest precision of balls, in bits.
    seed : int
        Chooses the primes.

    Returns
    -------
    PointRank
        Proved bounds, and beside them the numerical and the stable rank.

    Raises
    ------
    ValueMissingError, ShapeError
        If a value is missing or has another shape, or the matrix is too large.
    StructureError
        If a value is not finite.

    Notes
    -----
    ΔW in floating point is another, rounded matrix; ``lower`` and ``upper`` are of the exact one.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> from tensoradapt.run.sample import sample
    >>> e = zoo.lora(rank=2).on((6, 5))
    >>> rank_at(e, sample(e, start="random")).rank, rank_at(e, sample(e)).status
    (2, 'singular by structure')
    """
    if of not in OF:
        raise StructureError(
            f"The rank of {of!r} was asked for.",
            f"Known: {', '.join(map(repr, OF))}.",
            "Use of='update' for ΔW, of='merged' for the rounded W0 + ΔW.",
        )
    expr = expression_of(update, shape, "A rank at given values")
    check_seed(seed)
    check_size(expr)
    given = _given(expr, values, base, bias)
    matrix = float_matrix_at(expr, given)
    if of == "merged":
        merged = _merged(expr, values, base, bias)
        eps = _eps(base)
        return _result("merged", of_matrix(merged, seed), observe(merged, tolerance, eps))
    upper = rank_bound(expr).value
    here = support_bound(expr, given.leaves, given.base, given.bias)
    found = (
        by_residues(expr, given, upper, here, seed)
        if is_rational(expr)
        else by_balls(expr, given, upper, here, cap)
    )
    eps = max((_eps(value) for value in values.values()), default=2.0**-52)
    return _result("update", found, observe(matrix, tolerance, eps))


def _result(of: str, found: Found, observed: Observation) -> PointRank:
    return PointRank(
        of,
        found.lower,
        found.upper,
        found.status,
        found.why,
        found.failure_probability,
        found.precision,
        found.row_classes,
        found.column_classes,
        observed,
    )


def _given(
    expr: Expr, values: Mapping[str, Array], base: Array | None, bias: Array | None
) -> Values:
    named = {"the base weight W0": base, "the base bias b0": bias}
    named |= {f"the leaf {name!r}": value for name, value in values.items()}
    arrays = {name: to_numpy(value) for name, value in named.items() if value is not None}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise StructureError(
                f"The rank at given values of an update of shape {expr.shape} was asked for.",
                f"{bad} of the entries of {name} are not finite.",
                "Give finite numbers; a rank cannot be certified at NaN or infinity.",
            )
    leaves = {name: arrays[f"the leaf {name!r}"] for name in values}
    return Values(leaves, arrays.get("the base weight W0"), arrays.get("the base bias b0"))


def _eps(array: Array) -> float:
    return float(namespace(array).finfo(array.dtype).eps)


def _merged(
    expr: Expr, values: Mapping[str, Array], base: Array | None, bias: Array | None
) -> np.ndarray:
    """W0 + ΔW as a merge rounds it: summed in float32 or wider, then rounded once."""
    if base is None:
        raise StructureError(
            "The rank of a merged weight was asked for.",
            "No W0 was given to merge into.",
            "Pass base=weight.",
        )
    xp = namespace(base)
    wide = xp.result_type(base.dtype, xp.float32, *(value.dtype for value in values.values()))
    leaves = {name: xp.astype(value, wide) for name, value in values.items()}
    whole = xp.astype(base, wide)
    shift = None if bias is None else xp.astype(bias, wide)
    change = evaluate(expr, leaves, whole, shift)
    merged = to_numpy(xp.astype(whole + change, base.dtype))
    return merged.reshape(len(merged), -1)
