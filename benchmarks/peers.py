"""The same layer in PEFT, with the same W0, b0 and leaves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .cases import Peer

SITE = "site"


class Holder(nn.Module):
    """A model of one layer, as PEFT adapts models only."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.site = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.site(x)


def are_installed() -> bool:
    """Whether PEFT is here; it comes with the extra hf."""
    return find_spec("peft") is not None


def build(peer: Peer, linear: nn.Linear, leaves: Mapping[str, Tensor]) -> tuple[nn.Module, dict]:
    """PEFT's adapted layer around ``linear``, and its tensors under our names of the leaves.

    Every leaf is copied from ``leaves``; one that PEFT has no place for is an error.
    """
    import peft

    config: Any = getattr(peft, peer.config)(target_modules=[SITE], **peer.settings)
    layer = peft.get_peft_model(Holder(linear), config).base_model.model.site
    stored = dict(layer.named_parameters()) | dict(layer.named_buffers())
    places = {
        name: stored[key]
        for name, theirs in peer.leaves.items()
        for key in (theirs, f"{theirs}.default")
        if key in stored
    }
    if missing := sorted(set(leaves) - set(places)):
        raise LookupError(f"PEFT's layer of {peer.config} has no tensors for: {missing}.")
    with torch.no_grad():
        for name, value in leaves.items():
            places[name].copy_(value)
    return layer, {name: places[name] for name in leaves}
