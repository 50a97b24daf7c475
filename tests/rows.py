"""A row of the tables: a structure on one shape, and what the laws expect of it there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

from tensoradapt.structure import Structure

Shape = tuple[int, ...]
Count = Callable[[int, int], int]

SQUARE, WIDE, TALL, PRIME = (12, 12), (8, 18), (18, 8), (7, 13)
ONE, COLUMN, ROW = (1, 1), (9, 1), (1, 9)
CONV1, CONV2, POINTWISE = (6, 4, 3), (8, 6, 3, 2), (6, 4, 1, 1)
MATRICES = (SQUARE, WIDE, TALL, PRIME)
CONVOLUTIONS = (CONV1, CONV2, POINTWISE)
THIN = (ONE, COLUMN, ROW)
EVERY = (*MATRICES, *THIN, *CONVOLUTIONS)


@dataclass(frozen=True)
class Row:
    """A structure on one shape.

    ``count`` is the number of trained parameters, ``base_needed`` whether evaluating needs W0
    (or drawing the first values does), ``starts_at_zero`` whether ΔW = 0 at the start: exactly,
    not at all, or with None to rounding.
    """

    structure: Structure
    shape: Shape
    count: int
    base_needed: bool = False
    starts_at_zero: bool | None = True

    def __str__(self) -> str:
        return f"{self.structure} on {'x'.join(map(str, self.shape))}"


def rows(
    structure: Structure,
    count: Count,
    shapes: Iterable[Shape],
    base_needed: bool = False,
    starts_at_zero: bool | None = True,
) -> list[Row]:
    """One row per shape; ``count`` is a function of out and in·kernel."""
    return [
        Row(structure, shape, count(shape[0], prod(shape[1:])), base_needed, starts_at_zero)
        for shape in shapes
    ]
