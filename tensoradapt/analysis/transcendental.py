"""Transcendental functions as free numbers, where that is exact.

Let the arguments x₁ … x_N of all sines, cosines, exponentials, … of an expression be polynomials
in its leaves that are linearly independent over the rational numbers. Then there are algebraic
values of the leaves at which the x_j are linearly independent, and by the theorem of Lindemann and
Weierstrass the numbers exp(x_j) (and the exp(i x_j)) are algebraically independent there. So an
identity that holds for sin(x_j) at all leaves holds for free numbers in its place, and a minor that
is not 0 for some free numbers modulo p is not the zero function.

All functions of one argument are rational functions of one number t: of ``t = tan(x/2)`` for sin
and cos, of ``t = tanh(x/2)`` for tanh, exp and sigmoid. Both are odd, so equal arguments give equal
numbers, opposite ones opposite numbers, and 0 gives 0. Derivatives are exact in the same t.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .modular import reciprocal

Pair = tuple[np.ndarray, np.ndarray]
_TRIGONOMETRIC, _HYPERBOLIC = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F


def _sin(t: np.ndarray, p: int) -> Pair:
    over = reciprocal((1 + t * t) % p, p)
    return 2 * t % p * over % p, (1 - t * t) % p * over % p


def _cos(t: np.ndarray, p: int) -> Pair:
    sine, cosine = _sin(t, p)
    return cosine, -sine % p


def _tanh(t: np.ndarray, p: int) -> Pair:
    value = 2 * t % p * reciprocal((1 + t * t) % p, p) % p
    return value, (1 - value * value) % p


def _exp(t: np.ndarray, p: int) -> Pair:
    value = (1 + t) % p * reciprocal((1 - t) % p, p) % p
    return value, value


def _sigmoid(t: np.ndarray, p: int) -> Pair:
    value = (1 + t) % p * pow(2, -1, p) % p
    return value, value * (1 - value) % p


TRANSCENDENTAL: dict[str, tuple[int, Callable[[np.ndarray, int], Pair]]] = {
    "sin": (_TRIGONOMETRIC, _sin),
    "cos": (_TRIGONOMETRIC, _cos),
    "tanh": (_HYPERBOLIC, _tanh),
    "exp": (_HYPERBOLIC, _exp),
    "sigmoid": (_HYPERBOLIC, _sigmoid),
}
"""Which t each function reads, and its value and derivative as rational functions of t."""


def apply_transcendental(name: str, x: np.ndarray, p: int, seed: int) -> Pair:
    """The free number of every argument and the derivative there.

    Parameters
    ----------
    name : str
        A name of ``TRANSCENDENTAL``.
    x : numpy.ndarray
        int64 residues of the arguments.
    p : int
        The prime.
    seed : int
        Chooses the numbers.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray)
        Values and derivatives, int64 residues of the shape of x.

    Raises
    ------
    UnluckyPoint
        If a number has no image modulo p.

    Examples
    --------
    >>> value, _ = apply_transcendental("sin", np.array([0, 3, 98, 3]), 101, 0)
    >>> bool(value[0] == 0 and value[1] == value[3] == 101 - value[2])
    True
    """
    kind, rule = TRANSCENDENTAL[name]
    return rule(_free(x, p, (kind ^ (seed * 0xD6E8FEB86659FD93)) & (2**64 - 1)), p)


def _free(x: np.ndarray, p: int, key: int) -> np.ndarray:
    """An odd random function of residues: the finalizer of splitmix64, modulo p."""
    z = np.minimum(x, p - x).astype(np.uint64) + np.uint64(key)
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    t = 1 + (z % np.uint64(p - 1)).astype(np.int64)
    return np.where(x == 0, 0, np.where(x > p // 2, p - t, t))
