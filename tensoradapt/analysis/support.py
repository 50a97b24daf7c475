"""Supports: what zeros in given values say of the rank, exactly.

Where all the entries of a leaf at one value of an index are zero, that value contributes nothing,
so the index is smaller by one in every cut through it. A zero leaf makes its network vanish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import Base, BaseBias, Frozen, Parameter
from ..network.form import Factor, Network
from ..network.lower import lower
from .cut import minimum_cut

Values = Mapping[str, np.ndarray]


def support_bound(
    expr: Expr, values: Values, base: np.ndarray | None, bias: np.ndarray | None
) -> int:
    """Bound the rank at given values by minimum cuts through what is not zero.

    Parameters
    ----------
    expr : Expr
        ``(out, in, *kernel)``.
    values : mapping of str to numpy.ndarray
        The leaves by name.
    base, bias : numpy.ndarray or None
        W0 and b0.

    Returns
    -------
    int
        An upper bound of the rank at these values.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> e = low_rank((4, 5), rank=3)
    >>> values = {"B": np.eye(4, 3) * [1, 0, 1], "A": np.ones((3, 5))}
    >>> support_bound(e, values, None, None)
    2
    """
    given = dict(values)
    arrays: dict[str, np.ndarray | None] = {"W0": base, "b0": bias}
    total = sum(_network(network, given, arrays) for network in lower(expr).terms)
    return min(total, expr.shape[0], expr.size // max(expr.shape[0], 1))


def _network(network: Network, values: Values, arrays: Mapping[str, np.ndarray | None]) -> int:
    alive = [np.ones(size, dtype=bool) for size in network.sizes]
    for factor in network.factors:
        array = _array(factor, values, arrays)
        if array is None:
            continue
        names = [i for group in factor.axes for i in group]
        spread = (array != 0).reshape([network.sizes[i] for i in names])
        if not names and not spread.all():
            return 0
        for position, index in enumerate(names):
            others = tuple(k for k in range(len(names)) if k != position)
            alive[index] &= spread.any(axis=others)
    sizes = [int(mask.sum()) for mask in alive]
    if 0 in sizes:
        return 0
    on_both = {i for i in network.output[0] for g in network.output[1:] if i in g}
    # The cut has no edge of capacity one between rows and columns; two is a weaker bound there.
    sizes = [max(size, 2) if i in on_both else size for i, size in enumerate(sizes)]
    return minimum_cut(replace(network, sizes=tuple(sizes)), (0,)).value


def _array(
    factor: Factor, values: Values, arrays: Mapping[str, np.ndarray | None]
) -> np.ndarray | None:
    match factor.source:
        case Parameter() | Frozen():
            return values.get(factor.source.name)
        case Base():
            return arrays["W0"]
        case BaseBias():
            return arrays["b0"]
        case _:
            return None
