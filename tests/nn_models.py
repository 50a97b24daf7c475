"""Small models, structures of all kinds, and random leaves for the tests of tensoradapt.nn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.algebra.builders import at_start, einsum
from tensoradapt.algebra.forms import low_rank
from tensoradapt.algebra.leaves import frozen, parameter
from tensoradapt.algebra.starts import given, kaiming_uniform, normal
from tensoradapt.run.evaluate import evaluate
from tensoradapt.structure import Update, method

STRUCTURES = [
    zoo.lora(rank=3, alpha=5.0),
    zoo.loha(rank=2, alpha=3.0),
    zoo.dora(within=zoo.lora(rank=2, alpha=5.0)),
    zoo.hira(rank=2),
    zoo.vera(rank=3),
    zoo.lora_xs(rank=2),
    zoo.sine_lora(rank=2),
    zoo.lora(rank=1) + zoo.circulant(),
]


class Block(nn.Module):
    """Two branches and a sum, so that paths have several components."""

    def __init__(self, width: int = 6) -> None:
        nn.Module.__init__(self)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + torch.tanh(self.q_proj(x)) * self.v_proj(x))


class Model(nn.Module):
    """Two blocks and a classifier."""

    def __init__(self, width: int = 6, classes: int = 3) -> None:
        nn.Module.__init__(self)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.classifier(x)


def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(seed)
    return Model().to(dtype)


def shuffle(model: nn.Module, seed: int = 1, name: str | None = None) -> nn.Module:
    """Make every trained leaf random, so that no update is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for leaf in tnn.parameters(model, name):
            leaf.copy_(0.5 * torch.randn(leaf.shape, generator=generator, dtype=torch.float64))
    return model


def inputs(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def judge(layer: tnn.Adapted, x: Tensor) -> Tensor:
    """The adapted layer by its definition, in float64."""
    weight, bias = (None if t is None else t.double() for t in layer.base_tensors())
    total, shift = weight.clone(), 0 if bias is None else bias.clone()
    for name, adapter in layer.adapters.items():
        values = {leaf: value.double() for leaf, value in layer.leaf_tensors(name).items()}
        total += adapter.strength * evaluate(adapter.update.weight, values, weight, bias)
        if adapter.update.bias is not None:
            shift = shift + adapter.strength * evaluate(adapter.update.bias, values, weight, bias)
    return x.double() @ total.mT + shift


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest entry of ``b``."""
    scale = float(b.detach().abs().max()) if b.numel() else 1.0
    return float((a.detach().double() - b.detach().double()).abs().max()) / max(scale, 1e-30)


# --- methods of a user ----------------------------------------------------------------------


@method(paper="a test")
def biased(w, *, rank=2):
    """ΔW = B A and Δb, with a penalty ‖B‖²."""
    update = low_rank(w, rank)
    left = parameter("c", w.shape[0])
    return Update(update, left, einsum("o, o ->", left, left))


@method(paper="a test")
def difference_to_start(w, *, rank=2):
    """ΔW = B A - B₀ A₀."""
    product = low_rank(w, rank, starts=(normal(), kaiming_uniform()))
    return product - at_start(product)


@method(paper="a test", scope="group")
def shared(weights, *, rank=2):
    """ΔW_k = B diag(g_k) A, with B and A stored once for all."""
    out, inp = weights[0].matrix
    left = parameter("B", out, rank, start=normal(), scope="group")
    right = frozen("A", rank, inp, recipe=normal(), scope="group")
    updates = []
    for k, _ in enumerate(weights):
        gate = parameter(f"gate{k}", rank)
        updates.append(einsum("o r, r, r i -> o i", left, gate, right))
    return updates


@method(paper="a test")
def from_data(w):
    """ΔW = M N with a given M."""
    out, inp = w.matrix
    return frozen("M", out, 2, recipe=given()) @ parameter("N", 2, inp)


@method(paper="a test")
def bias_only(w):
    """Δb."""
    return Update(bias=parameter("shift", w.shape[0]))


@method(paper="a test")
def oddly_named(w):
    """Leaves whose names collide with a module's attributes, or need an escape."""
    out, inp = w.matrix
    left, right = parameter("half", out, 2), parameter("a/b~c.d", 2, inp, start=normal())
    return left @ right
