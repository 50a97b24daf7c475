"""Balls: real numbers with rigorous error bounds, by FLINT's arb.

Every value is a midpoint with a radius that surely covers the true number; the working precision
is that of FLINT's context, which ``at_precision`` sets and restores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flint
import numpy as np

from ..algebra.functions import Function
from ..run.arrays import Array
from .objects import ObjectArithmetic, as_fraction

at_precision = flint.ctx.workprec
"""A context in which balls are computed with this many bits."""


class Undecided(Exception):
    """Balls too wide to tell: a divisor that may be 0, an order that may be either."""


class BallArithmetic(ObjectArithmetic):
    """The operations of the algebra on balls.

    Examples
    --------
    >>> from tensoradapt.algebra.builders import sin
    >>> from tensoradapt.algebra.leaves import parameter
    >>> from tensoradapt.run.evaluate import evaluate
    >>> balls = BallArithmetic()
    >>> x = balls.array(np.array([[3.0]]))
    >>> bool(evaluate(sin(parameter("x", 1, 1)), {"x": x}, arithmetic=balls)[0, 0] > 0.14)
    True
    """

    __slots__ = ()

    def number(self, value: Any) -> Any:
        exact = as_fraction(value)
        return flint.arb(flint.fmpq(exact.numerator, exact.denominator))

    def times(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return from_matrix(ball_matrix(a) * ball_matrix(b))

    def solve(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        try:
            return from_matrix(ball_matrix(a).solve(ball_matrix(b)))
        except ZeroDivisionError:
            raise Undecided("a matrix that must be inverted may be singular") from None

    def inverted(self, x: Any) -> Any:
        if x.is_zero():
            return x
        if x.contains(0):
            raise Undecided("a divisor may be 0")
        return 1 / x

    def map(self, a: Array, function: Function) -> Array:
        """Every function of the table."""
        settings = function.settings
        if function.name == "softmax_top":
            rows = [_softmax_top(row, int(settings[0])) for row in a.reshape(-1, a.shape[-1])]
            return np.stack(rows).reshape(a.shape)
        if function.name == "clip":
            low, high = (flint.arb(limit) for limit in settings)
            return self.each(lambda x: x.max(low).min(high), a)
        if function.name in FUNCTIONS:
            return self.each(FUNCTIONS[function.name], a)
        return ObjectArithmetic.map(self, a, function)

    def norm(self, a: Array, axes: tuple[int, ...]) -> Array:
        squares = np.asarray((a * a).sum(axis=axes), dtype=object)
        return self.each(_root, squares)

    def special(self, a: np.ndarray, kind: str) -> np.ndarray:
        if kind == "exponential":
            return from_matrix(ball_matrix(a).exp()) - self.constant("identity", a.shape)
        columns: list[np.ndarray] = []
        for column in a.T:
            for other in columns:
                column = column - other * (other * column).sum()
            columns.append(column * self.inverted(_root((column * column).sum())))
        return np.stack(columns, axis=1)

    def transform_matrix(self, kind: str, n: int) -> np.ndarray:
        """Entries by arb's cosine of rational multiples of π."""
        name = kind.removeprefix("inverse_")
        entry = {"fourier_cos": _cosine, "fourier_sin": _sine, "dct": _dct}.get(name)
        if entry is None:
            matrix = self._dyadic(name, n)
        else:
            found = [entry(k, j, n) for k in range(n) for j in range(n)]
            matrix = np.array(found, dtype=object).reshape(n, n)
        if name == kind:
            return matrix
        return matrix.T / (self.number(n) if name.startswith("fourier") else self.number(1))

    def _dyadic(self, name: str, n: int) -> np.ndarray:
        matrix = np.ones((1, 1))
        if name == "walsh_hadamard":
            while len(matrix) < n:
                matrix = np.kron([[1, 1], [1, -1]], matrix)
            return self.array(matrix) / self.number(n).sqrt()
        balls, root = self.array(matrix), self.number(2).sqrt()
        while len(balls) < n:
            averages = np.repeat(balls, 2, axis=1)
            details = self.array(np.kron(np.eye(len(balls)), [[1, -1]]))
            balls = np.concatenate([averages, details]) / root
        return balls


def _root(x: Any) -> Any:
    return x if x.is_zero() else x.nonnegative_part().sqrt()


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + (-x).exp())


def _square_root(x: Any) -> Any:
    if x.is_zero() or x >= 0:
        return x.sqrt()
    raise Undecided("a square root of a number that may be negative")


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": lambda x: x.sin(),
    "cos": lambda x: x.cos(),
    "tanh": lambda x: x.tanh(),
    "exp": lambda x: x.exp(),
    "sigmoid": _sigmoid,
    "relu": lambda x: x.nonnegative_part(),
    "abs": abs,
    "sqrt": _square_root,
}
"""Functions of one ball."""


def _softmax_top(row: np.ndarray, count: int) -> np.ndarray:
    order = sorted(range(len(row)), key=lambda k: (-float(row[k].mid()), k))
    kept, rest = order[:count], order[count:]
    for k in kept:
        for other in rest:
            exact = row[k].is_exact() and row[other].is_exact()
            if not (row[k] > row[other] or (exact and row[k] == row[other] and k < other)):
                raise Undecided("the largest entries may be others")
    weights = {k: row[k].exp() for k in kept}
    total = sum(weights.values(), flint.arb(0))
    return np.array([weights[k] / total if k in weights else flint.arb(0) for k in range(len(row))])


def _cosine(k: int, j: int, n: int) -> Any:
    return flint.arb.cos_pi_fmpq(flint.fmpq(2 * (k * j % n), n))


def _sine(k: int, j: int, n: int) -> Any:
    return flint.arb.sin_pi_fmpq(flint.fmpq(2 * (k * j % n), n))


def _dct(k: int, j: int, n: int) -> Any:
    scale = flint.arb(flint.fmpq(1 if k == 0 else 2, n)).sqrt()
    return scale * flint.arb.cos_pi_fmpq(flint.fmpq((2 * j + 1) * k % (4 * n), 2 * n))


def ball_matrix(a: np.ndarray) -> flint.arb_mat:
    """A matrix of balls for FLINT."""
    return flint.arb_mat(int(a.shape[0]), int(a.shape[1]), a.reshape(-1).tolist())


def from_matrix(matrix: flint.arb_mat) -> np.ndarray:
    """A matrix of FLINT as an array of balls."""
    found = np.empty(matrix.nrows() * matrix.ncols(), dtype=object)
    found[:] = matrix.entries()
    return found.reshape(matrix.nrows(), matrix.ncols())


def is_surely_regular(square: np.ndarray) -> bool:
    """Whether balls prove that a square matrix of them is regular.

    Small ones by their determinant; larger ones by an approximate inverse R in floating point:
    ``‖I - R M‖ < 1`` in the maximum row sum proves it.
    """
    n = square.shape[0]
    if n == 0:
        return True
    matrix = ball_matrix(square)
    if n <= DETERMINANTS:
        return not matrix.det().contains(0)
    middle = np.array([[float(x.mid()) for x in row] for row in square])
    try:
        inverse = np.linalg.inv(middle)
    except np.linalg.LinAlgError:
        return False
    if not np.isfinite(inverse).all():
        return False
    rest = BallArithmetic().array(np.eye(n)) - from_matrix(
        ball_matrix(BallArithmetic().array(inverse)) * matrix
    )
    if all(abs(row).sum() < 1 for row in rest):
        return True
    return n <= 4 * DETERMINANTS and not matrix.det().contains(0)


DETERMINANTS = 96
"""Sizes up to which the determinant is cheaper than an approximate inverse."""
