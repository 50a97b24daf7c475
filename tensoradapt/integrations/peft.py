"""Adapter folders of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``.

Reading needs the methods' rows of ``peft_products`` and ``peft_others`` only, never PEFT itself.
What PEFT draws again from a seed, or computes again from W0, becomes a value of a frozen leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, near
from ..nn.checkpoint import check_finite
from ..nn.installing import Recipe, recipe_of, whole
from ..nn.layer import Adapted, adapted_modules
from ..nn.linear import TransposedLinear
from ..nn.loading import commit
from ..nn.sites import candidates
from ..spelling import parse
from ..structure import Call
from .files import read_json, read_tensors, refused, write_files
from .methods import Config, Method, Place, fields
from .peft_others import METHODS
from .placing import Found, place_values, site_of

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ROOT, PREFIX = "base_model.", "base_model.model."
BASE = "base_layer.weight"
"""PEFT saves the weight of a target named embed_tokens or lm_head with the adapter."""

GENERIC = fields(
    "peft_type auto_mapping base_model_name_or_path revision task_type inference_mode "
    "peft_version target_modules exclude_modules layers_to_transform layers_pattern "
    "modules_to_save fan_in_fan_out megatron_core ensure_weight_tying"
)
"""The fields that say which layers are adapted, which the file's keys say as well."""


def accepts(path: Path) -> bool:
    """Whether the path is a folder of PEFT."""
    return (path / CONFIG).is_file()


def load(model: nn.Module, folder: str | Path, name: str | None = None) -> nn.Module:
    """Adapt a model with an adapter that PEFT saved.

    Parameters
    ----------
    model : nn.Module
        The base model, with layers at the paths that the file's keys name.
    folder : str or Path
        With ``adapter_config.json`` and ``adapter_model.safetensors``.
    name : str, optional
        The adapter's name in this model; "default" by default.

    Returns
    -------
    nn.Module
        The same model. Leaves keep the types of the file.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged or hostile; if the method or one of its settings is not
        known here; if a tensor is missing, too many, of another shape or not finite; if a layer
        is missing.
    TargetError, StateError, StructureError
        As ``tensoradapt.nn.adapt``.

    Notes
    -----
    Everything is checked first; if anything is refused the model is as it was. The configuration
    is kept with the adapter, so that ``save`` writes it again field for field.
    """
    model, folder = whole(model), Path(folder)
    config = Config(folder, read_json(folder / CONFIG))
    method = method_of(config)
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        raise refused(
            folder,
            "Its tensors are pickled in adapter_model.bin, and reading that runs code",
            "Load and save it once with PEFT, which writes safetensors.",
        )
    tensors = read_tensors(folder / TENSORS)
    sorted_keys = _sort(candidates(model), method, config, tensors)
    places, roots, heads = sorted_keys
    found = [_found(model, method, config, place, roots, places) for place in places]
    laid, shared = place_values(folder, found)
    _check_heads(model, folder, heads)
    dropout = config.number(method.dropout, 0.0) if method.dropout else 0.0
    if not 0 <= dropout < 1 or any(one.place.is_table for one in found):
        dropout = 0.0
    texts = dict.fromkeys(one.text for one in laid)
    recipe = Recipe(
        " | ".join(texts),
        None,
        [place.path for place in places],
        {},
        0,
        1.0,
        dropout,
        None,
        tuple(heads),
        {"format": "peft", "config": dict(config.data), "with_base": _with_base(places)},
    )
    commit(model, folder, laid, shared, name or "default", recipe)
    with torch.no_grad():
        for path, values in heads.items():
            targets = model.get_submodule(path).state_dict(keep_vars=True)
            for key, value in values.items():
                targets[key].copy_(value)
    return model


def _with_base(places: list[Place]) -> dict[str, str]:
    """The layers whose base weight is in the file, and its type there."""
    stored = {place.path: place.tensors[BASE] for place in places if BASE in place.tensors}
    return {path: str(value.dtype).removeprefix("torch.") for path, value in stored.items()}


# --- which method ------------------------------------------------------------------------


