"""Every method of the zoo: its count, its start, its gradient at the start, its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.nodes import Parameter
from tensoradapt.algebra.walk import leaves, parameters, start_of
from tensoradapt.errors import StructureError, TensorAdaptError
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tensoradapt.spelling import parse
from tensoradapt.structure import methods
from tensoradapt.zoo.kron import factor_pair
from tensoradapt.zoo.limits import near_equal
from tests import (  # noqa: F401  (they register their forms)
    closed_forms_2,
    closed_forms_3,
    closed_forms_4,
    closed_forms_shared,
)
from tests.closed_forms import CLOSED, closed
from tests.tables import ROWS, Row

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
PARTS = ("weight", "bias", "penalty")


def base_of(row: Row) -> np.ndarray:
    return np.random.RandomState(7).standard_normal(row.shape)


def bias_of(row: Row) -> np.ndarray:
    return np.random.RandomState(9).standard_normal(row.shape[0])


def parts_of(row: Row) -> dict[str, Expr]:
    """The expressions of the update by part: weight, bias, penalty."""
    update = row.structure.update(row.shape)
    return {part: expr for part in PARTS if (expr := getattr(update, part)) is not None}


def read(row: Row, start: str, seed: int) -> dict[str, np.ndarray]:
    """Every part's value, with all leaves drawn together, as the closed forms take them."""
    values, W = values_of(row, start, seed), base_of(row)
    return {
        part: evaluate(
            expr,
            values,
            base=W if row.base_needed or start == "random" else None,
            bias=bias_of(row),
        )
        for part, expr in parts_of(row).items()
    }


def values_of(row: Row, start: str, seed: int) -> dict[str, np.ndarray]:
    exprs, W = list(parts_of(row).values()), base_of(row)
    bases = [W] * len(exprs) if row.base_needed else None
    biases = [bias_of(row)] * len(exprs)
    source = np.random.RandomState(4)
    own = [leaf for expr in exprs for leaf in leaves(expr) if start_of(leaf).kind == "given"]
    data = {leaf.name: source.standard_normal(leaf.shape) for leaf in own}
    return sample(exprs, seed=seed, start=start, base=bases, bias=biases, data=data)


def trained_by(row: Row) -> list[Parameter]:
    every = (leaf for expr in parts_of(row).values() for leaf in parameters(expr))
    return list(dict.fromkeys(every))


def test_the_table_and_the_closed_forms_have_every_method():
    assert set(zoo.__all__) == set(CLOSED) == {row.structure.method.name for row in ROWS}
    assert all(getattr(zoo, name) is methods()[name] for name in zoo.__all__)


def test_every_summary_begins_with_its_formula():
    for name in zoo.__all__:
        assert getattr(zoo, name).summary.startswith(("ΔW = ", "W' = ", "Δb = ")), name


@every_row
def test_trained_parameters_are_the_paper_s(row: Row):
    shapes = {"weight": row.shape, "bias": row.shape[:1], "penalty": ()}
    assert all(expr.shape == shapes[part] for part, expr in parts_of(row).items())
    assert sum(leaf.size for leaf in trained_by(row)) == row.count


@every_row
def test_the_update_is_zero_at_the_start_and_its_gradient_is_not(row: Row):
    change = read(row, "initial", seed=3)
    change.pop("penalty", None)
    largest = max(np.abs(value).max() for value in change.values())
    if row.starts_at_zero is None:
        assert largest < 1e-12
    else:
        assert (largest == 0) == row.starts_at_zero
    assert gradient_at_start(row) > 0


def gradient_at_start(row: Row) -> float:
    """The norm of the gradient of ⟨G, ΔW⟩ + ⟨g, Δb⟩ with respect to all trained leaves."""
    W, b = torch.from_numpy(base_of(row)), torch.from_numpy(bias_of(row))
    values = {k: torch.tensor(v) for k, v in values_of(row, "initial", seed=3).items()}
    trained = [values[leaf.name].requires_grad_() for leaf in trained_by(row)]
    source = np.random.RandomState(8)
    total = sum(
        (
            evaluate(expr, values, base=W, bias=b)
            * torch.tensor(source.standard_normal(expr.shape))
        ).sum()
        for expr in parts_of(row).values()
        if expr.shape
    )
    grads = torch.autograd.grad(total, trained, allow_unused=True)
    assert all(g is not None for g in grads)
    return sum(float(g.norm()) for g in grads)


