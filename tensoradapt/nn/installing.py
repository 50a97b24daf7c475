"""Putting adapters into a model and taking them out: assignments only, after every check.

The model's root keeps a ``Record``: which parameters trained before, and how each adapter was
asked for. Leaves that sites share belong to one ``SharedLeaves`` at the root, under the name
``tensoradapt_leaves``; a root that runs its children in turn (nn.Sequential) or counts them
(nn.ModuleList, nn.ModuleDict) must not get another child, so there they belong to the first site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from ..algebra.nodes import Parameter
from ..errors import StateError, near
from .bare import PARAMETRIZATIONS, parametrized
from .layer import Adapted, Adapter, adapted_modules
from .laying import Laid
from .leaves import Leaves, SharedLeaves

CONTAINER = "tensoradapt_leaves"
"""The attribute of the root (or of the first site) that owns the shared leaves."""

RECORD = "_tensoradapt"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter was asked for; plain data, for its checkpoint."""

    text: str
    structure: Any
    where: Any
    settings: Any
    seed: int
    strength: float
    dropout: float
    dtype: str | None
    also_train: tuple[str, ...]
    origin: Any = None
    """What a foreign file said of itself, so that it can be written again field for field."""


@dataclass(slots=True)
class Record:
    """What the root of an adapted model remembers."""

    requires_grad: dict[str, bool] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)


def whole(model: nn.Module) -> nn.Module:
    """The model itself, also where torch.compile has wrapped it."""
    inner = model._modules.get("_orig_mod")
    return model if inner is None else inner


def record_of(model: nn.Module) -> Record | None:
    """What the model's root remembers, if it is one."""
    return model.__dict__.get(RECORD)


def recipe_of(model: nn.Module, name: str) -> Recipe:
    """How an adapter of the model was asked for.

    Raises
    ------
    StateError
        If the model has no adapter of that name, or it was laid on another module.
    """
    record = record_of(model)
    if record is not None and name in record.recipes:
        return record.recipes[name]
    known = [] if record is None else list(record.recipes)
    for path, module in model.named_modules():
        inner = record_of(module)
        if path and inner is not None and name in inner.recipes:
            raise StateError(
                f"The adapter {name!r} of the whole model was asked for.",
                f"It was laid on the submodule '{path}'.",
                f"Pass that submodule: model.{path}.",
            )
    raise StateError(
        f"The adapter {name!r} was asked for.",
        f"This model has no adapter of that name; it has: {near(name, known)}.",
        f"Adapt it first: adapt(model, structure, where=..., name={name!r}).",
    )


# --- in ----------------------------------------------------------------------------------


def install(
    model: nn.Module,
    laid: Sequence[Laid],
    shared: Mapping[str, Tensor],
    name: str,
    recipe: Recipe,
) -> None:
    """Put one adapter into the model. Everything is built first and assigned last."""
    modules = [_module_at(one) for one in laid]
    leaves = [Leaves(one.trained, one.frozen) for one in laid]
    declared = {n: leaf for one in laid for n, leaf in one.leaves.items()}
    trained = {n: t for n, t in shared.items() if isinstance(declared.get(n), Parameter)}
    frozen = {n: t for n, t in shared.items() if n not in trained}
    common = Leaves(trained, frozen) if shared else None
    container = _container(model, modules[0]) if shared else None
    adapters = [
        Adapter(
            one.text,
            one.update,
            one.operator,
            recipe.strength,
            recipe.dropout,
            container if any(one.places.values()) else None,
            one.places,
        )
        for one in laid
    ]
    for one, module, adapter in zip(laid, modules, adapters, strict=True):
        _plan(one, module, adapter)
    record = record_of(model) or Record()
    _remember(model, record, recipe)
    for one, module, own, adapter in zip(laid, modules, leaves, adapters, strict=True):
        module.leaves[name] = own
        module.adapters[name] = adapter
        module.kind.put(one.site.places, module)
    if container is not None and common is not None:
        container.adapters[name] = common
        owner = modules[0] if counts_children(model) else model
        owner._modules[CONTAINER] = container
    record.recipes[name] = recipe
    model.__dict__[RECORD] = record
    _let_train(model, name, recipe)


