"""Arrays modulo a prime: products, powers and inverses on int64, exact.

Residues are in ``[0, p)`` with ``p < 2³¹``, so a product of two fits 62 bits. A matrix product
goes through float64: one side is centered, the other split into limbs, so that every partial sum
is an integer below 2⁵³.
"""

from __future__ import annotations

import numpy as np


class UnluckyPoint(Exception):
    """A number that must be inverted, or have a root, has none at this point and prime."""


def centered(a: np.ndarray, p: int) -> np.ndarray:
    """The residues as float64 between -p/2 and p/2."""
    half = p // 2
    return np.where(a > half, a - p, a).astype(np.float64)


def _reduced(a: np.ndarray, p: int) -> np.ndarray:
    """Integers below 2⁵³ in float64, brought near [-p/2, p/2] in place."""
    a -= np.rint(a * (1.0 / p)) * p
    return a


def matmul(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    """The product of (stacks of) matrices of residues, ``(..., m, k) @ (..., k, n)``.

    Notes
    -----
    With ``|a| < 2³⁰`` and limbs of w bits, ``2³⁰ 2^(w-1) k < 2⁵³``: two limbs up to k = 128, three
    up to k = 4096; a longer k is cut into pieces.
    """
    k = a.shape[-1]
    if k > 4096:
        half = k // 2
        low = matmul(a[..., :half], b[..., :half, :], p)
        return (low + matmul(a[..., half:], b[..., half:, :], p)) % p
    width = 16 if k <= 128 else 11
    left, rest = centered(a, p), centered(b, p)
    limbs: list[np.ndarray] = []
    while len(limbs) * width < 31:
        high = np.rint(rest * 2.0**-width)
        limbs.append(rest - high * 2.0**width)
        rest = high
    total = _reduced(left @ limbs[-1], p)
    for limb in reversed(limbs[:-1]):
        total *= 2.0**width
        total += _reduced(left @ limb, p)
        total = _reduced(total, p)
    return total.astype(np.int64) % p


def power(a: np.ndarray, exponent: int, p: int) -> np.ndarray:
    """``aᵉ`` elementwise by repeated squaring."""
    result, square = np.ones_like(a), a
    while exponent:
        if exponent & 1:
            result = result * square % p
        square, exponent = square * square % p, exponent >> 1
    return result


def reciprocal(a: np.ndarray, p: int) -> np.ndarray:
    """``1/a`` elementwise.

    Raises
    ------
    UnluckyPoint
        If an entry is 0: then nothing is known of the number it stands for.
    """
    if not a.all():
        raise UnluckyPoint("1/x at an x that is 0 here")
    return power(a, p - 2, p)


def inverse(a: np.ndarray, p: int) -> np.ndarray:
    """The inverse of (stacks of) square matrices by halves, without pivoting.

    Raises
    ------
    UnluckyPoint
        If a leading minor is 0.
    """
    n = a.shape[-1]
    if n <= 8:
        return _small_inverse(a, p)
    h = n // 2
    a11, a12, a21, a22 = a[..., :h, :h], a[..., :h, h:], a[..., h:, :h], a[..., h:, h:]
    first = inverse(a11, p)
    right, below = matmul(first, a12, p), matmul(a21, first, p)
    last = inverse((a22 - matmul(a21, right, p)) % p, p)
    corner = matmul(last, below, p)
    above = matmul(right, last, p)
    result = np.empty_like(a)
    result[..., :h, :h] = (first + matmul(above, below, p)) % p
    result[..., :h, h:] = -above % p
    result[..., h:, :h] = -corner % p
    result[..., h:, h:] = last
    return result


def regular_inverse(a: np.ndarray, p: int) -> np.ndarray:
    """The inverse of (stacks of) regular matrices, whatever their leading minors are.

    Where one of those is 0, ``A⁻¹ = R (A R)⁻¹`` with a random R.

    Raises
    ------
    UnluckyPoint
        If a matrix is singular.
    """
    try:
        return inverse(a, p)
    except UnluckyPoint:
        n = a.shape[-1]
        turn = np.random.RandomState(n).randint(1, p, size=(n, n), dtype=np.int64)
        return matmul(turn, inverse(matmul(a, turn, p), p), p)


def _small_inverse(a: np.ndarray, p: int) -> np.ndarray:
    n = a.shape[-1]
    left = a.copy()
    right = np.broadcast_to(np.eye(n, dtype=np.int64), a.shape).copy()
    for k in range(n):
        scale = reciprocal(left[..., k, k], p)[..., None]
        left[..., k, :] = left[..., k, :] * scale % p
        right[..., k, :] = right[..., k, :] * scale % p
        factors = left[..., :, k].copy()
        factors[..., k] = 0
        left = (left - factors[..., :, None] * left[..., None, k, :]) % p
        right = (right - factors[..., :, None] * right[..., None, k, :]) % p
    return right


def stacked(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    """``(g, m, k) @ (g, k, n)``; few terms or many tiny matrices are multiplied entry by entry."""
    g, m, k = a.shape
    n = b.shape[2]
    if k > 4 and (g == 1 or m * n >= 64 or k >= 64):
        return matmul(a, b, p)
    result = a[:, :, :1] * b[:, :1, :] % p
    for step in range(1, k):
        result += a[:, :, step : step + 1] * b[:, step : step + 1, :] % p
    return result % p if k > 1 else result
