"""The methods that share leaves, on models: stored once, trained together, planned in parts."""

from __future__ import annotations

import copy
import pickle
from math import prod

import pytest
import torch
from torch import nn

import tensoradapt as ta
import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.analysis.count import count
from tensoradapt.planning.steps import Input
from tensoradapt.run.evaluate import evaluate
from tests.nn_models import difference, inputs, judge, shuffle

# --- in a model ----------------------------------------------------------------------------


class Pair(nn.Module):
    """Four layers of two shapes, one after another."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.up, self.mid = nn.Linear(6, 12), nn.Linear(12, 12, bias=False)
        self.down, self.last = nn.Linear(12, 6), nn.Linear(6, 12)

    def forward(self, x):
        return self.last(torch.tanh(self.down(self.mid(torch.tanh(self.up(x))))))


ADAPTED = [
    zoo.lotr(rank=2, alpha=5),
    zoo.fact_tt(rank=2, alpha=5),
    zoo.fact_tk(rank=2, alpha=5),
    zoo.aurora(rank=2, alpha=5),
    zoo.lorta(rank=3, alpha=5, heads=2, projections=2),
    zoo.cara(rank=3, alpha=5, heads=4),
    zoo.cara(rank=3, alpha=5, part="rest"),
    zoo.vblora(rank=2, num_vectors=5, vector_length=3),
    zoo.unilora(rank=2, theta_d_length=31),
    zoo.tinylora(rank=2, u=4, weight_tying=0.5),
    zoo.shared_vera(rank=5),
    zoo.shared_dvora(rank=5),
    zoo.shared_randlora(rank=4, alpha=7),
    zoo.superlora(rank=2, alpha=5, groups=3),
    zoo.superlora(rank=2, alpha=5, groups="shape", order=3, fold="stack", identity=(1,)),
    zoo.superlora(rank=2, alpha=5, groups=2, ratio=0.3),
    zoo.superlora(rank=2, alpha=5, groups=1, ratio=0.5, order=3, shuffle="group"),
    zoo.superlora(rank=2, alpha=5, groups=2, splits=2, split_factor=3),
]
every_adapted = pytest.mark.parametrize("structure", ADAPTED, ids=str)


def model_of(structure, seed=0):
    torch.manual_seed(seed)
    where = "up | down | last" + ("" if "rest" in str(structure) else " | mid")
    return shuffle(tnn.adapt(Pair().double(), structure, where=where))


def shared_tensors(model):
    return model.tensoradapt_leaves.adapters["default"].tensors()


def assert_sites_are_right(model):
    shared = shared_tensors(model)
    for _, layer in tnn.sites(model):
        values = layer.leaf_tensors("default")
        for name, is_shared in layer.adapters["default"].places.items():
            assert (name in shared and values[name] is shared[name]) == is_shared
        x = inputs(5, layer.weight.shape[1], dtype=torch.float64)
        assert difference(layer(x), judge(layer, x)) < 1e-10


@every_adapted
def test_shared_leaves_are_stored_once_and_survive_copies(structure, tmp_path):
    model, x = model_of(structure), inputs(5, 6, dtype=torch.float64)
    assert_sites_are_right(model)
    shapes = [tuple(layer.weight.shape) for _, layer in tnn.sites(model)]
    updates = structure.updates([ta.structure.Base(shape) for shape in shapes])
    trained = sum(p.numel() for p in tnn.parameters(model))
    if all(u.bias is None for u in updates):
        assert trained == int(count([u.weight for u in updates]))
    for name in shared_tensors(model):
        assert (
            sum(key.endswith("." + tnn.leaves.attribute_of(name)) for key in model.state_dict())
            == 1
        )
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert_sites_are_right(shuffle(other, seed=7))
    tnn.save(model, tmp_path)
    torch.manual_seed(0)
    back = tnn.load(Pair().double(), tmp_path)
    assert torch.equal(back(x), model(x))
    assert_sites_are_right(back)


@every_adapted
def test_one_step_moves_the_shared_leaf_by_the_sum_of_the_gradients(structure):
    model, x = model_of(structure), inputs(5, 6, dtype=torch.float64)
    before = {n: t.detach().clone() for n, t in shared_tensors(model).items()}
    expected, leaves_of = by_definition(model, x)
    optimizer = torch.optim.SGD(tnn.parameters(model), lr=0.5)
    loss = model(x).sin().sum()
    assert difference(loss, expected) < 1e-9
    loss.backward()
    optimizer.step()
    trained = {n: t for n, t in leaves_of.items() if t.requires_grad}
    assert bool(trained) != structure.method.name.startswith("shared_")  # theirs are frozen
    if not trained:
        return
    wanted = torch.autograd.grad(expected, list(trained.values()), allow_unused=True)
    for (name, leaf), gradient in zip(trained.items(), wanted, strict=True):
        moved = before[name] - shared_tensors(model)[name]
        gradient = torch.zeros_like(leaf) if gradient is None else gradient
        scale = 1e-9 * (1 + float(gradient.abs().max()))
        assert float((moved.detach() - 0.5 * gradient).abs().max()) < scale, name


def by_definition(model, x):
    """The loss of the model with every update evaluated from one tensor per shared leaf."""
    shared = {
        name: t.detach().clone().requires_grad_(t.requires_grad)
        for name, t in shared_tensors(model).items()
    }

    def layer(module, x):
        if module is model.mid and not isinstance(module, tnn.layer.Adapted):
            return module(x)
        adapter = module.adapters["default"]
        weight, bias = module.base_tensors()
        values = {n: t.detach().clone() for n, t in module.leaf_tensors("default").items()}
        values |= {n: t for n, t in shared.items() if n in values}
        total = weight + evaluate(adapter.update.weight, values, weight, bias)
        if adapter.update.bias is not None:
            bias = bias + evaluate(adapter.update.bias, values, weight, bias)
        return nn.functional.linear(x, total, bias)

    h = layer(model.mid, torch.tanh(layer(model.up, x)))
    return layer(model.last, torch.tanh(layer(model.down, h))).sin().sum(), shared


# --- plans ---------------------------------------------------------------------------------

FACTORED = [
    zoo.lotr(rank=2),
    zoo.fact_tt(rank=2, width=64),
    zoo.fact_tk(rank=2, width=64),
    zoo.aurora(rank=2),
    zoo.lorta(rank=2, heads=4),
    zoo.cara(rank=2, heads=4),
    zoo.vblora(rank=2, num_vectors=5, vector_length=16),
    zoo.unilora(rank=2),
    zoo.tinylora(rank=2, u=4),
    zoo.shared_vera(rank=4),
    zoo.superlora(rank=2, fold="concat"),
    zoo.superlora(rank=2, fold="concat", groups=3),
    zoo.superlora(rank=2, groups="shape", order=3, fold="stack", identity=(1,)),
    zoo.superlora(rank=2, fold="concat", splits=2, split_factor=8),
]
CUT = [
    zoo.superlora(rank=2, groups=1),
    zoo.superlora(rank=2, groups=3, order=3),
    zoo.superlora(rank=1, groups=1, order=5),
    zoo.superlora(rank=2, groups=1, splits=2, split_factor=6),
    zoo.superlora(rank=2, groups=2, ratio=0.05, order=3),
    zoo.superlora(rank=2, groups=1, ratio=0.05, projection="tile"),
]


def largest_step(expr):
    """The largest value of the update's program that is neither W0, x, y nor an input."""
    program = ta.plan(expr, tokens=4, mode="materialize").program
    assert not any(isinstance(step, Input) for step in program.steps)
    return max(prod(step.shape) for step in program.steps)


@pytest.mark.parametrize("structure", FACTORED, ids=str)
def test_a_factored_group_is_applied_without_a_weight_of_its_own(structure):
    expr = structure.on([(256, 256)] * 12)[5]
    assert ta.plan(expr, tokens=4).chosen.name.startswith("factored")


@pytest.mark.parametrize("structure", [*FACTORED, *CUT], ids=str)
def test_a_weight_of_a_group_contracts_its_own_part_only(structure):
    weights = [(256, 256)] * 12
    for k in (0, 7):
        assert largest_step(structure.on(weights)[k]) < 1.5 * 256 * 256
