"""Index maps: from the positions of a result to the positions of its source, with signs.

``result[i, j, …] = sign(i, j, …) · source[position(i, j, …)]``. A circulant matrix is the map
``(i - j) mod n``; nothing is stored but the kind, the shapes and a few integers. The formulas
use plain arithmetic only, so they run on Python integers and on integer arrays alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import ShapeError, near

Shape = tuple[int, ...]
Positions = Any  # integers or integer arrays, whatever the caller put in
Formula = Callable[[tuple[int, ...], tuple[Positions, ...]], tuple[Positions, Positions]]


@dataclass(frozen=True, slots=True)
class IndexMap:
    """A map from positions of shape ``shape`` into an axis of ``size`` elements.

    Parameters
    ----------
    kind : str
        A name of the table ``INDEX_KINDS``, or ``"table"``, ``"permutation"``, ``"choice"``.
    shape : tuple of int
        The axes that replace the source axis.
    size : int
        The number of elements of the source axis.
    settings : tuple of int
        What the kind needs beyond the shapes (a modulus, a seed, the table itself).
    """

    kind: str
    shape: Shape
    size: int
    settings: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in INDEX_KINDS and self.kind not in STORED_KINDS:
            raise ShapeError(
                f"The index map kind {self.kind!r} was asked for.",
                f"Known kinds near it: {near(self.kind, (*INDEX_KINDS, *STORED_KINDS))}.",
                'Use one of them, or kind "table" with explicit positions.',
            )
        if any(n < 0 for n in self.shape) or self.size < 0:
            raise ShapeError(
                f"An index map of shape {self.shape} into {self.size} elements was asked for.",
                "Sizes cannot be negative.",
                "Give sizes of zero or more.",
            )
        if self.kind == "table":
            self._check_table()

    def _check_table(self) -> None:
        n = prod(self.shape)
        positions, signs = self.settings[:n], self.settings[n:]
        if len(positions) != n or len(signs) not in (0, n):
            raise ShapeError(
                f"A table of {len(self.settings)} numbers was given for shape {self.shape}.",
                f"It needs {n} positions, and {n} signs if any.",
                "Give one position per element of the result.",
            )
        if any(not 0 <= p < self.size for p in positions):
            raise ShapeError(
                f"A table points at {min(positions)} to {max(positions)}.",
                f"The source axis has {self.size} elements, numbered from 0.",
                "Give positions inside the axis.",
            )

    @property
    def is_injective(self) -> bool:
        """Whether no two results read the same source (known without looking at values)."""
        if self.kind in ("permutation", "choice", "shift"):
            return True
        if self.kind == "table":
            positions = self.settings[: prod(self.shape)]
            return len(set(positions)) == len(positions)
        return self.kind in ("slice", "reverse")


def _circulant(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return (at[0] - at[1]) % s[0], 1


def _circulant_rows(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return (at[1] - at[0]) % s[0], 1


def _skew_circulant(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return (at[0] - at[1]) % s[0], 1 - 2 * (at[0] < at[1])


def _toeplitz(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return at[0] - at[1] + (s[0] - 1), 1


def _symmetric_toeplitz(
    s: tuple[int, ...], at: tuple[Positions, ...]
) -> tuple[Positions, Positions]:
    return abs(at[0] - at[1]), 1


def _skew(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    """Skew-symmetric fill from the strict upper triangle, row by row."""
    i, j = at
    above = 1 * (i < j)
    below = 1 * (i > j)
    row, column = above * i + below * j, above * j + below * i
    position = row * s[0] - row * (row + 1) // 2 + (column - row - 1)
    return position * (above + below), above - below


def _tile(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return at[0] % s[0], 1


def _slice(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    start, step = s
    return start + step * at[0], 1


def _shift(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return (at[0] - s[1]) % s[0], 1


def _reverse(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return s[0] - 1 - at[0], 1


INDEX_KINDS: dict[str, Formula] = {
    "circulant": _circulant,
    "circulant_rows": _circulant_rows,
    "skew_circulant": _skew_circulant,
    "toeplitz": _toeplitz,
    "symmetric_toeplitz": _symmetric_toeplitz,
    "skew": _skew,
    "tile": _tile,
    "slice": _slice,
    "shift": _shift,
    "reverse": _reverse,
}
"""Kinds with a closed formula; settings are the integers that the formula reads."""

STORED_KINDS = ("table", "permutation", "choice")
"""An explicit table; a seeded permutation; a seeded choice without repetition."""


def circulant_map(n: int, rows: int | None = None, columns: int | None = None) -> IndexMap:
    """``(i - j) mod n``, cropped to ``rows`` × ``columns``."""
    return IndexMap("circulant", (rows or n, columns or n), n, (n,))


def skew_circulant_map(n: int) -> IndexMap:
    """``(i - j) mod n`` with a minus sign above the diagonal."""
    return IndexMap("skew_circulant", (n, n), n, (n,))


def toeplitz_map(rows: int, columns: int) -> IndexMap:
    """``i - j + columns - 1`` into ``rows + columns - 1`` elements."""
    return IndexMap("toeplitz", (rows, columns), rows + columns - 1, (columns,))


def symmetric_toeplitz_map(n: int, rows: int | None = None, columns: int | None = None) -> IndexMap:
    """``|i - j|``, cropped to ``rows`` × ``columns``."""
    return IndexMap("symmetric_toeplitz", (rows or n, columns or n), n, ())


def table_map(positions: list[int], size: int, shape: Shape | None = None) -> IndexMap:
    """Explicit positions."""
    return IndexMap("table", shape or (len(positions),), size, tuple(positions))


def permutation_map(size: int, seed: int) -> IndexMap:
    """A seeded permutation of ``size`` elements."""
    return IndexMap("permutation", (size,), size, (seed,))


def choice_map(count: int, size: int, seed: int) -> IndexMap:
    """``count`` different positions among ``size``, seeded."""
    return IndexMap("choice", (count,), size, (seed,))
