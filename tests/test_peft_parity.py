"""The zoo against the live layers of PEFT and LyCORIS: same tensors, same ΔW, same gradients.

A foreign layer is read through its forward alone: ``W' = (f(I) - f(0))ᵀ``, which leaves out the
bias and would show a transpose. Every trained tensor is random, so nothing is 0 = 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest
import torch

from tensoradapt import zoo
from tensoradapt.algebra.walk import parameters
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tensoradapt.structure import Structure
from tensoradapt.zoo.kron import factor_pair

peft = pytest.importorskip("peft", reason="the extra hf is not installed")

SHAPES = [(24, 16), (16, 24), (12, 12), (7, 13)]
LORA = {"B": "lora_B.default.weight", "A": "lora_A.default.weight"}
LOHA = {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}
LOHA_CORES = LOHA | {"T1": "hada_t1", "T2": "hada_t2"}
LOKR = {
    **{"W1": "lokr_w1", "W1_a": "lokr_w1_a", "W1_b": "lokr_w1_b"},
    **{"W2": "lokr_w2", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b", "T2": "lokr_t2"},
}
HIRA = {"B": "hira_B", "A": "hira_A"}
VERA = {"b": "vera_lambda_b", "d": "vera_lambda_d", "B": "vera_B", "A": "vera_A"}
DORA = {f"within.{name}": key for name, key in LORA.items()} | {
    "m": "lora_magnitude_vector.default.weight"
}


def linear(config, shape: tuple[int, int]) -> torch.nn.Module:
    """PEFT's adapted linear layer in float64, with every trained tensor random."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"site": torch.nn.Linear(shape[1], shape[0])}).double()
    layer = peft.get_peft_model(_Model(model), config).base_model.model.parts["site"].double()
    return randomized(layer)


