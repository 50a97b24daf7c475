"""Positions and the dense transforms: against formulas on integers and against numpy and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tensoradapt.algebra import indexing
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.errors import ShapeError
from tensoradapt.run.positions import positions
from tensoradapt.run.transforms import transform_matrix

# --- laws of the fixed maps ---------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 8, 16])
@pytest.mark.parametrize("kind", ["dct", "walsh_hadamard", "haar"])
def test_orthonormal_transforms_are_orthonormal(kind: str, n: int) -> None:
    matrix = transform_matrix(kind, n)
    assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-14)
    assert_allclose(transform_matrix(f"inverse_{kind}", n), matrix.T)


@pytest.mark.parametrize("n", [1, 5, 12])
def test_fourier_parts_reassemble(n: int) -> None:
    parts = ("fourier_cos", "fourier_sin")
    total = sum(transform_matrix(f"inverse_{k}", n) @ transform_matrix(k, n) for k in parts)
    assert_allclose(total, np.eye(n), atol=1e-13)


def test_two_networks_of_inverses_are_the_real_inverse_fourier_transform() -> None:
    x = np.random.default_rng(3).standard_normal((6, 10))
    both = {k: transform_matrix(f"inverse_fourier_{k}", 6) for k in ("cos", "sin")}
    right = {k: transform_matrix(f"inverse_fourier_{k}", 10) for k in ("cos", "sin")}
    got = both["cos"] @ x @ right["cos"] - both["sin"] @ x @ right["sin"]
    assert_allclose(got, np.fft.ifft2(x).real, atol=1e-14)


# --- positions ----------------------------------------------------------------------------

MAPS_BY_FORMULA = [
    (IndexMap("circulant", (4, 3), 5, (5,)), lambda i, j: ((i - j) % 5, 1)),
    (IndexMap("circulant_rows", (4, 3), 5, (5,)), lambda i, j: ((j - i) % 5, 1)),
    (IndexMap("skew_circulant", (5, 5), 5, (5,)), lambda i, j: ((i - j) % 5, -1 if j > i else 1)),
    (IndexMap("toeplitz", (4, 3), 6, (3,)), lambda i, j: (i - j + 2, 1)),
    (IndexMap("symmetric_toeplitz", (4, 3), 4), lambda i, j: (abs(i - j), 1)),
    (IndexMap("tile", (9,), 4, (4,)), lambda i: (i % 4, 1)),
    (IndexMap("slice", (3,), 9, (1, 3)), lambda i: (1 + 3 * i, 1)),
    (IndexMap("shift", (5,), 5, (5, 2)), lambda i: ((i - 2) % 5, 1)),
    (IndexMap("reverse", (5,), 5, (5,)), lambda i: (4 - i, 1)),
    (IndexMap("table", (2, 2), 7, (6, 0, 3, 3)), lambda i, j: ((6, 0, 3, 3)[2 * i + j], 1)),
]


@pytest.mark.parametrize(
    ("index", "formula"), MAPS_BY_FORMULA, ids=lambda x: getattr(x, "kind", "")
)
def test_positions_follow_the_formula_on_integers(index: IndexMap, formula: Any) -> None:
    found, signs = positions(index)
    assert found.dtype == np.int64 and found.shape == index.shape and not found.flags.writeable
    for at in np.ndindex(index.shape):
        position, sign = formula(*at)
        assert found[at] == position
        assert (1 if signs is None else signs[at]) == sign


def test_skew_positions_fill_a_skew_symmetric_matrix() -> None:
    found, signs = positions(IndexMap("skew", (5, 5), 10, (5,)))
    assert signs is not None and signs.dtype == np.int8
    values = np.arange(1.0, 11.0)
    matrix = signs * values[found]
    assert_allclose(matrix, -matrix.T)
    assert_allclose(matrix[np.triu_indices(5, 1)], values)


def test_seeded_positions_are_fixed_and_distinct() -> None:
    permutation, _ = positions(indexing.permutation_map(10, seed=5))
    choice, _ = positions(indexing.choice_map(4, 10, seed=5))
    assert sorted(permutation) == list(range(10))
    assert permutation.tolist() == [9, 5, 2, 4, 7, 1, 0, 8, 6, 3]
    assert choice.tolist() == permutation.tolist()[:4]
    other, _ = positions(indexing.permutation_map(10, seed=6))
    assert other.tolist() != permutation.tolist()


@pytest.mark.parametrize("seed", [0, 777, 2**32 - 1])
def test_a_torch_choice_is_the_beginning_of_torch_s_permutation(seed: int) -> None:
    torch = pytest.importorskip("torch")
    for size, count in ((1, 1), (2, 2), (97, 97), (4096, 1000), (10**6, 50)):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randperm(size, generator=generator)[:count].numpy()
        found, signs = positions(indexing.torch_choice_map(count, size, seed))
        assert signs is None and (found == expected).all()


def test_a_torch_choice_refuses_sizes_that_torch_draws_otherwise() -> None:
    indexing.torch_choice_map(3, indexing.TORCH_LIMIT - 1, 0)
    with pytest.raises(ShapeError, match="a choice into an axis of less than 214748364"):
        indexing.torch_choice_map(3, indexing.TORCH_LIMIT, 0)


def test_a_matrix_by_its_first_row_is_a_transposed_circulant() -> None:
    found, _ = positions(indexing.circulant_rows_map(5))
    assert (found == positions(indexing.circulant_map(5))[0].T).all()
