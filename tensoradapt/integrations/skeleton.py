"""A model of nothing but the layers that an adapter names, so that a file can be read without code.

The layers come from the weights of a base model (a safetensors file, or a folder of them), or
from the adapter itself where its tensors say the shapes; their values are then zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..nn.documents import DOCUMENT
from . import peft
from .files import read_json, read_tensors, refused
from .lycoris_methods import SUFFIXES

CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
TABLES = ("lora_embedding_A", "hira_embedding_A")
PAIRS = (
    ("lora_B.weight", "lora_A.weight"),
    ("lora_B", "lora_A"),
    ("hira_B", "hira_A"),
    ("hada_w1_a", "hada_w1_b"),
    ("lora_up.weight", "lora_down.weight"),
)
"""The tensors whose outer sizes are a layer's."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The layers, and whether their weights are those of the base model."""

    model: nn.Module
    has_base: bool


def skeleton(adapter: Path, base: Path | None = None) -> Skeleton:
    """Build the layers that an adapter is for.

    Parameters
    ----------
    adapter : Path
        A folder of tensoradapt or PEFT, or a file of LyCORIS.
    base : Path, optional
        The base model's weights: a safetensors file, or a folder with such files.

    Raises
    ------
    CheckpointError
        If a file cannot be read, or the shapes are needed and nothing says them.
    """
    shapes = _stored_shapes(adapter)
    if base is None:
        if not shapes:
            raise CheckpointError(
                f"The adapter '{adapter}' was to be read without its base model.",
                "Its tensors alone do not say the shapes of the layers.",
                "Give the base model's weights: --base model.safetensors.",
            )
        weights = {f"{path}.weight": torch.zeros(shape) for path, shape in shapes.items()}
        return Skeleton(_build(weights, _tables(adapter), _biased(adapter)), False)
    files = sorted(base.glob("*.safetensors")) if base.is_dir() else [base]
    if not files:
        raise refused(base, "The folder of the base model has no .safetensors file")
    weights = {name: value for file in files for name, value in read_tensors(file).items()}
    turned = _is_transposed(adapter)
    if turned:
        weights = {n: v.mT if v.ndim == 2 and n in turned else v for n, v in weights.items()}
    return Skeleton(_build(weights, _tables(adapter), None), True)


def _stored_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """The layers' shapes as far as the adapter's own files say them."""
    if (adapter / DOCUMENT).exists():
        sites = read_json(adapter / DOCUMENT).get("sites")
        found = sites if isinstance(sites, list) else []
        pairs = [(str(s.get("path")), s.get("shape")) for s in found if isinstance(s, dict)]
        return {path: tuple(sizes or ()) for path, sizes in pairs if _is_shape(sizes)}
    if not adapter.exists():
        raise refused(adapter, "There is no such file or folder")
    is_folder = adapter.is_dir()
    tensors = read_tensors(adapter / peft.TENSORS if is_folder else adapter)
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in tensors.items():
        for left, right in PAIRS:
            path = key.removesuffix(f".{left}")
            other = tensors.get(f"{path}.{right}")
            if path != key and other is not None and value.ndim > 1 and other.ndim > 1:
                head = path.removeprefix(peft.PREFIX) if is_folder else path
                shapes[head] = (value.shape[0], *other.shape[1:])
        head, _, suffix = key.rpartition(".")
        if suffix in TABLES and value.ndim == 2:
            other = tensors.get(f"{head}.{suffix[:-1]}B")
            if other is not None:
                shapes[head.removeprefix(peft.PREFIX)] = (value.shape[1], other.shape[0])
    named = {_head(key, is_folder) for key in tensors}
    return shapes if shapes.keys() >= named - {""} else {}


def _head(key: str, is_folder: bool) -> str:
    """The layer of a key; nothing for a key that belongs to no layer."""
    if not is_folder:
        ends = [s for s in SUFFIXES if key.endswith(f".{s}")]
        return key[: -len(max(ends, key=len)) - 1] if ends else key
    body = key.removeprefix(peft.PREFIX)
    known = {s for m in peft.METHODS for s in (*m.keys.values(), *m.tables.values())}
    found = [suffix for suffix in known if body.endswith(f".{suffix}")]
    return body[: -len(max(found, key=len)) - 1] if found else body


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(type(n) is int and 0 < n < 2**31 for n in value)
        and prod(value) < 2**34
    )


def _tables(adapter: Path) -> set[str]:
    """The embeddings, which only their keys tell from linear layers."""
    if not (adapter / peft.TENSORS).exists():
        return set()
    keys = read_tensors(adapter / peft.TENSORS)
    found = [key.rpartition(".") for key in keys]
    return {head.removeprefix(peft.PREFIX) for head, _, suffix in found if suffix in TABLES}


def _biased(adapter: Path) -> set[str]:
    """The layers of our own checkpoint that had a bias."""
    if not (adapter / DOCUMENT).exists():
        return set()
    sites = read_json(adapter / DOCUMENT).get("sites", [])
    return {s["path"] for s in sites if isinstance(s, dict) and s.get("bias_digest") is not None}


def _is_transposed(adapter: Path) -> set[str]:
    """The weights that a config says are stored as ``(in, out)``."""
    if not (adapter / peft.CONFIG).exists():
        return set()
    if not read_json(adapter / peft.CONFIG).get("fan_in_fan_out"):
        return set()
    keys = read_tensors(adapter / peft.TENSORS)
    return {f"{_head(key, True)}.weight" for key in keys}


def _build(weights: Mapping[str, Tensor], tables: set[str], biased: set[str] | None) -> nn.Module:
    """Modules for every weight of two to five axes, with its bias where there is one."""
    root = nn.Module()
    for name, value in weights.items():
        path, _, last = name.rpartition(".")
        if last != "weight" or not path or value.ndim not in (2, 3, 4, 5):
            continue
        bias = weights.get(f"{path}.bias")
        if biased is not None and path in biased:
            bias = torch.zeros(value.shape[0])
        _put(root, path.split("."), _layer(value, bias, path in tables))
    return root


def _layer(weight: Tensor, bias: Tensor | None, is_table: bool) -> nn.Module:
    """A layer that holds a weight; how it runs does not matter."""
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    meta: dict[str, Any] = {"device": "meta", "dtype": dtype}
    has_bias = bias is not None and bias.shape == weight.shape[:1]
    if is_table:
        layer: nn.Module = nn.Embedding(weight.shape[0], weight.shape[1], **meta)
    elif weight.ndim == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias, **meta)
    else:
        kind: Any = CONVOLUTIONS[weight.ndim]
        layer = kind(weight.shape[1], weight.shape[0], weight.shape[2:], bias=has_bias, **meta)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if has_bias and not is_table and bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _put(root: nn.Module, names: list[str], layer: nn.Module) -> None:
    for name in names[:-1]:
        child = root._modules.get(name)
        if child is None:
            child = nn.Module()
            root._modules[name] = child
        root = child
    kept = root._modules.get(names[-1])
    if kept is not None:
        layer._modules.update(kept._modules)
    root._modules[names[-1]] = layer
