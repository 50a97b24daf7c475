"""Planted decompositions: a W0 made from its own singular vectors, modulo a prime.

``W0 = U diag(σ) Vᵀ`` with orthonormal U and V made of reflections and free σ runs through (almost)
all matrices, and everything in it is rational. So leaves that are singular vectors of W0 keep their
relation to it without any square root; the same with ``W0 = Q R``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod

import numpy as np

from ..algebra.expression import Expr, Factor, Shape, Start
from ..algebra.nodes import Base, Reshape, Scale
from ..errors import UnsupportedError
from .modular import matmul, power, reciprocal

Number = Callable[[Factor], int]
SINGULAR = ("left_singular", "right_singular", "singular_values")
TRIANGULAR = ("qr_q", "qr_r")


def is_decomposed(start: Start) -> bool:
    """Whether a start is a factor of W0 itself, times a number, as the matrix (out, rest)."""
    return start.kind in SINGULAR + TRIANGULAR and _matrix_of(start) is not None


def _matrix_of(start: Start) -> tuple[Shape, tuple[Factor, ...]] | None:
    """The matrix ``c W0`` that a start decomposes: its shape and the numbers in front."""
    operand: Expr | None = start.operand
    shape = None if operand is None else operand.shape
    numbers: list[Factor] = []
    while isinstance(operand, Reshape | Scale):
        if isinstance(operand, Scale):
            numbers.append(operand.factor)
        operand = operand.operand
    if not isinstance(operand, Base) or shape is None or shape[0] != operand.shape[0]:
        return None
    return ((shape[0], prod(shape[1:])), tuple(numbers)) if all(numbers) else None


@dataclass(frozen=True, slots=True)
class Planted:
    """W0 as a matrix of residues, and its factors: left, roots of the middle, right (as rows)."""

    base: np.ndarray
    left: np.ndarray
    roots: np.ndarray
    right: np.ndarray
    step: int
    p: int

    def factor(self, start: Start) -> np.ndarray:
        """The residues of a leaf that starts as a factor of W0."""
        first = int(dict(start.settings).get("first", 0))
        chosen = slice(first, first + int(start["rank"]))
        if start.kind in TRIANGULAR:
            return self.left[:, chosen] if start.kind == "qr_q" else self.right[chosen]
        exponent = Fraction(float(start["power"])).limit_denominator(64) * self.step
        roots = self.roots[chosen]
        scale = power(
            roots if exponent >= 0 else reciprocal(roots, self.p), abs(int(exponent)), self.p
        )
        if start.kind == "left_singular":
            return self.left[:, chosen] * scale % self.p
        if start.kind == "right_singular":
            return scale[:, None] * self.right[chosen] % self.p
        return scale


def plant(
    starts: Sequence[Start], source: np.random.RandomState, p: int, number: Number
) -> Planted:
    """Draw a W0 with the factors that the leaves of an expression are.

    Parameters
    ----------
    starts : sequence of Start
        What the leaves are of W0.
    source : numpy.random.RandomState
        Where the numbers come from.
    p : int
        The prime.
    number : callable
        The residue of a fraction or a float.

    Raises
    ------
    UnsupportedError
        If the leaves are factors of different kinds or of different multiples of W0, or powers
        of its singular values that are no simple fractions.
    """
    given = [float(start["power"]) for start in starts if start.kind in SINGULAR]
    powers = [Fraction(power).limit_denominator(64) for power in given]
    matrices = {_matrix_of(start) for start in starts}
    singular = {start.kind in SINGULAR for start in starts}
    if len(matrices) > 1 or len(singular) > 1 or [float(power) for power in powers] != given:
        raise UnsupportedError(
            "The generic rank of an expression was asked for that reads several decompositions "
            "of W0.",
            f"No rational W0 is known that has them all (powers of σ: {given}).",
            "Pass base=W0, so that they enter by their floats.",
        )
    found = matrices.pop()
    assert found is not None
    (m, n), numbers = found
    q = min(m, n)

    def draw(*size: int) -> np.ndarray:
        return source.randint(1, p, size=size, dtype=np.int64)

    left = reflected_columns(draw(reflections(m), m), q, p)
    if singular == {False}:
        right, roots, step = np.triu(draw(q, n)), np.ones(q, dtype=np.int64), 1
    else:
        right = reflected_columns(draw(reflections(n), n), q, p).T.copy()
        roots, step = draw(q), lcm(*(power.denominator for power in powers))
    matrix = matmul(left * power(roots, step, p) % p, right, p)
    for factor in numbers:
        matrix = matrix * pow(number(factor), -1, p) % p
    return Planted(matrix, left, roots, right, step, p)


def reflections(n: int) -> int:
    """How many reflections to draw for n × n: enough for every rotation up to 128, then four."""
    return 0 if n == 1 else n if n <= 128 else 4


def reflected_columns(vectors: np.ndarray, count: int, p: int) -> np.ndarray:
    """The first columns ``(n, count)`` of the product of the reflections in ``vectors`` (k, n)."""
    result = np.eye(vectors.shape[1], count, dtype=np.int64)
    for v in vectors:
        scale = 2 * reciprocal(np.atleast_1d((v * v % p).sum() % p), p)[0] % p
        along = (v[:, None] * result % p).sum(axis=0) % p
        result = (result - v[:, None] * (scale * along % p)) % p
    return result
