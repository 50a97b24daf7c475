"""Linear layers: nn.Linear, and transformers' Conv1D, whose weight is stored as ``(in, out)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from .kind import Kind, has_hooks
from .precision import cast_all, widest, without_autocast

if TYPE_CHECKING:
    from .layer import Adapted, Adapter


class Linear(Kind):
    """``y = x (W0 + ΔW)ᵀ + b0 + Δb``: W0 + ΔW in one program, or x ΔWᵀ + Δb as a branch."""

    title = "nn.Linear"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear)

    def shape(self, module: nn.Module) -> tuple[int, ...]:
        assert isinstance(module, nn.Linear)
        return module.out_features, module.in_features

    def face(self, module: nn.Module) -> dict[str, Any]:
        out, inp = self.shape(module)
        return {"in_features": inp, "out_features": out}

    def runs_otherwise(self, module: nn.Module) -> bool:
        return type(module).forward is not nn.Linear.forward

    def prepare(self, layer: Adapted, adapter: Adapter, types: set[torch.dtype]) -> None:
        base = layer.base_layer
        is_wide = any(dtype.itemsize >= 4 for dtype in types) or not types
        fused = is_plain(base) and not layer.adapters and types <= {layer.weight.dtype}
        modes = (["train"] if fused else []) + (["apply"] if adapter.dropout or not fused else [])
        adapter.operator.prepare(*modes, strength=adapter.strength, is_wide=is_wide)

    def branch(self, layer: Adapted, name: str, x: Tensor, autocast: torch.dtype | None) -> Tensor:
        adapter, leaves = layer.adapters[name], layer.read(name)
        dtype = autocast or widest(x, leaves)
        weight, bias = layer.base_tensors(dtype) if adapter.reads_base else (None, None)
        x = dropout(x, adapter.dropout, layer.training) if adapter.dropout else x
        with without_autocast(x, autocast):
            typed = cast_all(leaves, dtype)
            return adapter.operator.delta(x.to(dtype), weight, bias, typed)

    def describe(self, layer: Adapted, adapter: Adapter, tokens: int) -> tuple[str, str]:
        plan = adapter.operator.plan(tokens)
        return plan.chosen.name, str(plan)


class TransposedLinear(Linear):
    """transformers' Conv1D, which is a linear layer."""

    title = "transformers' Conv1D"

    def fits(self, module: nn.Module) -> bool:
        kind = type(module)
        return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")

    def shape(self, module: nn.Module) -> tuple[int, ...]:
        inp, out = self.weight(module).shape
        return int(out), int(inp)

    def seen(self, weight: Tensor, module: nn.Module) -> Tensor:
        return weight.mT

    def stored(self, weight: Tensor, module: nn.Module) -> Tensor:
        return weight.mT

    def runs_otherwise(self, module: nn.Module) -> bool:
        return False


def is_plain(module: nn.Module) -> bool:
    """Whether calling the module is ``x Wᵀ + b`` and nothing else."""
    return type(module) is nn.Linear and not has_hooks(module)
