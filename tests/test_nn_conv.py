"""Convolutions: any stride, padding, dilation, groups and padding mode, and every structure."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.algebra.builders import einsum, reshape
from tensoradapt.algebra.leaves import parameter
from tensoradapt.algebra.starts import normal
from tensoradapt.errors import TargetError, UnsupportedError
from tensoradapt.nn import convolution
from tensoradapt.planning.chain import chain
from tensoradapt.structure import method
from tests import nn_models
from tests.kind_laws import (
    assert_comes_and_goes,
    assert_compiles,
    assert_law,
    assert_merges,
    assert_round_trip,
    judged,
)
from tests.nn_models import STRUCTURES, difference, inputs, shuffle

LORA = zoo.lora(rank=3, alpha=5.0)

CONVOLUTIONS = [
    (nn.Conv1d, (6, 8, 3), {"stride": 2, "padding": 2}),
    (nn.Conv1d, (6, 9, 2), {"padding": "same", "dilation": 3, "groups": 3}),
    (nn.Conv1d, (4, 6, 3), {"padding": "valid", "bias": False}),
    (nn.Conv1d, (4, 6, 4), {"padding": 3, "padding_mode": "circular"}),
    (nn.Conv2d, (4, 6, 3), {"stride": (2, 1), "padding": (0, 1), "groups": 2}),
    (nn.Conv2d, (4, 6, (1, 3)), {"padding": "same", "dilation": 2, "padding_mode": "reflect"}),
    (nn.Conv2d, (4, 8, 3), {"groups": 4, "padding": 1, "padding_mode": "replicate"}),
    (nn.Conv2d, (4, 4, 2), {"groups": 4, "stride": 2, "bias": False}),
    (nn.Conv3d, (4, 6, (2, 3, 1)), {"padding": 1, "stride": 2, "groups": 2}),
    (nn.Conv3d, (2, 6, 2), {"padding": (1, 0, 1), "padding_mode": "circular", "dilation": 2}),
]
STRIDED = CONVOLUTIONS[4]

KERNELS = [
    zoo.lora(rank=2, alpha=5.0, use_effective_conv2d=True),
    zoo.loha(rank=2, alpha=3.0, use_effective_conv2d=True),
    zoo.lokr(rank=1, alpha=3.0, decompose_factor=2),
    zoo.tucker(rank=2, alpha=3.0),
]


def plain(convolution=STRIDED, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    kind, sizes, options = convolution
    return nn.Sequential(kind(*sizes, **options), nn.Tanh()).to(dtype)


def image(convolution=STRIDED, batch=3, dtype=torch.float32):
    kind, sizes, _ = convolution
    spatial = {nn.Conv1d: (11,), nn.Conv2d: (9, 8), nn.Conv3d: (6, 7, 5)}[kind]
    return inputs(batch, sizes[0], *spatial, dtype=dtype)


def adapted(structure=LORA, convolution=STRIDED, dtype=torch.float32, **options):
    options = {"strength": 0.7, **options}
    return shuffle(tnn.adapt(plain(convolution, dtype=dtype), structure, where="0", **options))


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_every_convolution_is_by_definition(convolution):
    assert_law(adapted(LORA, convolution), plain(convolution), image(convolution))
    assert_merges(adapted(LORA, convolution), image(convolution))


every = pytest.mark.parametrize(
    "structure", [*STRUCTURES, *KERNELS, nn_models.difference_to_start()], ids=str
)


@method(paper="a test", scope="group")
def shared_kernels(weights, *, rank=2):
    """ΔW_k = B diag(g_k) A, with B and A stored once for all."""
    out, inp = weights[0].matrix
    left = parameter("B", out, rank, start=normal(), scope="group")
    right = parameter("A", rank, inp, start=normal(), scope="group")
    gates = [parameter(f"gate{k}", rank) for k, _ in enumerate(weights)]
    products = [einsum("o r, r, r i -> o i", left, gate, right) for gate in gates]
    return [reshape(p, *w.shape) for p, w in zip(products, weights, strict=True)]


@every
def test_every_structure_is_by_definition(structure):
    model = adapted(structure)
    assert tnn.delta_weight(model[0]).shape == model[0].weight.shape == (6, 2, 3, 3)
    assert_law(model, plain(), image())
    assert_merges(model, image())


@every
def test_comes_and_goes(structure, tmp_path):
    assert_round_trip(adapted(structure), plain(), image(), tmp_path)
    assert_comes_and_goes(adapted(structure), plain(), image())


def test_gradients_of_every_order():
    model, x = adapted(zoo.loha(rank=1), dtype=torch.float64), image(dtype=torch.float64)
    leaves = tuple(p for p in tnn.parameters(model))
    names = [name for name, p in model.named_parameters() if p.requires_grad]

    def run(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    given = (x[:1, :, :4, :3].requires_grad_(), *leaves)
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


@pytest.mark.parametrize("structure", [nn_models.biased(), nn_models.bias_only()], ids=str)
def test_bias_updates(structure):
    model = adapted(structure)
    assert_law(model, plain(), image())
    assert_merges(model, image())
    model[0].base_layer.register_forward_hook(lambda *_: None)
    assert_law(model, plain(), image())
    bare = adapted(nn_models.biased(), CONVOLUTIONS[2])
    assert bare[0].adapters["default"].update.bias is None
    assert_law(bare, plain(CONVOLUTIONS[2]), image(CONVOLUTIONS[2]))


def test_several_adapters_are_each_relative_to_the_original():
    model = adapted(zoo.hira(rank=2))
    tnn.adapt(model, zoo.dora(within=zoo.lora(rank=2)), where="0", name="second", strength=0.4)
    shuffle(model, 4, "second")
    assert difference(model(image()), judged(model, plain(), image().double())) < 1e-5
    assert_merges(model, image())


def test_the_sum_and_the_branch_agree():
    """A hook on the original makes it run by itself, with ΔW in a convolution beside it."""
    model, seen = adapted(), []
    y = model(image())
    model[0].base_layer.register_forward_hook(lambda *_: seen.append(1))
    assert difference(model(image()), y) < 1e-5
    assert seen
    assert_law(model, plain(), image())


def test_dropout_drops_inputs_of_the_branch_alone():
    model, x = adapted(dropout=0.5), image()
    torch.manual_seed(5)
    y = model.train()(x)
    torch.manual_seed(5)
    dropped = dropout(x, 0.5)
    base = model[0].base_layer
    change = tnn.delta_weight(model[0])
    branch = nn.functional.conv2d(dropped, change, None, base.stride, base.padding, groups=2)
    assert difference(y, torch.tanh(base(x) + branch)) < 1e-6
    assert_law(model.eval(), plain(), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types(dtype):
    model, x = adapted(dtype=dtype), image(dtype=dtype)
    y = model(x)
    assert y.dtype == dtype
    assert {p.dtype for p in tnn.parameters(model)} == {
        torch.float64 if dtype == torch.float64 else torch.float32
    }
    wanted = judged(model, plain(dtype=dtype), x.double())
    assert difference(y, wanted) < 20 * torch.finfo(dtype).eps


def test_a_small_update_of_a_half_base_is_not_lost():
    """W0 + ΔW would be rounded to W0; the branch keeps ΔW in float32."""
    model = adapted(dtype=torch.bfloat16, strength=1.0)
    with torch.no_grad():
        model[0].base_layer.weight.fill_(1.0)
        for leaf in tnn.parameters(model):
            leaf.mul_(0.01)
    change = tnn.delta_weight(model[0])
    assert torch.equal((model[0].weight + change).to(torch.bfloat16), model[0].weight)
    layer, x = model[0], image(dtype=torch.bfloat16)
    branch = layer.kind.branch(layer, "default", x, None)
    wanted = nn.functional.conv2d(x.float(), change, None, (2, 1), (0, 1), groups=2)
    assert difference(branch, wanted) < 1e-5


def test_autocast():
    model, x = adapted(), image()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model[0](x)
        assert y.dtype == model[0].base_layer(x).dtype == torch.bfloat16
    assert difference(y, model[0](x)) < 0.03


@pytest.mark.parametrize("structure", [LORA, zoo.hira(rank=2), nn_models.bias_only()], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_compile_without_a_graph_break(structure):
    assert_compiles(adapted(structure), image())
    half = adapted(structure, dtype=torch.bfloat16, dropout=0.1)
    compiled = torch.compile(half.eval(), fullgraph=True, backend="aot_eager")
    x = image(dtype=torch.bfloat16)
    assert difference(compiled(x), half(x)) < 0.05


def test_copies():
    model, x = adapted(shared_kernels()), image()
    y = model(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), y)
        shuffle(copied, 8)
        assert not torch.equal(copied(x), y)
    assert torch.equal(model(x), y)


CHAINED = [
    zoo.lora(rank=1, alpha=5.0),
    zoo.lora(rank=2, alpha=5.0, use_effective_conv2d=True),
    zoo.lora_xs(rank=1),
    zoo.sine_lora(rank=1),
]
WIDE = [
    (nn.Conv1d, (24, 32, 3), {"stride": 2, "padding": 2}),
    (nn.Conv2d, (24, 32, 3), {"padding": 1, "padding_mode": "reflect", "dilation": 2}),
    (nn.Conv2d, (24, 32, 3), {"padding": "same", "bias": False}),
    (nn.Conv3d, (24, 32, (1, 3, 2)), {"padding": 1, "padding_mode": "circular"}),
]


def calls_in(model, x, monkeypatch):
    """The shapes of the weights that a call convolves with by our hand."""
    seen, run = [], convolution.convolve

    def record(module, x, weight, bias):
        seen.append(weight.shape)
        return run(module, x, weight, bias)

    monkeypatch.setattr(convolution, "convolve", record)
    model(x)
    monkeypatch.setattr(convolution, "convolve", run)
    return seen


@pytest.mark.parametrize("wide", WIDE, ids=str)
def test_a_chain_of_small_convolutions(wide, monkeypatch, tmp_path):
    kernel = plain(wide)[0].kernel_size
    structure = zoo.lora(rank=1, alpha=5.0)
    model, x = adapted(structure, wide), image(wide)
    assert calls_in(model, x, monkeypatch) == [(1, 24, *kernel)]
    assert tnn.report(model).sites[0].program == "two small convolutions"
    assert_law(model, plain(wide), x)
    assert_merges(model, x)
    assert difference(model(x[1]), model(x)[1]) < 1e-4
    with torch.no_grad():
        assert calls_in(model, x, monkeypatch) == [(32, 24, *kernel)]
        exact, x64 = adapted(structure, wide, torch.float64), x.double()
        wanted = judged(exact, plain(wide, dtype=torch.float64), x64)
        assert difference(exact(x64), wanted) < 1e-12
    assert_round_trip(model, plain(wide), x, tmp_path)


@pytest.mark.parametrize("structure", CHAINED, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_structures_that_are_chains(structure, monkeypatch):
    wide = WIDE[1]
    model, x = adapted(structure, wide), image(wide)
    is_chain = structure.method is not zoo.sine_lora
    assert (calls_in(model, x, monkeypatch) != [(32, 24, 3, 3)]) is is_chain
    assert_law(model, plain(wide), x)
    assert_compiles(model, x)
    half = adapted(structure, wide, torch.bfloat16)
    x = image(wide, dtype=torch.bfloat16)
    wanted = judged(half, plain(wide, dtype=torch.bfloat16), x.double())
    assert difference(half(x), wanted) < 20 * torch.finfo(torch.bfloat16).eps
    copied = pickle.loads(pickle.dumps(half))
    assert torch.equal(copied(x), half(x))


def test_what_is_no_chain_and_when_it_does_not_pay(monkeypatch):
    grouped = (nn.Conv2d, (24, 32, 3), {"groups": 2})
    for structure, wide in ((zoo.lora(rank=1), grouped), (zoo.lora(rank=16), WIDE[1]),
                            (zoo.hira(rank=1), WIDE[1]), (zoo.loha(rank=1), WIDE[1]),
                            (nn_models.biased(rank=1), WIDE[1])):  # fmt: skip
        model = adapted(structure, wide)
        assert calls_in(model, image(wide), monkeypatch) == [model[0].weight.shape]
        assert_law(model, plain(wide), image(wide))
    for update, reason in (
        (zoo.loha(rank=1).on((4, 3, 2)), "several factors carry out"),
        (zoo.circulant().on((4, 4)), "several factors carry out|out and in lie on one factor"),
        ((zoo.lora(rank=1) + zoo.loha(rank=1)).on((4, 4)), "a sum of 2 products"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            chain(update)


def test_one_image_no_image_and_other_layouts():
    model, x = adapted(), image()
    y = model(x)
    assert difference(model(x[1]), y[1]) < 1e-6
    assert model(x[:0]).shape == (0, *y.shape[1:])
    assert difference(model(x.to(memory_format=torch.channels_last)), y) < 1e-6
    assert difference(model(x.mT.contiguous().mT), y) < 1e-6


def test_a_group_of_convolutions_shares_its_leaves():
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1))  # noqa: E731
    original = make()
    model = shuffle(tnn.adapt(copy.deepcopy(original), shared_kernels(), where=nn.Conv2d))
    x = image()
    assert difference(model(x), judged(model, original, x.double())) < 1e-5
    assert sum(p.numel() for p in tnn.parameters(model)) == 2 * (4 + 36) + 2 * 2


def test_the_report_names_what_runs():
    site = tnn.report(adapted()).sites[0]
    assert site.shape == (6, 2, 3, 3)
    assert site.program == "ΔW formed, one convolution"
    assert (site.trained, site.rank_bound) == (3 * (6 + 18), 3)
    assert "weight 6×2×3×3, mode materialize" in site.plan


def test_the_adapted_module_has_the_face_of_the_original():
    layer = adapted()[0]
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (4, 6, (3, 3))
    assert (layer.stride, layer.padding, layer.groups, layer.padding_mode) == (
        (2, 1), (0, 1), 2, "zeros",
    )  # fmt: skip


def test_what_is_refused():
    transposed = nn.Sequential(nn.ConvTranspose2d(3, 3, 2))
    with pytest.raises(TargetError, match="'0' is a ConvTranspose2d"):
        tnn.adapt(transposed, LORA, where="0")
    with pytest.raises(TargetError, match="lazy layer whose weight has no shape yet"):
        tnn.adapt(nn.Sequential(nn.LazyConv2d(3, 2)), LORA, where="0")
    tied = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Conv2d(3, 3, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(TargetError, match=r"Its weight is tied to 1\.weight"):
        tnn.adapt(tied, LORA, where="0")


def test_a_convolution_with_a_forward_of_its_own_is_adapted_but_not_merged():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    torch.manual_seed(0)
    original = nn.Sequential(Standardized(4, 6, 3))
    model = shuffle(tnn.adapt(copy.deepcopy(original), LORA, where="0"))
    branch = nn.functional.conv2d(image(), tnn.delta_weight(model[0]))
    assert difference(model(image()), original(image()) + branch) < 1e-5
    with pytest.raises(UnsupportedError, match="Standardized has a forward of its own"):
        tnn.merge(model)


# --- PEFT ---------------------------------------------------------------------------------

REFERENCES = [
    ("LoraConfig", {}, zoo.lora, {}, {"B": "lora_B", "A": "lora_A"}),
    ("LoHaConfig", {"use_effective_conv2d": True}, zoo.loha, {"use_effective_conv2d": True},
     {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b",
      "T1": "hada_t1", "T2": "hada_t2"}),
    ("LoHaConfig", {}, zoo.loha, {},
     {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}),
    ("LoKrConfig", {"decompose_factor": 2}, zoo.lokr, {"decompose_factor": 2},
     {"W1": "lokr_w1", "W2": "lokr_w2", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b"}),
]  # fmt: skip


WRONG_IN_PEFT = ("B1", "B2")
"""PEFT 0.21.2 contracts the gradient of each w_a of a LoHa with cores with the other product's
core and w_b (``HadaWeightCP.backward``); ours is held to the definition above."""


def beside_peft(reference, padding_mode="zeros"):
    """Ours and PEFT's layer with the same random values, and the pairs of equal tensors."""
    peft = pytest.importorskip("peft", reason="the extra hf is not installed")
    config, more, method, settings, keys = reference
    chosen = {"alpha" if config != "LoraConfig" else "lora_alpha": 5.0, "r": 2, **more}
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode=padding_mode))
    original = original.double()
    config = getattr(peft, config)(target_modules=["0"], **chosen)
    theirs = peft.get_peft_model(copy.deepcopy(original), config).double()
    ours = tnn.adapt(original, method(rank=2, alpha=5.0, **settings), where="0")
    shuffle(ours)
    stored = dict(theirs.base_model.model[0].named_parameters())
    pairs = []
    for leaf, value in ours[0].leaf_tensors("default").items():
        key = next(k for k in stored if k.startswith(f"{keys[leaf]}.default"))
        with torch.no_grad():
            stored[key].copy_(value.reshape(stored[key].shape))
        pairs.append((leaf, value, stored[key]))
    return ours, theirs, pairs