class _Model(torch.nn.Module):
    def __init__(self, parts: torch.nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts["site"](x)


def convolution(config, shape: tuple[int, ...]) -> torch.nn.Module:
    torch.manual_seed(0)
    kinds = {3: torch.nn.Conv1d, 4: torch.nn.Conv2d}
    site = kinds[len(shape)](shape[1], shape[0], shape[2:])
    model = _Model(torch.nn.ModuleDict({"site": site}).double())
    layer = peft.get_peft_model(model, config).base_model.model.parts["site"].double()
    return randomized(layer)


def randomized(layer: torch.nn.Module) -> torch.nn.Module:
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in layer.parameters():
            leaf.copy_(torch.randn(leaf.shape, dtype=leaf.dtype, generator=source))
    return layer.eval()


def tensors(layer: torch.nn.Module, keys: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The layer's own tensors under our names."""
    stored = dict(layer.named_parameters()) | dict(layer.named_buffers())
    found = {}
    for ours, theirs in keys.items():
        for name in (theirs, f"{theirs}.default"):
            if name in stored:
                found[ours] = stored[name]
    return found


def read_weight(layer: torch.nn.Module, inp: int) -> torch.Tensor:
    eye = torch.eye(inp, dtype=torch.float64)
    return (layer(eye) - layer(torch.zeros_like(eye))).T


def base_weight(layer: torch.nn.Module) -> torch.Tensor:
    return layer.get_base_layer().weight.detach()


def assert_parity(structure: Structure, layer, keys, shape, read) -> None:
    """Equal W' and equal gradients of a nonlinear function of it."""
    W, expr = base_weight(layer), structure.on(shape)
    theirs = tensors(layer, keys)
    ours = {name: value.detach().clone().requires_grad_() for name, value in theirs.items()}
    trained = [leaf.name for leaf in parameters(expr)]
    assert set(trained) <= set(ours)
    expected, got = read(layer), W + evaluate(expr, ours, base=W)
    torch.testing.assert_close(
        got, expected, rtol=1e-5, atol=1e-6 * float(expected.detach().abs().max())
    )
    assert (got - W).abs().max() > 1e-2
    wanted = torch.autograd.grad((expected / 9).sin().sum(), [theirs[name] for name in trained])
    given = torch.autograd.grad((got / 9).sin().sum(), [ours[name] for name in trained])
    for name, mine, other in zip(trained, given, wanted, strict=True):
        torch.testing.assert_close(
            mine, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()), msg=f"∂/∂{name}"
        )


def names(cases) -> list[str]:
    return [str(case[0]) for case in cases]


TARGET = {"target_modules": ["site"]}
LINEAR = [
    (zoo.lora(rank=4, alpha=10), lambda: peft.LoraConfig(r=4, lora_alpha=10, **TARGET), LORA),
    (
        zoo.lora(rank=4, alpha=10, use_rslora=True),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, use_rslora=True, **TARGET),
        LORA,
    ),
    (
        zoo.dora(within=zoo.lora(rank=4, alpha=10)),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, use_dora=True, **TARGET),
        DORA,
    ),
    (zoo.loha(rank=3, alpha=7), lambda: peft.LoHaConfig(r=3, alpha=7, **TARGET), LOHA),
    (zoo.hira(rank=4), lambda: peft.HiraConfig(r=4, **TARGET), HIRA),
    (zoo.vera(rank=6), lambda: peft.VeraConfig(r=6, **TARGET), VERA),
    *(
        (
            zoo.lokr(rank=r, alpha=7, decompose_both=both, decompose_factor=factor),
            lambda r=r, both=both, factor=factor: peft.LoKrConfig(
                r=r, alpha=7, decompose_both=both, decompose_factor=factor, **TARGET
            ),
            LOKR,
        )
        for r, both, factor in ((1, False, -1), (1, True, 6), (2, False, 8), (9, False, 4))
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("structure", "config", "keys"), LINEAR, ids=names(LINEAR))
def test_linear_layers_equal_peft(structure, config, keys, shape):
    layer = linear(config(), shape)
    assert_parity(structure, layer, keys, shape, lambda f: read_weight(f, shape[1]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("structure", "config", "keys"), LINEAR, ids=names(LINEAR))
def test_trained_leaves_and_starts_equal_peft(structure, config, keys, shape):
    """The same tensors train, of the same sizes, and the same ones start at zero."""
    torch.manual_seed(0)
    model = _Model(torch.nn.ModuleDict({"site": torch.nn.Linear(shape[1], shape[0])}).double())
    layer = peft.get_peft_model(model, config()).base_model.model.parts["site"].double()
    theirs, expr, W = tensors(layer, keys), structure.on(shape), base_weight(layer)
    first = sample(expr, base=W, like=W)
    trained = {name for name, value in theirs.items() if value.requires_grad}
    assert trained == {leaf.name for leaf in parameters(expr)}
    for name in trained:
        assert theirs[name].shape == first[name].shape, name
        assert bool(theirs[name].any()) == bool(first[name].any()), name
    for name in theirs:
        theirs_largest, ours_largest = (a[name].detach().abs().max() for a in (theirs, first))
        if theirs[name].numel() > 20 and theirs_largest:
            assert 0.7 < float(ours_largest / theirs_largest) < 1.4, name


CONVOLUTION = [
    (zoo.lora(rank=4, alpha=10), lambda: peft.LoraConfig(r=4, lora_alpha=10, **TARGET), LORA),
    (
        zoo.dora(within=zoo.lora(rank=4, alpha=10)),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, use_dora=True, **TARGET),
        DORA,
    ),
    (zoo.loha(rank=3, alpha=7), lambda: peft.LoHaConfig(r=3, alpha=7, **TARGET), LOHA),
    (
        zoo.loha(rank=3, alpha=7, use_effective_conv2d=True),
        lambda: peft.LoHaConfig(r=3, alpha=7, use_effective_conv2d=True, **TARGET),
        LOHA_CORES,
    ),
    (zoo.hira(rank=4), lambda: peft.HiraConfig(r=4, **TARGET), HIRA),
    (zoo.lokr(rank=1, alpha=7), lambda: peft.LoKrConfig(r=1, alpha=7, **TARGET), LOKR),
    (zoo.lokr(rank=9, alpha=7), lambda: peft.LoKrConfig(r=9, alpha=7, **TARGET), LOKR),
    (
        zoo.lokr(rank=1, alpha=7, use_effective_conv2d=True),
        lambda: peft.LoKrConfig(r=1, alpha=7, use_effective_conv2d=True, **TARGET),
        LOKR,
    ),
]


