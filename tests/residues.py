"""Arithmetic modulo a prime, in which the rank of a matrix is exact: for tests only.

A polynomial map evaluated at random residues has, almost surely, its generic rank; that rank is
at most any valid bound, with no tolerance to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from tensoradapt.algebra.expression import Factor, Shape
from tensoradapt.algebra.functions import Function
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.notation import Pattern
from tensoradapt.errors import UnsupportedError
from tensoradapt.run.positions import positions

P = 2**31 - 1


class Residues:
    """The operations of ``run.arithmetic`` on int64 arrays of residues."""

    def einsum(self, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[Any]) -> Any:
        inputs = [[n for group in axes for n in group] for axes in pattern.operands]
        arrays = [
            a.reshape([sizes[n] for n in names]) for a, names in zip(operands, inputs, strict=True)
        ]
        output: list[str] = []
        for name in (n for group in pattern.output for n in group):
            own = name
            while own in output:
                own += "'"
            if own != name:
                inputs.append([name, own])
                arrays.append(np.eye(sizes[name], dtype=np.int64))
            output.append(own)
        total, have = np.ones((), dtype=np.int64), list[str]()
        for k, (names, array) in enumerate(zip(inputs, arrays, strict=True)):
            kept = list(dict.fromkeys(names))
            symbols = {n: chr(97 + i) for i, n in enumerate(kept)}
            diagonal = "".join(symbols[n] for n in names) + "->" + "".join(symbols.values())
            total, have = _multiply(total, have, np.einsum(diagonal, array), kept)
            later = {n for names in inputs[k + 1 :] for n in names} | set(output)
            for name in [n for n in have if n not in later]:
                total = total.sum(axis=have.index(name)) % P
                have.remove(name)
        ordered = total.transpose([have.index(n) for n in output])
        return ordered.reshape([prod(sizes[n] for n in group) for group in pattern.output])

    def add(self, terms: Sequence[Any]) -> Any:
        return sum(terms[1:], terms[0]) % P

    def scale(self, factor: Factor, a: Any) -> Any:
        exact = Fraction(factor)  # a float is a dyadic rational
        return a * (exact.numerator * pow(exact.denominator, -1, P) % P) % P

    def constant(self, kind: str, shape: Shape) -> Any:
        if kind == "ones":
            return np.ones(shape, dtype=np.int64)
        at = np.indices(shape)
        return np.all(at == at[0], axis=0).astype(np.int64)

    def reshape(self, a: Any, target: Shape) -> Any:
        return a.reshape(target)

    def window(self, a: Any, target: Shape, offset: Shape) -> Any:
        result = np.zeros(target, dtype=np.int64)
        for at in np.ndindex(*target):
            source = tuple(i + o for i, o in zip(at, offset, strict=True))
            if all(0 <= i < n for i, n in zip(source, a.shape, strict=True)):
                result[at] = a[source]
        return result

    def concatenate(self, operands: Sequence[Any], axis: int) -> Any:
        return np.concatenate(operands, axis=axis)

    def transform(self, a: Any, axis: int, kind: str) -> Any:
        raise UnsupportedError(f"{kind} modulo a prime was asked for.", "It is not rational.")

    def take(self, a: Any, axis: int, index: IndexMap) -> Any:
        found, signs = positions(index)
        result = np.take(a, found, axis=axis)
        tail = (1,) * (a.ndim - axis - 1)
        return result if signs is None else result * signs.reshape(index.shape + tail) % P

    def place(self, a: Any, target: Shape, index: IndexMap) -> Any:
        found, signs = positions(index)
        result = np.zeros(prod(target), dtype=np.int64)
        result[found.reshape(-1)] = (a if signs is None else a * signs % P).reshape(-1)
        return result.reshape(target)

    def map(self, a: Any, function: Function) -> Any:
        if function.name != "polynomial":
            raise UnsupportedError(f"{function} modulo a prime was asked for.", "It is analytic.")
        result = np.zeros_like(a)
        for coefficient in reversed(function.settings):
            result = (result * a + self.scale(coefficient, np.ones_like(a))) % P
        return result

    def norm(self, a: Any, axes: tuple[int, ...]) -> Any:
        raise UnsupportedError("A norm modulo a prime was asked for.", "It has a root.")

    def matrix_function(self, a: Any, kind: str, settings: tuple[int, ...]) -> Any:
        raise UnsupportedError(f"{kind} modulo a prime was asked for.", "It is not written here.")

    def hold(self, a: Any) -> Any:
        return a


def _multiply(a: Any, names_a: list[str], b: Any, names_b: list[str]) -> tuple[Any, list[str]]:
    union = list(dict.fromkeys([*names_a, *names_b]))
    spread = []
    for array, names in ((a, names_a), (b, names_b)):
        order = [n for n in union if n in names]
        array = array.transpose([names.index(n) for n in order])
        size = dict(zip(order, array.shape, strict=True))
        spread.append(array.reshape([size.get(n, 1) for n in union]))
    return spread[0] * spread[1] % P, union


def random_residues(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, Any]:
    source = np.random.default_rng(seed)
    return {name: source.integers(0, P, size=shape) for name, shape in shapes.items()}


def rank_modulo(matrix: Any) -> int:
    """The rank by Gaussian elimination."""
    rows, rank = matrix.copy() % P, 0
    for column in range(rows.shape[1]):
        pivots = np.flatnonzero(rows[rank:, column])
        if not len(pivots):
            continue
        pivot = rank + int(pivots[0])
        rows[[rank, pivot]] = rows[[pivot, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, P) % P
        for k in range(rank + 1, rows.shape[0]):
            rows[k] = (rows[k] - rows[k, column] * rows[rank]) % P
        rank += 1
        if rank == rows.shape[0]:
            break
    return rank
