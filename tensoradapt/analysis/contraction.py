"""Contractions over named indices in any ring, pair by pair.

A ring gives two operations: the product of stacks of matrices, and the sum over axes. Residues,
exact rationals and balls share the bookkeeping that is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Protocol

import numpy as np

from ..algebra.notation import Pattern

Names = tuple[str, ...]
Part = tuple[Names, np.ndarray]


class Ring(Protocol):
    """What a contraction needs of the numbers."""

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``(g, m, k) @ (g, k, n)``, a matrix product for each of g."""
        ...

    def total(self, a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """The sum over some axes."""
        ...

    def zeros(self, shape: Sequence[int]) -> np.ndarray:
        """An array of zeros."""
        ...


def einsum(
    ring: Ring, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[np.ndarray]
) -> np.ndarray:
    """``Σ ∏ operand[axes]`` with grouped axes and repeated output indices.

    Parameters
    ----------
    ring : Ring
        What the numbers are.
    pattern : Pattern
        The names of the axes.
    sizes : mapping of str to int
        The size of every name.
    operands : sequence of numpy.ndarray
        One per part of the pattern.
    """
    inputs = [[n for group in axes for n in group] for axes in pattern.operands]
    arrays = [
        a.reshape([sizes[n] for n in names]) for a, names in zip(operands, inputs, strict=True)
    ]
    output = [n for group in pattern.output for n in group]
    distinct = list(dict.fromkeys(output))
    result = contract(ring, inputs, arrays, distinct)
    if len(distinct) < len(output):
        result = on_diagonal(result, [distinct.index(n) for n in output], ring)
    return result.reshape([prod(sizes[n] for n in group) for group in pattern.output])


def contract(
    ring: Ring,
    inputs: Sequence[Sequence[str]],
    arrays: Sequence[np.ndarray],
    output: Sequence[str],
) -> np.ndarray:
    """``Σ ∏ arrays`` over named axes, the pair that makes the least first.

    Parameters
    ----------
    ring : Ring
        What the numbers are.
    inputs : sequence of names
        The name of every axis of every array; one may repeat.
    arrays : sequence of numpy.ndarray
        The arrays.
    output : names
        Distinct names, each carried by some array.
    """
    parts = [_plain(tuple(n), a) for n, a in zip(inputs, arrays, strict=True)]
    while len(parts) > 1:
        i, j = _cheapest(parts, output)
        second, first = parts.pop(j), parts.pop(i)
        later = set(output).union(*(names for names, _ in parts))
        left = _sum_out(first, second[0], later, ring)
        right = _sum_out(second, first[0], later, ring)
        parts.append(_pair(left, right, later, ring))
    names, array = _sum_out(parts[0], (), set(output), ring)
    return np.ascontiguousarray(array.transpose([names.index(n) for n in output]))


def on_diagonal(a: np.ndarray, axes: Sequence[int], ring: Ring) -> np.ndarray:
    """Zeros of the shape ``a.shape[axes]`` with ``a`` where equal axes have equal indices."""
    result = ring.zeros([a.shape[k] for k in axes])
    if not axes:
        return np.reshape(a, ())
    np.einsum(result, list(axes), list(range(a.ndim)))[...] = a
    return result


def _plain(names: Names, array: np.ndarray) -> Part:
    """The diagonal over names that repeat within one array."""
    kept = tuple(dict.fromkeys(names))
    if len(kept) == len(names):
        return names, array
    numbers = [kept.index(n) for n in names]
    return kept, np.einsum(array, numbers, list(range(len(kept))))


def _cheapest(parts: list[Part], output: Sequence[str]) -> tuple[int, int]:
    sizes = {n: size for names, a in parts for n, size in zip(names, a.shape, strict=True)}
    best, chosen = float("inf"), (0, 1)
    for j in range(len(parts)):
        for i in range(j):
            others = set(output).union(*(n for k, (n, _) in enumerate(parts) if k not in (i, j)))
            union = dict.fromkeys((*parts[i][0], *parts[j][0]))
            made = prod(sizes[n] for n in union if n in others)
            cost = made - parts[i][1].size - parts[j][1].size
            if cost < best:
                best, chosen = cost, (i, j)
    return chosen


def _sum_out(part: Part, other: Names, later: set[str], ring: Ring) -> Part:
    """Sum over the names that nothing else carries."""
    names, array = part
    lone = tuple(k for k, n in enumerate(names) if n not in other and n not in later)
    if not lone:
        return part
    kept = tuple(n for k, n in enumerate(names) if k not in lone)
    return kept, np.asarray(ring.total(array, lone))


def _pair(first: Part, second: Part, later: set[str], ring: Ring) -> Part:
    (left, a), (right, b) = first, second
    batch = tuple(n for n in left if n in right and n in later)
    inner = tuple(n for n in left if n in right and n not in later)
    rows = tuple(n for n in left if n not in right)
    columns = tuple(n for n in right if n not in left)
    size = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    g, m, k, n = (prod(size[x] for x in group) for group in (batch, rows, inner, columns))
    a = a.transpose([left.index(x) for x in (*batch, *rows, *inner)]).reshape(g, m, k)
    b = b.transpose([right.index(x) for x in (*batch, *inner, *columns)]).reshape(g, k, n)
    names = (*batch, *rows, *columns)
    return names, ring.product(a, b).reshape([size[x] for x in names])
