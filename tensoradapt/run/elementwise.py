"""Elementwise functions in floating-point arithmetic: one definition each.

Where a function has no derivative the gradient is finite by construction: the dangerous branch
never sees the dangerous number (``where`` on the way in and on the way out).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..algebra.functions import Function
from .arrays import Array, hold

Settings = tuple[float, ...]


def _sin(xp: Any, a: Array, settings: Settings) -> Array:
    return xp.sin(a)


def _cos(xp: Any, a: Array, settings: Settings) -> Array:
    return xp.cos(a)


def _tanh(xp: Any, a: Array, settings: Settings) -> Array:
    return xp.tanh(a)


def _exp(xp: Any, a: Array, settings: Settings) -> Array:
    return xp.exp(a)


def _sigmoid(xp: Any, a: Array, settings: Settings) -> Array:
    # σ(x) = (1 + tanh(x/2)) / 2 for every x; 1 / (1 + exp(-x)) overflows for very negative x.
    # The tail e^x below -1 is kept by exp, where the sum with 1 would round it away.
    tail = xp.exp(xp.where(a < -1, a, -xp.ones_like(a)))
    return xp.where(a < -1, tail / (1 + tail), (1 + xp.tanh(a / 2)) / 2)


def _relu(xp: Any, a: Array, settings: Settings) -> Array:
    return xp.where(a <= 0, xp.zeros_like(a), a)


def _abs(xp: Any, a: Array, settings: Settings) -> Array:
    return xp.abs(a)


def safe_sqrt(xp: Any, a: Array) -> Array:
    """The square root with gradient 0 at 0; negative numbers give NaN."""
    is_zero = a == 0
    root = xp.sqrt(xp.where(is_zero, xp.ones_like(a), a))
    return xp.where(is_zero, xp.zeros_like(a), root)


def _sqrt(xp: Any, a: Array, settings: Settings) -> Array:
    return safe_sqrt(xp, a)


def euclidean(xp: Any, a: Array, axes: tuple[int, ...]) -> Array:
    """``√Σ a²`` over the axes, with gradient 0 at a zero."""
    return safe_sqrt(xp, xp.sum(a * a, axis=axes) if axes else a * a)


def safe_reciprocal(xp: Any, a: Array) -> Array:
    """``1/x`` with ``1/0 := 0`` and gradient 0 there."""
    is_zero = a == 0
    inverse = 1 / xp.where(is_zero, xp.ones_like(a), a)
    return xp.where(is_zero, xp.zeros_like(a), inverse)


def _reciprocal(xp: Any, a: Array, settings: Settings) -> Array:
    return safe_reciprocal(xp, a)


def _clip(xp: Any, a: Array, settings: Settings) -> Array:
    low, high = (xp.full_like(a, limit) for limit in settings)
    return xp.where(a <= low, low, xp.where(a >= high, high, a))


def _polynomial(xp: Any, a: Array, settings: Settings) -> Array:
    result = xp.zeros_like(a)
    for coefficient in reversed(settings):
        result = result * a + xp.full_like(a, coefficient)
    return result


def _softmax_top(xp: Any, a: Array, settings: Settings) -> Array:
    """Ties at the threshold are kept in the order of their positions."""
    order = xp.argsort(hold(a), axis=-1, descending=True, stable=True)
    place = xp.argsort(order, axis=-1, stable=True)
    kept = place < int(settings[0])
    shifted = a - hold(xp.max(a, axis=-1, keepdims=True))
    weights = xp.where(kept, xp.exp(shifted), xp.zeros_like(a))
    return weights / xp.sum(weights, axis=-1, keepdims=True)


DEFINITIONS: dict[str, Callable[[Any, Array, Settings], Array]] = {
    "sin": _sin,
    "cos": _cos,
    "tanh": _tanh,
    "exp": _exp,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "abs": _abs,
    "sqrt": _sqrt,
    "reciprocal": _reciprocal,
    "clip": _clip,
    "polynomial": _polynomial,
    "softmax_top": _softmax_top,
}
"""One definition per name of ``functions.FUNCTIONS``."""


def apply_function(xp: Any, a: Array, function: Function) -> Array:
    """Apply a function of the table to every entry.

    Parameters
    ----------
    xp : module
        The array namespace of ``a``.
    a : array
        Any shape; ``softmax_top`` works along the last axis.
    function : Function
        The name and its numbers.

    Returns
    -------
    array
        Of the shape and dtype of ``a``. At 0, ``reciprocal`` is 0, and the gradients of
        ``reciprocal``, ``sqrt``, ``relu`` and ``abs`` are 0.
    """
    return DEFINITIONS[function.name](xp, a, function.settings)


SLOPES: dict[str, Callable[[Any, Array, Settings], Array]] = {
    "sin": lambda xp, a, s: xp.cos(a),
    "cos": lambda xp, a, s: -xp.sin(a),
    "tanh": lambda xp, a, s: 1 - xp.tanh(a) ** 2,
    "exp": lambda xp, a, s: xp.exp(a),
    "sigmoid": lambda xp, a, s: _sigmoid(xp, a, s) * _sigmoid(xp, -a, s),
    "relu": lambda xp, a, s: xp.where(a <= 0, xp.zeros_like(a), xp.ones_like(a)),
    "abs": lambda xp, a, s: xp.sign(a),
    "sqrt": lambda xp, a, s: safe_reciprocal(xp, 2 * safe_sqrt(xp, a)),
    "reciprocal": lambda xp, a, s: -(safe_reciprocal(xp, a) ** 2),
    "clip": lambda xp, a, s: xp.where((a <= s[0]) | (a >= s[1]), xp.zeros_like(a), xp.ones_like(a)),
    "polynomial": lambda xp, a, s: _polynomial(xp, a, _differentiated(s)),
}
"""The derivative of each function that acts on entries alone."""


def _differentiated(coefficients: Settings) -> Settings:
    return tuple(k * c for k, c in enumerate(coefficients))[1:]


def slope(xp: Any, a: Array, function: Function) -> Array:
    """The derivative of an elementwise function at every entry; 0 where there is none."""
    return SLOPES[function.name](xp, a, function.settings)
