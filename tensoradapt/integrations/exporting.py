"""Any update as a LoRA of the rank that it needs, with the error of doing so.

ΔW = U Σ Vᵀ; the LoRA keeps the largest singular triplets, √Σ on each side. Where the rank of ΔW
is known to be low, its range is found through the plan of ``x ΔWᵀ`` and its gradient, and ΔW is
never formed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.expression import Expr
from ..analysis.bound import rank_bound
from ..errors import CheckpointError, StructureError
from ..nn.adapt import adapted_or_refuse
from ..nn.installing import recipe_of, whole
from ..nn.layer import Adapted
from ..run.readings import apply
from .files import write_files
from .methods import Place
from .peft import CONFIG, PREFIX, TENSORS
from .peft_products import LORA

FACTORED = 4
"""Through the factors where the rank bound is at most the smaller side divided by this."""

OVERSAMPLED = 8
"""How many more directions than the bound are drawn."""


@dataclass(frozen=True, slots=True)
class ExportedSite:
    """One layer's update as a LoRA: ``ΔW ≈ B A`` with scale 1.

    Parameters
    ----------
    path : str
        The layer.
    B, A : Tensor
        ``(out, r)`` and ``(r, in·kernel)``, float32.
    bias : Tensor, optional
        Δb, which a LoRA keeps as the bias of B.
    shape : tuple of int
        The weight's, ``(out, in, *kernel)``.
    norm, lost : float
        ``‖ΔW‖`` and ``‖ΔW - B A‖``, Frobenius.
    """

    path: str
    B: Tensor
    A: Tensor
    bias: Tensor | None
    shape: tuple[int, ...]
    norm: float
    lost: float
    is_table: bool = False

    @property
    def rank(self) -> int:
        """R."""
        return self.A.shape[0]

    @property
    def error(self) -> float:
        """``‖ΔW - B A‖ / ‖ΔW‖``; 0 for an update that is zero."""
        return self.lost / self.norm if self.norm else 0.0


@dataclass(frozen=True, slots=True)
class Exported:
    """An adapter as LoRAs, one per layer; ``print`` shows rank and error of each."""

    sites: tuple[ExportedSite, ...]
    also_train: tuple[tuple[str, dict[str, Tensor]], ...] = ()

    @property
    def error(self) -> float:
        """``√(Σ‖ΔW - B A‖² / Σ‖ΔW‖²)`` over all layers."""
        total = sqrt(sum(site.norm**2 for site in self.sites))
        return sqrt(sum(site.lost**2 for site in self.sites)) / total if total else 0.0

    def __str__(self) -> str:
        width = max(len(site.path) for site in self.sites)
        lines = [
            f"{site.path:<{width}}  rank {site.rank:>5}  error {site.error:.2e}"
            for site in self.sites
        ]
        return "\n".join([*lines, f"{'all':<{width}}  {'':>10}  error {self.error:.2e}"])

    def data(self) -> dict[str, Any]:
        """Ranks and errors as JSON data."""
        sites = [{"path": s.path, "rank": s.rank, "error": s.error} for s in self.sites]
        return {"error": self.error, "sites": sites}

    def save(self, folder: str | Path) -> Path:
        """Write a LoRA folder as PEFT has it.

        Raises
        ------
        CheckpointError
            If the folder cannot be written.
        """
        folder = Path(folder)
        row = LORA[-1]
        with_bias = any(site.bias is not None for site in self.sites)
        tensors: dict[str, Tensor] = {}
        for site in self.sites:
            place = Place(site.path, site.shape, {}, site.is_table)
            keys, prefix = row.keys_at(place), f"{PREFIX}{site.path}"
            tensors[f"{prefix}.{keys['B']}"] = row.to_file("B", site.B, place)
            tensors[f"{prefix}.{keys['A']}"] = row.to_file("A", site.A, place)
            if with_bias:
                zero = torch.zeros(site.shape[0])
                tensors[f"{prefix}.lora_B.bias"] = zero if site.bias is None else site.bias
        for path, values in self.also_train:
            tensors.update({f"{PREFIX}{path}.{key}": value for key, value in values.items()})
        write_files(folder, (TENSORS, tensors), (CONFIG, self._config(with_bias)))
        return folder

    def _config(self, with_bias: bool) -> dict[str, Any]:
        rank = max(site.rank for site in self.sites)
        ranks = {site.path.replace(".", r"\."): site.rank for site in self.sites}
        different = {path: r for path, r in ranks.items() if r != rank}
        return {
            "peft_type": "LORA",
            "inference_mode": True,
            "target_modules": [site.path for site in self.sites],
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": different,
            "alpha_pattern": different,
            "lora_bias": with_bias,
            "modules_to_save": [path for path, _ in self.also_train] or None,
        }


def to_lora(
    model: nn.Module, tolerance: float = 1e-3, rank: int | None = None, name: str = "default"
) -> Exported:
    """Export one adapter of a model, of whatever structure, as a LoRA.

    Parameters
    ----------
    model : nn.Module
        An adapted model, or one adapted module of it.
    tolerance : float
        Each layer keeps the least rank with ``‖ΔW - B A‖ ≤ tolerance ‖ΔW‖`` (Frobenius), which
        by Eckart and Young no other matrix of that rank undercuts.
    rank : int, optional
        The most that a layer may have; the error then says what it costs.
    name : str
        The adapter's name.

    Returns
    -------
    Exported
        Factors, ranks and errors; ``.save(folder)`` writes PEFT's folder, and printing shows them.

    Raises
    ------
    StateError
        If the model has no adapter of that name.
    StructureError
        If the tolerance or the rank makes no sense.
    CheckpointError
        If a ΔW has values that are not finite.

    Examples
    --------
    >>> from torch import nn
    >>> from tensoradapt import nn as tnn, zoo
    >>> model = tnn.adapt(nn.Sequential(nn.Linear(8, 6)), zoo.fourierft(n_frequency=4), where="0")
    >>> exported = to_lora(model, tolerance=0.0)
    >>> exported.sites[0].A.shape[1], exported.error < 1e-6
    (8, True)
    """
    _check(tolerance, rank)
    model = whole(model)
    found = adapted_or_refuse(model, "to_lora(model)")
    sites = [(path or "layer", module) for path, module in found if name in module.adapters]
    if not sites:
        recipe_of(model, name)
    is_one = isinstance(model, Adapted)
    recipe = None if is_one else recipe_of(model, name)
    made = tuple(_export(path, module, name, tolerance, rank) for path, module in sites)
    heads = () if recipe is None else recipe.also_train
    return Exported(made, tuple((p, dict(model.get_submodule(p).state_dict())) for p in heads))


def _check(tolerance: float, rank: int | None) -> None:
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not number or not 0 <= tolerance < 1:
        raise StructureError(
            f"to_lora(tolerance={tolerance!r}) was asked for.",
            "A relative error is a number of 0 or more and below 1.",
            "The default is to_lora(model, tolerance=1e-3).",
        )
    if rank is not None and (type(rank) is not int or rank < 1):
        raise StructureError(
            f"to_lora(rank={rank!r}) was asked for.",
            "The largest rank is an integer of 1 or more.",
            "Leave it out for the rank that the tolerance needs.",
        )


@torch.no_grad()
def _export(
    path: str, module: Adapted, name: str, tolerance: float, most: int | None
) -> ExportedSite:
    change, shift = _parts(module, name)
    bias = None if shift is None or not bool(shift.any()) else shift.float().cpu()
    Q, small = change
    if not bool(torch.isfinite(small).all()):
        raise CheckpointError(
            f"'{path}' was to be exported as a LoRA.",
            f"{int((~torch.isfinite(small)).sum())} of {small.numel()} values of its ΔW are not "
            "finite.",
            "Train with a smaller step, or go back to an earlier checkpoint.",
        )
    U, S, V = torch.linalg.svd(small, full_matrices=False)
    norm = float(S.norm())
    kept = _least_rank(S, tolerance * norm)
    kept = kept if most is None else min(kept, most)
    root = S[:kept].sqrt()
    left, A = (U[:, :kept] * root).float(), (V[:kept] * root[:, None]).float()
    lost = float((small - left.double() @ A.double()).norm())
    B = left if Q is None else (Q @ left.double()).float()
    shape = tuple(module.shape)
    is_table = isinstance(module.base_layer, nn.Embedding)
    return ExportedSite(path, B.cpu(), A.cpu().contiguous(), bias, shape, norm, lost, is_table)


def _least_rank(S: Tensor, allowed: float) -> int:
    """The least rank, 1 or more, whose discarded singular values have at most that norm."""
    floor = float(S[0]) * max(S.shape[0], 1) * torch.finfo(S.dtype).eps
    tails = S.flip(0).square().cumsum(0).flip(0).sqrt()
    return max(int((tails > max(allowed, floor)).sum()), 1)


def _parts(module: Adapted, name: str) -> tuple[tuple[Tensor | None, Tensor], Tensor | None]:
    """``(Q, M)`` with ``ΔW = Q M`` in float64 (Q left out where it is the identity), and Δb."""
    adapter = module.adapters[name]
    expr, (out, inp) = adapter.update.weight, (module.shape[0], prod(module.shape[1:]))
    values = {leaf: value.double() for leaf, value in module.leaf_tensors(name).items()}
    weight, bias = module.base_tensors(torch.float64) if adapter.reads_base else (None, None)
    shift = None
    if adapter.update.bias is not None or expr is None:
        shift = module.changes(name)[1]
    if expr is None:
        return (None, torch.zeros(out, inp, dtype=torch.float64)), shift
    bound = int(rank_bound(expr))
    if bound * FACTORED > min(out, inp) or len(module.shape) > 2:
        change = module.changes(name)[0]
        assert change is not None
        return (None, change.double().reshape(out, inp)), shift
    Q, M = _through_factors(expr, values, weight, bias, min(bound + OVERSAMPLED, out, inp))
    return (Q, adapter.strength * M), shift


def _through_factors(
    expr: Expr,
    values: Mapping[str, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the range of ΔW, and Qᵀ ΔW by the gradient of ``x ΔWᵀ``."""
    inp = expr.shape[1]
    device = next(iter(values.values())).device
    source = torch.Generator().manual_seed(0)
    probes = torch.randn(count, inp, generator=source, dtype=torch.float64).to(device)
    sketch = apply(expr, values, probes, base=weight, bias=bias)
    Q = torch.linalg.qr(sketch.mT).Q
    with torch.enable_grad():
        x = torch.zeros(Q.shape[1], inp, dtype=torch.float64, device=device, requires_grad=True)
        y = apply(expr, values, x, base=weight, bias=bias)
        (M,) = torch.autograd.grad(y, x, Q.mT)
    return Q, M
