"""Convolutions with any stride, padding, dilation and groups; ΔW has the weight's own shape.

``conv(x, W0 + ΔW)`` where the original is exactly torch's and everything is float32 or wider;
else ``conv(x, W0)`` by the original and ``conv(x, ΔW)`` beside it. ΔW is formed by its plan: it
has out·in·kernel elements, while every convolution costs that much per output position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from .kind import Kind, has_hooks
from .operator import Operator
from .precision import cast_all, wide, widest, without_autocast

if TYPE_CHECKING:
    from .layer import Adapted

CLASSES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

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
            if not x.dtype == weight.dtype == widest(x, layer.read(name)):
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
            change, shift = adapter.operator.materialize(weight, bias, typed)
            shift = None if shift is None else shift.to(dtype)
            if change is not None:
                return convolve(layer.base_layer, x.to(dtype), change.to(dtype), shift)
        assert shift is not None
        return shift.reshape(-1, *[1] * (len(layer.shape) - 2))

    def ragged(self, layer: Adapted, x: Tensor) -> Tensor:
        parts = [layer(part) for part in x.unbind()]
        return torch.nested.as_nested_tensor(parts, layout=x.layout)

    def describe(self, operator: Operator, tokens: int) -> tuple[str, str]:
        plan = operator.plan(tokens, "materialize")
        return "ΔW formed, one convolution", str(plan)


def convolve(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The module's convolution with another weight and bias."""
    return _class_of(module)._conv_forward(module, x, weight, bias)  # pyright: ignore


def _class_of(module: nn.Module) -> Any:
    return next(kind for kind in CLASSES if isinstance(module, kind))
