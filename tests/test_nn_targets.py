"""Targets: patterns, lists, classes and predicates, and the three errors of a wrong one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import TargetError
from tests.nn_models import Model, difference, inputs, judge, make, shuffle

Q = ["blocks.0.q_proj", "blocks.1.q_proj"]
V = ["blocks.0.v_proj", "blocks.1.v_proj"]
ALL = sorted([*Q, *V, "classifier"])


def paths(model=None, **options):
    adapted = tnn.adapt(model or make(), zoo.lora(rank=1), **options)
    return sorted(path for path, _ in tnn.sites(adapted))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("q_proj", Q),
        ("0.q_proj", Q[:1]),
        ("blocks.1.q_proj", Q[1:]),
        ("*.q_proj", Q),
        ("*.q_proj | *.v_proj", sorted(Q + V)),
        (["q_proj", "classifier"], sorted([*Q, "classifier"])),
        (["q_proj | v_proj"], sorted(Q + V)),
        ("*", ALL),
        ("blocks.[0]*", [Q[0], V[0]]),
        (nn.Linear, ALL),
        ((nn.Linear, "q_proj"), ALL),
        (lambda path, module: path.startswith("blocks.1"), [Q[1], V[1]]),
    ],
)
def test_what_a_target_names(where, found):
    assert paths(where=where) == found


@pytest.mark.parametrize(
    ("exclude", "found"),
    [
        ("v_proj", sorted([*Q, "classifier"])),
        (["*.1.*", "classifier"], [Q[0], V[0]]),
        (lambda path, module: module.out_features == 3, sorted(Q + V)),
    ],
)
def test_exclude(exclude, found):
    assert paths(where=nn.Linear, exclude=exclude) == found


def test_nothing_matched_lists_near_names():
    with pytest.raises(TargetError, match=r"adapt\(where='q_porj'\)(.|\n)*nearest: q_proj"):
        paths(where="q_porj")
    with pytest.raises(TargetError, match=r"No module below this one matches(.|\n)*q_proj"):
        paths(where="*.q_porj")
    with pytest.raises(TargetError, match="No module below this one matches"):
        paths(where=nn.Conv2d)
    with pytest.raises(TargetError, match=r"goes into nn.Sequential\(layer\)"):
        paths(nn.Linear(3, 3), where=nn.Linear)


def test_matched_but_unsupported_names_the_kind():
    with pytest.raises(TargetError, match=r"what cannot be adapted: 'blocks.0.norm' is a Layer"):
        paths(where="norm")
    with pytest.raises(TargetError, match=r"be adapted: 'blocks.0.norm' is a LayerNorm"):
        paths(where=nn.LayerNorm)
    with pytest.raises(TargetError, match="lazy layer whose weight has no shape yet"):
        paths(nn.Sequential(nn.LazyLinear(3)), where="0")
    mixed = nn.ModuleDict(
        {"a": nn.ModuleDict({"x": nn.Linear(2, 2)}), "x": nn.ConvTranspose1d(2, 2, 1)}
    )
    with pytest.raises(TargetError, match="'x' is a ConvTranspose1d"):
        paths(mixed, where="x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": "q_proj | k_porj"}, r"pattern 'k_porj' of where(.|\n)*others matched 2 modules"),
        ({"where": ["q_proj", "v_porj"]}, r"'v_porj'(.|\n)*matched nothing(.|\n)*nearest: v_proj"),
        ({"where": "q_proj", "exclude": "v_proj"}, "pattern 'v_proj' of exclude"),
        ({"where": "q_proj", "settings": {"v_proj": {"rank": 2}}}, "'v_proj' of settings"),
        ({"where": "q_proj", "also_train": "head"}, "pattern 'head' of also_train"),
    ],
)
def test_one_of_several_patterns_that_matches_nothing(options, words):
    with pytest.raises(TargetError, match=words):
        paths(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": ""}, "An alternative of the pattern is empty"),
        ({"where": "q_proj |"}, "An alternative of the pattern is empty"),
        ({"where": []}, "The list is empty"),
        ({"where": 3}, "A int is no target"),
        ({"where": None}, "A NoneType is no target"),
        ({"where": "q_proj", "exclude": "q_proj"}, "exclude takes away all 2 modules"),
    ],
)
def test_targets_that_make_no_sense(options, words):
    with pytest.raises(TargetError, match=words):
        paths(**options)


def test_the_same_name_twice_is_refused_and_another_adds():
    model = tnn.adapt(make(), zoo.lora(rank=1), where="q_proj")
    with pytest.raises(TargetError, match=r"an adapter of that name already: lora\(rank=1\)"):
        tnn.adapt(model, zoo.lora(rank=1), where="*_proj")
    assert paths(model, where="*_proj", name="second") == sorted(Q + V)
    assert list(model.blocks[0].q_proj.adapters) == ["default", "second"]


def test_tied_weights_are_refused():
    class Tied(nn.Module):
        def __init__(self):
            nn.Module.__init__(self)
            self.embed = nn.Embedding(7, 4)
            self.inner = nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

    with pytest.raises(TargetError, match=r"'head'(.|\n)*weight is tied to embed.weight"):
        tnn.adapt(Tied(), zoo.lora(rank=1), where=nn.Linear)
    assert paths(Tied(), where=nn.Linear, exclude="head") == ["inner"]
    model = Tied()
    model.head.weight = nn.Parameter(model.embed.weight.detach())
    with pytest.raises(TargetError, match=r"tied to embed\.weight"):
        tnn.adapt(model, zoo.lora(rank=1), where="head")
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    assert paths(model, where="head") == ["head"]


def test_the_projection_of_multihead_attention_is_refused():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(TargetError, match="which reads its weight and never calls it"):
        tnn.adapt(model, zoo.lora(rank=1), where="out_proj")
    assert paths(model, where="*") == ["linear1", "linear2"]


def test_the_fast_path_of_the_encoder_keeps_calling_adapted_layers():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2)
    shuffle(tnn.adapt(model, zoo.lora(rank=2), where="linear1 | linear2"))
    x, mask = inputs(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    whole, masked = model(x), model(x, src_key_padding_mask=mask)
    model.eval()
    with torch.no_grad():
        assert difference(model(x), whole) < 1e-5
        ragged = model(x, src_key_padding_mask=mask)
    kept = (~mask)[..., None]
    assert difference(ragged * kept, masked * kept) < 1e-5


def test_conv1d_of_transformers():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model = nn.Sequential(conv1d(5, 3), nn.Tanh(), conv1d(4, 5))
    for structure in (
        zoo.lora(rank=2, alpha=5.0),
        zoo.dora(within=zoo.lora(rank=2)),
        zoo.lora_xs(rank=2),
    ):
        shuffle(tnn.adapt(model, structure, where="0 | 2", strength=0.5))
        layer, x = model[0], inputs(7, 3)
        assert (layer.in_features, layer.out_features) == (3, 5)
        assert layer.weight.shape == (3, 5) and tnn.delta_weight(layer).shape == (5, 3)
        assert difference(layer(x), judge(layer, x)) < 1e-5
        weight, y = layer.weight.detach().clone(), model(x)
        tnn.merge(model.eval())
        assert difference(model(x), y) < 1e-5
        tnn.unmerge(model)
        assert torch.equal(layer.weight, weight)
        tnn.detach(model)


def test_a_subclass_with_its_own_forward_is_called():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * nn.Linear.forward(self, input)

    torch.manual_seed(0)
    model = nn.Sequential(Doubled(4, 3))
    shuffle(tnn.adapt(model, zoo.lora(rank=2), where="0"))
    x = inputs(5, 4)
    wanted = model[0].base_layer(x) + x @ tnn.delta_weight(model[0]).mT
    assert difference(model(x), wanted) < 1e-6


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "forward"])
def test_what_hangs_on_the_original_still_runs(kind):
    model = Model()
    layer, seen = model.classifier, []
    if kind == "hook":
        layer.register_forward_hook(lambda *_: seen.append(1))
    elif kind == "pre-hook":
        layer.register_forward_pre_hook(lambda *_: seen.append(1))
    else:
        layer.forward = lambda x: (seen.append(1), nn.Linear.forward(layer, x))[1]
    shuffle(tnn.adapt(model, zoo.lora(rank=2), where="classifier"))
    x = inputs(5, 6)
    assert difference(model.classifier(x), judge(model.classifier, x)) < 1e-5
    assert seen
