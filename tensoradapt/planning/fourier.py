"""Convolutions: which index maps are diagonal in frequency, and how to get there and back.

A map ``S[i, j, k] = ±[k = position(i - j)]`` applied to a vector v and an input x is

    y = leave( source(v) · enter(x) ),   source, enter = rfft of length N after padding,

with one-dimensional real transforms only. In the transposed direction (x runs along the rows)
the source is conjugated, entering and leaving are each other's adjoints.

=====================  =====================  ===========================================
kind                   length N               leave
=====================  =====================  ===========================================
circulant (n × n)      n                      the first rows
skew_circulant         2n                     first half minus second half
toeplitz (r × c)       ≥ r + c - 1, smooth    elements c - 1 to c - 1 + r
symmetric_toeplitz     the same               the same, after mirroring the source
=====================  =====================  ===========================================
"""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra.indexing import IndexMap


@dataclass(frozen=True, slots=True)
class Convolution:
    """How an index map acts by Fourier transforms.

    Parameters
    ----------
    kind : {"circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz"}
        What happens around the transforms.
    length : int
        N, the length of the transforms.
    rows, columns : int
        The shape of the matrix.
    flipped : bool
        Whether rows and columns of the index map are exchanged (first-row circulants).
    transposed : bool
        Whether x runs along the rows.
    """

    kind: str
    length: int
    rows: int
    columns: int
    flipped: bool = False
    transposed: bool = False

    @property
    def is_adjoint(self) -> bool:
        """Whether the source enters conjugated."""
        return self.transposed != self.flipped


def convolution(index: IndexMap) -> Convolution | None:
    """The convolution that an index map is, if it is one."""
    if len(index.shape) != 2:
        return None
    rows, columns = index.shape
    if "circulant" in index.kind and index.settings != (index.size,):
        return None  # a modulus below the axis reads a part of it only
    if index.kind in ("circulant", "circulant_rows") and max(rows, columns) <= index.size:
        flipped = index.kind == "circulant_rows"
        return Convolution("circulant", index.size, rows, columns, flipped)
    if index.kind == "skew_circulant" and rows == columns == index.size:
        return Convolution("skew_circulant", 2 * rows, rows, columns)
    if index.kind == "toeplitz" and index.settings != (columns,):
        return None  # a crop that does not begin with the first diagonal
    if index.kind in ("toeplitz", "symmetric_toeplitz"):
        return Convolution(index.kind, smooth(rows + columns - 1), rows, columns)
    return None


def diagonals(index: IndexMap, seen: Convolution) -> IndexMap:
    """The map from the source to its diagonals ``t[i - j + columns - 1]``, one element each."""
    rows, columns = index.shape[::-1] if seen.flipped else index.shape
    count = rows + columns - 1
    if seen.kind == "toeplitz":
        return IndexMap("slice", (count,), index.size, (0, 1))
    if seen.kind == "symmetric_toeplitz":
        return IndexMap("mirror", (count,), index.size, (columns - 1,))
    kind = "skew_wrap" if seen.kind == "skew_circulant" else "wrap"
    return IndexMap(kind, (count,), index.size, (index.size, columns - 1))


def smooth(n: int) -> int:
    """The least number from n upwards whose only prime factors are 2, 3 and 5."""
    best = 1 << (n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three
            while two < n:
                two *= 2
            best = min(best, two)
            three *= 3
        five *= 5
    return best
