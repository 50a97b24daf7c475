"""Leaves that several layers share: stored once, owned by the root, read by name."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt.algebra.leaves import parameter
from tensoradapt.algebra.starts import normal
from tensoradapt.errors import StructureError
from tensoradapt.structure import method
from tests import nn_models
from tests.nn_models import difference, inputs, judge, make, shuffle


def adapted(where="*_proj", **options):
    return shuffle(tnn.adapt(make(), nn_models.shared(), where=where, **options))


def shared_left(model):
    return {id(layer.leaf_tensors("default")["B"]) for _, layer in tnn.sites(model)}


def assert_right(model):
    assert len(shared_left(model)) == 1
    x = inputs(5, 6, dtype=next(model.parameters()).dtype)
    for _, layer in tnn.sites(model):
        assert difference(layer(x), judge(layer, x)) < 1e-5


def test_shared_leaves_are_stored_once():
    model = adapted()
    keys = [key for key in model.state_dict() if key.rpartition(".")[2] in ("B", "A")]
    assert sorted(keys) == [f"tensoradapt_leaves.adapters.default.{leaf}" for leaf in "AB"]
    assert len(tnn.parameters(model)) == 1 + 4
    assert_right(model)


def test_changing_the_shared_leaf_changes_every_layer():
    model = adapted()
    before = [tnn.delta_weight(layer) for _, layer in tnn.sites(model)]
    with torch.no_grad():
        next(iter(model.tensoradapt_leaves.parameters())).mul_(2)
    after = [tnn.delta_weight(layer) for _, layer in tnn.sites(model)]
    assert all(torch.allclose(2 * a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_sharing_survives_copies(way):
    model = adapted()
    other, x = way(model), inputs(5, 6)
    assert torch.equal(other(x), model(x))
    assert shared_left(other) != shared_left(model)
    assert_right(shuffle(other, seed=5))
    assert difference(other(x), model(x)) > 1e-3


def test_sharing_survives_moves_and_assigned_state():
    model = adapted().double()
    assert_right(model)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert_right(model)
    container = model.tensoradapt_leaves.adapters["default"]
    assert container.B is state["tensoradapt_leaves.adapters.default.B"] or torch.equal(
        container.B, state["tensoradapt_leaves.adapters.default.B"]
    )


def test_gradients_of_all_layers_meet_in_the_shared_leaf():
    model, x = adapted().double(), inputs(5, 6, dtype=torch.float64)
    left = model.tensoradapt_leaves.adapters["default"].B
    assert torch.autograd.gradcheck(
        lambda value: torch.func.functional_call(
            model, {"tensoradapt_leaves.adapters.default.B": value}, (x,)
        ),
        (left.detach().clone().requires_grad_(),),
    )


def test_a_sequential_root_keeps_its_length_and_forward():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    shuffle(tnn.adapt(model, nn_models.shared(), where=nn.Linear))
    assert len(model) == 3 and len(shared_left(model)) == 1
    x = inputs(5, 6)
    assert difference(model(x), judge(model[2], torch.tanh(judge(model[0], x)).float())) < 1e-5
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    tnn.detach(model)
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh, nn.Linear]
    assert not any("leaves" in name for name, _ in model.named_modules())


def test_two_adapters_share_each_its_own():
    model = adapted()
    x, alone = inputs(5, 6), adapted()(inputs(5, 6))
    tnn.adapt(model, nn_models.shared(rank=1), where="q_proj", name="second")
    shuffle(model, seed=8, name="second")
    for _, layer in tnn.sites(model):
        assert difference(layer(x), judge(layer, x)) < 1e-5
    tnn.detach(model, "second")
    assert difference(model(x), alone) < 1e-6
    assert list(model.tensoradapt_leaves.adapters) == ["default"]
    tnn.detach(model)
    assert not hasattr(model, "tensoradapt_leaves")


def test_a_shared_leaf_of_two_shapes_is_refused():
    @method(paper="a test", name="nn_shared_two_shapes")
    def two_shapes(w):
        """ΔW = B N."""
        out, inp = w.matrix
        left = parameter("B", out, 2, start=normal(), scope="model")
        return left @ parameter("N", 2, inp)

    with pytest.raises(StructureError, match=r"shared leaf 'B'(.|\n)*\(6, 2\), at 'classifier'"):
        tnn.adapt(make(), two_shapes(), where="q_proj | classifier")
    model = shuffle(tnn.adapt(make(), two_shapes(), where="q_proj"))
    assert_right(model)
    assert len(tnn.parameters(model)) == 3
