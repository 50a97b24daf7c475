"""Row and column classes: what an elementwise function cannot tell apart.

If two rows of X are equal up to sign, so are those of sin(X); the rank of sin(X) is at most the
number of classes of rows that are not zero. Equality is decided on exact rationals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import Hold, Map, Reshape, Scale
from ..algebra.snapshot import distribute_snapshots
from .rationals import signed_classes

Exact = Callable[
    [Expr, Mapping[str, np.ndarray], np.ndarray | None, np.ndarray | None], np.ndarray | None
]


@dataclass(frozen=True, slots=True)
class Classes:
    """One row and one column of each class; the rank is at most the smaller number."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def bound(self) -> int:
        """An upper bound of the rank."""
        return min(len(self.rows), len(self.columns))


def classes_of(
    expr: Expr,
    leaves: Mapping[str, np.ndarray],
    base: np.ndarray | None,
    bias: np.ndarray | None,
    exact: Exact,
) -> Classes:
    """Representatives of the rows and columns of ``c f(X)`` at given values.

    Parameters
    ----------
    expr : Expr
        Any expression; anything but a scaled, reshaped elementwise function has a class per row.
    leaves, base, bias
        The values.
    exact : callable
        The exact matrix of X, or None.
    """
    rows, columns = expr.shape[0], expr.size // max(expr.shape[0], 1)
    every = Classes(tuple(range(rows)), tuple(range(columns)))
    current = distribute_snapshots(expr)
    while isinstance(current, Scale | Hold | Reshape):
        if current.operand.ndim < 2 or current.operand.shape[0] != rows:
            return every
        current = current.operand
    if not isinstance(current, Map):
        return every
    operand = current.operand
    matrix = exact(operand, leaves, base, bias)
    if matrix is None or matrix.shape != (rows, columns):
        return every
    parity = current.function.facts.parity
    if not current.function.facts.keeps_zero and parity == "odd":
        parity = "none"
    right = every.columns if current.function.name == "softmax_top" else _kept(matrix.T, parity)
    return Classes(_kept(matrix, parity), right)


def _kept(matrix: np.ndarray, parity: str) -> tuple[int, ...]:
    """The first row of every class: zero rows count unless the function is odd."""
    if parity == "none":
        seen = {tuple(row): i for i, row in reversed(list(enumerate(matrix)))}
        return tuple(sorted(seen.values()))
    labels = signed_classes(matrix)
    if parity == "odd":
        labels = np.where(labels == 0, -1, labels)
    first = {int(label): i for i, label in reversed(list(enumerate(labels))) if label >= 0}
    return tuple(sorted(first.values()))
