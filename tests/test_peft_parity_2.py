"""The zoo's further methods against PEFT's live layers: outputs, gradients, leaves and starts."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tensoradapt import zoo
from tensoradapt.algebra.indexing import torch_choice_map
from tensoradapt.algebra.walk import parameters
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.positions import positions
from tensoradapt.run.sample import sample
from tensoradapt.zoo.sparse import largest_entries
from tests.foreign import (
    Site,
    assert_agree,
    assert_close,
    assert_same_leaves_and_starts,
    peft_layer,
    plain,
    randomized,
    tensors,
)

peft = pytest.importorskip("peft", reason="the extra hf is not installed")

from tests.peft_cases import CASES, LORA, SHAPES, TARGET, Case  # noqa: E402


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """BOFT tries to build a CUDA extension for every layer, and warns where it cannot."""
    from peft.tuners.boft import layer

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: None)


DORA_M = "lora_magnitude_vector.default.weight"


def each_shape(cases: list[Case]) -> Any:
    pairs = [(case, shape) for case in cases for shape in case.shapes]
    return pytest.mark.parametrize(("case", "shape"), pairs, ids=str)


@each_shape(CASES)
def test_outputs_and_gradients_equal_peft(case: Case, shape):
    layer = randomized(peft_layer(case.config(), shape))
    theirs = case.tensors(layer)
    assert_agree(case.structure, layer, theirs, rtol=case.rtol, check_input=case.check_input)


@each_shape(CASES)
def test_leaves_and_starts_equal_peft(case: Case, shape):
    layer = peft_layer(case.config(), shape)
    assert_same_leaves_and_starts(case.structure, layer, case.tensors(layer))


# --- what PEFT does to the base weight ----------------------------------------------------

REPLACED = [
    (
        zoo.lora(rank=4, alpha=10, start="pissa"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="pissa", **TARGET),
    ),
    (
        zoo.lora(rank=4, alpha=10, use_rslora=True, start="olora"),
        lambda: peft.LoraConfig(
            r=4, lora_alpha=10, use_rslora=True, init_lora_weights="olora", **TARGET
        ),
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("structure", "config"), REPLACED, ids=["pissa", "olora"])
def test_starts_that_peft_takes_out_of_the_base_leave_it_untouched_here(structure, config, shape):
    """Its base weight is W0 - s B A at the start, in float32; ours is W0."""
    layer = peft_layer(config(), shape)
    first = {
        f"{name}@start": value.detach().clone() for name, value in tensors(layer, LORA).items()
    }
    W = plain(shape, dtype=torch.float32).weight.detach().double()
    mine = sample(structure.on(shape), base=W, like=W)
    for name in ("B", "A"):
        assert_close(mine[name].abs(), first[f"{name}@start"].abs(), 1e-5, name)
    assert_close(mine["B"] @ mine["A"], first["B@start"] @ first["A@start"], 1e-5, "B A")
    randomized(layer)
    theirs = tensors(layer, LORA) | first
    assert_agree(structure, layer, theirs, rtol=1e-5, base=W)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kasa_takes_the_tail_from_the_base_as_peft_does(shape):
    structure = zoo.kasa(rank=3, alpha=7)
    config = peft.LoraConfig(r=3, lora_alpha=7, kasa_config=peft.KasaConfig(), **TARGET)
    layer = randomized(peft_layer(config, shape))
    W = plain(shape, dtype=torch.float32).weight.detach().double()
    first = sample(structure.on(shape), base=W, like=W)
    theirs = tensors(layer, LORA | {"d": "lora_diag"})
    theirs |= {name: first[name] for name in ("tail_B", "tail_A")}
    assert_agree(structure, layer, theirs, rtol=1e-5, base=W)


def test_the_penalties_equal_peft():
    from peft.tuners.lora.variants import _kasa_layer_regularization_loss

    shape, structure = (24, 16), zoo.kasa(rank=3, beta=0.3, gamma=0.2)
    config = peft.LoraConfig(r=3, kasa_config=peft.KasaConfig(beta=0.3, gamma=0.2), **TARGET)
    layer = randomized(peft_layer(config, shape))
    values = tensors(layer, LORA | {"d": "lora_diag"})
    penalty = structure.update(shape).penalty
    assert penalty is not None
    expected = _kasa_layer_regularization_loss(layer, "default", 0.3, 0.2)
    assert_close(evaluate(penalty, values), expected, 1e-6, "penalty")  # theirs is in float32


def test_qa_lora_equals_the_variant_that_peft_has_for_quantized_layers():
    from peft.tuners.lora.variants import QALoraLinearVariant

    for shape in ((24, 16), (16, 24)):
        config = peft.LoraConfig(r=3, lora_alpha=7, qalora_group_size=4, **TARGET)
        layer = peft_layer(config, shape)
        QALoraLinearVariant.init(layer, "default", config)
        layer = randomized(layer.double())
        structure = zoo.qa_lora(rank=3, alpha=7, qalora_group_size=4)

        def forward(x, layer=layer):
            plain_output = layer.get_base_layer()(x)
            return QALoraLinearVariant.forward(layer, "default", x, plain_output)

        assert_agree(structure, layer, tensors(layer, LORA), forward=forward)


def test_delora_keeps_short_vectors_from_growing_as_peft_does():
    """The norms are at least 10⁻⁴, and a vector below that has no gradient through its norm."""
    layer = randomized(peft_layer(peft.DeloraConfig(r=4, **TARGET), (24, 16)))
    keys = {"B": "delora_B", "A": "delora_A", "lambda": "delora_lambda", "w_norm": "delora_w_norm"}
    theirs = tensors(layer, keys)
    with torch.no_grad():
        theirs["B"][:, 0] *= 1e-6
        theirs["A"][2] *= 1e-6
    assert_agree(zoo.delora(rank=4), layer, theirs)


# --- embeddings ---------------------------------------------------------------------------

TABLES = [
    (
        zoo.lora(rank=3, alpha=7, start="normal"),
        lambda: peft.LoraConfig(r=3, lora_alpha=7, **TARGET),
        {"B": "lora_embedding_A", "A": "lora_embedding_B"},
    ),
    (
        zoo.dora(within=zoo.lora(rank=3, alpha=7, start="normal"), wd_on_out=False),
        lambda: peft.LoraConfig(r=3, lora_alpha=7, use_dora=True, **TARGET),
        {"within.B": "lora_embedding_A", "within.A": "lora_embedding_B", "m": DORA_M},
    ),
    (
        zoo.hira(rank=3),
        lambda: peft.HiraConfig(r=3, **TARGET),
        {"B": "hira_embedding_A", "A": "hira_embedding_B"},
    ),
]


@pytest.mark.parametrize(
    ("structure", "config", "keys"), TABLES, ids=lambda value: "" if callable(value) else str(value)
)
def test_tables_of_embeddings_equal_peft_with_its_factors_transposed(structure, config, keys):
    """PEFT stores the factors of the transposed table: its A is our Bᵀ."""
    torch.manual_seed(3)
    model = peft.get_peft_model(Site(torch.nn.Embedding(11, 6)), config())
    layer = randomized(model.base_model.model.site.double())
    W = layer.get_base_layer().weight.detach()
    expr, theirs = structure.on((11, 6)), tensors(layer, keys)
    names = [leaf.name for leaf in parameters(expr)]
    ours = {n: theirs[n].detach().T.clone().requires_grad_() for n in names}
    got, expected = W + evaluate(expr, ours, base=W), layer(torch.arange(11))
    assert_close(got, expected, 1e-10, "table")
    wanted = torch.autograd.grad(expected.sin().sum(), [theirs[n] for n in names])
    given = torch.autograd.grad(got.sin().sum(), [ours[n] for n in names])
    for name, mine, other in zip(names, given, wanted, strict=True):
        assert_close(mine, other.T, 1e-9, f"∂/∂{name}")


# --- rotations ----------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [2, 3])
def test_boft_with_several_butterflies_equals_peft(monkeypatch, factors):
    """PEFT builds them in CUDA only; the block diagonals are built in plain torch here."""
    from peft.tuners.boft import layer as boft

    class BlockDiagonal:
        @staticmethod
        def apply(blocks):
            return torch.stack([torch.block_diag(*stage) for stage in blocks])

    monkeypatch.setattr(boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(boft, "FastBlockDiag", BlockDiagonal)
    for shape in ((12, 16), (6, 16)):
        config = peft.BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=factors, **TARGET)
        layer = randomized(peft_layer(config, shape))
        layer.boft_P = layer.boft_P.double()
        structure = zoo.boft(boft_block_size=2, boft_n_butterfly_factor=factors)
        assert_agree(structure, layer, tensors(layer, {"R": "boft_R", "s": "boft_s"}))


def test_coft_restrains_the_blocks_as_peft_does():
    shape = (24, 16)
    config = peft.OFTConfig(r=0, oft_block_size=4, coft=True, eps=0.5, **TARGET)
    layer = randomized(peft_layer(config, shape))
    before = layer.oft_R["default"].weight.detach().clone()
    expected = layer(torch.eye(16, dtype=torch.float64)) - layer.get_base_layer().bias
    assert not torch.equal(before, layer.oft_R["default"].weight)  # its forward writes the leaf
    W = layer.get_base_layer().weight.detach()
    expr = zoo.oft(oft_block_size=4, coft=True, eps=0.5).on(shape)
    # Its bound is computed in float32.
    assert_close(W + evaluate(expr, {"R": before}, base=W), expected.T, 1e-6, "W'")


def test_peft_rotates_a_convolution_otherwise_than_it_merges_it():
    """OFT's forward folds overlapping patches together; the merge is the rotation of W0."""
    shape = (6, 4, 3, 3)
    layer = randomized(peft_layer(peft.OFTConfig(r=0, oft_block_size=4, **TARGET), shape))
    W = layer.get_base_layer().weight.detach()
    values = {"R": tensors(layer, {"R": "oft_R"})["R"].detach()}
    ours = W + evaluate(zoo.oft(oft_block_size=4).on(shape), values, base=W)
    merged = W.reshape(6, -1) @ layer.get_delta_weight("default").detach().T
    assert_close(ours.reshape(6, -1), merged, 1e-10, "the merge")
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.conv2d(x, ours, layer.get_base_layer().bias.detach())
    assert (layer(x) - wanted).abs().max() > 0.1


