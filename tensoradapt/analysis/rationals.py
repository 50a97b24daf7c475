"""Exact rational arithmetic, for small matrices at given values: floats are dyadic rationals."""

from __future__ import annotations

from typing import Any

import flint
import numpy as np

from .modular import UnluckyPoint
from .objects import ObjectArithmetic, as_fraction


class RationalArithmetic(ObjectArithmetic):
    """The operations of the algebra on exact rationals.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> from tensoradapt.run.evaluate import evaluate
    >>> exact = RationalArithmetic()
    >>> values = {"B": exact.array(np.array([[0.1]])), "A": exact.array(np.array([[10.0]]))}
    >>> evaluate(low_rank((1, 1), rank=1), values, arithmetic=exact)[0, 0] == 1
    False
    """

    __slots__ = ()

    def number(self, value: Any) -> Any:
        exact = as_fraction(value)
        return flint.fmpq(exact.numerator, exact.denominator)

    def times(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        made = rational_matrix(a) * rational_matrix(b)
        return np.array(made.entries(), dtype=object).reshape(a.shape[0], b.shape[1])

    def solve(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        try:
            made = rational_matrix(a).solve(rational_matrix(b))
        except ZeroDivisionError:
            raise UnluckyPoint("a matrix that must be inverted is singular here") from None
        return np.array(made.entries(), dtype=object).reshape(b.shape)

    def inverted(self, x: Any) -> Any:
        return x if x == 0 else 1 / x


def rational_matrix(a: np.ndarray) -> flint.fmpq_mat:
    """A matrix of rationals for FLINT."""
    return flint.fmpq_mat(int(a.shape[0]), int(a.shape[1]), a.reshape(-1).tolist())


def signed_classes(a: np.ndarray) -> np.ndarray:
    """Number the rows of a matrix of rationals: equal up to sign is one number, zero rows are 0.

    Examples
    --------
    >>> signed_classes(RationalArithmetic().array(np.array([[1.0, 2], [0, 0], [-1, -2], [2, 1]])))
    array([1, 0, 1, 2])
    """
    seen: dict[tuple[Any, ...], int] = {}
    found = np.zeros(len(a), dtype=np.int64)
    for i, row in enumerate(a):
        leading = next((x for x in row if x != 0), None)
        if leading is not None:
            key = tuple(row) if leading > 0 else tuple(-x for x in row)
            found[i] = seen.setdefault(key, len(seen) + 1)
    return found
