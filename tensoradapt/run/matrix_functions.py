"""Functions of matrices in floating-point arithmetic: one definition each.

All but ``orthonormal`` are returned minus the identity, computed without forming the identity
first, so that a small Q keeps all its digits and Q = 0 gives exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, isfinite, log2
from typing import Any

from array_api_compat import device

from .arrays import Array, hold
from .elementwise import safe_reciprocal

Settings = tuple[int, ...]


def _eye_like(xp: Any, q: Array) -> Array:
    return xp.eye(q.shape[-1], dtype=q.dtype, device=device(q))


def _cayley(xp: Any, q: Array, settings: Settings) -> Array:
    """``(I - Q)(I + Q)⁻¹ - I = -2 (I + Q)⁻¹ Q``; the inverse rotation replaces Q by -Q."""
    q = -q if settings == (-1,) else q
    return xp.linalg.solve(_eye_like(xp, q) + q, -2 * q)


def _neumann(xp: Any, q: Array, settings: Settings) -> Array:
    """``2Q + 2Q² + … + 2Qᵏ⁻¹ + Qᵏ``; ``2Q`` for k = 1, as PEFT truncates."""
    degree = settings[0]
    result, power = 2 * q, q
    for k in range(2, degree + 1):
        power = power @ q
        result = result + (2 if k < degree else 1) * power
    return result


def _householder(xp: Any, u: Array, settings: Settings) -> Array:
    """P ← P - 2 (P + I) u uᵀ / ‖u‖² for each column u in turn; a zero column reflects nothing."""
    rows = u.shape[-2]
    result = xp.zeros((*u.shape[:-1], rows), dtype=u.dtype, device=device(u))
    for j in range(u.shape[-1]):
        column = u[..., :, j : j + 1]  # (..., n, 1)
        inverse = safe_reciprocal(xp, xp.sum(column * column, axis=-2, keepdims=True))
        result = result - 2 * inverse * (result @ column + column) @ xp.matrix_transpose(column)
    return result


def _orthonormal(xp: Any, a: Array, settings: Settings) -> Array:
    """Q of a QR whose R has a diagonal of zero or more."""
    q, r = xp.linalg.qr(a)
    diagonal = hold(xp.linalg.diagonal(r))
    one = xp.ones_like(diagonal)
    return q * xp.where(diagonal < 0, -one, one)[..., None, :]


def _exponential(xp: Any, q: Array, settings: Settings) -> Array:
    """``exp(Q) - I`` by Taylor on ``Q / 2ˢ`` of norm below ½, then s doublings ``E² + 2E``."""
    columns = xp.sum(xp.abs(hold(q)), axis=-2)
    norm = float(xp.max(columns)) if columns.shape and 0 not in columns.shape else 0.0
    doublings = max(0, ceil(log2(norm)) + 1) if isfinite(norm) and norm > 0 else 0
    small = q / 2**doublings
    result, term = small, small
    for k in range(2, 20):
        term = term @ small / k
        result = result + term
    for _ in range(doublings):
        result = result @ result + 2 * result
    return result


DEFINITIONS: dict[str, Callable[[Any, Array, Settings], Array]] = {
    "cayley": _cayley,
    "neumann": _neumann,
    "householder": _householder,
    "orthonormal": _orthonormal,
    "exponential": _exponential,
}
"""One definition per name of ``nodes.MATRIX_FUNCTIONS``."""


def apply_matrix_function(xp: Any, a: Array, kind: str, settings: Settings) -> Array:
    """Apply a matrix function to the last two axes.

    Parameters
    ----------
    xp : module
        The array namespace of ``a``.
    a : array
        ``(..., n, n)``; ``(..., n, r)`` for ``householder`` and, with r ≤ n, ``orthonormal``.
    kind : str
        A name of ``nodes.MATRIX_FUNCTIONS``.
    settings : tuple of int
        ``(1,)`` or ``(-1,)`` for ``cayley``, the degree for ``neumann``, else empty.

    Returns
    -------
    array
        ``(..., n, n)``, the function minus the identity; for ``orthonormal`` Q, ``(..., n, r)``.
    """
    return DEFINITIONS[kind](xp, a, settings)
