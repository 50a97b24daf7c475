"""Single files of LyCORIS and kohya: one safetensors, module paths with underscores for dots.

The tensors say the method; ``alpha`` is stored so that the scale is alpha / rank always. A name
such as ``lycoris_blocks_0_q_proj`` is looked up among the model's own paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..errors import near
from ..nn.installing import Recipe, whole
from ..nn.loading import commit
from ..nn.sites import candidates
from .files import read_tensors, refused, tensor_names
from .lycoris_methods import ALPHA, DORA, ROWS, SUFFIXES
from .methods import Config, Method, Place
from .placing import Found, place_values, site_of

PREFIXES = ("lycoris", "lora_unet", "lora_te", "lora_te1", "lora_te2", "lora_transformer", "lora")
"""What stands before a module's path, longest match first."""


def accepts(path: Path) -> bool:
    """Whether the path is a file of LyCORIS or kohya."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    ends = tuple(f".{suffix}" for suffix in SUFFIXES)
    return any(name.endswith(ends) and "." not in _head(name) for name in tensor_names(path))


def _head(key: str) -> str:
    """The module's name of a key."""
    ends = [suffix for suffix in SUFFIXES if key.endswith(f".{suffix}")]
    return key[: -len(max(ends, key=len)) - 1] if ends else ""


def load(
    model: nn.Module, file: str | Path, name: str | None = None, prefix: str | None = None
) -> nn.Module:
    """Adapt a model with a file of LyCORIS or kohya: lora, loha, lokr, oft, boft, glora.

    Parameters
    ----------
    model : nn.Module
        The base model.
    file : str or Path
        A safetensors file. Tucker and DoRA forms are read too.
    name : str, optional
        The adapter's name in this model; "default" by default.
    prefix : str, optional
        What stands before the paths, such as ``"lora_unet"``; names with another one are then
        left out. Without it every name must be found, behind one of the usual prefixes.

    Returns
    -------
    nn.Module
        The same model. Leaves keep the types of the file.

    Raises
    ------
    CheckpointError
        If the file is damaged or hostile; if a name fits no layer, or two; if a tensor is
        missing, too many, of another shape or not finite.
    TargetError, StateError, StructureError
        As ``tensoradapt.nn.adapt``.

    Notes
    -----
    Everything is checked first; if anything is refused the model is as it was. LyCORIS applies
    the scale twice when it merges LoHa or LoKr, and once in its forward: this is its forward.
    """
    model, file = whole(model), Path(file)
    config = Config(file, {})
    groups = _groups(file, read_tensors(file), prefix)
    found = [
        _found(model, config, path, group)
        for path, group in _resolve(model, file, groups, prefix).items()
    ]
    laid, shared = place_values(file, found)
    text = " | ".join(dict.fromkeys(one.text for one in laid))
    paths = [one.place.path for one in found]
    recipe = Recipe(text, None, paths, {}, 0, 1.0, 0.0, None, (), {"format": "lycoris"})
    commit(model, file, laid, shared, name or "default", recipe)
    return model


def _groups(
    file: Path, tensors: Mapping[str, Tensor], prefix: str | None
) -> dict[str, dict[str, Tensor]]:
    """The tensors by module name."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if prefix is not None and not key.startswith(f"{prefix}_"):
            continue
        head = _head(key)
        if not head:
            raise refused(
                file,
                f"Its tensor '{key[:120]}' is none of LyCORIS' ({', '.join(SUFFIXES)})",
                "Merge it with LyCORIS, or train a method that is known here.",
            )
        groups.setdefault(head, {})[key[len(head) + 1 :]] = value
    if not groups:
        raise refused(
            file, f"It has no tensor of the prefix {prefix!r}" if prefix else "It is empty"
        )
    return groups


def _resolve(
    model: nn.Module, file: Path, groups: Mapping[str, dict[str, Tensor]], prefix: str | None
) -> dict[str, dict[str, Tensor]]:
    """The tensors by the model's own paths, in the model's order."""
    modules = candidates(model)
    known: dict[str, list[str]] = {}
    for path in modules:
        known.setdefault(path.replace(".", "_"), []).append(path)
    found: dict[str, dict[str, Tensor]] = {}
    for head, group in groups.items():
        prefixes = PREFIXES if prefix is None else (prefix,)
        names = [head.removeprefix(f"{p}_") for p in prefixes if head.startswith(f"{p}_")]
        names: list[str] = list(dict.fromkeys([*names, head] if prefix is None else names))
        paths = [path for one in names for path in known.get(one, [])]
        if len(paths) != 1:
            reason = (
                f"'{head[:120]}' may be any of {', '.join(paths)}"
                if paths
                else f"It adapts '{head[:120]}', which no path of this model gives with "
                f"underscores; nearest: {near(min(names, key=len), known)}"
            )
            raise refused(file, reason, "Load it into the model that it was made for.")
        if paths[0] in found:
            raise refused(file, f"Two of its names lead to '{paths[0]}'")
        found[paths[0]] = group
    return {path: found[path] for path in modules if path in found}


def _found(model: nn.Module, config: Config, path: str, group: dict[str, Tensor]) -> Found:
    layer = site_of(model, config.folder, path)
    place = Place(path, layer.shape, group)
    method = _method(config, place)
    values = {leaf: group[key] for leaf, key in method.keys.items() if key in group}
    extra = group.keys() - set(method.keys.values()) - {ALPHA}
    if extra:
        raise refused(
            config.folder, f"'{path}' has '{min(extra)}' beside the tensors of {method.zoo}"
        )
    return Found(place, layer, method.read(config, place), values, method, config.folder)


def _method(config: Config, place: Place) -> Method:
    for marks, plain, normed in ROWS:
        if any(mark in place.tensors for mark in marks):
            return normed if DORA in place.tensors and normed is not None else plain
    raise refused(
        config.folder, f"'{place.path}' has only {', '.join(sorted(place.tensors))}, no method"
    )
