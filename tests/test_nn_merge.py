"""Merging: the same outputs, the same bits after, nothing half done, nothing silent."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import StateError, UnsupportedError
from tensoradapt.nn.merging import refuse_special
from tests import nn_models
from tests.nn_models import STRUCTURES, difference, inputs, make, shuffle

every = pytest.mark.parametrize("structure", [*STRUCTURES, nn_models.biased()], ids=str)


def adapted(structure, dtype=torch.float32, strength=0.7, **options):
    model = tnn.adapt(make(dtype=dtype), structure, where="*_proj", strength=strength, **options)
    return shuffle(model).eval()


def weights(model):
    return {
        f"{path}.{name}": tensor.detach().clone()
        for path, layer in tnn.sites(model)
        for name, tensor in layer.base_layer.named_parameters()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_equals_applied_and_unmerge_restores_every_bit(structure, dtype):
    model, x = adapted(structure, dtype), inputs(5, 6, dtype=dtype)
    y, before = model(x), weights(model)
    assert tnn.merge(model) is model
    assert difference(model(x), y) < 20 * torch.finfo(dtype).eps
    assert not same(weights(model), before)
    tnn.unmerge(model)
    assert same(weights(model), before)
    assert torch.equal(model(x), y)


@every
def test_a_final_merge_leaves_a_plain_model(structure):
    model, x = adapted(structure), inputs(5, 6)
    y = model(x)
    tnn.merge(model, keep=False)
    assert {type(m) for m in model.modules()} == {type(m) for m in make().modules()}
    assert model.state_dict().keys() == make().state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    assert difference(model(x), y) < 1e-5
    with pytest.raises(StateError, match="has no adapted layers"):
        tnn.unmerge(model)


def test_several_adapters_merge_together_relative_to_the_original():
    model = adapted(zoo.hira(rank=2))
    tnn.adapt(model, zoo.dora(within=zoo.lora(rank=2)), where="q_proj", name="second")
    shuffle(model, 4, "second").eval()
    x = inputs(5, 6)
    y, change = model(x), tnn.delta_weight(model.blocks[0].q_proj)
    tnn.merge(model)
    assert difference(model(x), y) < 1e-5
    assert difference(tnn.delta_weight(model.blocks[0].q_proj), change) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_weight_is_rounded_once_and_the_loss_is_told(dtype):
    model = adapted(zoo.lora(rank=2), dtype)
    layer = model.blocks[0].q_proj
    exact = layer.weight.float() + tnn.delta_weight(layer)
    predicted, before = tnn.rounding_loss(model), weights(model)
    tnn.merge(model)
    assert torch.equal(layer.weight, exact.to(dtype))
    assert tnn.rounding_loss(model) == predicted
    wanted = (exact.to(dtype).float() - exact).norm() / (exact - before_of(before, "0.q")).norm()
    assert predicted["blocks.0.q_proj"] == pytest.approx(float(wanted.detach()), rel=1e-3)
    assert 0 < predicted["blocks.0.q_proj"] < torch.finfo(dtype).eps * 4
    tnn.unmerge(model)
    assert same(weights(model), before)


def before_of(before, part):
    return next(w.float() for name, w in before.items() if part in name and w.ndim == 2)


def test_an_update_too_small_for_bfloat16_is_lost_and_said_to_be():
    model = adapted(zoo.lora(rank=2), torch.bfloat16, strength=1e-6)
    assert min(tnn.rounding_loss(model).values()) > 0.9
    assert max(tnn.rounding_loss(adapted(zoo.lora(rank=2), strength=0.0)).values()) == 0.0


def test_what_is_not_finite_changes_nothing():
    for value, dtype in ((float("nan"), torch.float32), (3e5, torch.float16)):
        model = adapted(zoo.lora(rank=2), dtype)
        before, last = weights(model), model.blocks[1].v_proj
        with torch.no_grad():
            last.leaf_tensors("default")["B"].fill_(value)
        with pytest.raises(StateError, match=r"'blocks.1.v_proj'(.|\n)*not finite(.|\n)*Nothing"):
            tnn.merge(model)
        assert same(weights(model), before)
        assert not any(layer.is_merged for _, layer in tnn.sites(model))


def test_a_wrong_shape_changes_nothing(monkeypatch):
    model = adapted(zoo.lora(rank=2))
    before, last = weights(model), model.blocks[1].v_proj
    monkeypatch.setattr(last, "changes", lambda: (torch.zeros(2, 3), None))
    with pytest.raises(StateError, match=r"shape \(6, 6\), its update \(2, 3\)"):
        tnn.merge(model)
    assert same(weights(model), before)


def test_what_a_merged_model_refuses(tmp_path):
    model, x = adapted(zoo.lora(rank=2)), inputs(5, 6)
    state = model.state_dict()
    tnn.merge(model)
    with pytest.raises(StateError, match="merged already"):
        tnn.merge(model)
    with pytest.raises(StateError, match=r"It is merged(.|\n)*relative to W0"):
        tnn.adapt(model, zoo.lora(rank=1), where="q_proj", name="second")
    with pytest.raises(StateError, match="state dict of a merged model"):
        model.state_dict()
    with pytest.raises(StateError, match="loaded into a merged model"):
        model.load_state_dict(state)
    with pytest.raises(StateError, match=r"no switch takes away"), tnn.disabled(model):
        pass
    with pytest.raises(StateError, match="hold all updates together"):
        tnn.detach(model, "default")
    model.train()
    with pytest.raises(StateError, match="leaves would get no gradient"):
        model(x)
    with torch.no_grad():
        model(x)
    tnn.save(model, tmp_path)
    fresh = tnn.load(make(), tmp_path).eval()
    assert difference(fresh(x), model.eval()(x)) < 1e-5
    tnn.unmerge(model)
    with pytest.raises(StateError, match="not merged"):
        tnn.unmerge(model)
    with pytest.raises(StateError, match="inside disabled"), tnn.disabled(model):
        tnn.merge(model)


def test_detaching_a_merged_model_makes_it_final():
    model, x = adapted(zoo.lora(rank=2)), inputs(5, 6)
    y = model(x)
    tnn.detach(tnn.merge(model))
    assert type(model.blocks[0].q_proj) is nn.Linear
    assert difference(model(x), y) < 1e-5


def test_the_original_can_be_kept_on_the_host_and_is_counted():
    model = adapted(zoo.lora(rank=2))
    tnn.merge(model, device="cpu")
    kept = model.blocks[0].q_proj.original
    assert kept.weight.device.type == "cpu" and kept.n_bytes == (36 + 6) * 4
    found = tnn.report(model)
    assert [site.kept_bytes for site in found.sites] == [168, 144] * 2
    assert all(site.is_merged for site in found.sites) and "of W0 kept" in str(found)


def test_a_model_converted_while_merged_gets_w0_in_its_present_type():
    model, converted = adapted(zoo.lora(rank=2)), make().half()
    tnn.merge(model)
    model.half()
    tnn.unmerge(model)
    assert torch.equal(model.blocks[0].q_proj.weight, converted.blocks[0].q_proj.weight)


def test_layers_whose_weight_does_not_stand_for_them_are_refused():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * nn.Linear.forward(self, input)

    class Renamed(nn.Linear):
        pass

    model = nn.Sequential(Renamed(4, 4), Doubled(4, 4))
    shuffle(tnn.adapt(model, zoo.lora(rank=2), where="0 | 1"))
    before = model[0].weight.clone()
    with pytest.raises(UnsupportedError, match=r"'1'(.|\n)*Doubled has a forward of its own"):
        tnn.merge(model)
    assert torch.equal(model[0].weight, before)
    refuse_special("0", model[0])
    scaled = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    shuffle(tnn.adapt(scaled, zoo.lora(rank=2), where="0"))
    with pytest.raises(UnsupportedError, match="not a plain parameter"):
        tnn.merge(scaled)
