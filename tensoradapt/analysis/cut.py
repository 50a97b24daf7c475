"""Minimum cuts: the rank bound of one tensor network.

Give every factor a side, rows or columns. For fixed values of the indices that both sides see,
the network is a product of a function of the rows and a function of the columns; so the matrix
has rank at most the product of the sizes of those indices. The least such product is a minimum
cut of the graph in which every index is one edge of capacity log(size), whatever the number of
factors that carry it (a hyperedge is paid once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, prod

import networkx as nx

from ..network.form import Factor, Network

FactorBound = Callable[[Factor], int | None]


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut of a network.

    Parameters
    ----------
    value : int
        The bound: the product of the sizes of the cut indices and bounds.
    indices : tuple of int
        The cut indices of the network.
    bounded : tuple of int
        Factors that are cut through, by their own rank bound.
    rows : tuple of int
        The factors on the rows' side.
    """

    value: int
    indices: tuple[int, ...]
    bounded: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


def minimum_cut(
    network: Network,
    row_axes: Sequence[int] = (0,),
    factor_bound: FactorBound = lambda factor: None,
) -> Cut:
    """Find the least cut between some axes of a network and the others.

    Parameters
    ----------
    network : Network
        Any network.
    row_axes : sequence of int
        The output axes that count as rows; the others are columns.
    factor_bound : callable
        A rank bound of a two-axis factor if one is known: it is then a product of two matrices
        with that inner size, and may be cut there.

    Returns
    -------
    Cut
        Its value bounds the rank for all values of all factors, also tied and frozen ones.

    Notes
    -----
    O(V E²) in the number of factors and indices. Logarithms order the cuts; the value is the
    integer product of the sizes on the cut.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(("S", "T"))
    for i, size in enumerate(network.sizes):
        graph.add_edge(("in", i), ("out", i), capacity=log(size))
    rows = {i for a, g in enumerate(network.output) if a in row_axes for i in g}
    columns = {i for a, g in enumerate(network.output) if a not in row_axes for i in g}
    for i in rows:
        graph.add_edge("S", ("in", i))
    for i in columns:
        graph.add_edge(("out", i), "T")
    bounds: dict[int, int] = {}
    for k, factor in enumerate(network.factors):
        bound = factor_bound(factor) if len(factor.axes) == 2 else None
        if bound is not None:
            bounds[k] = max(bound, 1)
        _add_factor(graph, k, factor, bounds.get(k))
    if any(s == 1 and i in rows & columns for i, s in enumerate(network.sizes)):
        raise AssertionError("size one carries no index")
    _, (side, _) = nx.minimum_cut(graph, "S", "T")
    cut = tuple(
        i for i in range(len(network.sizes)) if ("in", i) in side and ("out", i) not in side
    )
    through = tuple(k for k in bounds if (("f", k, 0) in side) != (("f", k, 1) in side))
    value = prod(network.sizes[i] for i in cut) * prod(bounds[k] for k in through)
    on_rows = tuple(k for k in range(len(network.factors)) if ("f", k, 0) in side)
    return Cut(value, cut, through, on_rows)


def _add_factor(graph: nx.DiGraph, k: int, factor: Factor, bound: int | None) -> None:
    """A factor sees each of its indices; one with a rank bound is two factors joined by it."""
    if bound is None:
        halves = [((("f", k, 0)), factor.indices)]
    else:
        halves = [(("f", k, a), tuple(dict.fromkeys(g))) for a, g in enumerate(factor.axes)]
        graph.add_edge(("f", k, 0), ("f", k, 1), capacity=log(bound))
        graph.add_edge(("f", k, 1), ("f", k, 0), capacity=log(bound))
    for node, indices in halves:
        graph.add_node(node)
        for i in indices:
            graph.add_edge(node, ("in", i))
            graph.add_edge(("out", i), node)
