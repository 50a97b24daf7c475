"""Residues: the arithmetic of integers modulo a prime, for ``run.evaluate``.

Z → GF(p) is a ring map, so a minor that is not 0 modulo p is not 0; ranks found here are lower
bounds without any tolerance. Numbers are int64 in ``[0, p)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from ..algebra.expression import Factor, Shape
from ..algebra.functions import Function
from ..algebra.indexing import IndexMap
from ..algebra.leaves import exact
from ..algebra.notation import Pattern
from ..errors import StructureError, UnsupportedError
from ..run.arrays import Array, to_numpy
from ..run.draw import stream
from ..run.positions import positions
from .contraction import einsum, on_diagonal
from .modular import UnluckyPoint, matmul, reciprocal, regular_inverse, stacked
from .primes import check_prime, square_root
from .spectral import transform_residues
from .transcendental import TRANSCENDENTAL, apply_transcendental

CONSTANTS = ("generic", "dyadic")


class ResidueArithmetic:
    """The operations of the algebra modulo a prime.

    Parameters
    ----------
    p : int
        An odd prime below 2³¹.
    order : int
        The order of a root of unity that divides p - 1, for transforms.
    constants : {"generic", "dyadic"}
        What a scale that is a float and no simple fraction stands for: a random residue (of its
        own for each float), or the float itself as a dyadic rational.
    seed : int
        Chooses those residues.
    norms : bool
        Whether a norm is a square root modulo p. That is exact only where the squares are chosen
        to have one and no two norms depend on each other; ``substitute.py`` sees to it.
    analytic : bool
        Whether sin, cos, tanh, exp and sigmoid give free numbers, one per argument up to sign.
        That is exact only where the arguments are independent; see ``transcendental.py``.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> from tensoradapt.run.evaluate import evaluate
    >>> values = {"B": np.array([[2], [3]]), "A": np.array([[4, 5]])}
    >>> evaluate(low_rank((2, 2), rank=1), values, arithmetic=ResidueArithmetic(7)).tolist()
    [[1, 3], [5, 1]]
    """

    __slots__ = ("analytic", "constants", "norms", "order", "p", "seed")

    def __init__(
        self,
        p: int,
        order: int = 1,
        constants: str = "generic",
        seed: int = 0,
        norms: bool = False,
        analytic: bool = False,
    ) -> None:
        self.p = check_prime(p)
        self.order, self.seed = order, seed
        self.constants, self.norms, self.analytic = constants, norms, analytic
        if (self.p - 1) % order:
            raise StructureError(
                f"Roots of unity of order {order} modulo {self.p} were asked for.",
                f"There are none: {order} does not divide {self.p - 1}.",
                f"Use a prime that is 1 modulo {order}.",
            )

    # --- multilinear ---------------------------------------------------------------------

    def einsum(
        self, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[Array]
    ) -> Array:
        """A product over named indices; repeated output indices lie on a diagonal of zeros."""
        return einsum(self, pattern, sizes, operands)

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``(g, m, k) @ (g, k, n)``."""
        return stacked(a, b, self.p)

    def total(self, a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """The sum over some axes."""
        return a.sum(axis=axes) % self.p

    def zeros(self, shape: Sequence[int]) -> np.ndarray:
        """An array of zeros."""
        return np.zeros(shape, dtype=np.int64)

    def add(self, terms: Sequence[Array]) -> Array:
        """The sum of one or more terms."""
        result = terms[0]
        for term in terms[1:]:
            result = (result + term) % self.p
        return result

    def scale(self, factor: Factor, a: Array) -> Array:
        """A number times an array."""
        return a * self.number(factor) % self.p

    def number(self, factor: Factor) -> int:
        """The residue of a fraction or a float.

        Raises
        ------
        UnluckyPoint
            If p divides the denominator.
        """
        simple = exact(factor) if self.constants == "generic" else Fraction(factor)
        if isinstance(simple, float):
            drawn = stream(self.seed, "constant", repr(abs(simple))).randint(1, self.p)
            return int(drawn) if simple > 0 else self.p - int(drawn)
        if simple.denominator % self.p == 0:
            raise UnluckyPoint("a denominator is 0 here")
        return simple.numerator * pow(simple.denominator, -1, self.p) % self.p

    def constant(self, kind: str, shape: Shape) -> Array:
        """``ones``, or ``identity``: 1 where all axes agree."""
        if kind == "ones" or len(shape) < 2:
            return np.ones(shape, dtype=np.int64)
        return on_diagonal(np.ones(shape[:1], dtype=np.int64), [0] * len(shape), self)

    # --- layout --------------------------------------------------------------------------

    def reshape(self, a: Array, target: Shape) -> Array:
        """The same elements in row-major order."""
        return np.reshape(a, target)

    def window(self, a: Array, target: Shape, offset: Shape) -> Array:
        """``result[j] = a[j + offset]`` where that exists, else 0."""
        result = np.zeros(target, dtype=np.int64)
        inner, outer = window_slices(a.shape, target, offset)
        result[outer] = a[inner]
        return result

    def concatenate(self, operands: Sequence[Array], axis: int) -> Array:
        """Pieces along an axis."""
        return np.concatenate(operands, axis=axis)

    # --- fixed linear maps ---------------------------------------------------------------

    def transform(self, a: Array, axis: int, kind: str) -> Array:
        """``Σ_j matrix[k, j] a[j]`` along an axis; its matrix is in spectral.py."""
        n = a.shape[axis]
        matrix = transform_residues(kind, n, self.p, self.order)
        flat = np.reshape(a, (prod(a.shape[:axis]), n, prod(a.shape[axis + 1 :])))
        return matmul(matrix, flat, self.p).reshape(a.shape)

    def take(self, a: Array, axis: int, index: IndexMap) -> Array:
        """Read an axis through an index map."""
        found, signs = positions(index)
        result = np.take(a, found, axis=axis)
        if signs is None:
            return result
        spread = signs.reshape(index.shape + (1,) * (a.ndim - axis - 1))
        return result * spread % self.p

    def place(self, a: Array, target: Shape, index: IndexMap) -> Array:
        """Scatter to distinct flat positions of zeros."""
        found, signs = positions(index)
        result = np.zeros(prod(target), dtype=np.int64)
        signed = a if signs is None else a * signs % self.p
        result[found.reshape(-1)] = signed.reshape(-1)
        return result.reshape(target)

    # --- barriers ------------------------------------------------------------------------

    def map(self, a: Array, function: Function) -> Array:
        """A polynomial or a reciprocal; analytic functions where they may be free numbers."""
        if function.name == "polynomial":
            result = np.zeros_like(a)
            for coefficient in reversed(function.settings):
                result = (result * a + self.number(exact(coefficient))) % self.p
            return result
        if function.name == "reciprocal":
            return reciprocal(a, self.p)
        if self.analytic and function.name in TRANSCENDENTAL:
            return apply_transcendental(function.name, a, self.p, self.seed)[0]
        raise no_residue(str(function))

    def divide(self, a: Array, b: Array) -> Array:
        """``a / b`` elementwise."""
        return a * reciprocal(b, self.p) % self.p

    def norm(self, a: Array, axes: tuple[int, ...]) -> Array:
        """A square root modulo p of ``Σ a²``, where that stands for the norm."""
        if not self.norms:
            raise no_residue("a norm")
        squares = np.asarray((a * a % self.p).sum(axis=axes) % self.p)
        roots = [square_root(int(x), self.p) for x in squares.reshape(-1)]
        if None in roots:
            raise UnluckyPoint("a squared norm has no root here")
        return np.array(roots, dtype=np.int64).reshape(squares.shape)

    def matrix_function(self, a: Array, kind: str, settings: tuple[int, ...]) -> Array:
        """The rational ones: Cayley, Neumann and Householder, each minus the identity."""
        p = self.p
        if kind == "cayley":
            q = -a % p if settings == (-1,) else a
            eye = np.eye(a.shape[-1], dtype=np.int64)
            return matmul(regular_inverse((eye + q) % p, p), -2 * q % p, p)
        if kind == "neumann":
            return _neumann(a, settings[0], p)
        if kind == "householder":
            return _householder(a, p)
        raise no_residue(f"a function {kind} of matrices")

    # --- training ------------------------------------------------------------------------

    def hold(self, a: Array) -> Array:
        """The same values."""
        return a


def _neumann(q: np.ndarray, degree: int, p: int) -> np.ndarray:
    result, term = 2 * q % p, q
    for k in range(2, degree + 1):
        term = matmul(term, q, p)
        result = (result + (2 if k < degree else 1) * term) % p
    return result


def _householder(u: np.ndarray, p: int) -> np.ndarray:
    result = np.zeros((*u.shape[:-1], u.shape[-2]), dtype=np.int64)
    for j in range(u.shape[-1]):
        column = u[..., :, j : j + 1]
        inverted = reciprocal((column * column % p).sum(axis=-2, keepdims=True) % p, p)
        moved = (matmul(result, column, p) + column) % p * (2 * inverted % p) % p
        result = (result - moved * np.swapaxes(column, -1, -2)) % p
    return result


def no_residue(what: str) -> UnsupportedError:
    """The error of an operation that has no value modulo a prime."""
    return UnsupportedError(
        f"The residue of {what} modulo a prime was asked for.",
        "Its values are no rational functions of its argument.",
        "Exact modulo p are products, sums, index maps, transforms, polynomials, reciprocals, "
        "cayley, neumann and householder; ta.rank_at certifies the others at given values.",
    )


def window_slices(
    shape: Shape, target: Shape, offset: Shape
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a window reads of its operand, and where in its result that lies."""
    inner, outer = [], []
    for n, m, first in zip(shape, target, offset, strict=True):
        low, high = max(first, 0), max(min(n, m + first), max(first, 0))
        inner.append(slice(low, high))
        outer.append(slice(low - first, high - first))
    return tuple(inner), tuple(outer)


def residues_of(values: Any, p: int, name: str = "an array") -> np.ndarray:
    """Floating-point numbers as exact residues: every float is a dyadic rational.

    Parameters
    ----------
    values : array
        Of any library and floating dtype.
    p : int
        An odd prime below 2³¹.
    name : str
        What the numbers are, for the error.

    Returns
    -------
    numpy.ndarray
        int64 residues of the same shape.

    Raises
    ------
    StructureError
        If a number is not finite.

    Examples
    --------
    >>> residues_of(np.array([0.5, -3.0]), 7).tolist()
    [4, 4]
    """
    given = to_numpy(values)
    if not np.isfinite(given).all():
        raise StructureError(
            f"The exact value of {name} of shape {given.shape} was asked for.",
            f"{given.size - int(np.isfinite(given).sum())} of its entries are not finite.",
            "Give finite numbers; a certificate cannot be made of NaN or infinity.",
        )
    mantissa, exponent = np.frexp(given)
    whole = (mantissa * 2.0**53).astype(np.int64) % p
    exponents, where = np.unique(exponent.astype(np.int64) - 53, return_inverse=True)
    powers = np.array([pow(2, int(e), p) for e in exponents], dtype=np.int64)
    return (whole * powers[where.reshape(given.shape)] % p).astype(np.int64)
