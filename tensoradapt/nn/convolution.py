"""Convolutions with any stride, padding, dilation and groups; ΔW has the weight's own shape.

===========================  =================================================================
``conv(x, W0 + ΔW)``         where the original is exactly torch's, all is float32 or wider and
                             no dropout acts: one convolution, ΔW formed by its plan
``conv(x, W0) + conv1(…)``   ΔW = L R as two small convolutions (``planning.chain``), where that
                             is cheaper: mostly in training, which saves the gradient of W0 + ΔW
``conv(x, W0) + conv(x, ΔW)``  everything else
===========================  =================================================================
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d, dropout

from ..errors import UnsupportedError
from ..planning.chain import Chain, chain
from ..structure import Update
from .emit import emit
from .kind import Kind, has_hooks
from .precision import cast_all, wide, widest, without_autocast

if TYPE_CHECKING:
    from .layer import Adapted, Adapter

THIN = 2
"""A convolution to few channels runs at about half the rate of one to many."""

TRAINING = 3
"""W0 + ΔW saves the branch altogether, and costs one more convolution for its gradient: the chain,
three times its forward in a step, is compared with that."""

CLASSES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

CONVOLVE = {1: conv1d, 2: conv2d, 3: conv3d}

FACE = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


class Halves:
    """L and R of an update that is a chain of two convolutions, ready to run.

    Parameters
    ----------
    update : Update
        Its weight part is ΔW.
    leaf_names : tuple of str
        The order in which the leaves come.
    """

    def __init__(self, update: Update, leaf_names: tuple[str, ...]) -> None:
        self.planned: Chain | None = None
        if update.weight is None or update.bias is not None:
            return
        try:
            planned = chain(update.weight)
        except UnsupportedError:
            return
        emitted = emit(planned.program)
        if emitted.constants or any(i.kind == "bias" for i in planned.program.inputs):
            return
        self.planned, self.emitted = planned, emitted
        names = {name: 1 + k for k, name in enumerate(leaf_names)}
        self.places = tuple(names.get(entry.name, 0) for entry in planned.program.inputs)

    def __call__(self, weight: Tensor | None, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """``L (out, r)`` and ``R (r, in, *kernel)``."""
        given = (weight, *leaves)
        made: Any = self.emitted.function(*[given[k] for k in self.places])
        return made

    def __str__(self) -> str:
        assert self.planned is not None
        rank = self.planned.rank
        head = f"conv(conv(x, R), L) with L (out, {rank}) and R ({rank}, in, *kernel)"
        return f"{head}\n{self.emitted.source}"

    def pays(self, times: int) -> bool:
        """Whether the chain, so many times, costs less than one convolution with ΔW."""
        if self.planned is None:
            return False
        return THIN * times * self.planned.products < prod(self.planned.shape)


class Convolution(Kind):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d: the weight is ``(out, in / groups, *kernel)``."""

    title = "nn.Conv1d, nn.Conv2d and nn.Conv3d"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, CLASSES)

    def face(self, module: nn.Module) -> dict[str, Any]:
        return {name: getattr(module, name) for name in FACE}

    def runs_otherwise(self, module: nn.Module) -> bool:
        kind, own = _class_of(module), type(module)
        return any(getattr(own, f) is not getattr(kind, f) for f in ("forward", "_conv_forward"))

    def prepare(self, layer: Adapted, adapter: Adapter, types: set[torch.dtype]) -> None:
        adapter.operator.prepare("materialize")
        adapter.operator.attach("halves", Halves)

    def whole(self, layer: Adapted, x: Tensor, autocast: torch.dtype | None) -> Tensor | None:
        base = layer.base_layer
        if autocast is not None or type(base) not in CLASSES or has_hooks(base):
            return None
        weight, bias = layer.weight, layer.bias
        if weight.dtype.itemsize < 4 or not weight.is_floating_point():
            return None
        for name, adapter in layer.adapters.items():
            if adapter.dropout and layer.training:
                return None
            leaves = layer.read(name)
            if not x.dtype == weight.dtype == widest(x, leaves):
                return None
            trains = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
            if trains and _as_chain(base, adapter, TRAINING):
                return None
        change, shift = layer.changes()
        weight = weight if change is None else weight + change
        return convolve(base, x, weight, bias if shift is None or bias is None else bias + shift)

    def branch(self, layer: Adapted, name: str, x: Tensor, autocast: torch.dtype | None) -> Tensor:
        adapter, leaves = layer.adapters[name], layer.read(name)
        dtype = autocast or widest(x, leaves)
        formed = wide(*(leaf.dtype for leaf in leaves))
        weight, bias = layer.base_tensors(formed) if adapter.reads_base else (None, None)
        x = dropout(x, adapter.dropout, layer.training) if adapter.dropout else x
        with without_autocast(x, autocast):
            typed = cast_all(leaves, formed)
            if _as_chain(layer.base_layer, adapter, 1):
                left, right = adapter.operator.attached["halves"](weight, typed)
                y = convolve(layer.base_layer, x.to(dtype), right.to(dtype), None)
                return pointwise(y, left.to(dtype), len(layer.shape) - 2)
            change, shift = adapter.operator.materialize(weight, bias, typed)
            shift = None if shift is None else shift.to(dtype)
            if change is not None:
                return convolve(layer.base_layer, x.to(dtype), change.to(dtype), shift)
        assert shift is not None
        return shift.reshape(-1, *[1] * (len(layer.shape) - 2))

    def ragged(self, layer: Adapted, x: Tensor) -> Tensor:
        parts = [layer(part) for part in x.unbind()]
        return torch.nested.as_nested_tensor(parts, layout=x.layout)

    def describe(self, layer: Adapted, adapter: Adapter, tokens: int) -> tuple[str, str]:
        if _as_chain(layer.base_layer, adapter, TRAINING):
            return "two small convolutions", str(adapter.operator.attached["halves"])
        plan = adapter.operator.plan(tokens, "materialize")
        return "ΔW formed, one convolution", str(plan)


def _as_chain(module: nn.Module, adapter: Adapter, times: int) -> bool:
    """Whether two small convolutions, so many times, cost less than one with ΔW."""
    halves: Halves = adapter.operator.attached["halves"]
    return bool(module.groups == 1) and halves.pays(times)


def pointwise(x: Tensor, weight: Tensor, axes: int) -> Tensor:
    """The convolution of kernel size 1 of a matrix ``(out, in)`` over some axes."""
    return CONVOLVE[axes](x, weight.reshape(*weight.shape, *[1] * axes))


def convolve(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The module's convolution with another weight and bias."""
    return _class_of(module)._conv_forward(module, x, weight, bias)  # pyright: ignore


def _class_of(module: nn.Module) -> Any:
    return next(kind for kind in CLASSES if isinstance(module, kind))
