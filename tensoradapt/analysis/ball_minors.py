"""Minors of balls: which to try, and at which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg

from ..algebra.expression import Expr
from ..errors import UnsupportedError
from ..run.evaluate import evaluate
from .balls import BallArithmetic, Undecided, at_precision, is_surely_regular
from .classes import Classes

FIRST_PRECISION = 64
MOST_WORK = 2**18
"""Rows times bits up to which a minor is tried: 4096 bits for 64 rows, 512 for 512."""


class Valued(Protocol):
    """Leaves by name, W0 and b0, in float64."""

    @property
    def leaves(self) -> Mapping[str, np.ndarray]: ...
    @property
    def base(self) -> np.ndarray | None: ...
    @property
    def bias(self) -> np.ndarray | None: ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """Whether a minor was proved regular, and the precision of the last try."""

    regular: bool
    precision: int


def ball_matrix_at(expr: Expr, given: Valued) -> np.ndarray:
    """An expression at given values as a matrix of balls of the present precision.

    Raises
    ------
    Undecided
        If the balls are too wide for a division or a comparison.
    """
    balls = BallArithmetic()
    leaves = {name: balls.array(a) for name, a in given.leaves.items()}
    base = None if given.base is None else balls.array(given.base)
    bias = None if given.bias is None else balls.array(given.bias)
    matrix: Any = evaluate(expr, leaves, base, bias, arithmetic=balls)
    return np.asarray(matrix, dtype=object).reshape(expr.shape[0], -1)


def float_matrix_at(expr: Expr, given: Valued) -> np.ndarray:
    """An expression at given values as a matrix of float64.

    Raises
    ------
    UnsupportedError
        If a matrix that must be inverted is singular there.
    """
    try:
        matrix = np.asarray(evaluate(expr, given.leaves, given.base, given.bias))
    except np.linalg.LinAlgError:
        raise divided_by_zero(expr) from None
    return matrix.reshape(matrix.shape[0], -1)


def divided_by_zero(expr: Expr) -> UnsupportedError:
    """The error of an update that does not exist at some values."""
    return UnsupportedError(
        f"The exact rank of an update of shape {expr.shape} was asked for.",
        "Something that it divides by is 0 at these values.",
        "Give values at which every divisor and every inverse exists.",
    )


def certify_square(
    expr: Expr, given: Valued, rows: tuple[int, ...], columns: tuple[int, ...], cap: int
) -> Attempt:
    """Try to prove a minor regular, doubling the precision up to a cap."""
    precision = FIRST_PRECISION
    if not rows:
        return Attempt(True, precision)
    while True:
        with at_precision(precision):
            try:
                matrix = ball_matrix_at(expr, given)
                if is_surely_regular(matrix[np.ix_(rows, columns)]):
                    return Attempt(True, precision)
            except Undecided:
                pass
        if 2 * precision > cap or 2 * precision * len(rows) > MOST_WORK:
            return Attempt(False, precision)
        precision *= 2


def chosen_minor(
    expr: Expr, given: Valued, classes: Classes, size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of a minor that floating point sees as the most regular."""
    rows, columns = classes.rows, classes.columns
    if len(rows) == len(columns) == size:
        return rows, columns
    small = float_matrix_at(expr, given)[np.ix_(rows, columns)]
    kept_columns = _leading(small, size)
    kept_rows = _leading(small[:, kept_columns].T, size)
    return tuple(rows[k] for k in kept_rows), tuple(columns[k] for k in kept_columns)


def _leading(matrix: np.ndarray, size: int) -> list[int]:
    made: Any = scipy.linalg.qr(matrix, mode="r", pivoting=True)
    order = made[1]
    return sorted(int(k) for k in order[:size])


def sub_minor(
    expr: Expr, given: Valued, classes: Classes, limit: int, cap: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """A smaller minor that balls prove regular: first as large as floating point sees."""
    size = min(int(np.linalg.matrix_rank(float_matrix_at(expr, given))), limit - 1)
    while size > 0:
        rows, columns = chosen_minor(expr, given, classes, size)
        found = certify_square(expr, given, rows, columns, min(cap, 256))
        if found.regular:
            return rows, columns, found.precision
        size //= 2
    return (), (), FIRST_PRECISION
