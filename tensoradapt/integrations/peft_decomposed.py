"""PEFT's updates that read or cut the base weight, and sparse ones, row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import zoo
from ..algebra.expression import Shape
from ..algebra.nodes import Place as Placed
from ..algebra.walk import topological
from ..run.positions import positions
from ..structure import Structure, Update
from .files import refused
from .methods import Config, Method, Place, fields
from .peft_products import Settings, alpha_of

ENCODERS = 16
"""How deep a PEANuT may be."""


def _deft(config: Config, place: Place) -> Structure:
    rank = config.integer("r", 8)
    kind = config.text("decomposition_method", "relu")
    if kind != "relu":
        raise refused(
            config.folder,
            f"Its decomposition_method is {kind[:20]!r}, whose signs are LAPACK's and not ours",
            "Merge it with PEFT, or train with decomposition_method='relu'.",
        )
    has_alpha = config.data.get("alpha") is not None
    return zoo.deft(
        rank=rank,
        alpha=config.number("alpha", 1.0) if has_alpha else None,
        para=config.flag("para"),
    )


def _deft_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    if settings["decomposition_method"] != "relu":
        return None
    return {"r": settings["rank"], "alpha": alpha_of(settings), "para": settings["para"]}


def _peanut(config: Config, place: Place) -> Structure:
    return zoo.peanut(
        rank=config.integer("r", 32),
        depth=min(config.integer("depth", 0), ENCODERS + 1),
        act_fn=config.text("act_fn", "relu"),
        scaling=config.number("scaling", 1.0),
    )


def _peanut_fields(settings: Settings, path: str) -> dict[str, Any]:
    names = ("depth", "act_fn", "scaling")
    return {"r": settings["rank"]} | {name: settings[name] for name in names}


def _supertuning(config: Config, place: Place) -> Structure:
    stored = place.tensors.get("supertuning_indices")
    if stored is None or stored.ndim != 1 or stored.is_floating_point():
        raise refused(config.folder, f"It has no integers '{place.path}.supertuning_indices'")
    return zoo.supertuning(indices=tuple(stored.tolist()))


def flat_positions(update: Update) -> Tensor:
    """Where an update puts its numbers, row by row."""
    assert update.weight is not None
    node = next(n for n in topological(update.weight) if isinstance(n, Placed))
    return torch.tensor(positions(node.index)[0]).reshape(-1)


def _supertuning_positions(update: Update, shape: Shape) -> dict[str, Tensor]:
    return {"supertuning_indices": flat_positions(update).to(torch.int32)}


DECOMPOSED = [
    Method(
        "DEFT",
        "deft",
        {"P": "deft_P", "R": "deft_R"},
        _deft,
        _deft_fields,
        fields("r alpha decomposition_method para init_scale init_weights deft_dropout"),
    ),
    Method(
        "PEANUT",
        "peanut",
        {"A": "peanut_A.weight", "B": "peanut_B.weight"}
        | {f"E{k + 1}": f"peanut_encoders.{k}.weight" for k in range(ENCODERS)}
        | {f"D{k + 1}": f"peanut_decoders.{k}.weight" for k in range(ENCODERS)},
        _peanut,
        _peanut_fields,
        fields("r depth act_fn scaling init_weights"),
    ),
    Method(
        "SUPERTUNING",
        "supertuning",
        {"values": "supertuning_values"},
        _supertuning,
        lambda settings, path: None,
        fields("sparsity select_top save_precomputed_indices init_weights lora_dropout"),
        extra=_supertuning_positions,
        extra_keys=("supertuning_indices",),
    ),
]
