"""Derivatives of the rational functions of matrices, modulo a prime.

Each takes the matrices, their derivatives ``(entries, ..., n, n)``, the settings and the prime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .modular import matmul, reciprocal, regular_inverse

Rule = Callable[[np.ndarray, np.ndarray, tuple[int, ...], int], np.ndarray]


def _cayley(q: np.ndarray, dq: np.ndarray, settings: tuple[int, ...], p: int) -> np.ndarray:
    """``(I - Q)(I + Q)⁻¹ = 2 M - I`` with ``M = (I + Q)⁻¹`` and ``M' = -M Q' M``."""
    sign = -1 if settings == (-1,) else 1
    m = regular_inverse((np.eye(q.shape[-1], dtype=np.int64) + sign * q) % p, p)
    return -2 * sign * matmul(matmul(m, dq, p), m, p) % p


def _neumann(q: np.ndarray, dq: np.ndarray, settings: tuple[int, ...], p: int) -> np.ndarray:
    result, term, varied = 2 * dq % p, q, dq
    for k in range(2, settings[0] + 1):
        varied = (matmul(varied, q, p) + matmul(term, dq, p)) % p
        term = matmul(term, q, p)
        result = (result + (2 if k < settings[0] else 1) * varied) % p
    return result


def _householder(u: np.ndarray, du: np.ndarray, settings: tuple[int, ...], p: int) -> np.ndarray:
    """The derivative of ``P ← P - 2 (P + I) u uᵀ / ‖u‖²`` column by column."""
    turned = np.zeros((*u.shape[:-1], u.shape[-2]), dtype=np.int64)
    varied = np.zeros((len(du), *turned.shape), dtype=np.int64)
    for j in range(u.shape[-1]):
        v, dv = u[..., j : j + 1], du[..., j : j + 1]
        over = reciprocal((v * v % p).sum(axis=-2, keepdims=True) % p, p)
        d_over = -2 * (v * dv % p).sum(axis=-2, keepdims=True) % p * (over * over % p) % p
        along = (matmul(turned, v, p) + v) % p
        d_along = (matmul(varied, v, p) + matmul(turned, dv, p) + dv) % p
        moved = 2 * along * over % p
        d_moved = 2 * ((d_along * over + along * d_over % p) % p) % p
        row, d_row = np.swapaxes(v, -1, -2), np.swapaxes(dv, -1, -2)
        varied = (varied - d_moved * row % p - moved * d_row) % p
        turned = (turned - moved * row) % p
    return varied


MATRIX_RULES: dict[str, Rule] = {
    "cayley": _cayley,
    "neumann": _neumann,
    "householder": _householder,
}
"""One rule per kind of matrix function that is rational."""
