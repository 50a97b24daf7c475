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
        A name of the table ``INDEX_KINDS``, or of ``STORED_KINDS``.
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
        elif not _fits(self.kind, self.shape, self.size, self.settings):
            raise ShapeError(
                f"The index map {self.kind} of shape {self.shape} was asked for.",
                f"With the settings {self.settings} it does not fit an axis of {self.size}.",
                f"It is {_RULES[self.kind]}.",
            )

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
        if any(sign not in (-1, 1) for sign in signs):
            raise ShapeError(
                f"A table with the signs {min(signs)} to {max(signs)} was given.",
                "A sign is 1 or -1.",
                "Scale the operand to change its size.",
            )

    @property
    def is_injective(self) -> bool:
        """Whether no two results read the same source (known without looking at values)."""
        if self.kind in ("permutation", "choice", "torch_choice"):
            return True
        if self.kind == "table":
            positions = self.settings[: prod(self.shape)]
            return len(set(positions)) == len(positions)
        if self.kind == "shift":
            return prod(self.shape) <= self.settings[0]
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


def _wrap(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return (at[0] - s[1]) % s[0], 1


def _skew_wrap(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return (at[0] - s[1]) % s[0], 1 - 2 * (at[0] < s[1])


def _mirror(s: tuple[int, ...], at: tuple[Positions, ...]) -> tuple[Positions, Positions]:
    return abs(at[0] - s[0]), 1


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
    "wrap": _wrap,
    "skew_wrap": _skew_wrap,
    "mirror": _mirror,
}
"""Kinds with a closed formula; settings are the integers that the formula reads."""

STORED_KINDS = ("table", "permutation", "choice", "torch_choice")
"""An explicit table; a seeded permutation; a seeded choice without repetition; the same choice
as the first entries of ``torch.randperm`` under that seed, which is what PEFT draws."""

TORCH_LIMIT = (2**32 - 1) // 20
"""From this size on torch draws its permutations by another algorithm."""

_RULES: dict[str, str] = {
    "circulant": "a matrix with the settings (n,), n at most the axis",
    "circulant_rows": "a matrix with the settings (n,), n at most the axis",
    "skew_circulant": "a matrix with the settings (n,), n at most the axis",
    "toeplitz": "a rows × columns matrix with the settings (columns,); it reads rows + columns - 1",
    "symmetric_toeplitz": "a matrix without settings, no side longer than the axis",
    "skew": "an n × n matrix with the settings (n,); it reads n(n - 1)/2",
    "tile": "a vector with the settings (n,), n at most the axis",
    "slice": "a vector with the settings (start, step), step not 0, all inside the axis",
    "shift": "a vector with the settings (n, steps), n at most the axis",
    "reverse": "a vector with the settings (n,), no longer than n, n at most the axis",
    "wrap": "a vector with the settings (n, steps), n at most the axis",
    "skew_wrap": "a vector with the settings (n, steps), n at most the axis",
    "mirror": "a vector with the settings (middle,), no end further from it than the axis is long",
    "permutation": "a vector as long as the axis with the settings (seed,), 0 ≤ seed < 2³²",
    "choice": "no larger than the axis, with the settings (seed,), 0 ≤ seed < 2³²",
    "torch_choice": "a choice into an axis of less than 214748364",
}


def _fits(kind: str, shape: Shape, size: int, settings: tuple[int, ...]) -> bool:
    """Whether a map reads inside its axis (the sentence is in ``_RULES``)."""
    first = settings[0] if settings else 0
    if kind == "symmetric_toeplitz":
        return len(shape) == 2 and not settings and max(shape) <= size
    if kind in ("choice", "torch_choice"):
        fits = prod(shape) <= size < (TORCH_LIMIT if kind == "torch_choice" else size + 1)
        return fits and len(settings) == 1 and 0 <= first < 2**32
    if len(shape) != (2 if "circulant" in kind or kind in ("toeplitz", "skew") else 1):
        return False
    if len(settings) != (2 if kind in ("slice", "shift", "wrap", "skew_wrap") else 1):
        return False
    match kind:
        case "toeplitz":
            return shape[1] <= first and shape[0] + first - 1 <= size
        case "skew":
            return max(shape) <= first and first * (first - 1) // 2 <= size >= 1
        case "slice":
            last = first + settings[1] * (shape[0] - 1)
            return settings[1] != 0 and (not shape[0] or (0 <= first < size and 0 <= last < size))
        case "mirror":
            return 0 <= first < size and shape[0] - first <= size
        case "permutation":
            return shape == (size,) and 0 <= first < 2**32
        case "reverse":
            return shape[0] <= first <= size
        case _:
            return 1 <= first <= size


def circulant_map(n: int, rows: int | None = None, columns: int | None = None) -> IndexMap:
    """``(i - j) mod n``, cropped to ``rows`` × ``columns``."""
    return IndexMap("circulant", (rows or n, columns or n), n, (n,))


def circulant_rows_map(n: int) -> IndexMap:
    """``(j - i) mod n``: a circulant by its first row."""
    return IndexMap("circulant_rows", (n, n), n, (n,))


def skew_circulant_map(n: int) -> IndexMap:
    """``(i - j) mod n`` with a minus sign above the diagonal."""
    return IndexMap("skew_circulant", (n, n), n, (n,))


def toeplitz_map(rows: int, columns: int) -> IndexMap:
    """``i - j + columns - 1`` into ``rows + columns - 1`` elements."""
    return IndexMap("toeplitz", (rows, columns), rows + columns - 1, (columns,))


def symmetric_toeplitz_map(n: int, rows: int | None = None, columns: int | None = None) -> IndexMap:
    """``|i - j|``, cropped to ``rows`` × ``columns``."""
    return IndexMap("symmetric_toeplitz", (rows or n, columns or n), n, ())


def skew_map(n: int) -> IndexMap:
    """An n × n skew-symmetric matrix of its strict upper triangle, row by row."""
    return IndexMap("skew", (n, n), n * (n - 1) // 2, (n,))


def table_map(positions: list[int], size: int, shape: Shape | None = None) -> IndexMap:
    """Explicit positions."""
    return IndexMap("table", shape or (len(positions),), size, tuple(positions))


def permutation_map(size: int, seed: int) -> IndexMap:
    """A seeded permutation of ``size`` elements."""
    return IndexMap("permutation", (size,), size, (seed,))


def choice_map(count: int, size: int, seed: int) -> IndexMap:
    """``count`` different positions among ``size``, seeded."""
    return IndexMap("choice", (count,), size, (seed,))


def torch_choice_map(count: int, size: int, seed: int) -> IndexMap:
    """The first ``count`` entries of ``torch.randperm(size)`` under that seed on the CPU."""
    return IndexMap("torch_choice", (count,), size, (seed,))
