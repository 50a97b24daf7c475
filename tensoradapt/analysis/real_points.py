"""Random real points of a family: floats that every leaf, W0 and b0 may have."""

from __future__ import annotations

import numpy as np

from ..algebra.expression import Expr
from ..algebra.leaves import exact
from ..algebra.nodes import Base, BaseBias, Frozen, Leaf
from ..algebra.snapshot import SUFFIX
from ..algebra.walk import leaves, topological
from ..run.arrays import to_numpy
from ..run.draw import stream
from ..run.sample import sample
from .exact_point import Values
from .points import SEEDED, Given, fixed_number


def real_point(original: Expr, plain: Expr, given: Given, seed: int, size: float = 1.0) -> Values:
    """Trained leaves N(0, size²); frozen ones as they are drawn; W0 and b0 as given, or N(0, 1).

    Parameters
    ----------
    original : Expr
        The update as it was given.
    plain : Expr
        The same without ``at_start`` and without leaves that start as values: what is evaluated.
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
    base = _weight(original, Base, given.base, seed)
    bias = _weight(original, BaseBias, given.bias, seed)
    drawn = sample(plain, seed, base, start="random", bias=bias)
    values = {name: np.asarray(a) * size for name, a in drawn.items()}
    every = {sub.name: sub for sub in topological(original, True) if isinstance(sub, Leaf)}
    for leaf in leaves(plain):
        if isinstance(leaf, Frozen):
            name = leaf.name.removesuffix(SUFFIX)
            source = every.get(leaf.name) or every.get(name) or leaf
            first = sample(source, given.seed, base, data=_data(given, leaf), bias=bias)
            values[leaf.name] = np.asarray(first[source.name])
    return Values(values, base, bias)


def _data(given: Given, leaf: Frozen) -> dict[str, np.ndarray]:
    """The given arrays, that of a snapshot also under the name of its leaf."""
    data = {name: to_numpy(value) for name, value in given.values.items()}
    if leaf.name in data:
        data[leaf.name.removesuffix(SUFFIX)] = data[leaf.name]
    return data


def has_exact_floats(leaf: Frozen, given: Given) -> bool:
    """Whether the float64 values of a frozen leaf have all its relations exactly.

    An orthonormal matrix or a singular vector in floats is none: what vanishes for the leaf does
    not vanish for its rounding.
    """
    if leaf.name in given.values or given.frozen == "values":
        return True
    number = fixed_number(leaf.recipe)
    if number is not None:
        return exact(number) == number
    return leaf.recipe.kind in (*SEEDED, "identity", "paired_columns")


def _weight(expr: Expr, kind: type, given: object, seed: int) -> np.ndarray | None:
    if given is not None:
        return to_numpy(given)
    found = [sub.shape for sub in topological(expr, with_starts=True) if isinstance(sub, kind)]
    return stream(seed, "real", kind.__name__).standard_normal(found[0]) if found else None
