"""What the methods of the zoo have to do with each other, with their starts, and what they refuse.

The identities are those by which a method without a public implementation can be judged.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.algebra import forms
from tensoradapt.algebra.builders import cayley, neumann
from tensoradapt.algebra.leaves import parameter
from tensoradapt.algebra.walk import leaves, parameters
from tensoradapt.errors import StructureError
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tensoradapt.zoo.sparse import largest_entries
from tests.test_zoo import assert_equal_updates

W = np.random.RandomState(1).standard_normal((12, 8))


def random_values(structure, shape, seed=2):
    return sample(structure.update(shape).weight, seed=seed, start="random")


def value(structure, shape, values, base=None):
    return evaluate(structure.update(shape).weight, values, base=base)


# --- one method as a case of another ------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "rename"),
    [
        (zoo.melora(rank=3, alpha=6, blocks=1), zoo.lora(rank=3, alpha=6), {}),
        (zoo.bd_lora(rank=4, alpha=6), zoo.lora(rank=4, alpha=6), {}),
        (zoo.qa_lora(rank=3, alpha=6, qalora_group_size=1), zoo.lora(rank=3, alpha=48), {}),
        (zoo.dylora(rank=3, alpha=6), zoo.dora_dynamic(rank=3, alpha=6), {"mask": "c"}),
        (zoo.abba(rank=2, alpha=3), zoo.loha(rank=2, alpha=6), {}),
        (
            zoo.krona(alpha=3),
            zoo.lokr(rank=5, alpha=15, full_matrix=True),
            {"A": "W1", "B": "W2"},
        ),
        (zoo.shira(indices=(4, 9)), zoo.supertuning(indices=(4, 9)), {}),
        (
            zoo.waveft(indices=(4, 9), scaling=1, use_idwt=False),
            zoo.shira(indices=(4, 9)),
            {"c": "values"},
        ),
        (zoo.lora(rank=3, start="mica"), zoo.lora(rank=3), {}),
    ],
    ids=str,
)
def test_a_case_of_one_method_is_another(first, second, rename):
    values = random_values(first, (12, 8))
    renamed = {
        rename.get(name, name): a.reshape(-1) if name == "s" else a for name, a in values.items()
    }
    shapes = {leaf.name: leaf.shape for leaf in leaves(second.update((12, 8)).weight)}
    renamed = {name: a.reshape(shapes[name]) for name, a in renamed.items()}
    assert_allclose(value(first, (12, 8), values), value(second, (12, 8), renamed), rtol=1e-10)


def test_gralora_with_one_block_is_lora_with_transposed_factors():
    values = random_values(zoo.gralora(rank=3, alpha=6, gralora_k=1), (12, 8))
    product = values["B"][0].T @ values["A"][0].T
    assert_allclose(value(zoo.gralora(rank=3, alpha=6, gralora_k=1), (12, 8), values), 2 * product)


def test_a_hadamard_product_of_two_low_ranks_is_one_low_rank_of_the_square():
    values = random_values(zoo.loha(rank=3), (12, 8))
    B = np.einsum("or,os->ors", values["B1"], values["B2"]).reshape(12, 9)
    A = np.einsum("ri,si->rsi", values["A1"], values["A2"]).reshape(9, 8)
    assert_allclose(value(zoo.loha(rank=3), (12, 8), values), B @ A, rtol=1e-10)


def test_two_cores_of_rank_one_are_a_monarch_matrix():
    structure = zoo.btt(row_sizes=(3, 4), column_sizes=(2, 4))
    values = random_values(structure, (12, 8))
    left, right = parameter("M2", 3, 4, 4), parameter("M1", 3, 2, 4)
    expected = evaluate(
        forms.monarch(left, right), {name: a.reshape(a.shape[-3:]) for name, a in values.items()}
    )
    assert_allclose(
        value(zoo.btt(row_sizes=(3, 4), column_sizes=(2, 4)), (12, 8), values), expected
    )


def test_monarch_of_as_many_intermediates_as_blocks_is_its_einsum():
    structure = zoo.monarch(rank=4, blocks=4)
    values = random_values(structure, (12, 8))
    expected = np.einsum("mon,nmi->omni", values["L2"], values["L1"]).reshape(12, 8)
    assert_allclose(value(structure, (12, 8), values), expected)


def test_one_circulant_block_is_surm_s_circulant_transposed_over_in():
    values = random_values(zoo.c3a(block_size=8), (8, 8))
    other = value(zoo.circulant(form="single"), (8, 8), {"a": values["w"][0, 0]})
    assert_allclose(value(zoo.c3a(block_size=8), (8, 8), values), other.T / 8)


def test_flora_of_a_matrix_is_tucker_on_its_own_axes():
    flora = zoo.flora(rank=3, alpha=2)
    values = random_values(flora, (12, 8))
    renamed = {"C": values["G"].T, "A1": values["A_out"], "A2": values["A_in"]}
    other = zoo.tucker(rank=3, alpha=6, order=None)
    assert_allclose(
        value(zoo.flora(rank=3, alpha=2), (12, 8), values), value(other, (12, 8), renamed)
    )


def test_quanta_over_three_axes_is_its_einsum():
    structure = zoo.quanta(shape=(2, 3, 2))
    values = random_values(structure, (12, 12))

    def chain(end: str) -> np.ndarray:
        gates = (values[f"G{k}{end}"] for k in ("1_2", "0_2", "0_1"))
        return np.einsum("efbc,ghaf,ijge->ijhabc", *gates).reshape(12, 12)

    assert_allclose(value(structure, (12, 12), values), chain("") - chain("@start"), rtol=1e-10)


def test_dvora_is_dora_around_vera():
    names = {name: f"within.{name}" for name in "bBdA"}
    dvora, dora = zoo.dvora(rank=5), zoo.dora(within=zoo.vera(rank=5))
    assert_equal_updates(dvora, dora, (7, 13), names, base_needed=True)


def test_dora_whose_magnitude_is_the_norm_is_what_is_within():
    dora, lora = zoo.dora(within=zoo.lora(rank=2, alpha=3)), zoo.lora(rank=2, alpha=3)
    values = random_values(dora, W.shape)
    inner = {name: values[f"within.{name}"] for name in "BA"}
    update = value(lora, W.shape, inner)
    values["m"] = np.linalg.norm(W + update, axis=1)
    assert_allclose(value(dora, W.shape, values, W), update, rtol=1e-9, atol=1e-12)


def test_ia3_is_a_hadamard_adapter_without_a_shift():
    for is_feedforward, side in ((False, "output"), (True, "input")):
        ia3, other = zoo.ia3(is_feedforward=is_feedforward), zoo.hadamard_adapter(side=side)
        values = random_values(ia3, W.shape)
        assert_allclose(
            value(ia3, W.shape, values, W), value(other, W.shape, {"m": values["l"]}, W)
        )


def test_the_two_pairings_of_randlora_agree_for_one_term():
    values = random_values(zoo.randlora(rank=8, alpha=3), (12, 8))
    assert_allclose(
        value(zoo.randlora(rank=8, alpha=3), (12, 8), values),
        value(zoo.randlora(rank=8, alpha=3, pairing="paper"), (12, 8), values),
    )


def test_bone_of_the_full_width_is_a_matrix_product():
    values = random_values(zoo.miss(rank=8, variant="bat"), (8, 8))
    square = W[:8]
    expected = square @ values["M"][0] + values["M"][0]
    assert_allclose(value(zoo.miss(rank=8, variant="bat"), (8, 8), values, square), expected)


# --- rotations are rotations --------------------------------------------------------------

ROTATIONS = [
    (zoo.oft(oft_block_size=4, use_cayley_neumann=False), "right"),
    (zoo.oft(oft_block_size=4, side="output", use_cayley_neumann=False), "left"),
    (
        zoo.oft(oft_block_size=2, block_share=True, stored="square", use_cayley_neumann=False),
        "right",
    ),
    (zoo.boft(boft_block_size=2, boft_n_butterfly_factor=3, rescaled=False), "right"),
    (
        zoo.boft(
            boft_block_size=2, boft_n_butterfly_factor=2, convention="lycoris", rescaled=False
        ),
        "left",
    ),
    (zoo.hra(rank=3), "right"),
    (zoo.hra(rank=3, apply_GS=True), "right"),
]


@pytest.mark.parametrize(("structure", "side"), ROTATIONS, ids=str)
def test_a_rotation_keeps_the_inner_products(structure, side):
    new = W + value(structure, W.shape, random_values(structure, W.shape), W)
    assert np.abs(new - W).max() > 0.1
    if side == "right":
        assert_allclose(new @ new.T, W @ W.T, rtol=1e-9, atol=1e-9)
    else:
        assert_allclose(new.T @ new, W.T @ W, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_rotation_less_the_identity_keeps_the_digits_of_a_small_turn(inverse):
    skew = parameter("q", 3, 3) - parameter("q", 3, 3).T
    values = {"q": 1e-12 * np.random.RandomState(0).standard_normal((3, 3))}
    Q = values["q"] - values["q"].T
    sign = 2 if inverse else -2
    small = evaluate(cayley(skew, inverse=inverse, minus_identity=True), values)
    assert_allclose(small, sign * Q, rtol=1e-9, atol=1e-22)
    assert_allclose(evaluate(cayley(skew, inverse=inverse), values), np.eye(3) + small)
    assert_allclose(
        evaluate(neumann(skew, 3, minus_identity=True), values), 2 * Q, rtol=1e-9, atol=1e-22
    )


def test_road_with_one_angle_a_pair_turns_pairs():
    values = random_values(zoo.road(group_size=4), W.shape) | {"alpha": np.ones(6)}
    new = W + value(zoo.road(group_size=4), W.shape, values, W)
    assert_allclose(new.T @ new, W.T @ W, rtol=1e-10)


def test_the_series_of_oft_turns_the_other_way():
    """PEFT's R ≈ I + 2Q, Cayley's ≈ I - 2Q: the difference of two small turns is 4Q."""
    values = {"R": 1e-4 * random_values(zoo.oft(oft_block_size=4), W.shape)["R"]}
    series = value(zoo.oft(oft_block_size=4), W.shape, values, W)
    exact = value(zoo.oft(oft_block_size=4, use_cayley_neumann=False), W.shape, values, W)
    assert_allclose(series, -exact, atol=1e-6)
    assert np.abs(series).max() > 1e-4


# --- starts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "zero", "random"),
    [
        (zoo.loha(rank=2, personalized=True), "A1", "B1 B2 A2"),
        (zoo.abba(rank=2), "B2", "A2 B1 A1"),
        (zoo.delora(rank=2), "B", "A lambda w_norm"),
        (zoo.kasa(rank=2), "B", "A d tail_A tail_B"),
        (zoo.lora(rank=2, start="mica"), "A", "B"),
        (zoo.lora(rank=2, use_effective_conv2d=True), "B", "A"),
        (zoo.adalora(rank=2), "E", "A B"),
        (zoo.lora_squared(), "E", "A B C D"),
        (zoo.dora_dynamic(rank=2), "c", "A B"),
        (zoo.dylora(rank=2), "B", "A mask"),
        (zoo.lora_mini(rank=2), "B", "A L R"),
        (zoo.pvera(rank=4), "b", "d A B"),
        (zoo.randlora(rank=4), "lambda", "gamma A B"),
        (zoo.qa_lora(rank=2, qalora_group_size=4), "B", "A"),
        (zoo.melora(rank=2), "B", "A"),
        (zoo.gralora(rank=2, hybrid_r=1), "B", "A A_general"),
        (zoo.bd_lora(rank=2), "B", "A"),
        (zoo.monarch(), "L2", "L1"),
        (zoo.btt(), "M2", "M1"),
        (zoo.krona(), "B", "A"),
        (zoo.krona(start="left"), "A", "B"),
        (zoo.road(group_size=4), "theta", "alpha"),
        (zoo.glora(rank=2), "A_d", "A_u B_u"),
        (zoo.glora_lycoris(rank=2), "A2", "A1 B1"),
        (zoo.peanut(rank=2, depth=1), "B", "A E1 D1"),
        (zoo.flora(rank=2), "G", "A_in A_out"),
        (zoo.hadamard_adapter(), "c", "m"),
    ],
    ids=str,
)
def test_which_leaf_starts_at_zero(structure, zero, random):
    update = structure.update((12, 8))
    parts = [part for part in (update.weight, update.bias) if part is not None]
    values = sample(parts, base=[W] * len(parts), bias=[W[:, 0]] * len(parts))
    assert not values[zero].any()
    assert all(values[name].all() for name in random.split())


def test_kaiming_in_blocks_counts_the_inputs_of_one_block():
    for structure, name, bound in (
        (zoo.melora(rank=16, blocks=4), "A", 1 / np.sqrt(64)),
        (zoo.gralora(rank=16, gralora_k=4), "A", 1 / np.sqrt(64)),
        (zoo.monarch(rank=16, blocks=4), "L1", 1 / np.sqrt(64)),
    ):
        largest = np.abs(sample(structure.on((256, 256)))[name]).max()
        assert 0.95 < largest / bound <= 1


def test_kasa_begins_without_the_tail_of_the_base():
    structure = zoo.kasa(rank=3)
    update = structure.update(W.shape).weight
    new = W + evaluate(update, sample(update, base=W))
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    assert_allclose(new, (u[:, :5] * s[:5]) @ vt[:5], rtol=1e-10, atol=1e-12)


def test_abba_begins_at_the_main_part_of_the_base():
    values = sample(zoo.abba(rank=2, first_rank=3).on(W.shape), base=W)
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    assert_allclose(values["B1"] @ values["A1"], (u[:, :3] * s[:3]) @ vt[:3], rtol=1e-10)


def test_psoft_and_frod_begin_at_their_factors_of_the_base():
    values = sample(zoo.psoft(rank=3).on(W.shape), base=W)
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    assert_allclose(values["B"] @ values["A"], (u[:, :3] * s[:3]) @ vt[:3], rtol=1e-10)
    for base in (W, W.T.copy()):
        values = sample(zoo.frod().on(base.shape), base=base)
        assert_allclose((values["U"] * values["l"]) @ values["V"], base, atol=1e-12)
        assert_allclose(values["V"] @ values["V"].T, np.eye(base.shape[1]), atol=1e-12)


def test_orthogonal_halves_multiply_to_zero_and_both_train():
    values = sample(zoo.lora(rank=6, start="orthogonal").on(W.shape))
    assert np.abs(values["B"] @ values["A"]).max() < 1e-15
    assert np.abs(values["A"]).max() > 0.01 and np.abs(values["B"]).max() > 0.01


def test_a_structure_since_its_start_takes_the_user_s_arrays():
    structure = zoo.since_start(within=zoo.loha(rank=2), leaves=("B1", "A2"))
    expr = structure.on((12, 8))
    source = np.random.RandomState(3)
    data = {
        "within.B1": source.standard_normal((12, 2)),
        "within.A2": source.standard_normal((2, 8)),
    }
    values = sample(expr, data=data)
    assert (values["within.B1"] == data["within.B1"]).all()
    assert (values["within.A2@start"] == data["within.A2"]).all()
    assert not evaluate(expr, values).any()


def test_tlora_stays_zero_at_the_start_under_every_mask():
    expr = zoo.tlora(rank=3, alpha=5).on(W.shape)
    values = sample(expr, base=W)
    for mask in product((0.0, 1.0), repeat=3):
        assert not evaluate(expr, values | {"mask": np.array(mask)}, base=W).any()


# --- masks, positions, penalties ----------------------------------------------------------


def test_a_mask_of_the_caller_chooses_the_terms():
    expr = zoo.dylora(rank=3, alpha=6).on(W.shape)
    values = random_values(zoo.dylora(rank=3, alpha=6), W.shape) | {"mask": np.array([1.0, 0, 0])}
    assert_allclose(evaluate(expr, values), 2 * values["B"][:, :1] @ values["A"][:1])
    assert "mask" not in {leaf.name for leaf in parameters(expr)}


def test_the_largest_entries_are_found():
    found = largest_entries(W, sparsity=0.9)
    assert len(found) == 9 and list(found) == sorted(found)
    rest = np.delete(np.abs(W).reshape(-1), found)
    assert np.abs(W).reshape(-1)[list(found)].min() > rest.max()
    smallest = largest_entries(torch.from_numpy(W), sparsity=0.9, select_top=False)
    assert not {*found} & {*smallest} and len(smallest) == 9
    with pytest.raises(StructureError, match="Of 96 entries it leaves none"):
        largest_entries(W, sparsity=0.999)


def test_a_penalty_reaches_the_leaves_it_reads():
    model = nn.Sequential(nn.Linear(8, 12))
    tnn.adapt(model, zoo.adalora(rank=3), where="0")
    total = tnn.penalty(model)
    total.backward()
    values = {leaf.split(".")[-1]: p for leaf, p in model.named_parameters() if p.requires_grad}
    A, B = values["A"].detach(), values["B"].detach()
    one = torch.eye(3)
    expected = 0.5 * ((A @ A.T - one).norm() + (B.T @ B - one).norm())
    torch.testing.assert_close(total.detach(), expected)
    assert values["A"].grad.abs().max() > 0 and values["B"].grad.abs().max() > 0


@pytest.mark.parametrize(
    "structure",
    [zoo.ia3(), zoo.hadamard_adapter(), zoo.road(group_size=4), zoo.glora(rank=2)],
    ids=str,
)
def test_the_part_of_the_bias_is_left_out_where_there_is_none(structure):
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with_bias, without = (
        nn.Sequential(nn.Linear(8, 12)),
        nn.Sequential(nn.Linear(8, 12, bias=False)),
    )
    for model in (with_bias, without):
        tnn.adapt(model, structure, where="0")
    assert without(x).shape == (3, 12)
    trained = {name.split(".")[-1] for name, p in without.named_parameters() if p.requires_grad}
    assert trained == {leaf.name for leaf in parameters(structure.update((12, 8)).weight)}
