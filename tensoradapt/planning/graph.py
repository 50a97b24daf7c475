"""The graph that a contraction order is sought on: tensors and fixed maps over open indices.

A *tensor* vertex is a value (a leaf, x, a barrier's result). A *map* vertex is a structured
constant: it is never multiplied as a matrix but applied to one value by a kernel, in a
direction that consumes some indices and produces others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from ..algebra.indexing import IndexMap
from ..algebra.nodes import Parameter
from ..network.form import Factor, Network, Ones, Opaque, Selection, TransformMatrix
from .fourier import Convolution, convolution
from .steps import TOKENS

TOKEN_INDEX = -1
DENSE_LIMIT = 2**18
"""A constant of at most this many elements may also be written out and multiplied."""


@dataclass(frozen=True, slots=True)
class Move:
    """A way to apply a map: which indices disappear, which appear, by which kernel."""

    kernel: str
    consumes: tuple[int, ...]
    produces: tuple[int, ...]
    settings: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Vertex:
    """A tensor (``factor`` or, for x, None) or a map (with its moves)."""

    factor: Factor | None
    indices: tuple[int, ...]
    trains: bool = False
    moves: tuple[Move, ...] = ()
    is_map: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """Vertices over indices with sizes, and the indices that the result keeps, in order."""

    vertices: tuple[Vertex, ...]
    sizes: dict[int, int]
    output: tuple[int, ...]
    frequencies: frozenset[int] = frozenset()

    def size(self, indices: Iterable[int], tokens: int) -> int:
        """The number of elements over some indices at T tokens."""
        return prod(tokens if self.sizes[i] == TOKENS else self.sizes[i] for i in indices)

    def is_complex(self, indices: Iterable[int]) -> bool:
        """Whether a value over these indices is complex."""
        return any(i in self.frequencies for i in indices)


def graphs(network: Network, with_x: bool, trains: bool) -> list[Graph]:
    """All graphs of a network: as it stands, and with convolutions moved to frequencies.

    Parameters
    ----------
    network : Network
        A network whose first output axis is ``out`` and whose others are the inputs.
    with_x : bool
        Whether the tokens ``x (T, in)`` are one more vertex, so that the result is
        ``x ΔWᵀ (T, out)``; without it the result is ΔW.
    trains : bool
        Whether a gradient flows into x.
    """
    sizes = dict(enumerate(network.sizes))
    vertices: list[Vertex] = []
    output = tuple(dict.fromkeys(i for group in network.output for i in group))
    if with_x:
        sizes[TOKEN_INDEX] = TOKENS
        inner = tuple(dict.fromkeys(i for group in network.output[1:] for i in group))
        vertices.append(Vertex(None, (TOKEN_INDEX, *inner), trains))
        output = (TOKEN_INDEX, *dict.fromkeys(network.output[0]))
    maps: list[Factor] = []
    for factor in network.factors:
        if isinstance(factor.source, Selection | TransformMatrix):
            maps.append(factor)
        else:
            vertices.append(Vertex(factor, factor.indices, factor_trains(factor)))
    choices = [_variants(factor, with_x) for factor in maps]
    return [
        _assemble(vertices, maps, choice, sizes, output)
        for choice in product(*choices)
        if _all_alike(choice, choices)
    ]


def _all_alike(
    choice: tuple[Convolution | None, ...], choices: list[list[Convolution | None]]
) -> bool:
    """Whether every map that can be a convolution is one, or none is."""
    seen = {c is None for c, ways in zip(choice, choices, strict=True) if len(ways) > 1}
    return len(seen) < 2


def factor_trains(factor: Factor) -> bool:
    """Whether a gradient flows into any leaf of a factor."""
    if factor.held:
        return False
    if isinstance(factor.source, Opaque):
        return any(factor_trains(f) for n in factor.source.operand.terms for f in n.factors)
    return isinstance(factor.source, Parameter)


def _variants(factor: Factor, with_x: bool) -> list[Convolution | None]:
    """The ways to see a map: plainly (None), or as a convolution in either direction."""
    if not (with_x and isinstance(factor.source, Selection)):
        return [None]
    if any(len(group) != 1 for group in factor.axes):
        return [None]
    found = convolution(factor.source.index)
    return [None] if found is None else [None, found, replace(found, transposed=True)]


def _assemble(
    tensors: list[Vertex],
    maps: list[Factor],
    choice: tuple[Convolution | None, ...],
    sizes: dict[int, int],
    output: tuple[int, ...],
) -> Graph:
    vertices, sizes = list(tensors), dict(sizes)
    frequencies: set[int] = set()
    for factor, seen in zip(maps, choice, strict=True):
        if seen is None:
            vertices.append(_plain(factor, sizes))
            continue
        frequency = max(sizes) + 1
        sizes[frequency] = seen.length // 2 + 1
        frequencies.add(frequency)
        row, column, source = (group[0] for group in factor.axes)
        near, far = (row, column) if seen.transposed else (column, row)
        for kernel, consumed, made in (
            ("source", source, frequency),
            ("enter", near, frequency),
            ("leave", frequency, far),
        ):
            size = sizes[far] if kernel == "leave" else sizes[consumed]
            move = Move(kernel, (consumed,), (made,), (seen, size))
            vertices.append(Vertex(factor, (consumed, made), moves=(move,), is_map=True))
    return Graph(tuple(vertices), sizes, output, frozenset(frequencies))


def _plain(factor: Factor, sizes: dict[int, int]) -> Vertex:
    """A selection gathers its source or scatters into it; a transform is a matrix either way."""
    ahead = tuple(dict.fromkeys(i for group in factor.axes[:-1] for i in group))
    source = tuple(dict.fromkeys(factor.axes[-1]))
    flat = tuple(i for group in factor.axes for i in group)
    moves: list[Move] = []
    if len(set(flat)) == len(flat):
        if isinstance(factor.source, Selection):
            index: IndexMap = factor.source.index
            moves.append(Move("gather", source, ahead, (index,)))
            moves.append(Move("scatter", ahead, source, (index,)))
        else:
            moves.append(Move("dense", source, ahead))
            moves.append(Move("dense", ahead, source))
    return Vertex(factor, factor.indices, moves=tuple(moves), is_map=True)


def dense_allowed(graph: Graph, vertex: Vertex) -> bool:
    """Whether a map may be written out as a tensor."""
    convolves = any(m.kernel in ("source", "enter", "leave") for m in vertex.moves)
    return not convolves and prod(graph.sizes[i] for i in vertex.indices) <= DENSE_LIMIT


def is_ones(vertex: Vertex) -> bool:
    """Whether a vertex is a vector of ones."""
    return vertex.factor is not None and isinstance(vertex.factor.source, Ones)
