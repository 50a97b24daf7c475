"""Foreign checkpoints: their readers are found by entry points, never imported from here.

A package declares a reader in the group ``tensoradapt.readers``; ``load`` asks each whether a
path is its own. Ours, for PEFT and LyCORIS, are declared in the same way.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from torch import nn

from .documents import DOCUMENT

GROUP = "tensoradapt.readers"


class Reader(Protocol):
    """What an entry point of the group names."""

    def accepts(self, path: Path) -> bool:
        """Whether the path looks like a checkpoint of this kind; must not raise."""
        ...

    def load(self, model: nn.Module, path: Path, name: str | None = None) -> nn.Module:
        """Adapt a model with the checkpoint; nothing changes if it is refused."""
        ...


def reader_of(path: Path) -> Reader | None:
    """The reader of a foreign checkpoint; None for a path that is our own, or nobody's."""
    if (path / DOCUMENT).exists() or not path.exists():
        return None
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        reader: Reader = entry.load()
        if reader.accepts(path):
            return reader
    return None
