"""Bare parameters: stacked experts, fused projections of attention, and their costs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import CheckpointError, StateError, StructureError, TargetError
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


class Experts(nn.Module):
    """A stack of experts, mixed by a router; it reads its parameters itself."""

    def __init__(self, experts: int = 3, width: int = 4, inner: int = 5) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(0.3 * torch.randn(experts, inner, width))
        self.down = nn.Parameter(0.3 * torch.randn(experts, width, inner))
        self.shift = nn.Parameter(torch.randn(experts))

    def forward(self, x):
        mix = torch.softmax(self.router(x) + self.shift, -1)
        hidden = torch.tanh(torch.einsum("eoi,bi->beo", self.up, x))
        return torch.einsum("be,eio,beo->bi", mix, self.down, hidden)


class Model(nn.Module):
    """Two stacks, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.first, self.second = Experts(), Experts()

    def forward(self, x):
        return self.second(x + self.first(x)) * self.scale


class Attention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        rows = x.unflatten(0, (-1, 3))
        return self.attention(rows, rows, rows)[0]


def plain(make=Model, dtype=torch.float32):
    torch.manual_seed(0)
    return make().to(dtype)


def adapted(structure=LORA, where="first:up", make=Model, dtype=torch.float32, **options):
    options = {"strength": 0.7, **options}
    return shuffle(tnn.adapt(plain(make, dtype), structure, where=where, **options))


def x(dtype=torch.float32):
    return inputs(6, 4, dtype=dtype)


def paths(model):
    return sorted(path for path, _ in tnn.sites(model))


@pytest.mark.parametrize("structure", [*STRUCTURES, nn_models.difference_to_start()], ids=str)
def test_every_structure_is_by_definition(structure, tmp_path):
    model = adapted(structure)
    assert_law(model, plain(), x())
    assert_merges(adapted(structure), x())
    assert_round_trip(adapted(structure), plain(), x(), tmp_path)
    assert_comes_and_goes(adapted(structure), plain(), x())


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("first:up", ["first:up"]),
        (":scale", [":scale"]),
        ("first:*", ["first:down", "first:shift", "first:up"]),
        ("*:up | first:down", ["first:down", "first:up", "second:up"]),
        (["second.router:weight", "first.router"], ["first.router", "second.router:weight"]),
        ("*.router", ["first.router", "second.router"]),
        ("first:up | *.router*", ["first.router", "first:up", "second.router"]),
    ],
)
def test_what_a_pattern_with_a_colon_names(where, found):
    model = adapted(zoo.lora(rank=1), where=where)
    assert paths(model) == found
    assert_law(model, plain(), x())


def test_exclude_and_settings_name_parameters_too():
    model = adapted(where="*:up | *:down", exclude="second:*", settings={"*:up": {"rank": 1}})
    assert paths(model) == ["first:down", "first:up"]
    assert {s.path: s.trained for s in tnn.report(model).sites} == {
        "first:up": 1 * (15 + 4),
        "first:down": 3 * (12 + 5),
    }
    assert_law(model, plain(), x())


def test_a_stack_is_one_matrix_of_experts_by_out():
    model = adapted()
    site = dict(tnn.sites(model))["first:up"]
    leaves = site.leaf_tensors("default")
    assert site.shape == (15, 4)
    assert leaves["B"].shape == (15, 3) and leaves["A"].shape == (3, 4)
    one_by_one = leaves["B"].unflatten(0, (3, 5)) @ leaves["A"] * (5 / 3 * 0.7)
    assert difference(model.first.up, plain().first.up + one_by_one) < 1e-6


def test_a_vector_is_a_column():
    model = adapted(zoo.lora(rank=1), where=":scale")
    assert dict(tnn.sites(model))[":scale"].shape == (4,)
    assert_law(model, plain(), x())
    assert_merges(model, x())


@pytest.mark.parametrize("training", [True, False])
def test_attention(training, tmp_path):
    where = "attention:in_proj_weight | attention.out_proj:weight"
    model = adapted(LORA, where, Attention)
    assert_law(model, plain(Attention), x())
    model.train(training)
    y = model(x())
    with torch.no_grad():
        assert difference(model(x()), y) < 1e-5
    assert_round_trip(model, plain(Attention), x(), tmp_path)
    assert_merges(model, x())
    # torch may take another kernel for attention, which rounds otherwise.
    assert_comes_and_goes(model, plain(Attention), x(), rtol=1e-6)


def test_several_adapters_are_each_relative_to_the_original():
    model = adapted(zoo.hira(rank=2))
    tnn.adapt(model, zoo.lora(rank=2), where="*:up", name="second", strength=0.4)
    shuffle(model, 4, "second")
    assert difference(model(x()), judged(model, plain(), x().double())) < 1e-5
    assert_merges(model, x())
    tnn.detach(model, name="default")
    assert difference(model(x()), judged(model, plain(), x().double())) < 1e-5
    assert_comes_and_goes(model, plain(), x())


