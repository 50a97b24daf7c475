"""The zoo's further methods against PEFT's live layers: outputs, gradients, leaves and starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tensoradapt import zoo
from tensoradapt.algebra.indexing import torch_choice_map
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.positions import positions
from tensoradapt.run.sample import sample
from tensoradapt.structure import Structure
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

from peft.tuners.lora.config import BdLoraConfig  # noqa: E402

TARGET = {"target_modules": ["site"]}
SHAPES = ((24, 16), (16, 24), (7, 13))
EVEN = ((24, 16), (16, 24), (12, 12))


@dataclass(frozen=True)
class Case:
    """A structure, the PEFT configuration that is the same method, and its tensors by our names."""

    structure: Structure
    config: Callable[[], Any]
    keys: Mapping[str, str]
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    factors: Mapping[str, float] = field(default_factory=dict)
    rtol: float = 1e-10
    check_input: bool = True

    def __str__(self) -> str:
        return str(self.structure)

    def tensors(self, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Its tensors by our names; ``factors`` are what ours carry and theirs do not."""
        found = tensors(layer, self.keys)
        return found | {name: found[name] * f for name, f in self.factors.items()}


LORA = {"B": "lora_B", "A": "lora_A"}

RANDLORA = {
    **{"B": "randlora_B", "A": "randlora_A"},
    **{"lambda": "randlora_lambda", "gamma": "randlora_gamma"},
}
PVERA = {"B": "pvera_B", "A": "pvera_A", "b": "pvera_lambda_b", "d": "pvera_lambda_d"}
PSOFT = {
    **{"R": "psoft_R", "beta": "psoft_R.default.vector_b", "alpha": "psoft_R.default.vector_a"},
    **{"B": "_psoft_B_cache", "A": "_psoft_A_cache"},
}
ADALORA = {"B": "lora_B", "E": "lora_E", "A": "lora_A"}

