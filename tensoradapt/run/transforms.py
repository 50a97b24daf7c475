"""The fixed real transforms as dense matrices: their definition.

========================  ==================================================================
kind                      matrix of n × n
========================  ==================================================================
fourier_cos               ``C[k, j] = cos(2π k j / n)``
fourier_sin               ``S[k, j] = sin(2π k j / n)``
dct                       orthonormal DCT-II, ``s_k cos(π (2 j + 1) k / 2n)``, s_0 = √(1/n),
                          else √(2/n)
walsh_hadamard            Sylvester's ``H / √n``, entries ``(-1)^popcount(k & j) / √n``
haar                      orthonormal Haar wavelets of all levels, coarsest first
inverse_*                 the transpose; of the two Fourier parts the transpose over n
========================  ==================================================================

C and S alone have no inverse. With ``inverse_fourier_cos = C / n`` and ``inverse_fourier_sin =
S / n`` the parts reassemble: ``(C² + S²) / n = I``, and the real part of the inverse 2-D Fourier
transform of a real matrix X is ``(C X C - S X S) / (m n)``: two networks of inverses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np


def _phases(n: int) -> np.ndarray:
    k = np.arange(n)
    return 2 * np.pi * (np.outer(k, k) % n) / n


def _fourier_cos(n: int) -> np.ndarray:
    return np.cos(_phases(n))


def _fourier_sin(n: int) -> np.ndarray:
    return np.sin(_phases(n))


def _dct(n: int) -> np.ndarray:
    k, j = np.arange(n)[:, None], np.arange(n)[None, :]
    scale = np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n))
    return scale * np.cos(np.pi * ((2 * j + 1) * k % (4 * n)) / (2 * n))


def _walsh_hadamard(n: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    return matrix / np.sqrt(n)


def _haar(n: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        averages = np.kron(matrix, [[1, 1]])
        details = np.kron(np.eye(len(matrix)), [[1, -1]])
        matrix = np.concatenate([averages, details]) / np.sqrt(2)
    return matrix


MATRICES: dict[str, Callable[[int], np.ndarray]] = {
    "fourier_cos": _fourier_cos,
    "fourier_sin": _fourier_sin,
    "dct": _dct,
    "walsh_hadamard": _walsh_hadamard,
    "haar": _haar,
}
"""One function of n per kind of ``nodes.TRANSFORMS``."""


@lru_cache(maxsize=16)
def transform_matrix(kind: str, n: int) -> np.ndarray:
    """The dense matrix of a transform.

    Parameters
    ----------
    kind : str
        A name of ``nodes.TRANSFORMS``, or that name with ``inverse_`` in front.
    n : int
        The size of the axis, in elements; a power of two for the last two kinds.

    Returns
    -------
    numpy.ndarray
        float64, ``(n, n)``, read-only.

    Examples
    --------
    >>> transform_matrix("haar", 2).round(3).tolist()
    [[0.707, 0.707], [0.707, -0.707]]
    """
    name = kind.removeprefix("inverse_")
    matrix = MATRICES[name](n)
    if name != kind:
        matrix = np.ascontiguousarray(matrix.T) / (n if name.startswith("fourier") else 1)
    matrix.setflags(write=False)
    return matrix