references = pytest.mark.parametrize(
    "reference", REFERENCES, ids=lambda row: f"{row[0]}-{len(row[1])}"
)


@references
def test_as_in_peft(reference):
    ours, theirs, pairs = beside_peft(reference)
    a = image(dtype=torch.float64).requires_grad_()
    b = image(dtype=torch.float64).requires_grad_()
    y, wanted = ours(a), theirs(b)
    assert difference(y, wanted) < 1e-10
    y.sin().sum().backward()
    wanted.sin().sum().backward()
    assert difference(a.grad, b.grad) < 1e-10
    for leaf, own, other in pairs:
        if leaf in WRONG_IN_PEFT and "T1" in ours[0].leaf_tensors("default"):
            assert difference(own.grad.reshape(other.grad.shape), other.grad) > 0.1
        else:
            assert difference(own.grad.reshape(other.grad.shape), other.grad) < 1e-10


@references
def test_padding_modes_are_those_of_a_merged_layer_in_peft(reference):
    """PEFT pads its branch with zeros whatever the mode, so that its merge changes the border."""
    ours, theirs, _ = beside_peft(reference, "reflect")
    x = image(dtype=torch.float64)
    live, merged = theirs(x), theirs.merge_and_unload()(x)
    assert difference(live[..., 1:-1, 1:-1], merged[..., 1:-1, 1:-1]) < 1e-10
    assert difference(live, merged) > 1e-2
    assert difference(ours(x), merged) < 1e-10
