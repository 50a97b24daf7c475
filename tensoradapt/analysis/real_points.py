"""Random real points of a family: floats that every leaf, W0 and b0 may have."""

from __future__ import annotations

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import Base, BaseBias, Frozen
from ..algebra.snapshot import distribute_snapshots
from ..algebra.walk import leaves, topological
from ..run.arrays import to_numpy
from ..run.draw import stream
from ..run.sample import sample
from .exact_point import Values
from .points import Given


def real_point(expr: Expr, given: Given, seed: int, size: float = 1.0) -> Values:
    """Trained leaves N(0, size²); frozen ones as they are drawn; W0 and b0 as given, or N(0, 1).

    Parameters
    ----------
    expr : Expr
        The update as it was given.
    given : Given
        What the caller fixed.
    seed : int
        Chooses the point.
    size : float
        The deviation of the trained leaves.

    Raises
    ------
    TensorAdaptError
        If a frozen leaf has no first value, for instance because data is missing.
    """
    base = _weight(expr, Base, given.base, seed)
    bias = _weight(expr, BaseBias, given.bias, seed)
    drawn = sample(expr, seed, base, start="random", bias=bias)
    values = {name: np.asarray(a) * size for name, a in drawn.items()}
    frozen = [leaf for leaf in leaves(distribute_snapshots(expr)) if isinstance(leaf, Frozen)]
    if frozen:
        first = sample(expr, given.seed, base, data=given.values, bias=bias)
        values |= {leaf.name: np.asarray(first[leaf.name]) for leaf in frozen}
    return Values(values, base, bias)


def _weight(expr: Expr, kind: type, given: object, seed: int) -> np.ndarray | None:
    if given is not None:
        return to_numpy(given)
    found = [sub.shape for sub in topological(expr, with_starts=True) if isinstance(sub, kind)]
    return stream(seed, "real", kind.__name__).standard_normal(found[0]) if found else None
