"""Draw: random starts in numpy float64, from a stream of their own for every leaf.

The stream is numpy's RandomState, whose algorithm numpy keeps, keyed by a hash of the seed, the
site's path and the leaf's name: the same numbers on every machine, whatever else is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from math import prod, sqrt

import numpy as np

from ..algebra.expression import Shape, Start

Stream = np.random.RandomState


def stream(seed: int, path: str, name: str) -> Stream:
    """The random stream of one leaf at one site."""
    key = sha256(json.dumps([int(seed), path, name]).encode()).digest()
    return Stream(np.frombuffer(key, dtype="<u4").astype(np.uint32))


def fans(shape: Shape) -> tuple[int, int]:
    """Fan-in and fan-out of a stored tensor ``(rows, columns, *kernel)``, as torch counts them.

    A vector of n elements, for which torch has no fans, has n and n (a circulant's, for
    instance); a scalar 1 and 1.

    Examples
    --------
    >>> fans((8, 3, 5, 5))
    (75, 200)
    """
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    kernel = prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def draw(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    """The first value of a leaf whose start needs no operand and no data.

    Parameters
    ----------
    start : Start
        A kind of the table in ``algebra/starts`` up to ``paired_columns``.
    shape : tuple of int
        The leaf's shape; ``fans`` reads the fans from it.
    source : numpy.random.RandomState
        The leaf's stream.

    Returns
    -------
    numpy.ndarray
        float64, of that shape.

    Notes
    -----
    ``orthogonal`` follows torch: the tensor is flattened to ``(rows, columns · kernel)``, and
    rows or columns, whichever are fewer, become orthonormal; a vector counts as one column.
    ``paired_columns`` draws half as many columns by Kaiming's rule (with their number as fan-in)
    and repeats each; an odd number of columns is drawn without pairs.
    """
    return DRAWS[start.kind](start, shape, source)


def _zeros(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    return np.zeros(shape)


def _ones(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    return np.ones(shape)


def _constant(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    return np.full(shape, float(start["value"]))


def _identity(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    if len(shape) < 2:
        return np.ones(shape)
    at = np.indices(shape)
    return (at[0] == at[1]).astype(np.float64)


def _normal(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    return start["mean"] + start["std"] * source.standard_normal(shape)


def _uniform(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    return source.uniform(start["low"], start["high"], shape)


def _kaiming_uniform(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    bound = sqrt(6 / ((1 + start["a"] ** 2) * max(fans(shape)[0], 1)))
    return source.uniform(-bound, bound, shape)


def _kaiming_normal(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    std = sqrt(2 / ((1 + start["a"] ** 2) * max(fans(shape)[0], 1)))
    return std * source.standard_normal(shape)


def _xavier_uniform(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    bound = start["gain"] * sqrt(6 / max(sum(fans(shape)), 1))
    return source.uniform(-bound, bound, shape)


def _xavier_normal(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    std = start["gain"] * sqrt(2 / max(sum(fans(shape)), 1))
    return std * source.standard_normal(shape)


def _orthogonal(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    rows, columns = (shape[0] if shape else 1), prod(shape[1:])
    matrix = source.standard_normal((rows, columns))
    tall = matrix if rows >= columns else matrix.T
    q, _ = signed_qr(tall)
    return start["gain"] * (q if rows >= columns else q.T).reshape(shape)


def _paired_columns(start: Start, shape: Shape, source: Stream) -> np.ndarray:
    if len(shape) < 2 or shape[1] % 2:
        return _kaiming_uniform(start, shape, source)
    half = (shape[0], shape[1] // 2, *shape[2:])
    return np.repeat(_kaiming_uniform(start, half, source), 2, axis=1)


def signed_qr(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The reduced QR whose R has a diagonal of zero or more, which makes it unique."""
    q, r = np.linalg.qr(matrix)
    signs = np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return q * signs, signs[:, None] * r


def signed_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reduced SVD; the first entry of largest magnitude of each left vector is positive."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    peak = np.argmax(np.abs(u), axis=0) if u.size else np.zeros(len(s), dtype=int)
    signs = np.where(u[peak, np.arange(len(s))] < 0, -1.0, 1.0)
    return u * signs, s, signs[:, None] * vt


DRAWS: dict[str, Callable[[Start, Shape, Stream], np.ndarray]] = {
    "zeros": _zeros,
    "ones": _ones,
    "constant": _constant,
    "identity": _identity,
    "normal": _normal,
    "uniform": _uniform,
    "kaiming_uniform": _kaiming_uniform,
    "kaiming_normal": _kaiming_normal,
    "xavier_uniform": _xavier_uniform,
    "xavier_normal": _xavier_normal,
    "orthogonal": _orthogonal,
    "paired_columns": _paired_columns,
}
"""One function per kind of start that needs neither an operand nor data."""