@every_row
def test_evaluate_equals_the_closed_form(row: Row):
    values = values_of(row, "random", seed=5)
    settings = dict(row.structure.method.defaults) | dict(row.structure.settings)
    expected = closed(row.structure.method.name, settings, values, base_of(row), bias_of(row))
    got = read(row, "random", seed=5)
    assert got.keys() == expected.keys()
    for part in got:
        assert np.abs(expected[part]).max() > 1e-3, part
        np.testing.assert_allclose(got[part], expected[part], rtol=1e-9, atol=1e-12)


@every_row
def test_a_structure_reads_back_from_its_text(row: Row):
    assert parse(str(row.structure)) == row.structure


# --- relations between methods ------------------------------------------------------------


def assert_equal_updates(first, second, shape, rename=None, base_needed=False):
    W = np.random.RandomState(1).standard_normal(shape) if base_needed else None
    left, right = first.on(shape), second.on(shape)
    values = sample(left, seed=2, start="random")
    renamed = {(rename or {}).get(name, name): value for name, value in values.items()}
    np.testing.assert_allclose(
        evaluate(left, values, base=W), evaluate(right, renamed, base=W), rtol=1e-12
    )


def test_hut_that_adds_one_is_hira():
    assert_equal_updates(zoo.hut(rank=3), zoo.hira(rank=3), (6, 5), base_needed=True)


def test_lokr_with_a_trivial_first_factor_is_lora():
    expr = zoo.lokr(rank=2, alpha=6).on((7, 13))
    values = sample(expr, seed=2, start="random") | {"W1": np.ones((1, 1))}
    product = values["W2_a"] @ values["W2_b"]
    np.testing.assert_allclose(evaluate(expr, values), 3 * product, rtol=1e-12)


def test_cp_of_order_two_is_lora():
    expr = zoo.cp(rank=3, alpha=6, order=2).on((7, 13))
    values = sample(expr, seed=2, start="random")
    np.testing.assert_allclose(evaluate(expr, values), 2 * values["A1"] @ values["A2"].T)


def test_tucker_with_an_identity_core_is_lora():
    expr = zoo.tucker(rank=3, alpha=6, order=None).on((7, 13))
    values = sample(expr, seed=2, start="random") | {"C": np.eye(3)}
    np.testing.assert_allclose(evaluate(expr, values), 2 * values["A1"] @ values["A2"].T)


def test_ldr_has_low_displacement_rank():
    n, r = 11, 2
    expr = zoo.ldr(rank=r, alpha=3).on((n, n))
    W = evaluate(expr, sample(expr, seed=2, start="random"))
    Z = np.eye(n, k=-1)
    plus, minus = Z.copy(), Z.copy()
    plus[0, -1], minus[0, -1] = 1, -1
    singular = np.linalg.svd(plus @ W - W @ minus, compute_uv=False)
    assert singular[r - 1] > 1e-3 and singular[r] < 1e-12 * singular[0]
    assert np.linalg.matrix_rank(W) == n


def test_the_product_of_a_circulant_pair_is_circulant():
    expr = zoo.circulant(form="product").on((6, 6))
    W = evaluate(expr, sample(expr, seed=2, start="random"))
    np.testing.assert_allclose(np.roll(W, (1, 1), (0, 1)), W, rtol=1e-12)


def test_lora_xs_begins_near_zero():
    W = np.random.RandomState(1).standard_normal((8, 5))
    expr = zoo.lora_xs(rank=3, alpha=12).on((8, 5))
    assert 0 < np.abs(evaluate(expr, sample(expr, base=W))).max() < 1e-2


def test_lora_xs_begins_between_singular_vectors_of_the_base():
    W = np.random.RandomState(1).standard_normal((8, 5))
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    for side in ("left", "right", "split"):
        expr = zoo.lora_xs(rank=3, singular_values=side).on((8, 5))
        values = sample(expr, base=W) | {"R": np.eye(3)}
        np.testing.assert_allclose(evaluate(expr, values), best, rtol=1e-10)


