"""Foreign files, read without trust and written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, isfinite

from ..errors import CheckpointError

MAX_CONFIG = 2**22
"""Bytes of a configuration."""


def refused(path: Path | str, reason: str, remedy: str = "") -> CheckpointError:
    """A foreign file that cannot be taken, and why."""
    return CheckpointError(
        f"The foreign adapter '{path}' was to be loaded.",
        f"{reason}. Nothing was changed.",
        remedy or "Take another copy of it, or save it again with the library that made it.",
    )


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises
    ------
    CheckpointError
        If the file is missing, too large, not JSON, or no object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG:
            raise refused(path.parent, f"{path.name} has {size} bytes; the limit is {MAX_CONFIG}")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except CheckpointError:
        raise
    except OSError as error:
        reason = f"{path.name} cannot be opened: {error.strerror or error}"
        raise refused(path.parent, reason) from None
    except RecursionError:
        raise refused(path.parent, f"{path.name} nests too deep") from None
    except ValueError as error:
        raise refused(path.parent, f"{path.name} is not JSON: {short(error)}") from None
    if not isinstance(data, dict):
        raise refused(path.parent, f"{path.name} is a {type(data).__name__} and no object")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, every value finite.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated or foreign, or a value is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise refused(path, f"There is no file {path.name}") from None
    except OSError as error:
        raise refused(path, f"It cannot be opened: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise refused(path, f"{path.name} cannot be read: {short(error)}") from None
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(isfinite(value).all()):
            count = int((~isfinite(value)).sum())
            raise refused(path, f"{count} of {value.numel()} values of '{name}' are not finite")
    return tensors


def tensor_names(path: Path) -> list[str]:
    """The names in a safetensors file; none if it cannot be read as one."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return []


def short(error: Exception) -> str:
    """The first line of a foreign error."""
    text = str(error).split("\n")[0]
    return text if len(text) < 120 else f"{text[:117]}..."


def write_files(
    folder: Path, tensors: tuple[str, Mapping[str, Tensor]], document: tuple[str, Any]
) -> None:
    """Write a tensor file and a JSON file into a folder, each beside the old one and renamed.

    Raises
    ------
    CheckpointError
        If the folder cannot be written; what was there is unchanged.
    """
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors[1].items()}
    contents = {
        tensors[0]: save_tensors(copies, metadata={"format": "pt"}),
        document[0]: json.dumps(document[1], indent=2, sort_keys=True).encode(),
    }
    made: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            handle, part = tempfile.mkstemp(prefix=".adapter-", suffix=".part", dir=folder)
            made[Path(part)] = folder / name
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(part, 0o644)
        for part, target in made.items():
            os.replace(part, target)
    except OSError as error:
        raise CheckpointError(
            f"An adapter was to be written to '{folder}'.",
            f"The system refused: {error.strerror or error}.",
            "Give a folder that can be written, with enough space.",
        ) from None
    finally:
        for part in made:
            with suppress(OSError):
                part.unlink(missing_ok=True)
