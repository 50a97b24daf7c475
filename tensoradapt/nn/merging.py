"""Merge: put W0 + ΔW into the weights, and take it out again bit for bit.

Every sum is formed in float32 or wider, checked at all sites, and only then written: a refusal
leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import StateError, UnsupportedError
from .adapt import adapted_or_refuse
from .installing import uninstall, whole
from .layer import Adapted, Original


@dataclass(frozen=True, slots=True)
class _Merged:
    """One site's new weight and bias, and the fraction of ΔW that rounding took."""

    module: Adapted
    weight: Tensor
    bias: Tensor | None
    lost: float


@torch.no_grad()
def merge(
    model: nn.Module, keep: bool = True, device: torch.device | str | None = None
) -> nn.Module:
    """Put ``W0 + Σ strength ΔW`` into the weights, so that running costs nothing more.

    Parameters
    ----------
    model : nn.Module
        An adapted model.
    keep : bool
        Keep W0, so that ``unmerge`` can restore it bit for bit. With ``False`` the merge is
        final: the layers become plain modules again, and requires_grad is restored.
    device : torch.device or str, optional
        Where W0 is kept: the weight's own device by default, ``"cpu"`` for the host.
        ``report(model)`` tells the bytes.

    Returns
    -------
    nn.Module
        The same model. While it is merged, training, adapting, disabling, and state dicts are
        refused.

    Raises
    ------
    StateError
        If the model has no adapters, is merged or disabled, or an update is not finite.
    UnsupportedError
        If a layer has a forward of its own, or a weight that is not plain numbers.

    Notes
    -----
    The sum is formed in float32, or float64 where the weight or a leaf is, and rounded once.
    Into a float16 or bfloat16 weight a small update may be lost: ``rounding_loss`` tells how
    much of it.

    Examples
    --------
    >>> from torch import nn
    >>> from tensoradapt import zoo
    >>> from tensoradapt.nn import adapt
    >>> model = adapt(nn.Sequential(nn.Linear(4, 3)), zoo.lora(rank=2), where="0")
    >>> merge(model, keep=False)
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    inner = whole(model)
    found = adapted_or_refuse(inner, "merge(model)")
    _refuse_state(found)
    merged = [_sum(path, module) for path, module in found]
    kept = [_keep(one, device) if keep else None for one in merged]
    for one, original in zip(merged, kept, strict=True):
        _write(one.module, one.weight, one.bias)
        one.module.original = original
    if not keep:
        uninstall(inner)
    return model


@torch.no_grad()
def unmerge(model: nn.Module) -> nn.Module:
    """Restore the weights that ``merge`` kept, bit for bit.

    Returns
    -------
    nn.Module
        The same model, with its adapters beside the weights again.

    Raises
    ------
    StateError
        If the model is not merged.

    Notes
    -----
    A model that was moved or converted while merged gets W0 on its present device and in its
    present type.
    """
    found = [module for _, module in adapted_or_refuse(whole(model), "unmerge(model)")]
    if not any(module.is_merged for module in found):
        raise StateError(
            "unmerge(model) was asked for.",
            "The model is not merged.",
            "Call merge(model) first; a merge with keep=False is final.",
        )
    for module in found:
        original = module.original
        if original is not None:
            _write(module, original.weight.to(module.weight), original.bias)
            module.original = None
    return model


@torch.no_grad()
def rounding_loss(model: nn.Module) -> dict[str, float]:
    """The fraction of each update that a merge loses (or lost) by rounding, by path.

    ``‖round(W0 + ΔW) - W0 - ΔW‖ / ‖ΔW‖`` in the Frobenius norm: 0 where nothing is lost, about 1
    where the update is too small for the weight's type.

    Raises
    ------
    StateError
        If the model has no adapters, or an update is not finite.
    """
    found = adapted_or_refuse(whole(model), "rounding_loss(model)")
    return {
        path: _sum(path, module).lost if module.original is None else module.original.lost
        for path, module in found
    }


def _refuse_state(found: Sequence[tuple[str, Adapted]]) -> None:
    for path, module in found:
        if module.is_merged:
            raise StateError(
                "merge(model) was asked for.",
                f"'{path}' is merged already.",
                "Call unmerge(model) first.",
            )
        if not module.is_enabled:
            raise StateError(
                "merge(model) was asked for inside disabled(model).",
                f"'{path}' runs without its adapters there, and a merge would bring them in.",
                "Merge outside the block.",
            )


def _sum(path: str, module: Adapted) -> _Merged:
    """The merged weight and bias of one site, checked."""
    refuse_special(path, module)
    weight, bias = module.base_tensors()
    change, shift = module.changes()
    _check_finite(path, "ΔW", change)
    _check_finite(path, "Δb", shift)
    new, lost = _rounded(path, "weight", weight, change)
    new_bias, _ = (None, 0.0) if bias is None else _rounded(path, "bias", bias, shift)
    stored = module.kind.stored(new, module.base_layer)
    return _Merged(module, stored, new_bias, lost)


def _rounded(path: str, what: str, old: Tensor, change: Tensor | None) -> tuple[Tensor, float]:
    """``old + change`` in the type of ``old``, and the fraction of the change that was lost."""
    if change is None:
        return old.clone(), 0.0
    if change.shape != old.shape:
        raise StateError(
            f"'{path}' was to be merged.",
            f"Its {what} has the shape {tuple(old.shape)}, its update {tuple(change.shape)}.",
            "Detach the adapter; it was made for another layer.",
        )
    exact = old.to(change.dtype) + change
    new = exact.to(old.dtype)
    _check_finite(path, f"the merged {what} as {old.dtype}", new)
    error = torch.linalg.vector_norm(new.to(change.dtype) - exact)
    size = torch.linalg.vector_norm(change)
    return new, float(error / size) if float(size) > 0 else 0.0


def _check_finite(path: str, what: str, tensor: Tensor | None) -> None:
    if tensor is None or bool(torch.isfinite(tensor).all()):
        return
    count = int((~torch.isfinite(tensor)).sum())
    raise StateError(
        f"'{path}' was to be merged.",
        f"{count} of {tensor.numel()} entries of {what} are not finite.",
        "Nothing was changed. Train with a smaller step, or load a checkpoint from before.",
    )


def refuse_special(path: str, module: Adapted) -> None:
    """Refuse a layer whose weight cannot stand for it."""
    base = module.base_layer
    against = module.kind.reason_against_merge(base)
    if against is None and tuple(module.base_tensors()[0].shape) != module.shape:
        against = f"Its weight has the shape {tuple(module.weight.shape)}, not {module.shape}."
    if against is None:
        return
    raise UnsupportedError(
        f"'{path}' was to be merged.",
        against,
        "Keep the adapter beside this layer, or adapt the model with exclude for it.",
    )


def _keep(one: _Merged, device: torch.device | str | None) -> Original:
    module = one.module
    weight, bias = module.weight.detach(), module.bias
    place = weight.device if device is None else torch.device(device)
    kept = weight.to(place, copy=True)
    return Original(kept, None if bias is None else bias.detach().to(place, copy=True), one.lost)


def _write(module: Adapted, weight: Tensor, bias: Tensor | None) -> None:
    module.weight.copy_(weight)
    if bias is not None and module.bias is not None:
        module.bias.copy_(bias)
