"""Adapting a model: forward, proxies, what trains, several adapters, and taking them off."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import StateError, StructureError, TargetError
from tensoradapt.nn.leaves import attribute_of, leaf_of
from tests import nn_models
from tests.nn_models import STRUCTURES, difference, inputs, judge, make, shuffle

PATHS = ["blocks.0.q_proj", "blocks.0.v_proj", "blocks.1.q_proj", "blocks.1.v_proj"]


def snapshot(model):
    return (
        {name: type(module) for name, module in model.named_modules()},
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        set(model.__dict__),
    )


def assert_unchanged(model, before):
    kinds, values, trains, attributes = snapshot(model)
    assert (kinds, trains, attributes) == (before[0], before[2], before[3])
    assert all(torch.equal(value, before[1][name]) for name, value in values.items())


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@pytest.mark.parametrize("strength", [1.0, -0.7])
def test_forward_is_the_definition_on_random_leaves(structure, strength):
    model = shuffle(tnn.adapt(make(), structure, where="*_proj", strength=strength))
    found = dict(tnn.sites(model))
    assert list(found) == PATHS
    for layer in found.values():
        x = inputs(5, 6)
        assert difference(layer(x), judge(layer, x)) < 1e-5


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_update_is_zero_at_the_start(structure):
    before, x = make(), inputs(5, 6)
    model = tnn.adapt(make(), structure, where="*_proj")
    tolerance = 1e-3 if "lora_xs" in str(structure) else 1e-6
    assert difference(model(x), before(x)) < tolerance


def test_only_new_leaves_and_also_train_train():
    model = tnn.adapt(make(), zoo.lora(rank=2), where="q_proj", also_train="classifier")
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    leaves = {f"blocks.{k}.q_proj.leaves.default.{leaf}" for k in (0, 1) for leaf in "AB"}
    assert trains == leaves | {"classifier.weight", "classifier.bias"}
    assert {id(p) for p in tnn.parameters(model)} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    model(inputs(4, 6)).sum().backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert all(p.grad is not None for p in tnn.parameters(model))


def test_the_adapted_module_has_the_face_of_the_original():
    model = make()
    original = model.blocks[0].q_proj
    tnn.adapt(model, zoo.lora(rank=2), where="q_proj")
    layer = model.blocks[0].q_proj
    assert layer.base_layer is original
    assert layer.weight is original.weight and layer.bias is original.bias
    assert (layer.in_features, layer.out_features) == (6, 6)
    assert model.blocks[0].v_proj.bias is None and not isinstance(
        model.blocks[0].v_proj, tnn.Adapted
    )


def test_two_adapters_add_and_read_the_original_weight():
    model = tnn.adapt(make(), zoo.hira(rank=2), where="q_proj", strength=0.5)
    shuffle(model)
    tnn.adapt(model, zoo.dora(within=zoo.lora(rank=2)), where="*_proj", name="second", strength=2.0)
    shuffle(model, seed=7, name="second")
    layer, x = model.blocks[0].q_proj, inputs(5, 6)
    assert list(layer.adapters) == ["default", "second"]
    assert difference(layer(x), judge(layer, x)) < 1e-5
    both = tnn.delta_weight(layer, "default") + tnn.delta_weight(layer, "second")
    assert difference(tnn.delta_weight(layer), both) < 1e-6
    trained = {id(p) for p in tnn.parameters(model)}
    assert trained == {id(p) for p in tnn.parameters(model, "second")}


def test_detaching_one_of_two_leaves_the_other():
    model = shuffle(tnn.adapt(make(), zoo.lora(rank=2), where="q_proj"))
    alone = model(inputs(5, 6))
    tnn.adapt(model, zoo.lora(rank=2), where="*_proj", name="second")
    shuffle(model, name="second")
    tnn.detach(model, "second")
    assert difference(model(inputs(5, 6)), alone) < 1e-6
    assert [path for path, _ in tnn.sites(model)] == ["blocks.0.q_proj", "blocks.1.q_proj"]


def test_detach_restores_modules_values_and_requires_grad():
    model = make()
    model.blocks[1].norm.weight.requires_grad_(False)
    model.classifier.bias.requires_grad_(False)
    before = snapshot(model)
    tnn.adapt(model, zoo.dora(within=zoo.lora(rank=2)), where="*_proj", also_train="classifier")
    assert model.classifier.bias.requires_grad
    tnn.adapt(model, nn_models.shared(), where="q_proj", name="second")
    shuffle(model)
    tnn.detach(model)
    assert_unchanged(model, before)


def test_nested_roots_detach_to_the_beginning():
    for first, second in (("blocks", None), (None, "blocks")):
        model = make()
        before = snapshot(model)
        for k, part in enumerate((first, second)):
            root = model if part is None else model.get_submodule(part)
            tnn.adapt(root, zoo.lora(rank=2), where="*q_proj", name=f"n{k}")
        tnn.detach(model)
        assert_unchanged(model, before)


def test_disabled_runs_the_original_and_comes_back_after_an_error():
    model, x = shuffle(tnn.adapt(make(), zoo.lora(rank=2), where="*_proj")), inputs(5, 6)
    adapted = model(x)
    with tnn.disabled(model):
        assert torch.equal(model(x), make()(x))
    with pytest.raises(KeyError), tnn.disabled(model):
        raise KeyError
    assert torch.equal(model(x), adapted) and difference(adapted, make()(x)) > 1e-2


def test_bias_and_penalty():
    model = shuffle(tnn.adapt(make(), nn_models.biased(), where="*_proj", strength=0.5))
    layer, x = model.blocks[0].q_proj, inputs(5, 6)
    assert difference(layer(x), judge(layer, x)) < 1e-5
    wanted = sum(t["c"].square().sum() for t in _leaves(model) if "c" in t)
    assert torch.allclose(tnn.penalty(model), wanted)
    tnn.penalty(model).backward()
    leaf = layer.leaf_tensors("default")["c"]
    assert torch.allclose(leaf.grad, 2 * leaf)
    without_bias = model.blocks[0].v_proj
    update = without_bias.adapters["default"].update
    assert update.bias is None and update.penalty is None
    assert set(without_bias.leaf_tensors("default")) == {"B", "A"}
    assert float(tnn.penalty(tnn.adapt(make(), zoo.lora(rank=2), where="q_proj"))) == 0


def _leaves(model):
    return [layer.leaf_tensors("default") for _, layer in tnn.sites(model)]


def test_bias_only():
    model = shuffle(tnn.adapt(make(), nn_models.bias_only(), where="q_proj | classifier"))
    layer, x = model.blocks[0].q_proj, inputs(5, 6)
    shift = layer.leaf_tensors("default")["shift"]
    assert torch.allclose(layer(x), layer.base_layer(x) + shift)
    assert not tnn.delta_weight(layer).any()
    with pytest.raises(StructureError, match=r"'blocks.0.v_proj'(.|\n)*changes only the bias"):
        tnn.adapt(make(), nn_models.bias_only(), where="v_proj")


def test_leaves_with_awkward_names():
    for name in ("half", "a/b~c.d", "within.B", "training", "B@start", "~2x", "forward", "0.B"):
        assert leaf_of(attribute_of(name)) == name and "." not in attribute_of(name)
    model = shuffle(tnn.adapt(make(), nn_models.oddly_named(), where="q_proj"))
    layer, x = model.blocks[0].q_proj, inputs(5, 6)
    assert set(layer.leaf_tensors("default")) == {"half", "a/b~c.d"}
    assert difference(layer(x), judge(layer, x)) < 1e-5
    assert torch.equal(copy.deepcopy(model).half().float()(x), model.half().float()(x))


def test_a_difference_to_the_start_keeps_its_snapshot():
    model = tnn.adapt(make(), nn_models.difference_to_start(), where="q_proj")
    layer, x = model.blocks[0].q_proj, inputs(5, 6)
    assert difference(model(x), make()(x)) < 1e-6
    frozen = dict(layer.leaves["default"].named_buffers())
    assert set(frozen) == {"B@start", "A@start"} and frozen["B@start"].any()
    shuffle(model)
    assert difference(layer(x), judge(layer, x)) < 1e-5


def test_seed_and_path_choose_the_numbers():
    one, same = (tnn.adapt(make(), zoo.lora(rank=2), where="q_proj", seed=3) for _ in "ab")
    other = tnn.adapt(make(), zoo.lora(rank=2), where="q_proj", seed=4)
    a, b, c = (m.blocks[0].q_proj.leaf_tensors("default")["A"] for m in (one, same, other))
    d = one.blocks[1].q_proj.leaf_tensors("default")["A"]
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)


def test_given_data_for_all_or_for_one_layer():
    everywhere, special = torch.ones(6, 2), 2 * torch.ones(6, 2)
    data = {"M": everywhere, "blocks.1.q_proj": {"M": special.numpy()}}
    model = tnn.adapt(make(), nn_models.from_data(), where="q_proj", data=data)
    first, second = (layer.leaf_tensors("default")["M"] for _, layer in tnn.sites(model))
    assert torch.equal(first, everywhere) and torch.equal(second, special)
    with pytest.raises(Exception, match=r"'blocks.0.q_proj'(.|\n)*data has no 'M'"):
        tnn.adapt(make(), nn_models.from_data(), where="q_proj")


def test_text_method_and_expression_are_structures():
    x = inputs(5, 6)
    for structure in ("lora(rank=2)", zoo.circulant, zoo.lora(rank=2).on((6, 6))):
        model = shuffle(tnn.adapt(make(), structure, where="q_proj"))
        layer = model.blocks[0].q_proj
        assert difference(layer(x), judge(layer, x)) < 1e-5
    with pytest.raises(StructureError, match=r"weight of shape \(3, 6\)"):
        tnn.adapt(make(), zoo.lora(rank=2).on((6, 6)), where="q_proj | classifier")


def test_settings_per_pattern():
    settings = {"*_proj": {"alpha": 3.0}, "blocks.1.*": {"rank": 1}}
    model = tnn.adapt(make(), zoo.lora(rank=2), where="*_proj", settings=settings)
    texts = [layer.adapters["default"].text for _, layer in tnn.sites(model)]
    assert texts == ["lora(rank=2, alpha=3.0)"] * 2 + ["lora(rank=1, alpha=3.0)"] * 2
    with pytest.raises(StructureError, match=r"'blocks.0.q_proj': (.|\n)*no setting 'rnak'"):
        tnn.adapt(make(), zoo.lora(rank=2), where="q_proj", settings={"q_proj": {"rnak": 2}})
    with pytest.raises(StructureError, match="Only a method with settings"):
        total = zoo.lora(rank=2) + zoo.circulant()
        tnn.adapt(make(), total, where="q_proj", settings={"q_proj": {"rank": 2}})
    with pytest.raises(StructureError, match="lays one structure over all weights together"):
        tnn.adapt(make(), nn_models.shared(), where="q_proj", settings={"q_proj": {"rank": 1}})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropout": 1.0}, "A dropout is a probability"),
        ({"dropout": "a"}, "A dropout is a probability"),
        ({"strength": float("nan")}, "A strength is a finite number"),
        ({"dtype": torch.int8}, "The leaves need a floating torch.dtype"),
        ({"name": "a.b"}, "A name is a text without dots"),
        ({"name": "values"}, "A name is a text without dots"),
        ({"seed": 0.5}, "A seed is an integer"),
        ({"structure": zoo.lora(rank=9)}, r"'blocks.0.q_proj'"),
        ({"structure": "__import__('os')"}, "cannot be read"),
        ({"also_train": "q_proj"}, "which is adapted, so W0 would train"),
        ({"also_train": "blocks.0"}, "It holds 'blocks.0.q_proj', which is adapted"),
        ({"also_train": "clasifier"}, "matched nothing; nearest: classifier"),
    ],
)
def test_refusals_leave_the_model_untouched(options, words):
    model = make()
    before = snapshot(model)
    with pytest.raises((StructureError, TargetError, ValueError), match=words):
        tnn.adapt(model, **{"structure": zoo.lora(rank=2), "where": "*_proj", **options})
    assert_unchanged(model, before)


def test_a_failure_at_the_last_site_leaves_the_model_untouched(monkeypatch):
    from tensoradapt.nn import laying

    model, calls = make(), []
    before = snapshot(model)

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return genuine(*arguments, **options)

    genuine = laying.sample
    monkeypatch.setattr(laying, "sample", failing)
    with pytest.raises(MemoryError):
        tnn.adapt(model, zoo.lora(rank=2), where="*_proj")
    assert_unchanged(model, before)


def test_a_base_on_the_meta_device_is_refused():
    with torch.device("meta"):
        model = nn_models.Model()
    with pytest.raises(StateError, match="on the meta device, so it has no values"):
        tnn.adapt(model, zoo.lora(rank=2), where="q_proj")


def test_calls_on_models_without_adapters_are_refused():
    for action in (tnn.detach, tnn.parameters, tnn.penalty, tnn.merge, tnn.unmerge, tnn.report):
        with pytest.raises(StateError, match="has no adapted layers"):
            action(make())
    with pytest.raises(StateError, match="has no adapted layers"), tnn.disabled(make()):
        pass
    model = tnn.adapt(make(), zoo.lora(rank=2), where="q_proj")
    with pytest.raises(StateError, match="no adapter of that name; it has: default"):
        tnn.detach(model, "defualt")
    with pytest.raises(StateError, match="Its adapters are: default"):
        tnn.delta_weight(model.blocks[0].q_proj, "other")
    with pytest.raises(StateError, match="delta_weight of a Linear"):
        tnn.delta_weight(nn.Linear(2, 2))


def test_dropout_acts_on_the_branch_only():
    model = shuffle(tnn.adapt(make(), zoo.lora(rank=2), where="q_proj", dropout=0.5))
    layer, x = model.blocks[0].q_proj, inputs(2000, 6)
    base = layer.base_layer(x)
    torch.manual_seed(0)
    change = layer(x) - base
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(x, 0.5)
    assert difference(change, dropped @ tnn.delta_weight(layer).mT) < 1e-4
    layer.eval()
    assert difference(layer(x), judge(layer, x)) < 1e-5


def test_a_shared_module_is_adapted_at_every_place():
    model = make()
    model.blocks[1].q_proj = model.blocks[0].q_proj
    tnn.adapt(model, zoo.lora(rank=2), where="blocks.0.q_proj")
    assert model.blocks[1].q_proj is model.blocks[0].q_proj
    assert isinstance(model.blocks[1].q_proj, tnn.Adapted)
    tnn.detach(model)
    assert model.blocks[1].q_proj is model.blocks[0].q_proj
    assert type(model.blocks[1].q_proj) is nn.Linear
