"""Layers of PEFT and LyCORIS beside ours: same tensors, same output, same gradients.

A foreign layer is judged by its forward alone, on a random input: output, bias included, the
gradient of the input and of every trained tensor. Every trained tensor is random, so nothing
is 0 = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tensoradapt.algebra.nodes import Base, Parameter
from tensoradapt.algebra.snapshot import snapshot_name
from tensoradapt.algebra.walk import leaves, snapshots
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tensoradapt.structure import Structure, Update

KINDS = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}
CONVOLVE = {3: nn.functional.conv1d, 4: nn.functional.conv2d}


class Site(nn.Module):
    """A model of one layer, named ``site``."""

    def __init__(self, site: nn.Module) -> None:
        super().__init__()
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        return self.site(x)


def plain(shape: tuple[int, ...], bias: bool = True, dtype: torch.dtype = torch.float64):
    """A layer whose weight has that shape, from a fixed seed."""
    torch.manual_seed(0)
    kernel = (shape[2:],) if len(shape) > 2 else ()
    return KINDS[len(shape)](shape[1], shape[0], *kernel, bias=bias).to(dtype)


def peft_layer(config: Any, shape: tuple[int, ...], bias: bool = True) -> nn.Module:
    """PEFT's adapted layer in float64 with every tensor as its own start draws it."""
    import peft

    torch.manual_seed(3)
    model = peft.get_peft_model(Site(plain(shape, bias, torch.float32)), config)
    return model.base_model.model.site.double().eval()


def randomized(layer: nn.Module) -> nn.Module:
    """The same layer with every trained parameter random."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in layer.parameters():
            if leaf.requires_grad:
                leaf.copy_(torch.randn(leaf.shape, dtype=leaf.dtype, generator=source))
    return layer.eval()


def tensors(layer: nn.Module, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """The layer's own tensors under our names."""
    stored = dict(layer.named_parameters()) | dict(layer.named_buffers())
    found = {}
    for ours, theirs in keys.items():
        for name in (theirs, f"{theirs}.default", f"{theirs}.default.weight"):
            if name in stored:
                found[ours] = stored[name]
    return found


def leaves_of(update: Update) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape and whether it trains, of every leaf of every part by name."""
    found: dict[str, tuple[tuple[int, ...], bool]] = {}
    for part in (update.weight, update.bias):
        if part is not None:
            found |= {a.name: (a.shape, isinstance(a, Parameter)) for a in leaves(part)}
            found |= {snapshot_name(a.name): (a.shape, False) for a in snapshots(part)}
    return found


def apply(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """What a plain layer of this weight makes of x."""
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    return CONVOLVE[weight.ndim](x, weight, bias)


def input_for(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    source = torch.Generator().manual_seed(2)
    size = (3, shape[1], *(n + 3 for n in shape[2:])) if len(shape) > 2 else (5, shape[1])
    return torch.randn(*size, dtype=torch.float64, generator=source).to(dtype)


def assert_agree(
    structure: Structure,
    layer: nn.Module,
    theirs: Mapping[str, Tensor],
    rtol: float = 1e-10,
    forward: Callable[[Tensor], Tensor] | None = None,
    base: Tensor | None = None,
    check_input: bool = True,
    turned: Mapping[str, Tensor] | None = None,
) -> None:
    """Equal outputs, and equal gradients of the input and of every trained tensor.

    ``theirs`` holds the foreign tensors under our names; one of another shape and equal size is
    reshaped. ``base`` is W0 where the foreign library has written over it; ``turned`` has the
    signs by which ours differ from theirs.
    """
    site = layer.get_base_layer()
    W = (site.weight if base is None else base).detach()
    b = None if site.bias is None else site.bias.detach()
    update = structure.update(Base(tuple(W.shape)))
    known, signs = leaves_of(update), turned or {}
    assert known.keys() <= theirs.keys(), known.keys() - theirs.keys()
    ours = {
        name: (signs.get(name, 1) * theirs[name].detach()).reshape(shape).requires_grad_(trains)
        for name, (shape, trains) in known.items()
    }
    x, y = (input_for(tuple(W.shape), W.dtype).requires_grad_() for _ in range(2))
    expected = (forward or layer)(x)
    weight = W if update.weight is None else W + evaluate(update.weight, ours, base=W, bias=b)
    bias = b if update.bias is None else b + evaluate(update.bias, ours, base=W, bias=b)
    got = apply(weight, bias, y)
    plain_output = apply(W, b, y)
    assert (got - plain_output).abs().max() > 1e-3, "the update is zero"
    assert_close(got, expected, rtol, "output")
    trained = [name for name, (_, trains) in known.items() if trains]
    wanted = torch.autograd.grad(_loss(expected), [x, *(theirs[name] for name in trained)])
    given = torch.autograd.grad(_loss(got), [y, *(ours[name] for name in trained)])
    for name, mine, other in zip(["x", *trained], given, wanted, strict=True):
        if name != "x" or check_input:
            other = signs.get(name, 1) * other
            assert_close(mine, other.reshape(mine.shape), rtol, f"∂/∂{name}")


def _loss(y: Tensor) -> Tensor:
    return (y / (1 + y.detach().abs().max())).sin().sum()


def assert_close(got: Tensor, expected: Tensor, rtol: float, what: str) -> None:
    """Equal within ``rtol`` of the largest entry."""
    error = (got - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-30)
    assert float(error) < rtol, f"{what}: relative error {float(error):.1e}"


def trained_tensors(layer: nn.Module) -> set[int]:
    """The identities of what the foreign layer trains beside its base layer."""
    base = {id(leaf) for leaf in layer.get_base_layer().parameters()}
    return {id(leaf) for leaf in layer.parameters() if leaf.requires_grad and id(leaf) not in base}


def assert_same_leaves_and_starts(
    structure: Structure, layer: nn.Module, theirs: Mapping[str, Tensor]
) -> None:
    """The same tensors train, of the same sizes; the same start at zero, at one, and how large."""
    site = layer.get_base_layer()
    W, b = site.weight.detach(), None if site.bias is None else site.bias.detach()
    update = structure.update(Base(tuple(W.shape)))
    parts = [part for part in (update.weight, update.bias) if part is not None]
    known = leaves_of(update)
    first = sample(parts, base=[W] * len(parts), bias=[b] * len(parts), like=W)
    assert {id(theirs[name]) for name, (_, trains) in known.items() if trains} == (
        trained_tensors(layer)
    )
    for name, (shape, trains) in known.items():
        other = theirs[name].detach()
        assert other.numel() == first[name].numel() == int(torch.tensor(shape).prod()), name
        if trains:
            assert bool(other.any()) == bool(first[name].any()), name
            assert (other == 1).all() == (first[name] == 1).all(), name
        if other.numel() > 60 and other.any():
            ratio = float(first[name].abs().mean() / other.abs().mean())
            assert 0.45 < ratio < 2.2, f"{name}: {ratio}"
