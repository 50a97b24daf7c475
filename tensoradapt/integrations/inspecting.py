"""What a file of adapters holds, layer by layer; and from one kind of file to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..analysis.bound import rank_bound
from ..errors import CheckpointError, ParseError, StructureError
from ..nn.adapt import sites
from ..nn.checkpoint import save as save_native
from ..nn.documents import TENSORS
from ..nn.layer import Adapted
from ..nn.loading import load
from ..spelling import parse
from ..structure import Call, Structure
from . import peft
from .exporting import Exported, to_lora
from .files import refused
from .skeleton import Skeleton, skeleton

TARGETS = ("lora", "peft", "tensoradapt")


@dataclass(frozen=True, slots=True)
class Inspected:
    """One adapted layer.

    Parameters
    ----------
    path, method : str
        The layer, and its structure as it prints.
    rank : int, optional
        The setting; None where the method has none.
    bound : int
        What the rank of ΔW is at most.
    scale : float, optional
        α/r, or what the method makes of α; None where the method has no α.
    parameters : int
        How many numbers train.
    norm, relative, stable_rank : float, optional
        ``‖ΔW‖``, ``‖ΔW‖/‖W0‖`` and ``‖ΔW‖²/σ₁²``; None where they need the base model.
    """

    path: str
    method: str
    rank: int | None
    bound: int
    scale: float | None
    parameters: int
    norm: float | None
    relative: float | None
    stable_rank: float | None

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """What a file holds: its layers, or the values that are not finite and why it cannot load."""

    layers: tuple[Inspected, ...]
    not_finite: Mapping[str, int]

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        layers = [layer.data() for layer in self.layers]
        return {"not_finite": dict(self.not_finite), "layers": layers}


def inspect(adapter: Path, base: Path | None = None) -> Report:
    """Read an adapter's file: of tensoradapt, PEFT, LyCORIS or kohya.

    Parameters
    ----------
    adapter : Path
        The folder or file.
    base : Path, optional
        The base model's weights, for the ratios and for methods that read them.

    Returns
    -------
    Report
        Without layers where a value is not finite, as such a file is refused.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    bad = _not_finite(adapter)
    if bad:
        return Report((), bad)
    read = skeleton(adapter, base)
    load_into(read, adapter)
    return Report(tuple(_inspect(p, m, read.has_base) for p, m in sites(read.model)), {})


def load_into(read: Skeleton, adapter: Path) -> nn.Module:
    """Load the adapter; our own checkpoint's digest of W0 is checked where W0 is there."""
    return load(read.model, adapter, name="default", strict=read.has_base)


def _not_finite(adapter: Path) -> dict[str, int]:
    """How many values of each tensor are not finite; empty for what is no safetensors file."""
    names = [adapter / TENSORS, adapter / peft.TENSORS] if adapter.is_dir() else [adapter]
    found: dict[str, int] = {}
    for path in names:
        if not path.is_file():
            continue
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    value = file.get_tensor(name)
                    count = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
                    if count:
                        found[name] = count
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise refused(path, f"{path.name} is no whole safetensors file") from None
    return found


@torch.no_grad()
def _inspect(path: str, module: Adapted, has_base: bool) -> Inspected:
    (name,) = module.adapters
    adapter = module.adapters[name]
    expr = adapter.update.weight
    own = _structure(adapter.text)
    norm = relative = stable = None
    if expr is not None and (has_base or not adapter.reads_base):
        change = module.changes(name)[0]
        assert change is not None
        S = torch.linalg.svdvals(change.double().reshape(change.shape[0], -1))
        norm = float(S.norm())
        stable = float((S.norm() / S[0]) ** 2) if norm else 0.0
        whole = float(module.base_tensors()[0].double().norm()) if has_base else 0.0
        relative = norm / whole if whole else None
    rank = _settings(own).get("rank")
    trained = sum(leaf.numel() for leaf in module.leaf_tensors(name).values() if leaf.requires_grad)
    return Inspected(
        path,
        adapter.text,
        rank if isinstance(rank, int) else None,
        0 if expr is None else int(rank_bound(expr)),
        scale_of(own),
        trained,
        norm,
        relative,
        stable,
    )


def _structure(text: str) -> Structure | None:
    try:
        return parse(text)
    except (ParseError, StructureError):
        return None


def _settings(structure: Structure | None) -> dict[str, Any]:
    """All settings of a structure, those of what is within it among them."""
    if not isinstance(structure, Call):
        return {}
    own = dict(structure.method.defaults) | dict(structure.settings)
    within = own.get("within")
    return _settings(within) | own if isinstance(within, Structure) else own


def scale_of(structure: Structure | None) -> float | None:
    """The factor that a structure's α makes, or None where it has no α.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> scale_of(zoo.lora(rank=4, alpha=10)), scale_of(zoo.hira(rank=4))
    (2.5, None)
    """
    own = _settings(structure)
    if "alpha" not in own:
        return None
    if own["alpha"] is None:
        return 1.0
    rank = own.get("rank") or 1
    total = rank + (own.get("hybrid_r") or 0)
    return float(own["alpha"]) / (sqrt(total) if own.get("use_rslora") else total)


def convert(
    adapter: Path,
    output: Path,
    target: str = "lora",
    base: Path | None = None,
    tolerance: float = 1e-3,
    rank: int | None = None,
) -> Exported | None:
    """Write an adapter's file as one of another kind.

    Parameters
    ----------
    adapter, output : Path
        The file or folder to read, and the folder to write.
    target : {"lora", "peft", "tensoradapt"}
        A LoRA of the needed rank, as PEFT has it; the same method, as PEFT has it; our own
        checkpoint.
    base : Path, optional
        The base model's weights.
    tolerance, rank : float and int, optional
        As ``to_lora``.

    Returns
    -------
    Exported or None
        Ranks and errors, where it is a LoRA.

    Raises
    ------
    CheckpointError
        If it cannot be read or written, or needs the base model.
    """
    if target not in TARGETS:
        raise StructureError(
            f"A conversion to {target!r} was asked for.",
            f"The kinds are {', '.join(TARGETS)}.",
            "The default is lora, which everything can be converted to.",
        )
    read = skeleton(adapter, base)
    model = load_into(read, adapter)
    reads = [path for path, m in sites(model) if m.adapters["default"].reads_base]
    if not read.has_base and (target == "tensoradapt" or (reads and target == "lora")):
        raise CheckpointError(
            f"'{adapter}' was to be converted to {target} without its base model.",
            f"The update of '{reads[0]}' reads W0."
            if reads
            else "A checkpoint of tensoradapt holds a digest of every W0.",
            "Give the base model's weights: --base model.safetensors.",
        )
    if target == "lora":
        exported = to_lora(model, tolerance=tolerance, rank=rank)
        exported.save(output)
        return exported
    write = peft.save if target == "peft" else save_native
    write(model, output)
    return None
