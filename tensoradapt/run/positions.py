"""Positions: an index map written out as integer arrays.

``result[j] = sign[j] · source[position[j]]``. The formulas are those of ``algebra/indexing``,
run on integer arrays; seeded kinds draw from numpy's RandomState, whose stream never changes.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from ..algebra.indexing import INDEX_KINDS, IndexMap
from ..errors import ShapeError

Written = tuple[np.ndarray, np.ndarray | None]


@lru_cache(maxsize=64)
def positions(index: IndexMap) -> Written:
    """Write an index map out.

    Parameters
    ----------
    index : IndexMap
        The map; ``permutation`` and ``choice`` are the (first) entries of a permutation drawn
        by ``numpy.random.RandomState(seed mod 2³²)``, ``torch_choice`` those of
        ``torch.randperm`` with a generator of that seed on the CPU.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray or None)
        int64 positions and int8 signs (None where all are +1), both of ``index.shape``,
        read-only.

    Raises
    ------
    ShapeError
        If the formula leaves the source axis.

    Notes
    -----
    O(size of the result); the last 64 maps are kept.

    Examples
    --------
    >>> from tensoradapt.algebra.indexing import circulant_map
    >>> positions(circulant_map(3))[0].tolist()
    [[0, 2, 1], [1, 0, 2], [2, 1, 0]]
    """
    found, signs = _written(index)
    if found.size and not (found.min() >= 0 and found.max() < index.size):
        raise ShapeError(
            f"The index map {index.kind!r} of shape {index.shape} was asked for.",
            f"It reads the positions {found.min()} to {found.max()} of {index.size} elements.",
            "Crop the map, or give it a longer source axis.",
        )
    return _fixed(found, np.int64), None if signs is None else _fixed(signs, np.int8)


def _written(index: IndexMap) -> Written:
    if index.kind in INDEX_KINDS:
        at = tuple(np.indices(index.shape))
        found, signs = INDEX_KINDS[index.kind](index.settings, at)
        plus = isinstance(signs, int)
        return np.broadcast_to(found, index.shape), None if plus else np.asarray(signs)
    if index.kind == "table":
        count = prod(index.shape)
        table = np.asarray(index.settings, dtype=np.int64)
        signs = table[count:].reshape(index.shape) if len(table) > count else None
        return table[:count].reshape(index.shape), signs
    if index.kind == "torch_choice":
        return _torch_choice(prod(index.shape), index.size, index.settings[0]), None
    order = np.random.RandomState(index.settings[0] % 2**32).permutation(index.size)
    return order[: prod(index.shape)].reshape(index.shape), None


def _torch_choice(count: int, size: int, seed: int) -> np.ndarray:
    """The first steps of torch's shuffle: entry i is swapped with entry i + random mod (n - i).

    Torch and numpy seed and run the same generator (mt19937), so torch is not needed; what is
    behind the first entries is never formed.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, size=count, dtype=np.uint32)
    moved: dict[int, int] = {}
    found = np.empty(count, dtype=np.int64)
    for i in range(count):
        j = i + int(draws[i]) % (size - i)
        found[i] = moved.get(j, j)
        moved[j] = moved.get(i, i)
    return found


def _fixed(a: np.ndarray, dtype: type) -> np.ndarray:
    result = np.array(a, dtype=dtype)
    result.setflags(write=False)
    return result