def test_dora_holds_its_norm_unless_told_otherwise():
    W = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for detach in (True, False):
        expr = zoo.dora(within=zoo.lora(rank=2, alpha=3), detach_norm=detach).on((6, 5))
        values = sample(expr, seed=2, start="random", like=W)
        leaves = [values[name].requires_grad_() for name in ("within.B", "within.A", "m")]
        B, A, m = leaves
        V = W + 1.5 * B @ A
        length = V.norm(dim=1).detach() if detach else V.norm(dim=1)
        expected = torch.autograd.grad(((m / length)[:, None] * V).sin().sum(), leaves)
        total = (W + evaluate(expr, values, base=W)).sin().sum()
        for got, want in zip(torch.autograd.grad(total, leaves), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_dora_starts_at_zero_within_rounding_in_float32():
    W = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    expr = zoo.dora(within=zoo.lora(rank=4)).on((64, 96))
    change = evaluate(expr, sample(expr, base=W, like=W), base=W)
    assert change.dtype == torch.float32
    assert change.norm() < 4 * torch.finfo(torch.float32).eps * W.norm()


def test_dora_keeps_a_row_of_zeros_finite():
    W = np.random.RandomState(1).standard_normal((4, 3))
    W[2] = 0
    expr = zoo.dora(within=zoo.lora(rank=2)).on((4, 3))
    assert not evaluate(expr, sample(expr, base=W), base=W).any()


def test_vera_has_the_starts_of_its_paper():
    values = sample(zoo.vera(rank=64, d_initial=0.3).on((50, 20)))
    assert not values["b"].any() and (values["d"] == 0.3).all()
    assert 0.95 < np.abs(values["B"]).max() / np.sqrt(6 / 64) <= 1
    assert 0.95 < np.abs(values["A"]).max() / np.sqrt(6 / 20) <= 1


@pytest.mark.parametrize(
    ("structure", "zero", "random"),
    [
        (zoo.lora(rank=2), "B", "A"),
        (zoo.loha(rank=2), "A2", "B1 A1 B2"),
        (zoo.loha(rank=2, start="lycoris"), "B2", "B1 A1 A2"),
        (zoo.lokr(rank=1), "W1", "W2_a W2_b"),
        (zoo.lokr(rank=1, convention="lycoris"), "W2_b", "W1 W2_a"),
        (zoo.lokr(rank=9, convention="lycoris"), "W2", "W1"),
        (zoo.lokr(rank=1, decompose_both=True), "W1_a", "W1_b W2_a W2_b"),
        (zoo.hut(rank=3, reading="multiply"), "B", "A"),
        (zoo.circulant(), "b", "a"),
        (zoo.symmetric_toeplitz(), "b", "a"),
        (zoo.ldr(), "G", "H"),
        (zoo.kronecker(rank=2), "B", "A"),
        (zoo.tucker(), "C", "A1 A2 A3 A4"),
        (zoo.cp(rank=2), "A1", "A2 A3 A4"),
        (zoo.tt_lora(rank=2), "G1", "G2 G3 G4 G5 G6"),
    ],
    ids=str,
)
def test_which_leaf_starts_at_zero(structure, zero, random):
    values = sample(structure.on((12, 12)))
    assert not values[zero].any()
    assert all(values[name].all() for name in random.split())


# --- how sizes are split ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factor", "peft", "lycoris"),
    [
        (128, -1, (8, 16), (8, 16)),
        (250, -1, (10, 25), (10, 25)),
        (360, 16, (15, 24), (15, 24)),
        (1024, 4, (4, 256), (4, 256)),
        (24, -1, (4, 6), (4, 6)),
        (127, 5, (1, 127), (1, 127)),
        (768, 8, (8, 96), (8, 96)),
        (8, 4, (4, 2), (2, 4)),
    ],
)
def test_factor_pair_equals_the_references(size, factor, peft, lycoris):
    assert factor_pair(size, factor, "peft") == peft
    assert factor_pair(size, factor, "lycoris") == lycoris


