"""PEFT's methods that share leaves among layers of several shapes, against ours as one group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tensoradapt import zoo
from tensoradapt.algebra.builders import concatenate, reshape, take
from tensoradapt.algebra.leaves import parameter
from tensoradapt.algebra.nodes import Base, Parameter
from tensoradapt.algebra.walk import leaves
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tensoradapt.structure import Structure
from tensoradapt.zoo.banks import low_rank_of
from tests.foreign import assert_close, tensors

peft = pytest.importorskip("peft", reason="the extra hf is not installed")

LAYERS = {"one": (12, 8), "two": (8, 16), "three": (16, 8), "four": (12, 8)}
TARGET = {"target_modules": list(LAYERS)}


class Chain(nn.Module):
    """Layers of several shapes, one after another."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.one, self.two = nn.Linear(8, 12), nn.Linear(16, 8)
        self.three, self.four = nn.Linear(8, 16), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.four(self.two(self.three(x))) + self.one(x)


@dataclass(frozen=True)
class Case:
    """A structure, PEFT's configuration, its own leaves by our names, and the shared ones."""

    structure: Structure
    config: Callable[[], Any]
    own: Mapping[str, str]
    shared: Mapping[str, str]

    def __str__(self) -> str:
        return str(self.structure)


CASES = [
    Case(
        zoo.shared_vera(rank=6),
        lambda: peft.VeraConfig(r=6, **TARGET),
        {"b": "vera_lambda_b", "d": "vera_lambda_d"},
        {"A": "vera_A.default", "B": "vera_B.default"},
    ),
    Case(
        zoo.shared_randlora(rank=3, alpha=7),
        lambda: peft.RandLoraConfig(r=3, randlora_alpha=7, **TARGET),
        {"lambda": "randlora_lambda", "gamma": "randlora_gamma"},
        {"A": "randlora_A.default", "B": "randlora_B.default"},
    ),
    Case(
        zoo.vblora(rank=3, num_vectors=10, vector_length=4, topk=3),
        lambda: peft.VBLoRAConfig(r=3, num_vectors=10, vector_length=4, topk=3, **TARGET),
        {"logits_A": "vblora_logits_A", "logits_B": "vblora_logits_B"},
        {"V": "vblora_vector_bank.default"},
    ),
    *(
        Case(
            zoo.tinylora(rank=3, u=5, weight_tying=tying),
            lambda tying=tying: peft.TinyLoraConfig(r=3, u=5, weight_tying=tying, **TARGET),
            {"A": "tinylora_A", "B": "tinylora_B", "P": "tinylora_P"},
            {f"v{k}": f"tinylora_v.default.{k}" for k in range(4)},
        )
        for tying in (0.5, 0.3, 1.0, 0.0)
    ),
]


def peft_model(config: Any) -> Any:
    torch.manual_seed(3)
    model = peft.get_peft_model(Chain(), config).double().eval()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in model.parameters():
            if leaf.requires_grad:
                leaf.copy_(torch.randn(leaf.shape, dtype=leaf.dtype, generator=source))
    return model


def effective(layer: Any) -> Tensor:
    """The weight of the live path: the outputs of the unit vectors, less that of zero."""
    inp = layer.get_base_layer().in_features
    return (layer(torch.eye(inp, dtype=torch.float64)) - layer(torch.zeros(1, inp).double())).T


