"""One update at one weight shape, ready to run on torch tensors.

The slow and obvious form: every product is formed by ``evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..algebra.walk import leaves as leaves_of
from ..algebra.walk import snapshots
from ..algebra.nodes import Parameter
from ..run.evaluate import evaluate
from ..structure import Update


class Operator:
    """An update with its plans, without tensors."""

    def __init__(self, update: Update, shape: tuple[int, ...], *, has_bias: bool) -> None:
        self.update, self.shape, self.has_bias = update, shape, has_bias
        parts = [part for part in (update.weight, update.bias) if part is not None]
        found = {leaf.name: leaf for part in parts for leaf in leaves_of(part)}
        trained = [name for name, leaf in found.items() if isinstance(leaf, Parameter)]
        frozen = [name for name, leaf in found.items() if not isinstance(leaf, Parameter)]
        starts = dict.fromkeys(f"{leaf.name}@start" for part in parts for leaf in snapshots(part))
        self.leaf_names = (*trained, *frozen, *starts)

    def layer(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        leaves: Sequence[Tensor],
        strength: float = 1.0,
    ) -> Tensor:
        """``x (W + strength ΔW)ᵀ + b + strength Δb``."""
        return torch.nn.functional.linear(x, weight, bias) + strength * self.delta(
            x, weight, bias, leaves
        )

    def delta(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, leaves: Sequence[Tensor]
    ) -> Tensor:
        """``x ΔWᵀ + Δb``."""
        change, shift = self.materialize(weight, bias, leaves)
        y = x @ change.mT if change is not None else 0 * x[..., :1]
        return y if shift is None else y + shift

    def materialize(
        self, weight: Tensor | None, bias: Tensor | None, leaves: Sequence[Tensor]
    ) -> tuple[Any, Any]:
        """``(ΔW, Δb)``; either is None where the update has no such part."""
        values = dict(zip(self.leaf_names, leaves, strict=True))
        return tuple(
            None if part is None else evaluate(part, values, base=weight, bias=bias)
            for part in (self.update.weight, self.update.bias)
        )

    def plan(self, tokens: int) -> Any:
        """What would be done for so many tokens."""
        return f"ΔW formed whole by its definition, for {tokens} tokens"