def method_of(config: Config) -> Method:
    """The row for a configuration, every field of which is understood."""
    kind = config.text("peft_type", "")
    rows = [method for method in METHODS if method.peft_type == kind]
    if not rows:
        known = sorted({method.peft_type for method in METHODS})
        raise refused(
            config.folder,
            f"Its peft_type is {kind[:40]!r}; known here are {', '.join(known)}",
            "Merge it with PEFT, or convert it there: peft.save_as_lora.",
        )
    method = next(row for row in rows if row.when(config))
    if config.data.get("bias", "none") != "none":
        raise refused(
            config.folder,
            f"It trains biases of the base model too (bias={str(config.data['bias'])[:20]!r})",
            "Train with bias='none'.",
        )
    for name, value in config.data.items():
        if name not in GENERIC and name not in method.fields and name != "bias" and value:
            raise refused(
                config.folder,
                f"Its setting {name}={str(value)[:40]} of {kind} has no counterpart here",
                "Train without it, or merge the adapter with PEFT.",
            )
    return method


# --- which tensors -----------------------------------------------------------------------

Heads = dict[str, dict[str, Tensor]]


def _sort(
    modules: Mapping[str, nn.Module],
    method: Method,
    config: Config,
    tensors: Mapping[str, Tensor],
) -> tuple[list[Place], dict[str, Tensor], Heads]:
    """The tensors by layer, those at the root, and those of modules that trained whole."""
    suffixes = [
        BASE,
        *method.keys.values(),
        *method.tables.values(),
        *method.extra_keys,
        *(s.copied for s in method.shared.values() if s.copied),
    ]
    roots = {f"{ROOT}{one.root}": one.root for one in method.shared.values()}
    whole_modules = _whole_modules(modules, config)
    by_path: dict[str, dict[str, Tensor]] = {}
    found: dict[str, Tensor] = {}
    heads: Heads = {path: {} for path in whole_modules}
    for key, value in tensors.items():
        if key in roots:
            found[roots[key]] = value
            continue
        body = key.removeprefix(PREFIX) if key.startswith(PREFIX) else ""
        ends = [s for s in suffixes if body.endswith(f".{s}")]
        inside = [path for path in whole_modules if body.startswith(f"{path}.")]
        if ends:
            suffix = max(ends, key=len)
            by_path.setdefault(body[: -len(suffix) - 1], {})[suffix] = value
        elif inside:
            heads[inside[0]][body.removeprefix(f"{inside[0]}.")] = value
        else:
            raise refused(
                config.folder,
                f"Its tensor '{key[:120]}' is none of {method.peft_type}'s ({', '.join(suffixes)})",
            )
    if not by_path:
        raise refused(config.folder, f"It has no tensor of {method.peft_type}")
    order = {path: k for k, path in enumerate(modules)}
    paths = sorted(by_path, key=lambda path: order.get(path, -1))
    return [Place(path, (), by_path[path]) for path in paths], found, heads


def _whole_modules(modules: Mapping[str, nn.Module], config: Config) -> list[str]:
    names = config.names("modules_to_save")
    found = [p for p in modules for n in names if p == n or p.endswith(f".{n}")]
    for name in names:
        if not any(p == name or p.endswith(f".{name}") for p in found):
            raise refused(
                config.folder,
                f"It trained '{name}' whole, which this model does not have; nearest: "
                f"{near(name, modules)}",
                "Load it into the model that it was made for.",
            )
    return found


def _check_heads(model: nn.Module, folder: Path, heads: Heads) -> None:
    for path, values in heads.items():
        wanted = model.get_submodule(path).state_dict(keep_vars=True)
        for key in sorted(wanted.keys() | values.keys()):
            if key not in values or key not in wanted:
                where = "the file" if key not in values else "the module"
                raise refused(folder, f"{where} has no '{key}' of '{path}', which trained whole")
            if values[key].shape != wanted[key].shape:
                here, there = tuple(wanted[key].shape), tuple(values[key].shape)
                raise refused(folder, f"'{path}.{key}' is {there} there and {here} here")


