"""Bare parameters: stacked experts, fused projections, anything that a module reads itself.

A parameter that no layer of its own applies (``experts.gate_up_proj`` of ``(experts, out, in)``,
``in_proj_weight`` of nn.MultiheadAttention) is named by its module's path, a colon and its name:
``where="*.experts:gate_up_proj"``. It is adapted through torch.nn.utils.parametrize: whoever
reads it gets ``W0 + strength ΔW``.

A structure sees a matrix: all axes but the last are folded into ``out``, so a stack of experts is
``(experts·out, in)`` and the experts share what lies on the side of ``in`` (the A of a low rank
product), while each has its own part of the other side.

What it costs: ΔW and W0 + ΔW are formed each time the parameter is read (once per forward inside
``torch.nn.utils.parametrize.cached()``), in float32 or wider and rounded to the parameter's type;
names in the state dict become ``parametrizations.NAME.original``; and torch refuses to pickle a
module with parametrizations, so save the adapter with ``save`` (a deepcopy works).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from .kind import Kind, Places
from .precision import cast_all, wide, without_autocast

if TYPE_CHECKING:
    from .layer import Adapted, Adapter


PARAMETRIZATIONS = "parametrizations"
"""The child under which torch keeps the parametrized tensors of a module."""


class Bare(nn.Module):
    """A parameter of a module in the place of a layer; called, it gives what it is given.

    Parameters
    ----------
    owner : nn.Module
        The module that has the parameter; not a child of this one.
    name : str
        The parameter's name there.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        nn.Module.__init__(self)
        self.place = (owner, name)
        self.order = tuple(owner._parameters)
        self.training = owner.training

    def forward(self, x: Tensor) -> Tensor:
        """The parameter itself, which is what ``x`` is."""
        return x

    def extra_repr(self) -> str:
        return self.place[1]


class BareParameter(Kind):
    """A parameter of any shape; ``x`` is its value W0, the result W0 + ΔW."""

    title = "a parameter, as in where='experts:weight'"
    takes_dropout = False

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, Bare)

    def reason_against(self, module: nn.Module) -> str | None:
        owner, name = _place(module)
        if name not in owner._parameters:
            return "has a parametrization of another maker"
        parameter = owner._parameters[name]
        if isinstance(parameter, UninitializedParameter) or parameter is None:
            return "is a lazy parameter that has no shape yet"
        if not parameter.is_floating_point():
            return f"is stored as {parameter.dtype}, to which no update can be added"
        if parameter.ndim == 0:
            return "is a single number"
        return None

    def weight(self, module: nn.Module) -> Tensor:
        holder, name = _holder(module)
        return cast(Tensor, holder._parameters[name])

    def bias(self, module: nn.Module) -> Tensor | None:
        return None

    def shape(self, module: nn.Module) -> tuple[int, ...]:
        shape = self.weight(module).shape
        return tuple(shape) if len(shape) == 1 else (prod(shape[:-1]), shape[-1])

    def seen(self, weight: Tensor, module: nn.Module) -> Tensor:
        return weight.reshape(self.shape(module))

    def stored(self, weight: Tensor, module: nn.Module) -> Tensor:
        return weight.reshape(self.weight(module).shape)

    def parameters(self, module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
        holder, name = _holder(module)
        return [(holder, name, cast(nn.Parameter, holder._parameters[name]))]

    def owner(self, module: nn.Module) -> nn.Module:
        return _place(module)[0]

    def reason_against_merge(self, module: nn.Module) -> str | None:
        return None

    def branch(self, layer: Adapted, name: str, x: Tensor, autocast: torch.dtype | None) -> Tensor:
        adapter, leaves = layer.adapters[name], layer.read(name)
        dtype = wide(x.dtype, *(leaf.dtype for leaf in leaves))
        weight = layer.base_tensors(dtype)[0] if adapter.reads_base else None
        with without_autocast(x, autocast):
            change, _ = adapter.operator.materialize(weight, None, cast_all(leaves, dtype))
        assert change is not None
        return change.reshape(x.shape)

    def describe(self, layer: Adapted, adapter: Adapter, tokens: int) -> tuple[str, str]:
        return "W0 + ΔW formed when read", str(adapter.operator.plan(tokens, "materialize"))

    # --- in and out of a model -----------------------------------------------------------

    def put(self, places: Places, layer: Adapted) -> None:
        owner, name = _place(layer.base_layer)
        if name in owner._parameters:
            parametrize.register_parametrization(owner, name, layer, unsafe=True)

    def take_out(self, parent: nn.Module, attribute: str, layer: Adapted) -> None:
        owner, name = _place(layer.base_layer)
        parametrize.remove_parametrizations(owner, name, leave_parametrized=False)
        order = cast(Bare, layer.base_layer).order
        after = order[order.index(name) + 1 :]
        for other in [key for key in owner._parameters if key in after]:
            owner._parameters[other] = owner._parameters.pop(other)


def _place(module: nn.Module) -> tuple[nn.Module, str]:
    return cast(Bare, module).place


def _holder(module: nn.Module) -> tuple[nn.Module, str]:
    """The module and attribute that hold W0 now: the owner, or its parametrization."""
    owner, name = _place(module)
    if name in owner._parameters:
        return owner, name
    return owner.parametrizations[name], "original"  # pyright: ignore


def bare_parameters(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Every parameter below a model as ``path:name``, as it is adapted or could be.

    Parameters
    ----------
    model : nn.Module
        The model; its own parameters are ``:name``.
    modules : mapping of str to nn.Module
        The modules below it by path. Those of adapted layers are left out.
    """
    found: dict[str, nn.Module] = {}
    for path, module in {"": model, **modules}.items():
        if hasattr(module, "base_layer") and hasattr(module, "adapters"):
            continue
        names = [name for name, tensor in module._parameters.items() if tensor is not None]
        for name in names:
            found[f"{path}:{name}"] = Bare(module, name)
        for name, ours in parametrized(module):
            found[f"{path}:{name}"] = Bare(module, name) if ours is None else ours
    return found


def parametrized(module: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    """The parametrized tensors of a module, each with the adapted module in it if there is one."""
    if not parametrize.is_parametrized(module):
        return
    for name, made in cast(nn.ModuleDict, module.parametrizations).items():
        ours = next((m for m in made.children() if _is_ours(m)), None)
        yield name, ours


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module._modules.get("base_layer"), Bare)


def label(path: str) -> str:
    """The name of a site at a path of ``named_modules``.

    Examples
    --------
    >>> label("moe.experts.parametrizations.weight.0"), label("moe.gate")
    ('moe.experts:weight', 'moe.gate')
    """
    owner, mark, rest = f".{path}".rpartition(".parametrizations.")
    if not mark:
        return path
    return f"{owner.removeprefix('.')}:{rest.rpartition('.')[0]}"
