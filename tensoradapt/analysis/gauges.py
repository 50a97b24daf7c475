"""Gauges: known ways to change the parameters without changing the matrix.

An index that only two trained factors share may be transformed by any regular matrix on one side
and its inverse on the other; the factors that carry an index may be scaled value by value, and all
factors together by numbers whose product is 1. The dimension of what they span at a point is a
lower bound of the redundancy, so it bounds the dimension of the family from above.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import Parameter
from ..network.form import Factor, Network, NormalForm, Opaque
from ..network.lower import lower
from .eliminate import pivots


@dataclass(frozen=True, slots=True)
class Gauge:
    """A group that acts on the parameters.

    Parameters
    ----------
    name : str
        Which group, on what.
    size : int
        Its dimension; it may act with less, and overlap with others.
    """

    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}: {self.size}"


@dataclass(frozen=True, slots=True)
class Gauges:
    """The known gauges, and the dimension of what they span together."""

    found: tuple[Gauge, ...]
    dimension: int


Vectors = list[np.ndarray]


def gauges_of(expr: Expr, values: Mapping[str, np.ndarray], p: int) -> Gauges:
    """Find the gauges of an expression and what they span at a point.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.
    values : mapping of str to numpy.ndarray
        Residues of the trained leaves; their order fixes that of the parameters.
    p : int
        The prime.

    Returns
    -------
    Gauges

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> values = {"B": np.arange(1, 7).reshape(3, 2), "A": np.arange(3, 9).reshape(2, 3)}
    >>> gauges_of(low_rank((3, 3), rank=2), values, 101)
    Gauges(found=(Gauge(name='GL(2) between A and B', size=4),), dimension=4)
    """
    networks = list(_networks(lower(expr)))
    uses = Counter(
        f.source for network in networks for f in network.factors if isinstance(f.source, Parameter)
    )
    start, total = {}, 0
    for name, value in values.items():
        start[name], total = total, total + value.size
    found: list[Gauge] = []
    vectors: Vectors = []
    for network in networks:
        own = [f for f in network.factors if uses[f.source] == 1 and _is_plain(f)]  # type: ignore[index]
        for gauge, made in _of_network(network, own, values, p):
            found.append(gauge)
            vectors.extend(_laid_out(made, start, total))
    rank = pivots(np.stack(vectors), p).rank if vectors else 0
    return Gauges(tuple(found), rank)


def _networks(form: NormalForm) -> Iterator[Network]:
    """The networks of a normal form and of every barrier in it, each barrier once."""
    seen: set[str] = set()
    stack = [form]
    while stack:
        current = stack.pop()
        for network in current.terms:
            yield network
            for factor in network.factors:
                if isinstance(factor.source, Opaque) and factor.source.key not in seen:
                    seen.add(factor.source.key)
                    stack.append(factor.source.operand)


def _is_plain(factor: Factor) -> bool:
    return len([i for g in factor.axes for i in g]) == len(factor.indices)


Moves = list[dict[str, np.ndarray]]


def _of_network(
    network: Network, own: list[Factor], values: Mapping[str, np.ndarray], p: int
) -> Iterator[tuple[Gauge, Moves]]:
    arrays = {
        f.source.name: values[f.source.name].reshape([network.sizes[i] for i in f.indices])
        for f in own
        if isinstance(f.source, Parameter)
    }
    outside = set(network.output_indices)
    tied: set[frozenset[str]] = set()
    for index, size in enumerate(network.sizes):
        every = [f for f in network.factors if index in f.indices]
        carriers = [f for f in own if index in f.indices]
        if len(carriers) < 2:
            continue
        names = [f.source.name for f in carriers if isinstance(f.source, Parameter)]
        tied.add(frozenset(names))
        if len(every) == len(carriers) == 2 and index not in outside:
            moves = _linear(carriers, arrays, index, size, p)
            yield Gauge(f"GL({size}) between {' and '.join(names)}", size * size), moves
        else:
            moves = _scalings(carriers, arrays, index, size, p)
            yield Gauge(f"scales of {', '.join(names)} along {size} values", len(moves)), moves
    every_name = list(arrays)
    if len(every_name) > 1 and not _connects(tied, every_name):
        moves = [
            {every_name[0]: arrays[every_name[0]], other: -arrays[other] % p}
            for other in every_name[1:]
        ]
        yield Gauge(f"scales of {', '.join(every_name)}", len(moves)), moves


def _connects(tied: set[frozenset[str]], names: list[str]) -> bool:
    """Whether shared indices connect all factors, so that scales along them contain the whole."""
    reached = {names[0]}
    while True:
        more = {n for group in tied if group & reached for n in group} - reached
        if not more:
            return reached >= set(names)
        reached |= more


def _name(factor: Factor) -> str:
    assert isinstance(factor.source, Parameter)
    return factor.source.name


def _linear(
    carriers: list[Factor], arrays: Mapping[str, np.ndarray], index: int, size: int, p: int
) -> Moves:
    """``F E`` and ``-E G`` for every unit matrix E on the index of F and G."""
    first, second = (np.moveaxis(arrays[_name(f)], f.indices.index(index), 0) for f in carriers)
    moves: Moves = []
    for a in range(size):
        for b in range(size):
            left, right = np.zeros_like(first), np.zeros_like(second)
            left[b], right[a] = first[a], -second[b] % p
            moved = zip(carriers, (left, right), strict=True)
            moves.append({_name(f): np.moveaxis(m, 0, f.indices.index(index)) for f, m in moved})
    return moves


def _scalings(
    carriers: list[Factor], arrays: Mapping[str, np.ndarray], index: int, size: int, p: int
) -> Moves:
    """One factor times t at one value of the index, another by 1/t."""
    moves: Moves = []
    for value in range(size):
        slices = {}
        for factor in carriers:
            axis = factor.indices.index(index)
            only = np.zeros_like(arrays[_name(factor)])
            at = (slice(None),) * axis + (value,)
            only[at] = arrays[_name(factor)][at]
            slices[_name(factor)] = only
        first, *rest = slices
        moves.extend({first: slices[first], other: -slices[other] % p} for other in rest)
    return moves


def _laid_out(moves: Moves, start: Mapping[str, int], total: int) -> Vectors:
    vectors: Vectors = []
    for move in moves:
        vector = np.zeros(total, dtype=np.int64)
        for name, change in move.items():
            vector[start[name] : start[name] + prod(change.shape)] = change.reshape(-1)
        vectors.append(vector)
    return vectors