def _found(
    model: nn.Module,
    method: Method,
    config: Config,
    place: Place,
    roots: Mapping[str, Tensor],
    places: list[Place],
) -> Found:
    """What one layer gets: its structure and the value of every leaf that the file decides."""
    site = site_of(model, config.folder, place.path)
    here = Place(place.path, site.shape, place.tensors, site.is_table)
    if here.is_table and not method.tables:
        raise refused(config.folder, f"'{place.path}' is an embedding, and {method.zoo} has none")
    stored, keys = here.tensors, method.keys_at(here)
    _check_base(config, place, site.stored)
    values = {leaf: stored[key] for leaf, key in keys.items() if key in stored}
    if here.is_table:
        values = {leaf: value.mT if value.ndim == 2 else value for leaf, value in values.items()}
    found = Found(here, site, method.read(config, here), values, method, config.folder)
    for leaf, one in method.shared.items():
        if one.root not in roots:
            shapes = [site_of(model, config.folder, p.path).shape for p in places]
            roots = {**roots, one.root: one.again(config, shapes)}
        copy = here.tensors.get(one.copied) if one.copied else None
        if copy is not None and not torch.equal(copy, roots[one.root]):
            raise refused(config.folder, f"'{place.path}.{one.copied}' is not '{one.root}'")
        found.shared[leaf] = roots[one.root]
    if method.derive is not None:
        found.values.update(method.derive(config, here, site.weight))
        found.derived.update(found.values.keys() - method.keys.keys())
    return found


def _check_base(config: Config, place: Place, weight: Tensor) -> None:
    """Refuse a stored base weight that is not the model's own: it was trained, or resized."""
    stored = place.tensors.get(BASE)
    if stored is not None and not torch.equal(stored, weight.detach().cpu().to(stored.dtype)):
        raise refused(
            config.folder,
            f"It holds the base weight of '{place.path}', {tuple(stored.shape)}, which is not this "
            f"model's, {tuple(weight.shape)}",
            "Put that weight into the model first: it was resized or trained as well.",
        )


# --- writing -----------------------------------------------------------------------------


def save(model: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write one adapter of a model as PEFT would.

    Parameters
    ----------
    model : nn.Module
        An adapted model.
    folder : str or Path
        Where to write; made if missing.
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
        If PEFT has no such method or setting, or a value is not finite.

    Notes
    -----
    An adapter that ``load`` read is written with its own configuration; one that was made here
    with the fields of its structure, the others left to PEFT's defaults.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from tensoradapt import nn as tnn, zoo
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    >>> folder = save(tnn.adapt(model, zoo.lora(rank=2), where="0"), mkdtemp())
    >>> fresh = load(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), folder)
    """
    model, folder = whole(model), Path(folder)
    recipe = recipe_of(model, name)
    sites = [(path, m) for path, m in adapted_modules(model) if name in m.adapters]
    origin = recipe.origin or {}
    if origin.get("format") == "peft":
        data = origin["config"]
        method = method_of(Config(folder, data))
    else:
        data, method = _new_config(folder, recipe, sites, name)
    more = method.extra
    with_roots = data.get("save_projection", True)
    tensors: dict[str, Tensor] = {}
    joined: dict[str, list[Tensor]] = {leaf: [] for leaf in method.shared}
    for path, module in sites:
        values = module.leaf_tensors(name)
        place = _place(data, path, module)
        for leaf, suffix in method.keys_at(place).items():
            if leaf in values:
                tensors[f"{PREFIX}{path}.{suffix}"] = method.to_file(leaf, values[leaf], place)
        for leaf in method.shared:
            joined[leaf].append(values[leaf])
        written = {} if more is None else more(module.adapters[name].update, module.shape)
        tensors.update({f"{PREFIX}{path}.{key}": value for key, value in written.items()})
    for leaf, one in method.shared.items() if with_roots else ():
        value = tensors[f"{ROOT}{one.root}"] = _join(folder, leaf, joined[leaf])
        if one.copied:
            tensors.update({f"{PREFIX}{path}.{one.copied}": value for path, _ in sites})
    for path, dtype in origin.get("with_base", {}).items():
        weight = dict(sites)[path].weight
        tensors[f"{PREFIX}{path}.{BASE}"] = weight.to(getattr(torch, dtype))
    for path in recipe.also_train:
        for key, value in model.get_submodule(path).state_dict().items():
            tensors[f"{PREFIX}{path}.{key}"] = value
    for key, value in tensors.items():
        check_finite(folder, key, value, "saved")
    write_files(folder, (TENSORS, tensors), (CONFIG, data))
    return folder


def _place(data: Mapping[str, Any], path: str, module: Adapted) -> Place:
    """A layer to be written; an (IA)³ of inputs is stored as a row."""
    rows = data.get("feedforward_modules") or []
    is_row = any(path.endswith(one) for one in rows) if isinstance(rows, list) else False
    shapes = {"ia3_l": torch.empty(1, 2) if is_row else torch.empty(2, 1)}
    return Place(path, module.shape, shapes, isinstance(module.base_layer, nn.Embedding))


def _join(folder: Path, leaf: str, parts: list[Tensor]) -> Tensor:
    """One tensor that every layer's part is cut from."""
    largest = max(parts, key=lambda part: part.numel())
    for part in parts:
        cut = tuple(slice(0, n) for n in part.shape)
        if not torch.equal(largest[cut], part):
            raise _unwritable(
                folder, f"Its layers have different frozen {leaf}; PEFT has one for all of them"
            )
    return largest


