"""Elimination modulo a prime: the rank of a matrix, and the rows and columns that show it.

Columns are split in halves, so that nearly all the work is matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .modular import matmul

NARROW = 8


@dataclass(frozen=True, slots=True)
class Pivots:
    """Rows and columns of a largest regular minor, in the order in which they were found."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Their number."""
        return len(self.rows)


def pivots(matrix: np.ndarray, p: int) -> Pivots:
    """Find a largest minor that is not 0 modulo p.

    Parameters
    ----------
    matrix : numpy.ndarray
        int64 residues, ``(rows, columns)``.
    p : int
        A prime below 2³¹.

    Returns
    -------
    Pivots
        Their number is the rank modulo p.

    Notes
    -----
    O(rows · columns · rank), with float64 products of exact limbs.

    Examples
    --------
    >>> pivots(np.array([[0, 2, 4], [0, 1, 2], [3, 0, 0]]), 7)
    Pivots(rows=(2, 1), columns=(0, 1))
    """
    work = np.array(matrix, dtype=np.int64) % p
    order = np.arange(work.shape[0])
    found: list[int] = []
    _eliminate(work, order, 0, 0, work.shape[1], found, p)
    return Pivots(tuple(int(i) for i in order[: len(found)]), tuple(found))


def _eliminate(
    a: np.ndarray, order: np.ndarray, row: int, first: int, last: int, found: list[int], p: int
) -> int:
    """Bring the columns [first, last) from ``row`` down to echelon form; return the pivots' number.

    Below and left of the pivots the multipliers stay in ``a``, as L of a triangular factorization.
    """
    if row >= a.shape[0] or first >= last:
        return 0
    if last - first <= NARROW:
        return _narrow(a, order, row, first, last, found, p)
    middle = (first + last) // 2
    count = len(found)
    left = _eliminate(a, order, row, first, middle, found, p)
    if left:
        columns = found[count:]
        lower = a[row:, columns]
        above = _solve_unit_lower(lower[:left], a[row : row + left, middle:last], p)
        a[row : row + left, middle:last] = above
        below = a[row + left :, middle:last]
        a[row + left :, middle:last] = (below - matmul(lower[left:], above, p)) % p
    return left + _eliminate(a, order, row + left, middle, last, found, p)


def _narrow(
    a: np.ndarray, order: np.ndarray, row: int, first: int, last: int, found: list[int], p: int
) -> int:
    start = row
    for column in range(first, last):
        if row == a.shape[0]:
            break
        below = np.flatnonzero(a[row:, column])
        if not len(below):
            continue
        pivot = row + int(below[0])
        if pivot != row:
            a[[row, pivot]] = a[[pivot, row]]
            order[[row, pivot]] = order[[pivot, row]]
        factors = a[row + 1 :, column] * pow(int(a[row, column]), -1, p) % p
        a[row + 1 :, column] = factors
        rest = slice(column + 1, last)
        a[row + 1 :, rest] = (a[row + 1 :, rest] - factors[:, None] * a[row, rest]) % p
        found.append(column)
        row += 1
    return row - start


def _solve_unit_lower(lower: np.ndarray, right: np.ndarray, p: int) -> np.ndarray:
    """``L⁻¹ right`` for the unit lower triangle of ``lower``."""
    n = lower.shape[0]
    if n <= NARROW:
        solved = right.copy()
        for k in range(1, n):
            solved[k] = (solved[k] - matmul(lower[k : k + 1, :k], solved[:k], p)[0]) % p
        return solved
    h = n // 2
    top = _solve_unit_lower(lower[:h, :h], right[:h], p)
    rest = (right[h:] - matmul(lower[h:, :h], top, p)) % p
    return np.concatenate([top, _solve_unit_lower(lower[h:, h:], rest, p)])
