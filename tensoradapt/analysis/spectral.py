"""The fixed transforms modulo a prime: their entries as sums of roots of unity.

Cosines, sines and square roots of integers lie in a cyclotomic field, and where the order L of
its root divides p - 1 the root has an image modulo p. That is a ring map, so a minor that is not
0 modulo p is not 0 over the real numbers: nothing here is approximate or generic.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import Transform
from ..algebra.walk import topological
from .primes import least_common_multiple, root_of_unity, squarefree_part


def order_of(kind: str, n: int) -> int:
    """The order of the root of unity that the entries of a transform are written in."""
    name = kind.removeprefix("inverse_")
    if name == "dct":
        return 8 * n
    if name.startswith("fourier"):
        return least_common_multiple([4, n])
    odd_power = n.bit_length() % 2 == 0
    return 8 if n > 1 and (name == "haar" or odd_power) else 1  # the scale has √2


def order_needed(expr: Expr) -> int:
    """The order that serves all transforms of an expression."""
    found = [sub for sub in topological(expr, with_starts=True) if isinstance(sub, Transform)]
    return least_common_multiple([order_of(t.kind, t.shape[t.axis]) for t in found])


@lru_cache(maxsize=16)
def transform_residues(kind: str, n: int, p: int, order: int) -> np.ndarray:
    """The matrix of a transform modulo p.

    Parameters
    ----------
    kind : str
        A name of ``nodes.TRANSFORMS``, or that name with ``inverse_`` in front.
    n : int
        The size of the axis.
    p : int
        A prime with ``order`` dividing p - 1.
    order : int
        A multiple of ``order_of(kind, n)``.

    Returns
    -------
    numpy.ndarray
        int64 residues, ``(n, n)``, read-only.

    Examples
    --------
    >>> h = transform_residues("walsh_hadamard", 4, 7, 1)
    >>> (h @ h % 7).tolist() == np.eye(4, dtype=int).tolist()
    True
    """
    name = kind.removeprefix("inverse_")
    zeta = root_of_unity(p, order)
    if name == "dct":
        matrix = _dct(n, p, order, zeta)
    elif name.startswith("fourier"):
        k = np.arange(n)
        at = np.outer(k, k) % n
        matrix = (_cosines if name == "fourier_cos" else _sines)(n, p, order, zeta)[at]
    else:
        matrix = _walsh_hadamard(n) if name == "walsh_hadamard" else _haar(n, p, order, zeta)
        if name == "walsh_hadamard":
            matrix = matrix * pow(_root(n, p, order, zeta), -1, p) % p
    if name != kind:
        scale = pow(n, -1, p) if name.startswith("fourier") else 1
        matrix = np.ascontiguousarray(matrix.T) * scale % p
    matrix.setflags(write=False)
    return matrix


def _powers(zeta: int, count: int, p: int) -> np.ndarray:
    found = [1]
    for _ in range(count - 1):
        found.append(found[-1] * zeta % p)
    return np.array(found, dtype=np.int64)


def _cosines(n: int, p: int, order: int, zeta: int) -> np.ndarray:
    """``cos(2π k / n)`` for k below n: ``(z^k + z^-k) / 2``."""
    z = _powers(pow(zeta, order // n, p), n, p)
    return (z + z[-np.arange(n) % n]) * pow(2, -1, p) % p


def _sines(n: int, p: int, order: int, zeta: int) -> np.ndarray:
    """``sin(2π k / n)`` for k below n: ``(z^k - z^-k) / 2i``."""
    z = _powers(pow(zeta, order // n, p), n, p)
    half = pow(2 * pow(zeta, order // 4, p), -1, p)
    return (z - z[-np.arange(n) % n]) * half % p


def _dct(n: int, p: int, order: int, zeta: int) -> np.ndarray:
    k, j = np.arange(n)[:, None], np.arange(n)[None, :]
    matrix = _cosines(4 * n, p, order, zeta)[(2 * j + 1) * k % (4 * n)]
    inverse = pow(n, -1, p)
    scale = np.full((n, 1), _root(2 * n, p, order, zeta) * inverse % p, dtype=np.int64)
    scale[0] = _root(n, p, order, zeta) * inverse % p
    return matrix * scale % p


def _root(m: int, p: int, order: int, zeta: int) -> int:
    """``√m`` as a sum of roots of unity: ``√2 = ζ₈ + ζ₈⁻¹``, odd primes by Gauss's sums."""
    result, rest = squarefree_part(m)
    q = 2
    while rest > 1:
        if rest % q == 0:
            result = result * _root_of_prime(q, p, order, zeta) % p
            rest //= q
        q += 1
    return result % p


def _root_of_prime(q: int, p: int, order: int, zeta: int) -> int:
    if q == 2:
        eighth = pow(zeta, order // 8, p)
        return (eighth + pow(eighth, -1, p)) % p
    z = pow(zeta, order // q, p)
    total = sum((1 if pow(j, (q - 1) // 2, q) == 1 else -1) * pow(z, j, p) for j in range(1, q))
    return total * (pow(zeta, -(order // 4), p) if q % 4 == 3 else 1) % p


def _walsh_hadamard(n: int) -> np.ndarray:
    matrix = np.ones((1, 1), dtype=np.int64)
    while len(matrix) < n:
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    return matrix


def _haar(n: int, p: int, order: int, zeta: int) -> np.ndarray:
    matrix = np.ones((1, 1), dtype=np.int64)
    if n > 1:
        scale = pow(_root_of_prime(2, p, order, zeta), -1, p)
        while len(matrix) < n:
            averages = np.kron(matrix, np.array([[1, 1]]))
            details = np.kron(np.eye(len(matrix), dtype=np.int64), np.array([[1, -1]]))
            matrix = np.concatenate([averages, details]) * scale % p
    return matrix
