"""Index maps through plans: every crop of every convolution equals its definition."""

from __future__ import annotations

import numpy as np
import pytest

import tensoradapt as ta
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.nodes import Take

N = 300
MAPS = [
    ("circulant", (N, N), (N,)),
    ("circulant", (120, N), (N,)),
    ("circulant", (N, 120), (N,)),
    ("circulant", (120, 100), (200,)),
    ("circulant_rows", (N, N), (N,)),
    ("circulant_rows", (120, N), (N,)),
    ("circulant_rows", (N, 120), (N,)),
    ("circulant_rows", (120, 100), (200,)),
    ("skew_circulant", (N, N), (N,)),
    ("skew_circulant", (120, N), (N,)),
    ("skew_circulant", (120, 120), (120,)),
    ("toeplitz", (151, 150), (150,)),
    ("toeplitz", (100, 150), (150,)),
    ("toeplitz", (100, 150), (180,)),
    ("symmetric_toeplitz", (120, N), ()),
    ("symmetric_toeplitz", (N, 120), ()),
    ("symmetric_toeplitz", (120, 100), ()),
]


@pytest.mark.parametrize(("kind", "shape", "settings"), MAPS)
def test_a_crop_through_the_plan_equals_its_definition(kind, shape, settings):
    expr = Take(ta.parameter("c", N), 0, IndexMap(kind, shape, N, settings))
    values = ta.sample(expr, seed=1, start="random")
    defined = ta.evaluate(expr, values)
    np.testing.assert_array_equal(ta.materialize(expr, values), defined)
    x = np.random.RandomState(0).standard_normal((3, shape[1]))
    np.testing.assert_allclose(ta.apply(expr, values, x), x @ defined.T, atol=1e-10)
