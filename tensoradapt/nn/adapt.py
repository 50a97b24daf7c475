"""Adapt: lay a structure on the layers of a model, in place, and take it off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.expression import Expr
from ..errors import StateError, StructureError, TargetError
from ..run.evaluate import evaluate
from ..spelling import as_structure, structure_to_data
from ..structure import Method, Structure
from .installing import (
    Recipe,
    install,
    leaf_parameters,
    recipe_of,
    record_of,
    uninstall,
    whole,
)
from .kinds import kind_of
from .layer import Adapted, adapted_modules
from .laying import draw_values, lay, original
from .sites import Site, Where, refuse_tied, select, select_any, settings_by_path


def adapt(
    model: nn.Module,
    structure: Structure | Method | Expr | str,
    where: Where,
    exclude: Where | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    also_train: Where | None = None,
    dropout: float = 0.0,
    strength: float = 1.0,
    dtype: torch.dtype | None = None,
    name: str = "default",
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Lay a structure on layers of a model, in place; afterwards only its leaves train.

    ``y = x (W0 + strength ΔW)ᵀ + b0 + strength Δb`` at every matched layer.

    Parameters
    ----------
    model : nn.Module
        The model. A second adapter under another name adds to the first; each is relative to
        the original W0, and the leaves of earlier ones stop training.
    structure : Structure, Method, Expr or str
        What to lay. An expression fits weights of its own shape only.
    where : pattern, list, module class or predicate
        Which layers: an fnmatch pattern over module paths, a plain name that matches the last
        components of a path, alternatives joined by ``|``, a list of those, a module class, or
        ``(path, module) -> bool``. nn.Linear, transformers' Conv1D, nn.Conv1d to nn.Conv3d and
        nn.Embedding can be adapted; a plain name must match nothing else, a wildcard passes
        over the rest. A pattern with a colon names parameters that a module reads itself, as
        ``"*.experts:gate_up_proj"``: see ``tensoradapt.nn.bare`` for what that costs.
    exclude : as ``where``, optional
        Layers to leave out.
    settings : mapping of pattern to settings, optional
        Changed settings at single layers, as in ``{"*.mlp.*": {"rank": 4}}``; where several
        patterns match, the later one wins.
    also_train : as ``where``, optional
        Modules of any kind that train whole and are saved with the adapter, such as a new head.
        They train in place: neither ``disabled`` nor ``detach`` takes their values back.
    dropout : float
        The probability of dropping an input of the adapter's branch while training; refused
        for embeddings and bare parameters, which have no such input.
    strength : float
        The factor of ΔW and Δb.
    dtype : torch.dtype, optional
        Of the leaves; by default the weight's, but at least float32.
    name : str
        The adapter's name.
    seed : int
        Chooses the random numbers; each layer's path decides its own.
    data : mapping, optional
        Arrays for leaves that start as ``given()``: ``{leaf: array}``, or ``{path: {leaf:
        array}}`` for single layers.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    TargetError
        If nothing, or nothing that can be adapted, is matched; if one of several patterns
        matches nothing; if a layer already has an adapter of that name, or its weight is tied.
    StructureError
        If the structure does not fit a layer, or an option makes no sense.
    StateError
        If the model is merged, or on the meta device.

    Notes
    -----
    Everything is checked and built first; if anything is refused the model is as it was.

    Examples
    --------
    >>> from torch import nn
    >>> from tensoradapt import zoo
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> model = adapt(model, zoo.lora(rank=2), where="0")
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    24
    """
    model = whole(model)
    chosen = as_structure(structure)
    _check_options(name, dropout, strength, dtype, seed)
    sites = select(model, where, exclude)
    for site in sites:
        refuse_occupied(site, name)
        refuse_dropout(site, dropout)
    refuse_tied(model, sites)
    trained = () if also_train is None else tuple(select_any(model, also_train, "also_train"))
    refuse_overlap(model, trained, sites)
    laid = lay(chosen, sites, settings_by_path(settings or {}, sites))
    shared = draw_values(laid, seed, dtype, data)
    recipe = Recipe(
        str(chosen),
        _named(chosen),
        _plain(where),
        _plain_settings(settings),
        int(seed),
        float(strength),
        float(dropout),
        None if dtype is None else str(dtype),
        trained,
    )
    install(model, laid, shared, name, recipe)
    return model


def _named(structure: Structure) -> Any:
    try:
        return structure_to_data(structure)
    except StructureError:
        return None


