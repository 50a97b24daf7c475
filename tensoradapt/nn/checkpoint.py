"""Save adapters: the structure itself, its values, and what they were trained on.

The JSON holds every distinct update as expressions, so that a checkpoint loads where the code of
its method is not. Frozen leaves that are drawn from a seed are stored by a checksum and drawn
again; what is trained, derived from W0 or given is stored by value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.codec import to_data
from ..algebra.expression import Expr
from ..algebra.nodes import Frozen, Leaf
from ..algebra.walk import start_of
from ..errors import CheckpointError
from ..run.sample import sample
from .documents import FORMAT, VERSION, digest_of, write
from .installing import Recipe, recipe_of, whole
from .layer import Adapted, adapted_modules
from .laying import leaves_of

REDRAWN = (
    "zeros",
    "ones",
    "constant",
    "identity",
    "normal",
    "uniform",
    "kaiming_uniform",
    "kaiming_normal",
    "xavier_uniform",
    "xavier_normal",
    "paired_columns",
)
"""The starts that give the same numbers everywhere, so that a frozen leaf is drawn again."""

PARTS = ("weight", "bias", "penalty")


def save(model: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Save one adapter of a model: ``adapter.safetensors`` and ``adapter.json``.

    Parameters
    ----------
    model : nn.Module
        An adapted model, merged or not.
    folder : str or Path
        Where to write; made if missing. Both files are written beside the old ones and renamed,
        so a failure leaves an old checkpoint whole.
    name : str
        The adapter's name.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StateError
        If the model has no adapter of that name.
    CheckpointError
        If a value is not finite, or the folder cannot be written.

    Notes
    -----
    A digest of every adapted W0 and b0 is stored, so that loading into another base is noticed.
    Nothing is pickled.
    """
    model, folder = whole(model), Path(folder)
    recipe = recipe_of(model, name)
    found = [(path, m) for path, m in adapted_modules(model) if name in m.adapters]
    tensors: dict[str, Tensor] = {}
    redrawn: dict[str, dict[str, Any]] = {}
    updates: dict[tuple[Expr | None, ...], int] = {}
    sites: list[dict[str, Any]] = []
    for path, module in found:
        adapter = module.adapters[name]
        update = adapter.update
        number = updates.setdefault((update.weight, update.bias, update.penalty), len(updates))
        sites.append({"path": path, "text": adapter.text, "update": number, **base_fields(module)})
        for leaf, value in module.leaf_tensors(name).items():
            key = key_of(path, leaf, adapter.places[leaf])
            if key in tensors or key in redrawn:
                continue
            again = redraw(leaves_of(update).get(leaf), recipe.seed, path, value)
            if again is not None and torch.equal(again, value):
                redrawn[key] = {"dtype": str(value.dtype), "digest": digest_of(value)}
            else:
                tensors[key] = value
    tensors |= trained_whole(model, recipe)
    for key, value in tensors.items():
        check_finite(folder, key, value, "saved")
    write(folder, _document(name, recipe, list(updates), sites, redrawn), tensors)
    return folder


def _document(
    name: str,
    recipe: Recipe,
    updates: list[tuple[Expr | None, ...]],
    sites: list[dict[str, Any]],
    redrawn: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "text": recipe.text,
        "structure": recipe.structure,
        "where": recipe.where,
        "settings": recipe.settings,
        "seed": recipe.seed,
        "strength": recipe.strength,
        "dropout": recipe.dropout,
        "dtype": recipe.dtype,
        "also_train": list(recipe.also_train),
        "origin": recipe.origin,
        "updates": [
            {
                part: None if expr is None else to_data(expr)
                for part, expr in zip(PARTS, update, strict=True)
            }
            for update in updates
        ],
        "sites": sites,
        "redrawn": redrawn,
    }


def base_fields(module: Adapted) -> dict[str, Any]:
    """What is stored of the layer that an adapter was laid on."""
    weight, bias = module.base_tensors()
    return {
        "shape": list(module.shape),
        "dtype": str(weight.dtype),
        "weight_digest": digest_of(weight),
        "bias_digest": None if bias is None else digest_of(bias),
    }


def key_of(path: str, leaf: str, is_shared: bool) -> str:
    """The name of a leaf's tensor in the file."""
    return f"shared:{leaf}" if is_shared else f"{path}:{leaf}"


def trained_whole(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """The tensors of the modules that train whole, by their names in the file."""
    return {
        f"whole:{path}.{name}": value
        for path in recipe.also_train
        for name, value in model.get_submodule(path).state_dict(keep_vars=True).items()
    }


def redraw(leaf: Leaf | None, seed: int, path: str, like: Tensor) -> Tensor | None:
    """The value of a seeded frozen leaf, drawn again; None for every other leaf."""
    if not isinstance(leaf, Frozen) or start_of(leaf).kind not in REDRAWN:
        return None
    return sample(leaf, seed=seed, like=like, path=path)[leaf.name]


def check_finite(folder: Path, key: str, value: Tensor, done: str) -> None:
    """Refuse a value that is not finite."""
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointError(
            f"The checkpoint '{folder}' was to be {done}.",
            f"{count} of {value.numel()} values of '{key}' are not finite. Nothing was changed.",
            "Train with a smaller step, or go back to an earlier checkpoint.",
        )