@pytest.mark.parametrize("shape", [(12, 10, 3, 2), (10, 12, 1, 1), (12, 10, 3)], ids=str)
@pytest.mark.parametrize(("structure", "config", "keys"), CONVOLUTION, ids=names(CONVOLUTION))
def test_convolutions_equal_peft(structure, config, keys, shape):
    if len(shape) == 3 and "lokr" in str(structure) and "use_effective_conv2d" in str(structure):
        pytest.skip("PEFT 0.21 raises here: torch.kron refuses its core's strides")
    got, expected = through_convolution(structure, config, keys, shape)
    if len(shape) == 3 and "lokr(rank=9" in str(structure):
        # PEFT 0.21 takes the Kronecker product of (a, c) with (b, d, k) along the wrong axes.
        assert (got - expected).abs().max() > 0.1
    else:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def through_convolution(structure, config, keys, shape) -> tuple[torch.Tensor, torch.Tensor]:
    """What our W' and PEFT's layer make of one input, without the bias."""
    layer = convolution(config(), shape)
    expr, W = structure.on(shape), base_weight(layer)
    values = {
        name: value.detach().reshape(leaf.shape)
        for name, value in tensors(layer, keys).items()
        for leaf in parameters(expr)
        if leaf.name == name
    }
    torch.manual_seed(2)
    x = torch.randn(2, shape[1], *(5 for _ in shape[2:]), dtype=torch.float64)
    convolve = {3: torch.nn.functional.conv1d, 4: torch.nn.functional.conv2d}[len(shape)]
    return convolve(x, W + evaluate(expr, values, base=W)), layer(x) - layer(0 * x)


# --- LyCORIS ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lycoris():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lycoris", reason="the extra dev is not installed")


def lycoris_module(kind, shape, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    site = torch.nn.Linear(shape[1], shape[0]).double()
    module = randomized(kind("site", site, multiplier=1.0, **settings).double())
    module.site = site
    module.get_base_layer = lambda: site
    module.apply_to()
    return module


def lycoris_weight(module: torch.nn.Module, inp: int) -> torch.Tensor:
    eye = torch.eye(inp, dtype=torch.float64)
    return (module.forward(eye) - module.forward(torch.zeros_like(eye))).T


LYCORIS = [
    (
        zoo.lora(rank=4, alpha=10),
        "LoConModule",
        {"lora_dim": 4, "alpha": 10},
        {"B": "lora_up.weight", "A": "lora_down.weight"},
    ),
    (zoo.loha(rank=3, alpha=7), "LohaModule", {"lora_dim": 3, "alpha": 7}, LOHA),
    *(
        (
            zoo.lokr(rank=r, alpha=7, convention="lycoris", **ours),
            "LokrModule",
            {"lora_dim": r, "alpha": 7, **theirs},
            LOKR,
        )
        for r, ours, theirs in (
            (1, {}, {}),
            (9, {}, {}),
            (1, {"full_matrix": True}, {"full_matrix": True}),
            (1, {"unbalanced_factorization": True}, {"unbalanced_factorization": True}),
            (
                1,
                {"decompose_both": True, "decompose_factor": 8},
                {"decompose_both": True, "factor": 8},
            ),
        )
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("structure", "kind", "settings", "keys"), LYCORIS, ids=names(LYCORIS))
def test_linear_layers_equal_lycoris(lycoris, structure, kind, settings, keys, shape):
    module = lycoris_module(getattr(lycoris, kind), shape, **settings)
    assert_parity(structure, module, keys, shape, lambda f: lycoris_weight(f, shape[1]))


def test_dora_with_a_trained_norm_equals_lycoris(lycoris):
    shape = (24, 16)
    module = lycoris_module(lycoris.LoConModule, shape, lora_dim=3, alpha=7, weight_decompose=True)
    keys = {"within.B": "lora_up.weight", "within.A": "lora_down.weight"}
    theirs = tensors(module, keys | {"m": "dora_scale"})
    W = base_weight(module)
    expr = zoo.dora(within=zoo.lora(rank=3, alpha=7), detach_norm=False).on(shape)
    leaves = {leaf.name: theirs[leaf.name] for leaf in parameters(expr)}
    ours = {n: v.detach().reshape(-1) if n == "m" else v.detach() for n, v in leaves.items()}
    ours = {name: value.clone().requires_grad_() for name, value in ours.items()}
    expected = lycoris_weight(module, shape[1])
    got = W + evaluate(expr, ours, base=W)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected.sin().sum(), list(leaves.values()))
    given = torch.autograd.grad(got.sin().sum(), list(ours.values()))
    for mine, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(mine, other.reshape(mine.shape), rtol=1e-5, atol=1e-5)


def test_the_factor_pairs_equal_the_live_ones(lycoris):
    from lycoris.functional.general import factorization as lycoris_pair
    from peft.tuners.lokr.layer import factorization as peft_pair

    for size in range(1, 400):
        for factor in (-1, 1, 2, 3, 4, 6, 8, 16, 60):
            assert factor_pair(size, factor, "peft") == peft_pair(size, factor)
            assert factor_pair(size, factor, "lycoris") == lycoris_pair(size, factor)