def test_near_equal_factors_multiply_to_the_size():
    for size in (1, 2, 12, 97, 250, 768, 4096, 11008):
        for count in (1, 2, 3, 4):
            made = near_equal(size, count)
            assert len(made) == count and np.prod(made) == size and list(made) == sorted(made)
    assert near_equal(768, 2) == (24, 32) and near_equal(768, 3) == (8, 8, 12)


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "shape", "against", "remedy"),
    [
        (zoo.lora(rank=0), (4, 6), "rank must be an integer of 1 or more", "lora(rank=1)"),
        (zoo.lora(rank=2.0), (4, 6), "rank must be an integer", "lora(rank=1)"),
        (zoo.lora(rank=True), (4, 6), "rank must be an integer", "lora(rank=1)"),
        (zoo.lora(rank=5), (4, 6), "largest rank of a matrix of 4 × 6 is 4", "lora(rank=4)"),
        (zoo.lora(rank=9), (8, 2, 2, 2), "a matrix of 8 × 8 is 8", "lora(rank=8)"),
        (zoo.lora(rank=2, alpha=0), (4, 6), "finite number other than zero", "lora(alpha=16)"),
        (zoo.lora(rank=2, alpha="x"), (4, 6), "finite number", "lora(alpha=16)"),
        (zoo.loha(rank=5), (4, 6), "a matrix of 4 × 6 is 4", "loha(rank=4)"),
        (zoo.loha(start="kaiming"), (9, 9), "'peft', 'lycoris'", "loha(start='peft')"),
        (zoo.hira(rank=5), (4, 6), "a matrix of 4 × 6 is 4", "hira(rank=4)"),
        (zoo.hut(rank=5), (4, 6), "a matrix of 4 × 6 is 4", "hut(rank=4)"),
        (zoo.hut(reading="add"), (9, 9), "'multiply_one_plus', 'multiply'", "hut(reading="),
        (zoo.vera(rank=0), (4, 6), "an integer of 1 or more", "vera(rank=1)"),
        (zoo.vera(d_initial=0), (4, 6), "other than zero", "vera(d_initial=0.1)"),
        (zoo.lora_xs(rank=5), (4, 6), "a matrix of 4 × 6 is 4", "lora_xs(rank=4)"),
        (zoo.lora_xs(rank=2, singular_values="both"), (4, 6), "'left', 'right'", "lora_xs("),
        (zoo.lokr(rank=-1), (4, 6), "an integer of 1 or more", "lokr(rank=1)"),
        (zoo.lokr(decompose_factor=0), (4, 6), "or -1", "lokr(decompose_factor=-1)"),
        (zoo.lokr(convention="kohya"), (4, 6), "'peft', 'lycoris'", "lokr(convention='peft')"),
        (
            zoo.kronecker(rank=6),
            (768, 770),
            "must divide 768 and 770, but 770 = 2·5·7·11",
            "kronecker(rank=2)",
        ),
        (zoo.kronecker(rank=4), (7, 8), "7 has no divisor", "kronecker(rank=1)"),
        (zoo.circulant(form="square"), (4, 6), "'elementwise', 'product'", "circulant(form="),
        (zoo.ldr(rank=7), (4, 6), "a matrix of 6 × 6 is 6", "ldr(rank=6)"),
        (zoo.tt_lora(rank=99), (12, 12), "the modes (2, 2, 3, 2, 2, 3) is 12", "tt_lora(rank=12)"),
        (
            zoo.tt_lora(shape=(5, 30)),
            (12, 12),
            "150 = 2·3·5·5 elements; the weight has 12 × 12 = 2·2·2·2·3·3",
            "tt_lora(shape=(3, 4, 3, 4))",
        ),
        (zoo.tt_lora(shape=(144,)), (12, 12), "two or more", "tt_lora(shape=(3, 4, 3, 4))"),
        (zoo.tt_lora(shape=(-12, -12)), (12, 12), "positive integers", "tt_lora(shape="),
        (zoo.tt_lora(order=1), (12, 12), "an integer of 2 or more", "tt_lora(order=2)"),
        (zoo.tucker(rank=5), (12, 12), "the tensor (3, 4, 3, 4) is 4", "tucker(rank=4)"),
        (zoo.cp(rank=37), (12, 12), "(3, 4, 3, 4) is 36", "cp(rank=36)"),
        (zoo.sine_lora(frequency=0), (9, 9), "other than zero", "sine_lora(frequency=100)"),
        (zoo.sine_lora(gain=0), (9, 9), "other than zero", "sine_lora(gain=1.0)"),
        (
            zoo.sine_lora(rank=4, within=zoo.loha(rank=2)),
            (9, 9),
            "the structure within replaces",
            "sine_lora(rank=4)",
        ),
        (zoo.dora(within=8), (9, 9), "must be a structure, not a int", "dora(within=lora(rank=8))"),
        (zoo.dora(within=zoo.lora(rank=10)), (9, 9), "a matrix of 9 × 9 is 9", "lora(rank=9)"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused_with_numbers(structure, shape, against, remedy):
    with pytest.raises(StructureError) as refusal:
        structure.on(shape)
    error: TensorAdaptError = refusal.value
    assert str(structure) in error.asked and str(shape) in error.asked
    assert against in error.against
    assert remedy in error.remedy