def _plan(one: Laid, module: Adapted, adapter: Adapter) -> None:
    """Plan what a call will need, before any call and before anything is assigned."""
    types = {leaf.dtype for leaf in (*one.trained.values(), *one.frozen.values())}
    module.kind.prepare(module, adapter, types)


def _module_at(one: Laid) -> Adapted:
    if isinstance(one.site.module, Adapted):
        return one.site.module
    module = Adapted(one.site.module)
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent, _ in one.site.places):
        # Its fast path reads the weights and never calls the layers, unless one has a hook.
        module.register_forward_pre_hook(_keep_calling)
    return module


def _keep_calling(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    return None


def counts_children(model: nn.Module) -> bool:
    """Whether the model runs or counts its children, so that it must not get another."""
    return isinstance(model, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _container(model: nn.Module, first: Adapted) -> SharedLeaves:
    owner = first if counts_children(model) else model
    found = owner._modules.get(CONTAINER)
    return found if isinstance(found, SharedLeaves) else SharedLeaves()


def _remember(model: nn.Module, record: Record, recipe: Recipe) -> None:
    trains = _parameters_of(model, recipe.also_train)
    for path, parameter in original_parameters(model):
        wanted = parameter in trains
        if parameter.requires_grad != wanted:
            record.requires_grad.setdefault(path, parameter.requires_grad)


def _let_train(model: nn.Module, name: str, recipe: Recipe) -> None:
    trains = _parameters_of(model, recipe.also_train) | set(leaf_parameters(model, name))
    for parameter in model.parameters():
        if parameter.requires_grad != (parameter in trains):
            parameter.requires_grad_(parameter in trains)


def _parameters_of(model: nn.Module, paths: Sequence[str]) -> set[nn.Parameter]:
    return {
        parameter
        for path in paths
        for parameter in model.get_submodule(path).parameters()
        if parameter.is_floating_point()
    }


def leaf_parameters(model: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """The trained leaves of one adapter, or of all, each once."""
    found: dict[nn.Parameter, None] = {}
    for _, module in adapted_modules(model):
        for key, adapter in module.adapters.items():
            if name in (None, key):
                found.update((p, None) for p in module.leaves[key].parameters())
                if adapter.shared is not None:
                    found.update((p, None) for p in adapter.shared.adapters[key].parameters())
    return list(found)


def original_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that the model had before, by the paths they had."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if isinstance(module, SharedLeaves):
            continue
        if isinstance(module, Adapted):
            module = module.base_layer
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{path}{name}", parameter
        ours = {name: made for name, made in parametrized(module) if isinstance(made, Adapted)}
        for name, made in ours.items():
            yield f"{path}{name}", cast(nn.Parameter, made.weight)
        inner = [(n, m) for n, m in module._modules.items() if m is not None]
        stack.extend((f"{path}{n}.", m) for n, m in inner if not (ours and n == PARAMETRIZATIONS))


# --- out ---------------------------------------------------------------------------------


def uninstall(model: nn.Module, name: str | None = None) -> None:
    """Take one adapter out, or all of them; where none is left the original is put back."""
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):
            if isinstance(child, Adapted):
                for key in list(child.adapters) if name is None else [name]:
                    child.adapters.pop(key, None)
                    child.leaves.pop(key) if key in child.leaves else None
                if not child.adapters:
                    child.kind.take_out(parent, attribute, child)
    for owner in list(model.modules()):
        container = owner._modules.get(CONTAINER)
        if isinstance(container, SharedLeaves):
            for key in list(container.adapters) if name is None else [name]:
                container.adapters.pop(key) if key in container.adapters else None
            if not len(container.adapters):
                del owner._modules[CONTAINER]
    _forget(model, name)


def _forget(model: nn.Module, name: str | None) -> None:
    for root in list(model.modules()):
        record = record_of(root)
        if record is None:
            continue
        for key in list(record.recipes) if name is None else [name]:
            record.recipes.pop(key, None)
        if not record.recipes:
            found = dict(original_parameters(root))
            for path, trained in record.requires_grad.items():
                if path in found:
                    found[path].requires_grad_(trained)
            del root.__dict__[RECORD]