def test_peft_starts_orthonormalized_reflections_from_rounding_errors():
    """Equal pairs of columns have no second direction; ours start all different."""
    shape = (24, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = peft_layer(peft.HRAConfig(r=4, apply_GS=True, **TARGET), shape)
    u = layer.hra_u["default"].detach()
    assert torch.equal(u[:, 0], u[:, 1])
    first = sample(zoo.hra(rank=4, apply_GS=True).on(shape))["u"]
    assert not (first[:, 0] == first[:, 1]).any()


# --- transforms ---------------------------------------------------------------------------


def test_peft_takes_a_wrong_gradient_of_the_input_through_circulant_blocks():
    shape = (12, 16)
    layer = randomized(peft_layer(peft.C3AConfig(block_size=4, **TARGET), shape))
    W = layer.get_base_layer().weight.detach()
    values = {"w": tensors(layer, {"w": "c3a_kernel"})["w"].detach()}
    weight = W + evaluate(zoo.c3a(block_size=4).on(shape), values, base=W)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(5, 16, dtype=torch.float64, generator=source).requires_grad_()
    g = torch.randn(5, 12, dtype=torch.float64, generator=source)
    theirs = torch.autograd.grad(layer(x), x, g)[0]
    assert_close(layer(x), x @ weight.T + layer.get_base_layer().bias, 1e-5, "output")
    assert (theirs - g @ weight).abs().max() > 1e-2
    # Its own output by finite differences agrees with ours and not with its gradient.
    step = torch.zeros_like(x)
    step[0, 3] = 1e-2
    slope = (g * (layer(x + step) - layer(x - step)) / 2e-2).sum()
    assert abs(float(slope - (g @ weight)[0, 3])) < 1e-3 < abs(float(slope - theirs[0, 3]))


def test_peft_chains_two_active_circulant_adapters():
    shape = (16, 16)
    torch.manual_seed(3)
    model = peft.get_peft_model(
        Site(plain(shape, dtype=torch.float32)), peft.C3AConfig(block_size=4, **TARGET)
    )
    model.add_adapter("other", peft.C3AConfig(block_size=4, **TARGET))
    layer = model.base_model.model.site
    outputs = {}
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for active in (["default"], ["other"], ["default", "other"]):
        layer.set_adapter(active)
        outputs["+".join(active)] = layer(x) - layer.get_base_layer()(x)
    added = outputs["default"] + outputs["other"]
    assert (outputs["default+other"] - added).abs().max() > 1e-3 * added.abs().max()


def test_fourierft_at_the_size_where_peft_fails_on_some_machines():
    """On some CPUs PEFT's ΔW is about zero at 2048 × 2048; the closed form says what it is."""
    n, count = 2048, 7
    layer = peft_layer(peft.FourierFTConfig(n_frequency=count, **TARGET), (n, n))
    c = layer.fourierft_spectrum["default"].detach()
    p, q = layer.indices["default"]
    assert zoo.fourierft(n_frequency=count).on((n, n)).shape == (n, n)
    found, _ = positions(torch_choice_map(count, n * n, 777))
    assert (torch.as_tensor(found.copy()) == p * n + q).all()
    rows, columns = torch.arange(0, n, 97, dtype=torch.float64), torch.arange(0, n, 89)
    phases = torch.outer(rows, p / n)[:, None] + torch.outer(columns, q / n)[None]
    expected = 150 / n**2 * (c * (2 * torch.pi * phases).cos()).sum(-1)
    theirs = layer.get_delta_weight("default").detach()[::97, ::89]
    ratio = float((theirs - expected).abs().max() / expected.abs().max())
    assert ratio < 1e-4 or ratio > 0.9, "either right or about zero"


# --- positions and factors that each layer chooses for itself -----------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sparse_updates_equal_peft_at_its_own_positions(shape):
    config = peft.ShiraConfig(r=2, random_seed=5, **TARGET)
    layer = randomized(peft_layer(config, shape))
    rows, columns = layer.shira_indices["default"]
    flat = tuple((rows.long() * shape[1] + columns.long()).tolist())
    assert_agree(zoo.shira(indices=flat), layer, tensors(layer, {"values": "shira_weight"}))
    # The seeded positions are the same ones; PEFT has them in the order of the rows.
    at = positions(zoo.shira(rank=2, random_seed=5).on(shape).index)[0]
    assert tuple(sorted(at.tolist())) == flat

    layer = randomized(peft_layer(peft.SupertuningConfig(sparsity=0.9, **TARGET), shape))
    flat = tuple(layer.supertuning_indices["default"].tolist())
    theirs = tensors(layer, {"values": "supertuning_values"})
    assert_agree(zoo.supertuning(indices=flat), layer, theirs)
    assert largest_entries(layer.get_base_layer().weight, 0.9) == tuple(sorted(flat))


def test_the_hybrid_of_super_tuning_equals_peft():
    shape = (24, 16)
    config = peft.SupertuningConfig(sparsity=0.9, r=3, lora_alpha=7, **TARGET)
    layer = randomized(peft_layer(config, shape))
    keys = {"values": "supertuning_values", "B": "supertuning_lora_B", "A": "supertuning_lora_A"}
    flat = tuple(layer.supertuning_indices["default"].tolist())
    structure = zoo.supertuning(indices=flat, rank=3, alpha=7)
    assert_agree(structure, layer, tensors(layer, keys))
    first = peft_layer(config, shape)
    assert_same_leaves_and_starts(structure, first, tensors(first, keys))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_deft_by_qr_equals_peft_up_to_the_signs_of_its_basis(shape):
    """LAPACK chooses the signs of its columns; ours make the triangle's diagonal positive."""
    config = peft.DeftConfig(r=4, alpha=10, decomposition_method="qr", **TARGET)
    layer = randomized(peft_layer(config, shape))
    theirs = tensors(layer, {"P": "deft_P", "R": "deft_R"})
    signs = torch.linalg.qr(theirs["P"].detach())[1].diagonal().sign()
    assert (signs < 0).any() or shape == (7, 13)
    structure = zoo.deft(rank=4, alpha=10, decomposition_method="qr")
    assert_agree(structure, layer, theirs, rtol=1e-4, turned={"R": signs[:, None]})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_osf_equals_peft_but_for_its_rule_of_training(shape):
    keys = {
        **{name: f"osf_svd_params.default.{name.upper()}_low" for name in ("U", "s", "V")},
        **{f"{name}@start": f"_osf_{name.upper()}_low_init" for name in ("U", "s", "V")},
    }
    layer = peft_layer(peft.OSFConfig(**TARGET), shape)
    W = plain(shape, dtype=torch.float32).weight.detach().double()
    first, theirs = sample(zoo.osf().on(shape), base=W, like=W), tensors(layer, keys)
    for name in ("U", "s", "V"):
        assert_close(first[name].abs(), theirs[name].abs(), 1e-3, name)  # theirs is in float32
    layer._detach_hooks()  # they project the gradients
    assert_agree(zoo.osf(), randomized(layer), tensors(layer, keys))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_frod_equals_peft_with_its_factors(shape):
    config = peft.FrodConfig(sparse_rate=0.05, progressbar=False, **TARGET)
    layer = randomized(peft_layer(config, shape))
    theirs = tensors(layer, {"U": "frod_U", "l": "frod_lambda_l", "S": "frod_lambda_s_values"})
    theirs["V"] = layer.frod_V["default"].double().T
    assert_agree(zoo.frod(sparse_rate=0.05), layer, theirs)
    rows, columns = layer.frod_s_indices["default"]
    flat = tuple((rows * shape[1] + columns).tolist())
    assert_agree(zoo.frod(indices=flat), layer, theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adamss_equals_peft_with_its_clusters(shape, bias):
    config = peft.AdamssConfig(r=6, num_subspaces=3, subspace_rank=2, **TARGET)
    first = peft_layer(config, shape, bias)
    layer = randomized(peft_layer(config, shape, bias))
    layer.dtype = torch.float64
    members = layer.seg_result["default"]
    labels = [next(c for c in members if row in members[c]) for row in range(shape[0])]
    structure = zoo.adamss(rank=6, subspace_rank=2, clusters=tuple(labels), with_bias=bias)
    keys = {f"{end}{c}": f"adamss_{end}.default.{c}" for end in "AB" for c in members}
    assert_agree(structure, layer, tensors(layer, keys | {"N": "adamss_newB"}))
    known = tensors(first, keys | {"N": "adamss_newB"})
    assert_same_leaves_and_starts(structure, first, known)
    # Both start with orthonormal rows; PEFT's come from a randomized decomposition of a
    # randomized decomposition, so they are other ones.
    site = first.get_base_layer()
    b = site.bias.detach() if bias else None
    mine = sample(structure.update(shape).weight, base=site.weight.detach(), bias=b, like=b)
    for c in members:
        for A in (torch.as_tensor(mine[f"A{c}"]), known[f"A{c}"].detach()):
            assert_close(A.double() @ A.double().T, torch.eye(len(A)).double(), 1e-5, "A Aᵀ")
