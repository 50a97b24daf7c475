"""Arithmetic on arrays of number objects: what exact rationals and balls have in common.

A subclass says what a number is and multiplies matrices; layout, sums and polynomials are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from ..algebra.expression import Factor, Shape
from ..algebra.functions import Function
from ..algebra.indexing import IndexMap
from ..algebra.leaves import exact
from ..algebra.notation import Pattern
from ..run.arrays import Array
from ..run.positions import positions
from .contraction import einsum, on_diagonal
from .residues import no_residue, window_slices


class ObjectArithmetic:
    """The operations of the algebra on numpy arrays of dtype object. Abstract."""

    __slots__ = ()

    def number(self, value: Any) -> Any:
        """A fraction, float or integer as a number of this kind, exactly."""
        raise NotImplementedError

    def times(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The product of two matrices."""
        raise NotImplementedError

    def solve(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``a⁻¹ b`` of two matrices."""
        raise NotImplementedError

    def inverted(self, x: Any) -> Any:
        """``1/x`` of a number, 0 at an exact 0."""
        raise NotImplementedError

    def array(self, values: np.ndarray) -> np.ndarray:
        """Floats as numbers of this kind, exactly."""
        return self.each(lambda x: self.number(float(x)), values)

    @staticmethod
    def each(change: Callable[[Any], Any], a: np.ndarray) -> np.ndarray:
        """Apply a function to every entry."""
        result = np.empty(np.shape(a), dtype=object)
        result.reshape(-1)[:] = [change(x) for x in np.asarray(a).reshape(-1)]
        return result

    # --- multilinear ---------------------------------------------------------------------

    def einsum(
        self, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[Array]
    ) -> Array:
        """A product over named indices."""
        return einsum(self, pattern, sizes, [as_array(a) for a in operands])

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``(g, m, k) @ (g, k, n)``."""
        if a.shape[2] == 1 or a.shape[1] * b.shape[2] == 1:
            return (a[:, :, :, None] * b[:, None, :, :]).sum(axis=2)
        return np.stack([self.times(x, y) for x, y in zip(a, b, strict=True)])

    def total(self, a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """The sum over some axes."""
        return as_array(a.sum(axis=axes))

    def zeros(self, shape: Sequence[int]) -> np.ndarray:
        """An array of zeros."""
        return np.full(shape, self.number(0), dtype=object)

    def add(self, terms: Sequence[Array]) -> Array:
        """The sum of one or more terms."""
        result = terms[0]
        for term in terms[1:]:
            result = result + term
        return as_array(result)

    def scale(self, factor: Factor, a: Array) -> Array:
        """A number times an array."""
        return as_array(a * self.number(factor))

    def constant(self, kind: str, shape: Shape) -> Array:
        """``ones``, or ``identity``."""
        if kind == "ones" or len(shape) < 2:
            return np.full(shape, self.number(1), dtype=object)
        return on_diagonal(self.constant("ones", shape[:1]), [0] * len(shape), self)

    # --- layout and fixed linear maps ----------------------------------------------------

    def reshape(self, a: Array, target: Shape) -> Array:
        """The same elements in row-major order."""
        return np.reshape(as_array(a), target)

    def window(self, a: Array, target: Shape, offset: Shape) -> Array:
        """``result[j] = a[j + offset]`` where that exists, else 0."""
        result = self.zeros(target)
        inner, outer = window_slices(a.shape, target, offset)
        result[outer] = a[inner]
        return result

    def concatenate(self, operands: Sequence[Array], axis: int) -> Array:
        """Pieces along an axis."""
        return np.concatenate(operands, axis=axis)

    def transform(self, a: Array, axis: int, kind: str) -> Array:
        """``Σ_j matrix[k, j] a[j]`` along an axis."""
        n = a.shape[axis]
        matrix = self.transform_matrix(kind, n)
        flat = np.reshape(a, (prod(a.shape[:axis]), n, prod(a.shape[axis + 1 :])))
        return self.product(np.stack([matrix] * len(flat)), flat).reshape(a.shape)

    def transform_matrix(self, kind: str, n: int) -> np.ndarray:
        """The matrix of a transform in this kind of numbers."""
        raise no_residue(f"the transform {kind}")

    def take(self, a: Array, axis: int, index: IndexMap) -> Array:
        """Read an axis through an index map."""
        found, signs = positions(index)
        result = np.take(a, found, axis=axis)
        if signs is None:
            return result
        spread = signs.reshape(index.shape + (1,) * (a.ndim - axis - 1))
        return result * self.each(self.number, spread)

    def place(self, a: Array, target: Shape, index: IndexMap) -> Array:
        """Scatter to distinct flat positions of zeros."""
        found, signs = positions(index)
        result = self.zeros((prod(target),))
        signed = a if signs is None else a * self.each(self.number, signs)
        result[found.reshape(-1)] = signed.reshape(-1)
        return result.reshape(target)

    # --- barriers ------------------------------------------------------------------------

    def map(self, a: Array, function: Function) -> Array:
        """A polynomial or a reciprocal."""
        if function.name == "reciprocal":
            return self.each(self.inverted, a)
        if function.name != "polynomial":
            raise no_residue(str(function))
        result = self.zeros(a.shape)
        for coefficient in reversed(function.settings):
            result = as_array(result * a + self.number(exact(coefficient)))
        return result

    def divide(self, a: Array, b: Array) -> Array:
        """``a / b`` elementwise."""
        return as_array(a * self.each(self.inverted, b))

    def norm(self, a: Array, axes: tuple[int, ...]) -> Array:
        """The Euclidean norm over axes."""
        raise no_residue("a norm")

    def matrix_function(self, a: Array, kind: str, settings: tuple[int, ...]) -> Array:
        """A function of the last two axes, stack by stack."""
        flat = a.reshape(-1, *a.shape[-2:])
        results = [self._matrix_function(x, kind, settings) for x in flat]
        return np.stack(results).reshape(*a.shape[:-2], *results[0].shape)

    def _matrix_function(self, a: np.ndarray, kind: str, settings: tuple[int, ...]) -> np.ndarray:
        if kind == "cayley":
            q = -a if settings == (-1,) else a
            return self.solve(self.constant("identity", a.shape) + q, q * self.number(-2))
        if kind == "neumann":
            result, term = a * self.number(2), a
            for k in range(2, settings[0] + 1):
                term = self.times(term, a)
                result = result + (term + term if k < settings[0] else term)
            return result
        if kind == "householder":
            return self._householder(a)
        return self.special(a, kind)

    def _householder(self, u: np.ndarray) -> np.ndarray:
        result = self.zeros((u.shape[0], u.shape[0]))
        for j in range(u.shape[1]):
            column = u[:, j : j + 1]
            scale = self.inverted((column * column).sum()) * self.number(2)
            result = result - (self.times(result, column) + column) * scale * column.T
        return result

    def special(self, a: np.ndarray, kind: str) -> np.ndarray:
        """Functions of matrices that are not rational."""
        raise no_residue(f"a function {kind} of matrices")

    # --- training ------------------------------------------------------------------------

    def hold(self, a: Array) -> Array:
        """The same values."""
        return a


def as_array(a: Any) -> np.ndarray:
    """The array that numpy made a bare number of, where it had no axes."""
    return np.asarray(a, dtype=object)


def as_fraction(value: Any) -> Fraction:
    """A float as the dyadic rational that it is; integers of numpy are taken."""
    return Fraction(int(value)) if isinstance(value, np.integer) else Fraction(value)