CASES = [
    Case(
        zoo.lora(rank=4, alpha=10, start="gaussian"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="gaussian", **TARGET),
        LORA,
    ),
    Case(
        zoo.lora(rank=4, alpha=10, start="orthogonal"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="orthogonal", **TARGET),
        LORA,
    ),
    Case(
        zoo.lora(rank=4, alpha=10, start="mica"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="mica", **TARGET),
        LORA,
    ),
    Case(
        zoo.kasa(rank=3, alpha=7, truncate_base=False),
        lambda: peft.LoraConfig(r=3, lora_alpha=7, kasa_config=peft.KasaConfig(), **TARGET),
        LORA | {"d": "lora_diag"},
    ),
    Case(
        zoo.adalora(rank=4, alpha=10),
        lambda: peft.AdaLoraConfig(init_r=4, lora_alpha=10, total_step=10, **TARGET),
        ADALORA,
        (*SHAPES, (12, 10, 3, 2)),
    ),
    Case(zoo.pvera(rank=6), lambda: peft.PveraConfig(r=6, **TARGET), PVERA),
    Case(
        zoo.randlora(rank=3, alpha=7),
        lambda: peft.RandLoraConfig(r=3, randlora_alpha=7, **TARGET),
        RANDLORA,
        (*SHAPES, (12, 12)),
    ),
    Case(
        zoo.gralora(rank=4, alpha=10),
        lambda: peft.GraloraConfig(r=4, alpha=10, **TARGET),
        {"B": "gralora_B", "A": "gralora_A"},
        EVEN,
    ),
    Case(
        zoo.gralora(rank=6, alpha=10, gralora_k=3, hybrid_r=2),
        lambda: peft.GraloraConfig(r=6, alpha=10, gralora_k=3, hybrid_r=2, **TARGET),
        {
            **{"B": "gralora_B", "A": "gralora_A"},
            **{"B_general": "gralora_B_general", "A_general": "gralora_A_general"},
        },
        ((24, 15), (12, 18)),
    ),
    *(
        Case(
            zoo.bd_lora(rank=4, alpha=10, nblocks=2, block_diagonal=side),
            lambda side=side: peft.LoraConfig(
                r=4,
                lora_alpha=10,
                use_bdlora=BdLoraConfig(**{f"target_modules_bd_{side}": ["site"]}, nblocks=2),
                **TARGET,
            ),
            LORA,
            EVEN,
        )
        for side in ("a", "b")
    ),
    *(
        Case(
            zoo.miss(rank=r, **({} if kind is True else {"variant": kind, "mini_r": 4})),
            lambda r=r, kind=kind: peft.MissConfig(r=r, init_weights=kind, mini_r=4, **TARGET),
            {"M": "miss_block"},
            shapes,
        )
        for r, kind, shapes in ((5, True, SHAPES), (3, "mini", EVEN), (4, "bat", EVEN))
    ),
    Case(
        zoo.oft(oft_block_size=4),
        lambda: peft.OFTConfig(r=0, oft_block_size=4, **TARGET),
        {"R": "oft_R"},
        EVEN,
    ),
    Case(
        zoo.oft(oft_block_size=4, use_cayley_neumann=False),
        lambda: peft.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, **TARGET),
        {"R": "oft_R"},
        EVEN,
    ),
    *(
        Case(
            zoo.oft(oft_block_size=4, block_share=True, num_cayley_neumann_terms=terms),
            lambda terms=terms: peft.OFTConfig(
                r=0,
                oft_block_size=4,
                block_share=True,
                num_cayley_neumann_terms=terms,
                **TARGET,
            ),
            {"R": "oft_R"},
            EVEN,
        )
        for terms in (2, 3, 4, 7)
    ),
    Case(
        zoo.boft(boft_block_size=4),
        lambda: peft.BOFTConfig(boft_block_size=4, **TARGET),
        {"R": "boft_R", "s": "boft_s"},
        (*EVEN, (12, 10, 2, 2)),
    ),
    Case(
        zoo.hra(rank=4),
        lambda: peft.HRAConfig(r=4, **TARGET),
        {"u": "hra_u"},
        (*SHAPES, (6, 5, 3, 3)),
    ),
    Case(zoo.hra(rank=3), lambda: peft.HRAConfig(r=3, **TARGET), {"u": "hra_u"}),
    Case(
        zoo.hra(rank=3, apply_GS=True),
        lambda: peft.HRAConfig(r=3, apply_GS=True, **TARGET),
        {"u": "hra_u"},
    ),
    *(
        Case(
            zoo.psoft(rank=4, **settings),
            lambda settings=settings: peft.PsoftConfig(r=4, psoft_alpha=10, **settings, **TARGET),
            PSOFT,
            factors={"B": 10 / 4},
        )
        for settings in (
            {},
            {"psoft_orth": False, "psoft_mag_a": False},
            {"use_cayley_neumann": True, "cayley_neumann_eps": 0.9},
        )
    ),
    *(
        Case(
            zoo.road(variant=variant, group_size=4),
            lambda variant=variant: peft.RoadConfig(variant=variant, group_size=4, **TARGET),
            {"theta": "road_theta", "alpha": "road_alpha"},
            EVEN,
        )
        for variant in ("road_1", "road_2", "road_4")
    ),
    Case(
        zoo.fourierft(n_frequency=20),
        lambda: peft.FourierFTConfig(n_frequency=20, **TARGET),
        {"c": "fourierft_spectrum"},
        rtol=1e-5,  # its transform is in float32
    ),
    Case(
        zoo.waveft(n_frequency=40),
        lambda: peft.WaveFTConfig(n_frequency=40, wavelet_family="db1", **TARGET),
        {"c": "waveft_spectrum"},
    ),
    Case(
        zoo.waveft(n_frequency=40, use_idwt=False, start="normal"),
        lambda: peft.WaveFTConfig(
            n_frequency=40, use_idwt=False, wavelet_family="db1", init_weights=False, **TARGET
        ),
        {"c": "waveft_spectrum"},
    ),
    Case(
        zoo.c3a(block_size=4),
        lambda: peft.C3AConfig(block_size=4, **TARGET),
        {"w": "c3a_kernel"},
        EVEN,
        rtol=1e-5,  # its transform is in float32
        check_input=False,
    ),
    Case(
        zoo.ia3(),
        lambda: peft.IA3Config(feedforward_modules=[], **TARGET),
        {"l": "ia3_l"},
        (*SHAPES, (12, 10, 3, 2)),
    ),
    Case(
        zoo.ia3(is_feedforward=True),
        lambda: peft.IA3Config(feedforward_modules=["site"], **TARGET),
        {"l": "ia3_l"},
        (*SHAPES, (12, 10, 3, 2)),
    ),
    Case(
        zoo.delora(rank=4),
        lambda: peft.DeloraConfig(r=4, **TARGET),
        {"B": "delora_B", "A": "delora_A", "lambda": "delora_lambda", "w_norm": "delora_w_norm"},
    ),
]


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """BOFT tries to build a CUDA extension for every layer, and warns where it cannot."""
    from peft.tuners.boft import layer

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: None)


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
@pytest.mark.parametrize(("structure", "config"), REPLACED, ids=str)
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
