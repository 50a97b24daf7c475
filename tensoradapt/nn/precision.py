"""Number types: what a branch computes in, and how tensors are brought to it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type that autocast would give a product of ``x``, or None where it would not act."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(x: Tensor, autocast: torch.dtype | None) -> AbstractContextManager[object]:
    """A block in which autocast, where it is on, changes no types."""
    return nullcontext() if autocast is None else torch.autocast(x.device.type, enabled=False)


def widest(x: Tensor, leaves: tuple[Tensor, ...]) -> torch.dtype:
    """The type that ``x`` and the leaves promote to."""
    dtype = x.dtype
    for leaf in leaves:
        if leaf.dtype != dtype:
            dtype = torch.promote_types(dtype, leaf.dtype)
    return dtype


def cast_all(leaves: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The leaves in one type."""
    return tuple([leaf if leaf.dtype == dtype else leaf.to(dtype) for leaf in leaves])


def wide(*dtypes: torch.dtype) -> torch.dtype:
    """Float64 if any is, else float32: what merges and ΔW are computed in."""
    return torch.float64 if torch.float64 in dtypes else torch.float32