def test_a_final_merge_leaves_a_plain_model():
    model = adapted(where="*:up | *:down | first.router")
    y, names = model(x()), list(plain().state_dict())
    tnn.merge(model, keep=False)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain().modules()]
    assert list(model.state_dict()) == names
    assert all(p.requires_grad for p in model.parameters())
    assert difference(model(x()), y) < 1e-5
    pickle.loads(pickle.dumps(model))


def test_the_parameter_stays_the_same_object():
    model = plain()
    before = model.first.up
    tnn.adapt(model, LORA, where="first:up")
    assert model.first.parametrizations["up"].original is before
    tnn.detach(model)
    assert model.first.up is before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types(dtype):
    model = adapted(dtype=dtype)
    assert model.first.up.dtype == dtype
    site = dict(tnn.sites(model))["first:up"]
    exact = site.base_tensors()[0].double() + tnn.delta_weight(site).double()
    assert difference(model.first.up.flatten(0, 1), exact) < 2 * torch.finfo(dtype).eps


def test_autocast_does_not_touch_the_sum():
    model = adapted()
    weight = model.first.up
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.first.up, weight)


def test_it_is_formed_once_where_torch_is_asked_to_keep_it():
    model = adapted()
    with parametrize.cached():
        assert model.first.up is model.first.up
    assert model.first.up is not model.first.up


@pytest.mark.parametrize("structure", [LORA, zoo.hira(rank=2)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_compile_without_a_graph_break(structure):
    assert_compiles(adapted(structure, where="*:up | *:down"), x())


def test_a_copy_is_its_own_and_pickle_is_refused_by_torch(tmp_path):
    model = adapted()
    y, copied = model(x()), copy.deepcopy(model)
    assert torch.equal(copied(x()), y)
    shuffle(copied, 8)
    assert not torch.equal(copied(x()), y)
    assert torch.equal(model(x()), y)
    tnn.merge(copied)
    assert torch.equal(model(x()), y)
    tnn.detach(copied)
    assert paths(model) == ["first:up"]
    with pytest.raises(RuntimeError, match="parametrized modules"):
        pickle.dumps(model)


def test_a_state_dict_goes_back_into_an_adapted_model():
    model, other = adapted(), adapted()
    shuffle(other, 7)
    assert "first.parametrizations.up.original" in model.state_dict()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x()), model(x()))
    tnn.merge(model)
    with pytest.raises(StateError, match="state dict of a merged model"):
        model.state_dict()
    with pytest.raises(StateError, match="training step was asked for while"):
        model.train()(x())


def test_what_is_refused(tmp_path):
    with pytest.raises(TargetError, match=r"No module below this one matches(.|\n)*first:up"):
        adapted(where="first:op")
    with pytest.raises(StructureError, match=r"dropout=0.1(.|\n)*input cannot be dropped"):
        adapted(dropout=0.1)
    with pytest.raises(StructureError, match="changes only the bias, and this layer has none"):
        adapted(nn_models.bias_only())
    with pytest.raises(TargetError, match="adapter of that name already"):
        tnn.adapt(adapted(), LORA, where="*:up")
    with pytest.raises(TargetError, match=r"'first\.router' has a parameter that is adapted"):
        tnn.adapt(adapted(where="first.router:weight"), LORA, where="first.router", name="b")
    with pytest.raises(TargetError, match="No module below this one matches"):
        tnn.adapt(adapted(where="first.router"), LORA, where="first.router:weight", name="b")
    with pytest.raises(TargetError, match=r"where='attention\.out_proj:weight' adapts the weight"):
        adapted(where="attention.out_proj", make=Attention)
    with pytest.raises(TargetError, match=r"also_train='first'(.|\n)*'first:up', which is adapted"):
        adapted(also_train="first")
    model = plain()
    model.second.up = model.first.up
    with pytest.raises(TargetError, match=r"Its up is tied to second\.up"):
        tnn.adapt(model, LORA, where="first:up")
    model = plain()
    nn.utils.parametrizations.weight_norm(model.first.router)
    with pytest.raises(TargetError, match="has a parametrization of another maker"):
        tnn.adapt(model, LORA, where="first.router:weight")
    model = plain()
    model.first.up = nn.Parameter(torch.ones(2, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TargetError, match=r"is stored as torch\.int8"):
        tnn.adapt(model, LORA, where="first:up")
    tnn.save(adapted(), tmp_path)
    with pytest.raises(CheckpointError, match="adapts 'first:up', which this model does not have"):
        tnn.load(plain(Attention), tmp_path)
