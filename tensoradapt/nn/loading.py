"""Load adapters: everything is read and checked first, and put into the model last."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.codec import from_data
from ..algebra.expression import Expr
from ..algebra.nodes import Leaf, Parameter
from ..algebra.walk import topological
from ..errors import CheckpointError, ParseError, near
from ..structure import Update
from .adapt import refuse_occupied, refuse_overlap
from .bare import bare_parameters
from .checkpoint import (
    PARTS,
    base_fields,
    check_finite,
    key_of,
    redraw,
    trained_whole,
)
from .documents import damaged, digest_of, read
from .fields import Fields
from .installing import Recipe, install, record_of, whole
from .kinds import bias_of, weight_of, weight_shape
from .layer import Adapted, adapted_modules
from .laying import Laid, check_shared, operator_of, original, parts_of, refuse_meta
from .readers import reader_of
from .sites import Site, candidates, reason_against, refuse_tied, sites_at

MAX_GROWTH = 256
"""How many times larger than the layer a part of a stored expression may be."""

DTYPES = {str(t): t for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def load(
    model: nn.Module, folder: str | Path, name: str | None = None, strict: bool = True
) -> nn.Module:
    """Load an adapter: adapt a fresh model with it, or give its values to an adapted one.

    Parameters
    ----------
    model : nn.Module
        A model with layers at the stored paths. If it has an adapter of that name already, with
        the same expressions at the same paths, that adapter gets the stored values.
    folder : str or Path
        What ``save`` wrote; its method need not be registered, as the expressions are in the
        file. Or a checkpoint of another library for which a reader is installed: a folder of
        PEFT, a file of LyCORIS.
    name : str, optional
        The adapter's name in this model; the stored one by default.
    strict : bool
        Refuse a base whose weights are not those that the adapter was saved with. With ``False``
        another base, or the same one in another type, is taken.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, foreign or hostile; if a value is missing, too many, of
        another shape or not finite; if a layer is missing or other than when it was saved.
    TargetError, StateError
        As ``adapt``.

    Notes
    -----
    Everything is checked first; if anything is refused the model is as it was.
    """
    model, folder = whole(model), Path(folder)
    foreign = reader_of(folder)
    if foreign is not None:
        return foreign.load(model, folder, name)
    document, tensors = read(folder)
    fields = Fields(folder, document)
    recipe = _recipe(fields)
    title = fields.text("name") if name is None else name
    laid = _lay(model, fields)
    _check_bases(fields, laid, strict)
    shared = _fill(fields, laid, tensors, recipe)
    heads = _heads(model, fields, recipe, tensors)
    if tensors:
        raise damaged(folder, f"Its tensor '{min(tensors)}' belongs to no leaf")
    commit(model, folder, laid, shared, title, recipe)
    with torch.no_grad():
        for target, value in heads:
            target.copy_(value)
    return model


def commit(
    model: nn.Module,
    folder: Path,
    laid: list[Laid],
    shared: dict[str, Tensor],
    name: str,
    recipe: Recipe,
) -> None:
    """Install what was read and checked, or give its values to the adapter of that name."""
    record = record_of(model)
    if record is not None and name in record.recipes:
        _refill(model, folder, laid, shared, name)
        return
    sites = [one.site for one in laid]
    for site in sites:
        refuse_occupied(site, name)
    refuse_tied(model, sites)
    refuse_overlap(model, recipe.also_train, sites)
    install(model, laid, shared, name, recipe)


def _refill(
    model: nn.Module, folder: Path, laid: list[Laid], shared: dict[str, Tensor], name: str
) -> None:
    """Give the stored values to an adapter that is there."""
    here = {path: m for path, m in adapted_modules(model) if name in m.adapters}
    stored = {one.site.path: one for one in laid}
    same = here.keys() == stored.keys() and all(
        parts_of(here[path].adapters[name].update) == parts_of(one.update)
        for path, one in stored.items()
    )
    if not same:
        raise CheckpointError(
            f"The checkpoint '{folder}' was to be loaded under the name {name!r}.",
            "The model has an adapter of that name with other expressions or at other layers.",
            'Load it under another name, as in load(model, folder, name="second"), or detach '
            "the old one first.",
        )
    with torch.no_grad():
        for path, one in stored.items():
            for leaf, target in here[path].leaf_tensors(name).items():
                target.copy_((one.trained | one.frozen | shared)[leaf])


def _recipe(fields: Fields) -> Recipe:
    dtype = fields.get("dtype", str, type(None))
    strength, dropout = fields.number("strength"), fields.number("dropout")
    if (dtype is not None and dtype not in DTYPES) or not 0 <= dropout < 1:
        raise damaged(fields.folder, "Its dtype or dropout is none")
    also_train = fields.get("also_train", list)
    if not all(isinstance(path, str) for path in also_train):
        raise damaged(fields.folder, "Its also_train is not a list of paths")
    return Recipe(
        fields.text("text"),
        fields.get("structure", dict, type(None)),
        fields.get("where", str, list, type(None)),
        fields.get("settings", dict, type(None)),
        fields.integer("seed"),
        strength,
        dropout,
        dtype,
        tuple(also_train),
        fields.get("origin", dict, type(None)) if "origin" in fields.data else None,
    )


def _lay(model: nn.Module, fields: Fields) -> list[Laid]:
    """The stored updates at the stored paths, before any value."""
    stored = [fields.inside("updates", k) for k in range(len(fields.get("updates", list)))]
    updates = [Update(*(_expression(one, part) for part in PARTS)) for one in stored]
    modules = candidates(model)
    modules |= bare_parameters(model, modules)
    operators: dict[object, Any] = {}
    laid: list[Laid] = []
    for k in range(len(fields.get("sites", list))):
        one = fields.inside("sites", k)
        path, number = one.text("path"), one.integer("update")
        site = _site(fields, model, modules, path)
        shape, here = tuple(one.get("shape", list)), weight_shape(original(site))
        if not 0 <= number < len(updates):
            raise damaged(fields.folder, f"'{path}' has the update {number} of {len(updates)}")
        if shape != here:
            raise _unfit(fields, path, f"it was {shape} when saved and is {here} here")
        update = updates[number]
        _check_sizes(fields, path, update, shape)
        if (bias_of(original(site)) is None) != (one.get("bias_digest", str, type(None)) is None):
            raise _unfit(fields, path, "it has a bias in one of the two and none in the other")
        laid.append(Laid(site, one.text("text"), update, operator_of(update, site, operators)))
    if not laid or len({one.site.path for one in laid}) != len(laid):
        raise damaged(fields.folder, "It has no site, or one twice")
    check_shared(laid)
    return laid


def _expression(fields: Fields, part: str) -> Expr | None:
    data = fields.get(part, dict, type(None))
    try:
        return None if data is None else from_data(data)
    except ParseError as error:
        raise damaged(fields.folder, f"Its {part} expression: {error.against}") from None


def _site(fields: Fields, model: nn.Module, modules: Mapping[str, nn.Module], path: str) -> Site:
    if path not in modules:
        raise CheckpointError(
            f"The checkpoint '{fields.folder}' was to be loaded.",
            f"It adapts '{path}', which this model does not have; nearest: {near(path, modules)}.",
            "Load it into the model that it was made for.",
        )
    reason = reason_against(path, modules)
    if reason is not None:
        raise _unfit(fields, path, f"{reason}, which cannot be adapted")
    site = sites_at(model, modules, [path])[0]
    refuse_meta(site)
    return site


def _check_sizes(fields: Fields, path: str, update: Update, shape: tuple[int, ...]) -> None:
    """Shapes that fit the layer, and no part so large that it must be meant to harm."""
    expected = zip(
        (update.weight, update.bias, update.penalty), (shape, shape[:1], ()), strict=True
    )
    for part, wanted in expected:
        if part is not None and part.shape != wanted:
            raise _unfit(fields, path, f"its update is {part.shape} and not {wanted}")
    limit = MAX_GROWTH * max(prod(shape), 2**12)
    for part in parts_of(update):
        largest = max(topological(part, with_starts=True), key=lambda node: node.size)
        if largest.size > limit:
            raise _unfit(
                fields,
                path,
                f"its update has a part of shape {largest.shape}, more than {MAX_GROWTH} times "
                "as large as the layer",
            )


def _check_bases(fields: Fields, laid: list[Laid], strict: bool) -> None:
    for k, one in enumerate(laid):
        stored, module = fields.inside("sites", k), one.site.module
        here = base_fields(module if isinstance(module, Adapted) else Adapted(module))
        keys = ("weight_digest", "bias_digest")
        if strict and any(here[key] != stored.get(key, str, type(None)) for key in keys):
            types = f"{stored.text('dtype')} there and {here['dtype']} here"
            raise CheckpointError(
                f"The checkpoint '{fields.folder}' was to be loaded.",
                f"'{one.site.path}' has another weight or bias than when the adapter was saved "
                f"({types}). Nothing was changed.",
                "Load the base that it was trained on, or load(model, folder, strict=False) to "
                "take this one.",
            )


def _fill(
    fields: Fields, laid: list[Laid], tensors: dict[str, Tensor], recipe: Recipe
) -> dict[str, Tensor]:
    """Give every site its stored values, taking them out of ``tensors``; return the shared ones."""
    shared: dict[str, Tensor] = {}
    redrawn = fields.get("redrawn", dict)
    for one in laid:
        device = weight_of(original(one.site)).device
        declared = one.leaves
        for leaf, is_shared in one.places.items():
            if is_shared and leaf in shared:
                continue
            key = key_of(one.site.path, leaf, is_shared)
            node = declared.get(leaf)
            if key in redrawn:
                value = _redrawn(fields, key, node, recipe, one, redrawn[key])
            elif key in tensors:
                value = _stored(fields, key, node, tensors.pop(key))
            else:
                raise damaged(fields.folder, f"It has no value of '{key}'")
            target = shared if is_shared else one.trained
            if not is_shared and not isinstance(node, Parameter):
                target = one.frozen
            target[leaf] = value.to(device)
    return shared


def _stored(fields: Fields, key: str, leaf: Leaf | None, value: Tensor) -> Tensor:
    if not value.is_floating_point() or (leaf is not None and tuple(value.shape) != leaf.shape):
        wanted = "floating" if leaf is None else f"floating and {leaf.shape}"
        raise damaged(
            fields.folder, f"'{key}' is {value.dtype} and {tuple(value.shape)}, not {wanted}"
        )
    check_finite(fields.folder, key, value, "loaded")
    return value


def _redrawn(
    fields: Fields, key: str, leaf: Leaf | None, recipe: Recipe, one: Laid, stored: Any
) -> Tensor:
    entry = stored if isinstance(stored, dict) else {}
    dtype = DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise damaged(fields.folder, f"'{key}' is to be drawn again in no known type")
    value = redraw(leaf, recipe.seed, one.site.path, torch.empty((), dtype=dtype))
    if value is None or digest_of(value) != entry.get("digest"):
        raise damaged(
            fields.folder,
            f"'{key}' is drawn from the seed {recipe.seed}, and does not come out as it was saved",
        )
    return value


def _heads(
    model: nn.Module, fields: Fields, recipe: Recipe, tensors: dict[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The tensors of modules that trained whole, beside their stored values."""
    for path in recipe.also_train:
        if path not in candidates(model):
            raise CheckpointError(
                f"The checkpoint '{fields.folder}' was to be loaded.",
                f"It trained '{path}' whole, which this model does not have.",
                "Load it into the model that it was made for.",
            )
    found: list[tuple[Tensor, Tensor]] = []
    for key, target in trained_whole(model, recipe).items():
        if key not in tensors:
            raise damaged(fields.folder, f"It has no value of '{key}'")
        value = tensors.pop(key)
        if value.shape != target.shape:
            raise damaged(
                fields.folder, f"'{key}' is {tuple(value.shape)}, not {tuple(target.shape)}"
            )
        check_finite(fields.folder, key, value, "loaded")
        found.append((target, value))
    return found


def _unfit(fields: Fields, path: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint '{fields.folder}' was to be loaded.",
        f"It does not fit '{path}': {reason}. Nothing was changed.",
        "Load it into the model that it was made for.",
    )
