"""The zoo's further methods against LyCORIS' live modules: outputs and gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tensoradapt import zoo
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tests.foreign import assert_agree, assert_close, plain, randomized, tensors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lycoris = pytest.importorskip("lycoris", reason="the extra dev is not installed")

SHAPES = [(24, 16), (16, 24), (7, 13)]
CONV = (12, 10, 3, 2)


def module_of(kind: str, shape: tuple[int, ...], **settings: Any) -> torch.nn.Module:
    """A LyCORIS module in float64 (rotations: float32) with every trained tensor random."""
    from importlib import import_module

    place, name = kind.rsplit(".", 1)
    dtype = torch.float32 if "oft" in kind else torch.float64
    site = plain(shape, dtype=dtype)
    made = getattr(import_module(f"lycoris.modules.{place}"), name)
    module = made("site", site, multiplier=1.0, **settings).to(dtype)
    module.get_base_layer = lambda: site
    module = randomized(module)
    module.apply_to()
    return module


TUCKER = {"B": "lora_up.weight", "T": "lora_mid.weight", "A": "lora_down.weight"}
TLORA = {
    **{"P": "p_layer.weight", "Q": "q_layer.weight", "lambda": "lambda_layer"},
    **{"P@start": "base_p", "Q@start": "base_q", "lambda@start": "base_lambda"},
}

OFT = {"R": "oft_blocks", "s": "rescale"}

CASES = [
    *(
        (
            zoo.oft(
                oft_block_size=b,
                side="output",
                stored="square",
                use_cayley_neumann=False,
                rescaled=rescaled,
                constraint=constraint and constraint * shape[0],
            ),
            (
                "diag_oft.DiagOFTModule",
                {"lora_dim": b, "rescaled": rescaled, "constraint": constraint or 0},
            ),
            OFT,
            [shape],
        )
        for b, rescaled, constraint, shape in (
            (4, False, None, (24, 16)),
            (4, True, 0.1, (16, 24)),
            (3, True, None, CONV),
        )
    ),
    *(
        (
            zoo.boft(
                boft_block_size=4,
                boft_n_butterfly_factor=3,
                convention="lycoris",
                rescaled=rescaled,
                constraint=constraint and constraint * shape[0],
            ),
            (
                "boft.ButterflyOFTModule",
                {"lora_dim": 4, "rescaled": rescaled, "constraint": constraint or 0},
            ),
            OFT,
            [shape],
        )
        for rescaled, constraint, shape in (
            (False, None, (16, 24)),
            (True, 0.1, (16, 7)),
            (True, None, (16, 5, 3, 3)),
        )
    ),
    (
        zoo.lora(rank=4, alpha=10, use_effective_conv2d=True),
        ("locon.LoConModule", {"lora_dim": 4, "alpha": 10, "use_tucker": True}),
        TUCKER,
        [CONV],
    ),
    *(
        (
            zoo.glora_lycoris(rank=4, alpha=10, use_rslora=rs),
            ("glora.GLoRAModule", {"lora_dim": 4, "alpha": 10, "rs_lora": rs}),
            {f"{n}{k}".upper(): f"{n}{k}.weight" for n in "ab" for k in (1, 2)},
            shapes,
        )
        for rs, shapes in ((False, [*SHAPES, (12, 10, 1, 1)]), (True, [(24, 16)]))
    ),
    *(
        (
            zoo.dora(within=zoo.lora(rank=4, alpha=10), detach_norm=False, wd_on_out=False),
            (
                "locon.LoConModule",
                {"lora_dim": 4, "alpha": 10, "weight_decompose": True, "wd_on_out": False},
            ),
            {"within.B": "lora_up.weight", "within.A": "lora_down.weight", "m": "dora_scale"},
            [shape],
        )
        for shape in (*SHAPES, CONV)
    ),
    (zoo.ia3(parametrization="offset"), ("ia3.IA3Module", {}), {"l": "weight"}, [*SHAPES, CONV]),
    (
        zoo.ia3(parametrization="offset", is_feedforward=True),
        ("ia3.IA3Module", {"train_on_input": True}),
        {"l": "weight"},
        [*SHAPES, CONV],
    ),
]


@pytest.mark.parametrize(
    ("structure", "kind", "keys", "shape"),
    [(*case[:3], shape) for case in CASES for shape in case[3]],
    ids=lambda value: str(value) if isinstance(value, tuple) else type(value).__name__,
)
def test_outputs_and_gradients_equal_lycoris(structure, kind, keys, shape):
    module = module_of(kind[0], shape, **kind[1])
    update = structure.update(shape)
    site = module.get_base_layer()
    if update.bias is not None:
        # LyCORIS scales the weight only: what the bias gains here is taken out again.
        site.bias.data.zero_()
    assert_agree(structure, module, tensors(module, keys), rtol=1e-4 if "oft" in kind[0] else 1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tlora_equals_lycoris_under_a_mask(shape):
    from lycoris.modules.tlora import clear_timestep_mask, set_timestep_mask

    module = module_of("tlora.TLoraModule", shape, lora_dim=4, alpha=10)
    mask = torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    theirs = tensors(module, TLORA) | {"mask": mask}
    set_timestep_mask(mask)
    try:
        assert_agree(zoo.tlora(rank=4, alpha=10), module, theirs)
    finally:
        clear_timestep_mask()


@pytest.mark.parametrize("sig_type", ["principal", "last", "middle"])
def test_tlora_starts_at_the_same_singular_triplets(sig_type):
    shape = (16, 24)
    module = module_of("tlora.TLoraModule", shape, lora_dim=5, sig_type=sig_type)
    W = module.get_base_layer().weight.detach()
    first = sample(zoo.tlora(rank=5, sig_type=sig_type).on(shape), base=W, like=W)
    theirs = tensors(module, TLORA)
    for name in ("P", "lambda", "Q"):
        other = theirs[f"{name}@start"].reshape_as(first[name])
        assert_close(first[name].abs(), other.abs(), 1e-3, name)  # theirs is in float32


def test_dylora_equals_lycoris_one_block_of_ranks_at_a_time():
    shape, rank, block = (24, 16), 6, 2
    module = module_of("dylora.DyLoraModule", shape, lora_dim=rank, block_size=block, alpha=10)
    ups, downs = list(module.up_list), list(module.down_list)
    B = torch.cat([up.detach() for up in ups], dim=1).requires_grad_()
    A = torch.cat([down.detach() for down in downs]).requires_grad_()
    expr = zoo.dylora(rank=rank, alpha=10, frozen_below=True).on(shape)
    for b in range(rank // block):
        # LyCORIS divides α by the number of blocks in use; the mask carries that factor.
        kept = torch.zeros(rank, dtype=torch.float64)
        kept[: (b + 1) * block] = rank / (b + 1)
        trained = kept.clone()
        trained[: b * block] = 0
        got = evaluate(expr, {"B": B, "A": A, "mask": kept, "trained": trained})
        expected = module.get_diff_weight(rank=b * block)[0]
        assert_close(got, expected, 1e-6, "ΔW")  # its scale is a float32
        mine = torch.autograd.grad(got.sin().sum(), [B, A])
        theirs = torch.autograd.grad(expected.sin().sum(), [ups[b], downs[b]])
        here = slice(b * block, (b + 1) * block)
        assert_close(mine[0][:, here], theirs[0], 1e-6, "∂B")
        assert_close(mine[1][here], theirs[1], 1e-6, "∂A")
        assert not mine[0][:, : b * block].any() and not mine[1][: b * block].any()


@pytest.mark.parametrize(
    ("structure", "kind", "keys"),
    [
        (
            zoo.loha(rank=2, alpha=7),
            "loha.LohaModule",
            {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"},
        ),
        (
            zoo.lokr(rank=2, alpha=7, convention="lycoris"),
            "lokr.LokrModule",
            {"W1": "lokr_w1", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b"},
        ),
    ],
    ids=str,
)
def test_lycoris_merges_with_its_scale_twice(structure, kind, keys):
    """Its forward has α/r once, which is ours; what it merges has it squared."""
    shape, s = (24, 36), 7 / 2
    module = module_of(kind, shape, lora_dim=2, alpha=7)
    theirs = tensors(module, keys)
    assert_agree(structure, module, theirs)
    expr = structure.on(shape)
    ours = evaluate(expr, {name: value.detach() for name, value in theirs.items()})
    merged = module.get_diff_weight()[0].detach()
    assert_close(merged, s * ours, 1e-6, "the merge")
