"""Index maps: every accepted one reads inside its axis, every other one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tensoradapt.algebra.indexing import INDEX_KINDS, IndexMap
from tensoradapt.errors import ShapeError

BAD_MAPS = [
    ("circulant", (3, 3), 3, ()),
    ("circulant", (3, 3), 3, (0,)),
    ("circulant", (3, 3), 3, (4,)),
    ("circulant", (3,), 3, (3,)),
    ("circulant_rows", (3, 3), 3, (3, 3)),
    ("skew_circulant", (3, 3), 2, (3,)),
    ("toeplitz", (2, 3), 3, (3,)),
    ("toeplitz", (2, 3), 5, (2,)),
    ("symmetric_toeplitz", (2, 5), 4, ()),
    ("skew", (3, 3), 2, (3,)),
    ("skew", (4, 4), 3, (3,)),
    ("tile", (3,), 2, (3,)),
    ("tile", (3,), 2, (0,)),
    ("slice", (3,), 4, (0, 2)),
    ("slice", (3,), 4, (-1, 1)),
    ("slice", (3,), 4, (1, 0)),
    ("slice", (3,), 4, (1, -1)),
    ("shift", (3,), 2, (3, 1)),
    ("reverse", (4,), 3, (3,)),
    ("permutation", (3,), 4, (0,)),
    ("permutation", (3,), 3, (-1,)),
    ("choice", (4,), 3, (0,)),
    ("choice", (3,), 3, ()),
    ("table", (2,), 3, (0, 3)),
    ("table", (2,), 3, (0, -1)),
    ("table", (2,), 3, (0,)),
    ("table", (2,), 3, (0, 1, 1)),
    ("table", (2,), 3, (0, 1, 1, 5)),
    ("spiral", (2,), 3, ()),
]


@pytest.mark.parametrize("settings_of_map", BAD_MAPS, ids=str)
def test_an_index_map_that_would_read_outside_is_refused(settings_of_map):
    with pytest.raises(ShapeError) as caught:
        IndexMap(*settings_of_map)
    assert len(str(caught.value).splitlines()) == 3


SHAPE_OF_KIND = {"circulant": 2, "circulant_rows": 2, "skew_circulant": 2, "skew": 2}
SHAPE_OF_KIND |= {"toeplitz": 2, "symmetric_toeplitz": 2}


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_every_accepted_index_map_reads_inside_its_axis(kind):
    formula, random, accepted = INDEX_KINDS[kind], np.random.RandomState(0), 0
    for _ in range(3000):
        shape = tuple(int(n) for n in random.randint(1, 5, SHAPE_OF_KIND.get(kind, 1)))
        settings_of_map = tuple(int(n) for n in random.randint(-1, 7, random.randint(0, 3)))
        size = int(random.randint(1, 9))
        try:
            index = IndexMap(kind, shape, size, settings_of_map)
        except ShapeError:
            continue
        accepted += 1
        at = tuple(np.indices(shape))
        positions, _ = formula(settings_of_map, at)
        assert np.min(positions) >= 0 and np.max(positions) < size, index
        if index.is_injective:
            assert len(np.unique(positions)) == np.size(positions), index
    assert accepted > 5