def _new_config(
    folder: Path, recipe: Recipe, sites: list[tuple[str, Adapted]], name: str
) -> tuple[dict[str, Any], Method]:
    """The configuration of an adapter that was made here."""
    if recipe.strength != 1.0:
        raise _unwritable(folder, f"It has the strength {recipe.strength}, and PEFT has none")
    found: dict[str, Any] = {}
    chosen: Method | None = None
    for path, module in sites:
        structure = parse(module.adapters[name].text)
        rows = [row for row in METHODS if _writes(row, structure)]
        settings = _settings(structure)
        pairs = [(row, row.write(settings, path)) for row in rows]
        fitting = [(row, made) for row, made in pairs if made is not None]
        if not fitting or chosen not in (None, fitting[0][0]):
            raise _unwritable(folder, f"PEFT has no counterpart of {structure} at '{path}'")
        chosen, made = fitting[0]
        for key, value in made.items():
            _merge(folder, chosen, found, key, value, path)
    assert chosen is not None
    common = {
        "peft_type": chosen.peft_type,
        "inference_mode": True,
        "target_modules": [path for path, _ in sites],
    }
    if any(isinstance(module.kind, TransposedLinear) for _, module in sites):
        common["fan_in_fan_out"] = True
    if recipe.also_train:
        common["modules_to_save"] = list(recipe.also_train)
    if recipe.dropout and chosen.dropout:
        common[chosen.dropout] = recipe.dropout
    return common | found, chosen


def _writes(row: Method, structure: object) -> bool:
    return isinstance(structure, Call) and structure.method.name == row.zoo


def _settings(structure: Any) -> dict[str, Any]:
    if not isinstance(structure, Call):
        return {}
    return dict(structure.method.defaults) | dict(structure.settings)


def _merge(
    folder: Path, method: Method, found: dict[str, Any], key: str, value: Any, path: str
) -> None:
    """Put one layer's field beside those of the layers before it."""
    if isinstance(value, list):
        found[key] = [*found.get(key, []), *value]
        return
    first = found.setdefault(key, value)
    if first != value:
        if key not in method.per_layer:
            raise _unwritable(
                folder, f"{key} is {first} at one layer and {value} at '{path}'; PEFT has one"
            )
        pattern = "^" + path.replace(".", r"\.")
        found.setdefault(method.per_layer[key], {})[pattern.removeprefix("^")] = value


def _unwritable(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"An adapter was to be written for PEFT to '{folder}'.",
        f"{reason}. Nothing was written.",
        "Export it as a LoRA of the needed rank: tensoradapt.integrations.exporting.to_lora.",
    )
