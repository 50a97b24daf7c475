"""Laws 1 to 8 over the table of methods × shapes × libraries, always on random leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.starts import DERIVED
from tensoradapt.algebra.walk import leaves, start_of
from tensoradapt.documents import from_json, to_json
from tensoradapt.planning.rates import CPU
from tensoradapt.run.sample import sample
from tensoradapt.spelling import parse
from tests import laws, torch_laws
from tests.node_cases import CASES, Case
from tests.rows import Row
from tests.sites import (
    MATRICES,
    WEIGHTED,
    bases,
    family_of,
    index_matrices,
    method_of,
    smallest,
    spread,
)
from tests.tables import ROWS
from tests.tolerance import depth, tolerance

HALF = (torch.bfloat16, torch.float16)


def over(rows: list[Row]):
    return pytest.mark.parametrize("row", rows, ids=str)


def test_every_method_and_family_is_among_the_rows_of_every_law() -> None:
    methods = {method_of(row) for row in WEIGHTED}
    assert {method_of(row) for row in spread(1)} == methods
    assert {method_of(row) for row in spread(1, MATRICES)} == methods
    assert {family_of(row) for row in smallest()} == {family_of(row) for row in WEIGHTED}
    assert len(spread(4)) >= 2 * len(methods)


def test_the_tolerance_is_one_function_of_dtype_and_depth() -> None:
    assert tolerance(np.float32, 2) == pytest.approx(2 * tolerance(np.float32, 1))
    assert tolerance(np.float64, 3) == tolerance(torch.float64, 3)
    assert tolerance(np.float64, 1) < tolerance(np.float32, 1) < tolerance(torch.bfloat16, 1)
    product, sine = (next(c.expr for c in CASES if c.name == n) for n in ("product", "sin"))
    assert depth(product) == 3 and depth(sine) == 2
    assert depth(zoo.sine_lora(rank=2, frequency=200).on((6, 5))) > 200


# --- law 1 --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy float64", "torch float32"])
@over(spread(4))
def test_evaluate_equals_materialize_equals_apply(row: Row, kind: str) -> None:
    laws.readings_agree(laws.site_of(row), kind)


@pytest.mark.parametrize("kind", list(laws.KINDS))
@over(spread(1))
def test_readings_agree_in_every_library_and_type(row: Row, kind: str) -> None:
    laws.readings_agree(laws.site_of(row), kind)


@pytest.mark.parametrize("mode", laws.MODES)
@over(spread(1))
def test_every_program_of_a_method_equals_the_definition(row: Row, mode: str) -> None:
    laws.programs_agree(laws.site_of(row), mode, (CPU, laws.FREE_TRANSFORMS))


PRIME, EVEN, ODD = 7, 8, 9
INDEXED = [
    (f"{name} of {n}", expr) for n in (PRIME, EVEN, ODD) for name, expr in index_matrices(n).items()
]


@pytest.mark.parametrize(("name", "expr"), INDEXED, ids=[name for name, _ in INDEXED])
def test_every_program_of_index_maps_equals_the_definition(name: str, expr) -> None:
    found = laws.site(expr, name)
    for mode in laws.MODES:
        laws.programs_agree(found, mode, (CPU, laws.FREE_TRANSFORMS))


LARGE = {name: e for name, e in index_matrices(67).items() if "block" not in name}


@pytest.mark.parametrize("name", ["circulant", "skew, transposed", "displacement rank", "mirror"])
def test_maps_too_large_to_be_written_out_equal_the_definition(name: str) -> None:
    for mode in ("apply", "train"):
        laws.programs_agree(laws.site(LARGE[name], name), mode, (CPU, laws.FREE_TRANSFORMS))


def test_the_kernels_of_convolutions_are_all_reached() -> None:
    used = {
        step.operation
        for _, expr in INDEXED
        for made in laws.programs(laws.site(expr), "apply", (laws.FREE_TRANSFORMS,))
        for step in made.program.steps
    }
    wanted = {"rfft", "irfft", "conj", "fold", "unfold", "pad", "slice", "gather", "scatter"}
    assert wanted <= used, wanted - used


NODES = [
    case
    for case in CASES
    if case.expr.ndim and all(s.shape == case.expr.shape for s in bases(case.expr))
]
"""The cases that can be an update: of one axis or more, reading a W0 of their own shape."""


@pytest.mark.parametrize("case", NODES, ids=str)
def test_every_program_of_every_node_equals_the_definition(case: Case) -> None:
    found = laws.site(case.expr, case.name)
    modes = laws.MODES if case.expr.ndim > 1 else ("materialize",)
    for mode in modes:
        laws.programs_agree(found, mode, laws.RATES)


@over(spread(1, MATRICES))
def test_merged_equals_adapted(row: Row) -> None:
    torch_laws.merged_is_adapted(row)


# --- law 2 --------------------------------------------------------------------------------


@over(spread(2))
def test_the_update_starts_as_said_and_has_a_gradient(row: Row) -> None:
    torch_laws.starts_as_said(row)


# --- law 3 --------------------------------------------------------------------------------

TIGHT = (
    *("lora", "loha", "lokr", "hira", "hut", "vera", "lora_xs", "abba", "kronecker", "kasa"),
    *("circulant", "toeplitz", "symmetric_toeplitz", "ldr", "tt_lora", "tucker", "cp", "ia3"),
)
"""Methods whose bound is attained at random values."""

LOOSE = ("shape=(9, 4, 4)", "shape=(3, 6, 8)")
"""Folds whose modes cut across rows and columns: a barrier, so the bound is loose."""


@over(WEIGHTED)
def test_the_rank_at_random_residues_is_within_the_bound(row: Row) -> None:
    rank, bound = laws.rank_is_within_bound(row.structure.on(row.shape))
    if method_of(row) in TIGHT and not any(text in str(row) for text in LOOSE):
        assert rank == bound, "the bound is attained"


@over(ROWS)
def test_parameters_counted_are_the_paper_s(row: Row) -> None:
    laws.counted_as_the_paper(row)


# --- law 4 --------------------------------------------------------------------------------


@over(spread(2))
def test_gradients_through_the_layer_equal_those_of_evaluate(row: Row) -> None:
    torch_laws.layer_gradients_agree(row)


@over(spread(1))
def test_second_derivatives_equal_those_of_evaluate(row: Row) -> None:
    torch_laws.second_derivatives_agree(row)


@over(smallest())
def test_gradients_equal_finite_differences(row: Row) -> None:
    if "hold" not in str(row.structure.on(row.shape)):
        torch_laws.gradcheck(row)


# --- law 5 --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.float32, *HALF), ids=str)
@over(spread(1))
def test_a_layer_keeps_its_type(row: Row, dtype: torch.dtype) -> None:
    torch_laws.layer_keeps_type(row, dtype)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@over(smallest())
def test_no_half_precision_weight_is_formed(row: Row, dtype: torch.dtype) -> None:
    torch_laws.half_layers_form_no_weight(row, dtype)


@over(spread(1))
def test_a_layer_stays_on_its_device(row: Row) -> None:
    torch_laws.layer_stays_on_device(row)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator here")
@over(spread(1, MATRICES))
def test_an_accelerator_gives_what_the_processor_gives(row: Row) -> None:
    model, found = torch_laws.adapted(row, torch.float32)
    x = torch.tensor(found.x).float()
    want = model(x).detach()
    got = model.cuda()(x.cuda())
    laws.assert_close(got, want, torch.float32, found.depth + 2, str(row), found.size)


# --- law 6 --------------------------------------------------------------------------------


@over(ROWS)
def test_structures_and_expressions_read_back_equal(row: Row) -> None:
    laws.reads_back_equal(row)
    assert parse(str(row.structure)) == row.structure
    assert from_json(to_json(row.structure, indent=2)) == row.structure


@over(spread(1, MATRICES))
def test_models_come_back_whole(row: Row, tmp_path: Path) -> None:
    torch_laws.model_round_trips(row, tmp_path / "adapter")


# --- law 7 --------------------------------------------------------------------------------


@over(smallest())
def test_a_layer_compiles_whole_with_no_more_graphs_than_the_frozen_one(row: Row) -> None:
    torch_laws.compiles_whole(row)


# --- law 8 --------------------------------------------------------------------------------


@over(spread(2))
def test_numpy_and_torch_draw_and_compute_the_same(row: Row) -> None:
    laws.libraries_agree(row)


def test_first_values_are_the_same_numbers_in_every_library() -> None:
    for row in spread(1):
        expr, data = row.structure.on(row.shape), laws.given_data(row)
        base = np.random.RandomState(1).standard_normal(row.shape)
        bias, like = base.reshape(len(base), -1)[:, 0], torch.empty((), dtype=torch.float64)
        plain = sample(expr, seed=2, base=base, bias=bias, data=data)
        tensors = {"base": torch.tensor(base), "bias": torch.tensor(bias), "like": like}
        there = sample(expr, seed=2, data=data, **tensors)
        assert plain.keys() == there.keys()
        for name, value in plain.items():
            if name in drawn_alone(expr):
                assert np.array_equal(value, there[name].numpy()), f"{row}: {name}"
            else:
                laws.assert_close(there[name], value, np.float64, 8, f"{row}: {name}")


def drawn_alone(expr: Expr) -> set[str]:
    """The leaves whose first values are drawn, not computed from others."""
    return {leaf.name for leaf in leaves(expr) if start_of(leaf).kind not in DERIVED}