def _plain(where: Any) -> Any:
    """A target as JSON data, or None where it is not plain."""
    if isinstance(where, str):
        return where
    if isinstance(where, list | tuple) and all(isinstance(part, str) for part in where):
        return list(where)
    return None


def _plain_settings(settings: Mapping[str, Mapping[str, Any]] | None) -> Any:
    return {
        pattern: {name: str(value) for name, value in changes.items()}
        for pattern, changes in (settings or {}).items()
    }


# --- refusals ----------------------------------------------------------------------------


def _check_options(
    name: str, dropout: float, strength: float, dtype: torch.dtype | None, seed: int
) -> None:
    fine = {
        "name": isinstance(name, str)
        and name != ""
        and not set(name) & set("./\\")
        and not hasattr(nn.ModuleDict(), name),
        "dropout": isinstance(dropout, Real) and 0 <= dropout < 1,
        "strength": isinstance(strength, Real) and isfinite(strength),
        "dtype": dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point),
        "seed": isinstance(seed, int) and not isinstance(seed, bool),
    }
    rules = {
        "name": "A name is a text without dots and slashes, and not a method of nn.ModuleDict.",
        "dropout": "A dropout is a probability of 0 or more and below 1.",
        "strength": "A strength is a finite number.",
        "dtype": "The leaves need a floating torch.dtype.",
        "seed": "A seed is an integer.",
    }
    given = {"name": name, "dropout": dropout, "strength": strength, "dtype": dtype, "seed": seed}
    for option, is_fine in fine.items():
        if not is_fine:
            raise StructureError(
                f"adapt({option}={given[option]!r}) was asked for.",
                rules[option],
                'The defaults are name="default", dropout=0.0, strength=1.0, dtype=None, seed=0.',
            )


def refuse_occupied(site: Site, name: str) -> None:
    """Refuse a site that has an adapter of that name, or is merged."""
    if not isinstance(site.module, Adapted):
        return
    if site.module.is_merged:
        raise StateError(
            f"'{site.path}' was to be adapted again.",
            "It is merged: its weight holds W0 + ΔW, and an adapter is relative to W0.",
            "Call unmerge(model) first, or merge(model, keep=False) to build on the sum.",
        )
    if name in site.module.adapters:
        raise TargetError(
            f"'{site.path}' was to be adapted under the name {name!r}.",
            f"It has an adapter of that name already: {site.module.adapters[name].text}.",
            'Give the new one another name, as in name="second", or detach the old one first.',
        )


def refuse_dropout(site: Site, dropout: float) -> None:
    """Refuse dropout where no input can be dropped."""
    kind = kind_of(original(site))
    if dropout and not kind.takes_dropout:
        raise StructureError(
            f"'{site.path}' was to be adapted with dropout={dropout!r}.",
            f"It is {kind.title}, whose input cannot be dropped.",
            f"Adapt it under a name of its own, without dropout; exclude={site.path!r} here.",
        )


def refuse_overlap(model: nn.Module, trained: tuple[str, ...], sites: list[Site]) -> None:
    """Refuse a module that would train whole and hold an adapted layer, or has no parameters."""
    for path in trained:
        module = model.get_submodule(path)
        below = set(module.modules())
        inside = [s.path for s in sites if kind_of(original(s)).owner(original(s)) in below]
        inside += [f"{path}.{p}".strip(".") for p, _ in adapted_modules(module)]
        if inside or not list(module.parameters()):
            against = (
                f"It holds '{inside[0]}', which is adapted, so W0 would train with its update."
                if inside
                else f"It is a {type(module).__name__} without parameters."
            )
            raise TargetError(
                f"also_train='{path}' was asked for.",
                against,
                f"Leave it out of where with exclude={path!r}, or out of also_train.",
            )


def adapted_or_refuse(model: nn.Module, asked: str) -> list[tuple[str, Adapted]]:
    """The adapted modules of a model that must have some."""
    found = list(adapted_modules(model))
    if not found:
        raise StateError(
            f"{asked} was asked for.",
            "This model has no adapted layers.",
            "Adapt it first: adapt(model, structure, where=...).",
        )
    return found