def shared_of(model: Any, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors at the root, each under our name."""
    stored = dict(model.base_model.named_parameters()) | dict(model.base_model.named_buffers())
    found = {}
    for ours, theirs in names.items():
        found.update((ours, tensor) for name, tensor in stored.items() if name.endswith(theirs))
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_group_equals_peft_s_layers(case: Case):
    model = peft_model(case.config())
    shared = shared_of(model, case.shared)
    updates = case.structure.on(list(LAYERS.values()))
    trained = 0
    seen: set[int] = set()
    losses, expected = [], []
    for path, update in zip(LAYERS, updates, strict=True):
        layer = model.base_model.model.get_submodule(path)
        values = tensors(layer, case.own) | shared
        untied = f"v{list(LAYERS).index(path)}"
        if untied in shared:
            values["v"] = shared[untied]
        W = layer.get_base_layer().weight
        change = effective(layer) - W
        got = evaluate(update, values, base=W)
        assert float(change.detach().abs().max()) > 1e-3
        assert_close(got, change, 1e-10, path)
        losses.append(got.sin().sum())
        expected.append(change.sin().sum())
        for leaf in leaves(update):
            assert values[leaf.name].numel() == leaf.size, leaf.name
            assert leaf.scope == ("site" if leaf.name in {*case.own, "v"} else "group")
            if isinstance(leaf, Parameter) and id(values[leaf.name]) not in seen:
                seen.add(id(values[leaf.name]))
                trained += leaf.size
    theirs = [leaf for leaf in model.parameters() if leaf.requires_grad]
    assert trained == sum(leaf.numel() for leaf in theirs)
    assert seen == {id(leaf) for leaf in theirs}
    mine = torch.autograd.grad(sum(losses), theirs)
    for got, wanted in zip(mine, torch.autograd.grad(sum(expected), theirs), strict=True):
        assert_close(got, wanted, 1e-10, "gradient")


def test_unilora_equals_peft_s_layers_under_their_assignment():
    model = peft_model(peft.UniLoraConfig(r=3, theta_d_length=50, **TARGET))
    (theta,) = shared_of(model, {"theta": "unilora_theta_d.default"}).values()
    length = theta.numel()
    counts = torch.zeros(length, dtype=torch.long)
    for path, shape in LAYERS.items():
        layer = model.base_model.model.get_submodule(path)
        chosen = [layer.unilora_indices_A["default"], layer.unilora_indices_B["default"]]
        scales = [layer.unilora_scales_A["default"], layer.unilora_scales_B["default"]]
        positions = torch.cat([index.flatten() for index in chosen])
        counts += torch.bincount(positions, minlength=length)
        leaf, factor = parameter("theta", length), parameter("scale", positions.numel())
        numbers = take(leaf, positions.tolist()) * factor
        update = low_rank_of(numbers, Base(shape), 3)
        scale = torch.cat([part.flatten() for part in scales]).double()
        got = evaluate(update, {"theta": theta, "scale": scale})
        change = effective(layer) - layer.get_base_layer().weight
        assert_close(got, change, 1e-10, path)
    ours = zoo.unilora(rank=3, theta_d_length=50).on(list(LAYERS.values()))
    assert counts.max() - counts.min() <= 1 == len({a for u in ours for a in leaves(u)})
    read = torch.zeros(length, dtype=torch.long)
    for update, shape in zip(ours, LAYERS.values(), strict=True):
        read += torch.bincount(_dealt(update, shape), minlength=length)
    assert sorted(read.tolist()) == sorted(counts.tolist())


def _dealt(update: Any, shape: tuple[int, int]) -> Tensor:
    """Which number of θ every element of A and B reads, found by marking θ one at a time."""
    product = update.operands
    both = concatenate([reshape(part, part.size) for part in product])
    found = torch.zeros(3 * sum(shape), dtype=torch.long)
    for j in range(50):
        mark = torch.zeros(50, dtype=torch.float64)
        mark[j] = 1
        found[evaluate(both, {"theta": mark}) != 0] = j
    return found


def test_unilora_s_map_is_an_isometry():
    updates = zoo.unilora(rank=3, theta_d_length=50).on(list(LAYERS.values()))
    source = torch.Generator().manual_seed(2)
    theta = torch.randn(50, dtype=torch.float64, generator=source)
    total = sum(
        float(evaluate(part, {"theta": theta}).square().sum())
        for update in updates
        for part in update.operands
    )
    assert abs(total - float(theta.square().sum())) < 1e-12 * total


def test_vera_and_randlora_start_as_peft_s():
    for case in CASES[:2]:
        torch.manual_seed(3)
        model = peft.get_peft_model(Chain(), case.config())
        shared = shared_of(model, case.shared)
        ours = sample(case.structure.on(list(LAYERS.values()))[0], seed=1)
        assert {n: ours[n].shape for n in shared} == {n: tuple(t.shape) for n, t in shared.items()}
        for name in shared:
            ratio = float(shared[name].abs().mean() / abs(ours[name]).mean())
            assert 0.7 < ratio < 1.4, name
        layer = model.base_model.model.one
        for name, tensor in tensors(layer, case.own).items():
            assert torch.allclose(tensor.detach(), torch.tensor(ours[name]).float()), name
