"""Minors: a largest regular square of a matrix modulo a prime, confirmed by a second library.

Pivots are found in numpy (``eliminate.py``); that their minor is not 0 is confirmed by FLINT, so
that no certificate rests on one implementation.
"""

from __future__ import annotations

import flint
import numpy as np

from ..run.draw import stream
from .eliminate import Pivots, pivots
from .primes import check_prime

CONFIRMED = 1200
"""The largest minor that FLINT confirms; it builds lists of Python integers."""


def is_regular(square: np.ndarray, p: int) -> bool:
    """Whether the determinant of a square of residues is not 0 modulo a prime.

    Raises
    ------
    StructureError
        If p is no prime below 2³¹.

    Examples
    --------
    >>> is_regular(np.array([[1, 2], [3, 6]]), 7), is_regular(np.array([[1, 2], [3, 5]]), 7)
    (False, True)
    """
    modulus, n = check_prime(p), int(square.shape[0])
    if n == 0:
        return True
    if n > CONFIRMED:
        return pivots(square, modulus).rank == n
    entries = (np.asarray(square, dtype=np.int64) % modulus).ravel().tolist()
    return int(flint.nmod_mat(n, n, entries, modulus).rank()) == n


def largest_minor(matrix: np.ndarray, p: int, target: int, seed: int = 0) -> Pivots:
    """Find rows and columns of a largest regular minor.

    Parameters
    ----------
    matrix : numpy.ndarray
        int64 residues, ``(rows, columns)``.
    p : int
        A prime below 2³¹.
    target : int
        The rank that is expected; a random minor of that size is tried first.
    seed : int
        Chooses that minor.

    Returns
    -------
    Pivots
        In ascending order; their number is the rank modulo p if it is below the target.
    """
    source = stream(seed, "minor", str(p))
    guess = Pivots(*(_choice(source, n, min(target, *matrix.shape)) for n in matrix.shape))
    if guess.rank == target and is_regular(matrix[np.ix_(guess.rows, guess.columns)], p):
        return guess
    found = pivots(matrix, p)
    ordered = Pivots(tuple(sorted(found.rows)), tuple(sorted(found.columns)))
    if not is_regular(matrix[np.ix_(ordered.rows, ordered.columns)], p):
        raise AssertionError(f"numpy and FLINT disagree on a minor of {ordered.rank} modulo {p}")
    return ordered


def _choice(source: np.random.RandomState, n: int, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.sort(source.permutation(n)[:count]))
