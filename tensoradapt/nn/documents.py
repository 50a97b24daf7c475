"""The two files of a checkpoint: written whole or not at all, read without trust.

``adapter.safetensors`` holds tensors and ``adapter.json`` everything else, with the digest of the
first. Both are written beside the old ones and renamed. Should the process die between the two
renames, the old tensors still lie in ``adapter.safetensors.previous``, and reading finds them by
the digest.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..errors import CheckpointError

FORMAT, VERSION = "tensoradapt-adapter", 1
DOCUMENT, TENSORS = "adapter.json", "adapter.safetensors"
PREVIOUS = f"{TENSORS}.previous"
MAX_DOCUMENT = 2**26
"""Bytes of adapter.json."""


def digest_of(tensor: Tensor) -> str:
    """A fingerprint of a tensor's type, shape and bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


# --- writing -----------------------------------------------------------------------------


def write(folder: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files, or leave those that were there.

    Raises
    ------
    CheckpointError
        If the folder cannot be written.
    """
    content = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    stamp = {"digest": blake2b(content, digest_size=16).hexdigest(), "n_bytes": len(content)}
    text = json.dumps({**document, "tensors": stamp}, allow_nan=False, ensure_ascii=False, indent=1)
    encoded = text.encode()
    if len(encoded) > MAX_DOCUMENT:
        raise CheckpointError(
            f"A checkpoint was to be written to '{folder}'.",
            f"{DOCUMENT} would have {len(encoded)} bytes; the limit is {MAX_DOCUMENT}.",
            "Use seeded permutations in place of long tables in the structure.",
        )
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = [_temporary(folder, content), _temporary(folder, encoded)]
        _exchange(folder, *made)
    except OSError as error:
        raise CheckpointError(
            f"A checkpoint was to be written to '{folder}'.",
            f"The system refused: {error.strerror or error}. What was there is unchanged.",
            "Give a folder that can be written, with enough space.",
        ) from None
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _temporary(folder: Path, content: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix=".adapter-", suffix=".part", dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o666 & ~_mask())
    return Path(name)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _exchange(folder: Path, tensors: Path, document: Path) -> None:
    current, previous = folder / TENSORS, folder / PREVIOUS
    if current.exists():
        os.replace(current, previous)
    try:
        os.replace(tensors, current)
        os.replace(document, folder / DOCUMENT)
    except OSError:
        if previous.exists():
            os.replace(previous, current)
        raise
    previous.unlink(missing_ok=True)


# --- reading -----------------------------------------------------------------------------


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a checkpoint, each whole and of one saving.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, truncated, foreign, or not the one saved with the other.
    """
    document = _read_document(folder)
    stamp = document.get("tensors")
    if not isinstance(stamp, dict) or not isinstance(stamp.get("digest"), str):
        raise damaged(folder, f"{DOCUMENT} does not say which tensors belong to it")
    content = _read_tensors(folder, stamp)
    try:
        return document, load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{TENSORS} cannot be read: {_short(error)}") from None


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    try:
        if path.stat().st_size > MAX_DOCUMENT:
            size = path.stat().st_size
            raise damaged(folder, f"{DOCUMENT} has {size} bytes; the limit is {MAX_DOCUMENT}")
        text = path.read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except FileNotFoundError:
        raise _missing(folder, DOCUMENT) from None
    except OSError as error:
        raise damaged(folder, f"{DOCUMENT} cannot be opened: {error.strerror or error}") from None
    except RecursionError:
        raise damaged(folder, f"{DOCUMENT} nests too deep") from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise damaged(folder, f"{DOCUMENT} is not JSON: {_short(error)}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise damaged(folder, f'{DOCUMENT} does not say "format": "{FORMAT}"')
    if document.get("version") != VERSION or isinstance(document["version"], bool):
        version = str(document.get("version"))[:20]
        raise damaged(folder, f"{DOCUMENT} has version {version}; this library reads {VERSION}")
    return document


def _read_tensors(folder: Path, stamp: Mapping[str, Any]) -> bytes:
    found: list[int] = []
    for name in (TENSORS, PREVIOUS):
        try:
            content = (folder / name).read_bytes()
        except OSError:
            continue
        if blake2b(content, digest_size=16).hexdigest() == stamp["digest"]:
            return content
        found.append(len(content))
    if not found:
        raise _missing(folder, TENSORS)
    raise damaged(
        folder,
        f"{TENSORS} is not the file that {DOCUMENT} was saved with: it has {found[0]} bytes where "
        f"{str(stamp.get('n_bytes'))[:20]} were written, or other contents",
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _short(error: Exception) -> str:
    text = str(error).split("\n")[0]
    return text if len(text) < 120 else f"{text[:117]}..."


def _missing(folder: Path, name: str) -> CheckpointError:
    known = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    foreign = "adapter_config.json" in known
    holds = f"It holds: {', '.join(known) or 'nothing'}." if folder.is_dir() else "It is no folder."
    return CheckpointError(
        f"The checkpoint '{folder}' was asked for.",
        f"It has no file {name}. {holds}" + (" That is a checkpoint of PEFT." if foreign else ""),
        "Pass the folder that save(model, folder) wrote.",
    )


def damaged(folder: Path | str, reason: str) -> CheckpointError:
    """A checkpoint that cannot be read, and why."""
    return CheckpointError(
        f"The checkpoint '{folder}' was to be loaded.",
        f"{reason}. Nothing was changed.",
        "Take another copy of both files, or save the adapter again.",
    )
