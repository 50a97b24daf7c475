"""The array libraries that are importable here, as rows for tests that must agree on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Library:
    """A library: its name, how an array of it is made, and its dtypes by name."""

    name: str
    array: Callable[[np.ndarray], Any]
    dtypes: Any

    def __str__(self) -> str:
        return self.name

    def arrays(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: self.array(value) for name, value in values.items()}


def _importable() -> list[Library]:
    found = [Library("numpy", np.asarray, np)]
    if find_spec("torch"):
        torch = import_module("torch")
        found.append(Library("torch", lambda a: torch.as_tensor(np.array(a)), torch))
    if find_spec("jax"):
        jax = import_module("jax")
        jax.config.update("jax_enable_x64", True)
        found.append(Library("jax", jax.numpy.asarray, jax.numpy))
    return found


LIBRARIES = _importable()
