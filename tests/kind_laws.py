"""What holds for every kind of site, against a plain model whose weights are W0 + ΔW by definition.

The judge never runs an adapted module: it evaluates ΔW in float64, puts the sum into a fresh model
by ``functional_call``, and lets torch differentiate that.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

import tensoradapt.nn as tnn
from tensoradapt.run.evaluate import evaluate
from tests.nn_models import difference, shuffle


def weights_by_definition(model: nn.Module, leaves: dict[str, dict[str, Tensor]]):
    """Every adapted weight and bias of a model by its original name, in float64."""
    found: dict[str, Tensor] = {}
    for path, layer in tnn.sites(model):
        name = path.replace(":", ".").lstrip(".") if ":" in path else f"{path}.weight"
        weight, bias = (None if t is None else t.double() for t in layer.base_tensors())
        total, shift = torch.zeros_like(weight), None
        for key, adapter in layer.adapters.items():
            values = leaves[f"{path}/{key}"]
            for part, place in ((adapter.update.weight, "weight"), (adapter.update.bias, "bias")):
                if part is not None:
                    change = adapter.strength * evaluate(part, values, weight, bias)
                    if place == "weight":
                        total = total + change
                    else:
                        shift = change if shift is None else shift + change
        if isinstance(layer.base_layer, nn.Embedding) and layer.base_layer.padding_idx is not None:
            mask = torch.ones(weight.shape[0], 1, dtype=torch.float64)
            mask[layer.base_layer.padding_idx] = 0
            total = total * mask
        found[name] = (weight + total).reshape(layer.weight.shape)
        if shift is not None:
            found[f"{path}.bias"] = bias + shift
    return found


def leaf_values(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """A float64 copy of every leaf by site and adapter, which wants a gradient."""
    return {
        f"{path}/{key}": {
            leaf: value.detach().double().requires_grad_()
            for leaf, value in layer.leaf_tensors(key).items()
        }
        for path, layer in tnn.sites(model)
        for key in layer.adapters
    }


def judged(model: nn.Module, plain: nn.Module, x: Tensor, leaves=None) -> Tensor:
    """What a model gives by definition; ``plain`` is the same model before it was adapted."""
    leaves = leaf_values(model) if leaves is None else leaves
    replaced = weights_by_definition(model, leaves)
    return functional_call(copy.deepcopy(plain).double(), replaced, (x,))


def assert_law(model: nn.Module, plain: nn.Module, x: Tensor, rtol: float = 2e-5) -> None:
    """The output and the gradients of x and of every trained leaf are those of the definition."""
    leaves = leaf_values(model)
    ours = x.clone().requires_grad_() if x.is_floating_point() else x
    theirs = x.double().requires_grad_() if x.is_floating_point() else x
    y, wanted = model(ours), judged(model, plain, theirs, leaves)
    assert y.shape == wanted.shape
    assert difference(y, wanted) < rtol
    y.sin().sum().backward()
    wanted.sin().sum().backward()
    if x.is_floating_point():
        assert difference(ours.grad, theirs.grad) < 10 * rtol
    count = 0
    for path, layer in tnn.sites(model):
        for key in layer.adapters:
            for leaf, value in layer.leaf_tensors(key).items():
                if value.requires_grad:
                    judge = leaves[f"{path}/{key}"][leaf].grad
                    assert judge is not None and float(judge.abs().max()) > 0
                    assert difference(value.grad, judge) < 10 * rtol, (path, leaf)
                    count += 1
    assert count
    for leaf in tnn.parameters(model):
        leaf.grad = None


def assert_merges(model: nn.Module, x: Tensor, rtol: float = 2e-5) -> None:
    """The merged model gives the adapted one's output, and unmerging restores every bit."""
    model.eval()
    y, before = model(x), stored_weights(model)
    tnn.merge(model)
    assert difference(model(x), y) < rtol
    after = stored_weights(model)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    tnn.unmerge(model)
    restored = stored_weights(model)
    assert all(torch.equal(restored[name], before[name]) for name in before)
    assert torch.equal(model(x), y)


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every adapted weight and bias as it is stored now."""
    found: dict[str, Tensor] = {}
    for path, layer in tnn.sites(model):
        found[f"{path}/weight"] = layer.weight.detach().clone()
        if layer.bias is not None:
            found[f"{path}/bias"] = layer.bias.detach().clone()
    return found


def assert_comes_and_goes(model: nn.Module, plain: nn.Module, x: Tensor, rtol: float = 0.0) -> None:
    """Disabled it is the original to the bit; detached it is, modules, names and gradients too."""
    model.eval(), plain.eval()
    with torch.no_grad():
        original = plain(x)
        assert difference(model(x), original) > 1e-3
        with tnn.disabled(model):
            assert difference(model(x), original) <= rtol
        tnn.detach(model)
        assert difference(model(x), original) <= rtol
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    ours, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    assert {n: p.requires_grad for n, p in ours.items()} == {
        n: p.requires_grad for n, p in theirs.items()
    }


def assert_round_trip(model: nn.Module, plain: nn.Module, x: Tensor, folder) -> None:
    """A saved adapter gives the same bits in a fresh model, and in one that has it already."""
    tnn.save(model, folder)
    fresh = tnn.load(copy.deepcopy(plain), folder)
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert fresh.state_dict().keys() == model.state_dict().keys()
    shuffle(fresh, 9)
    assert not torch.equal(fresh(x), model(x))
    tnn.load(fresh, folder)
    assert torch.equal(fresh(x), model(x))


def assert_compiles(model: nn.Module, x: Tensor) -> None:
    """One graph, forward and backward."""
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    assert difference(compiled(x), model(x)) < 1e-5
    compiled(x).sin().sum().backward()
    model(x).sin().sum().backward()
    for a, b in zip(tnn.parameters(compiled), tnn.parameters(model), strict=True):
        assert difference(a.grad, b.grad) < 1e-4
        a.grad = b.grad = None