# --- what an adapted model offers --------------------------------------------------------


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Take the adapters off: the original modules and their requires_grad are back.

    Parameters
    ----------
    model : nn.Module
        An adapted model.
    name : str, optional
        One adapter's name; all by default. requires_grad is restored with the last one.

    Returns
    -------
    nn.Module
        The same model. W0 is as it was, or W0 + ΔW where the model is merged: detaching a merged
        model makes the merge final. Modules that trained whole keep their trained values.

    Raises
    ------
    StateError
        If the model has no adapters, or none of that name, or one adapter of a merged model is
        named.
    """
    model = whole(model)
    found = adapted_or_refuse(model, "detach(model)")
    if name is not None:
        if not any(name in module.adapters for _, module in found):
            recipe_of(model, name)
        if any(module.is_merged for _, module in found):
            raise StateError(
                f"detach(model, name={name!r}) was asked for.",
                "The model is merged, so the weights hold all updates together.",
                "Call unmerge(model) first.",
            )
    uninstall(model, name)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Run the model as it was before, inside a ``with`` block.

    Raises
    ------
    StateError
        If the model has no adapters, or is merged.

    Examples
    --------
    >>> from torch import nn, randn
    >>> from tensoradapt import zoo
    >>> model = adapt(nn.Sequential(nn.Linear(4, 3)), zoo.lora(rank=2), where="0")
    >>> with disabled(model):
    ...     y = model(randn(5, 4))
    """
    found = adapted_or_refuse(whole(model), "disabled(model)")
    if any(module.is_merged for _, module in found):
        raise StateError(
            "disabled(model) was asked for.",
            "The model is merged: its weights hold W0 + ΔW, which no switch takes away.",
            "Call unmerge(model) first.",
        )
    before = [(module, module.is_enabled) for _, module in found]
    for module, _ in before:
        module.is_enabled = False
    try:
        yield model
    finally:
        for module, was_enabled in before:
            module.is_enabled = was_enabled


def parameters(model: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """What an optimizer needs: the trained leaves, and the parameters of also_train modules.

    Parameters
    ----------
    model : nn.Module
        An adapted model.
    name : str, optional
        One adapter's name; by default every leaf that still trains.

    Returns
    -------
    list of nn.Parameter
        Each once; shared leaves too.
    """
    model = whole(model)
    adapted_or_refuse(model, "parameters(model)")
    if name is not None and not leaf_parameters(model, name):
        recipe_of(model, name)
    found = dict.fromkeys(p for p in leaf_parameters(model, name) if name or p.requires_grad)
    for root in model.modules():
        record = record_of(root)
        for key, recipe in record.recipes.items() if record is not None else ():
            if name in (None, key):
                for path in recipe.also_train:
                    whole_module = root.get_submodule(path)
                    found.update((p, None) for p in whole_module.parameters() if p.requires_grad)
    return list(found)


def sites(model: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Every adapted module of a model with its path, each once."""
    yield from adapted_modules(whole(model))


def delta_weight(module: nn.Module, name: str | None = None) -> Tensor:
    """What the adapters add to the weight of one adapted module: ``Σ strength ΔW``.

    Parameters
    ----------
    module : nn.Module
        An adapted module, as ``sites`` gives it.
    name : str, optional
        One adapter's name; all of them by default.

    Returns
    -------
    Tensor
        In the shape that structures see: ``(out, in, *kernel)``, also for transformers' Conv1D;
        a bare parameter's axes but the last are folded. Float32 or wider; zeros if only biases
        change.

    Raises
    ------
    StateError
        If the module is not adapted, or has no adapter of that name.
    """
    if not isinstance(module, Adapted) or (name is not None and name not in module.adapters):
        known = list(module.adapters) if isinstance(module, Adapted) else []
        raise StateError(
            f"delta_weight of a {type(module).__name__} was asked for"
            + (f" under the name {name!r}." if name is not None else "."),
            f"Its adapters are: {', '.join(known) or 'none'}.",
            "Pass a module that sites(model) gives, and one of its names.",
        )
    change, _ = module.changes(name)
    if change is None:
        return torch.zeros(module.shape, device=module.weight.device)
    return change


def penalty(model: nn.Module) -> Tensor:
    """Sum the penalties that the structures of a model ask for, to add to the loss.

    Returns
    -------
    Tensor
        A scalar with a gradient; 0 where no structure has a penalty.
    """
    model = whole(model)
    total: Tensor | None = None
    for _, module in adapted_or_refuse(model, "penalty(model)"):
        for name, adapter in module.adapters.items():
            if adapter.update.penalty is not None:
                values = module.leaf_tensors(name)
                dtype = torch.promote_types(module.weight.dtype, torch.float32)
                weight, bias = module.base_tensors(dtype)
                cast = {leaf: value.to(dtype) for leaf, value in values.items()}
                term = evaluate(adapter.update.penalty, cast, base=weight, bias=bias)
                total = term if total is None else total + term
    return torch.zeros(()) if total is None else total
