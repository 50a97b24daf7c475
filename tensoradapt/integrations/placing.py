"""From a foreign layer to one of ours: a structure, and a value for each of its leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.builders import window
from ..algebra.expression import Expr, Shape
from ..algebra.leaves import frozen
from ..algebra.nodes import Base, Leaf, Parameter
from ..algebra.starts import given
from ..algebra.walk import rewrite
from ..errors import TensorAdaptError, near
from ..nn.kinds import weight_of, weight_shape
from ..nn.layer import Adapted
from ..nn.laying import (
    Laid,
    check_shared,
    draw_values,
    fitting,
    leaves_of,
    operator_of,
    original,
    refuse_meta,
)
from ..nn.sites import Site, candidates, reason_against, sites_at
from ..structure import Call, Structure, Update
from .files import refused
from .methods import Method, Place


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the model that a foreign file names."""

    site: Site
    shape: Shape

    @property
    def stored(self) -> Tensor:
        """W0 as the layer stores it, before any merge."""
        module = self.site.module
        kept = module.original if isinstance(module, Adapted) else None
        return weight_of(original(self.site)) if kept is None else kept.weight

    @property
    def is_table(self) -> bool:
        """Whether it is an embedding."""
        return isinstance(original(self.site), nn.Embedding)

    @property
    def weight(self) -> Tensor:
        """W0 as ``(out, in)``."""
        module = self.site.module
        return (module if isinstance(module, Adapted) else Adapted(module)).base_tensors()[0]


@dataclass(slots=True)
class Found:
    """One foreign layer with everything that its file says of it.

    Parameters
    ----------
    place : Place
        The foreign side.
    layer : Layer
        Ours.
    structure : Structure
        What it is in the zoo.
    values : dict
        The leaves' values as they are stored.
    method : Method
        The row it was read by.
    source : Path
        The file, for the errors.
    shared : dict
        Tensors that several layers cut leaves from.
    derived : set
        Which of the values are computed and not stored.
    """

    place: Place
    layer: Layer
    structure: Structure
    values: dict[str, Tensor]
    method: Method
    source: Path
    shared: dict[str, Tensor] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)


def site_of(model: nn.Module, source: Path, path: str) -> Layer:
    """The layer at a path, or a refusal."""
    modules = candidates(model)
    if path not in modules:
        raise refused(
            source,
            f"It adapts '{path[:120]}', which this model does not have; nearest: "
            f"{near(path, modules)}",
            "Load it into the model that it was made for.",
        )
    reason = reason_against(path, modules)
    if reason is not None:
        raise refused(source, f"{reason}, which cannot be adapted", "Load it with its own library.")
    site = sites_at(model, modules, [path])[0]
    refuse_meta(site)
    return Layer(site, weight_shape(original(site)))


def place_values(source: Path, found: Sequence[Found]) -> tuple[list[Laid], dict[str, Tensor]]:
    """One ``Laid`` per layer with all values, and the values of shared leaves.

    Raises
    ------
    CheckpointError
        If a tensor is missing, too many, or of another shape.
    StructureError
        If the settings do not fit a layer.
    """
    operators: dict[object, Any] = {}
    laid: list[Laid] = []
    for one in found:
        try:
            update = one.structure.update(Base(one.layer.shape))
        except TensorAdaptError as error:
            raise error.at(f"'{one.place.path}'") from None
        text = title(one.structure)
        update = fitting(text, update, one.layer.site)
        update = _with_shared(one, update)
        _check(one, update)
        operator = operator_of(update, one.layer.site, operators)
        laid.append(Laid(one.layer.site, text, update, operator))
    check_shared(laid)
    shared = _draw_rest(found, laid)
    for one, here in zip(found, laid, strict=True):
        _fill(one, here, shared)
    return laid, shared


def title(structure: Structure) -> str:
    """A structure as it prints, without settings that are long tables."""
    if isinstance(structure, Call):
        kept = {n: v for n, v in structure.settings if not isinstance(v, tuple) or len(v) <= 16}
        inside = ", ".join(f"{name}={value!r}" for name, value in kept.items())
        return f"{structure.method.name}({inside})"
    return str(structure)


def _with_shared(one: Found, update: Update) -> Update:
    """The update whose frozen leaves are windows of the tensors that all layers share."""
    if not one.shared:
        return update

    def change(node: Expr) -> Expr:
        if isinstance(node, Leaf) and node.name in one.shared:
            root = tuple(one.shared[node.name].shape)
            if len(root) != len(node.shape) or any(
                n > m for n, m in zip(node.shape, root, strict=True)
            ):
                raise refused(
                    one.source, f"'{node.name}' is {root}; '{one.place.path}' needs {node.shape}"
                )
            leaf = frozen(node.name, *root, recipe=given(), scope="model")
            return window(leaf, *node.shape)
        return node

    parts = (update.weight, update.bias, update.penalty)
    return Update(*(None if part is None else rewrite(part, change) for part in parts))


def _check(one: Found, update: Update) -> None:
    """Every leaf that the file decides is there, with its shape, and nothing else is."""
    declared = leaves_of(update)
    keys = one.method.keys_at(one.place)
    for leaf, node in declared.items():
        if leaf in keys and leaf not in one.values:
            raise refused(one.source, f"It has no tensor '{one.place.path}.{keys[leaf]}'")
        if leaf in one.values and leaf not in one.derived:
            wanted = one.method.stored_shape(leaf, node.shape, one.place)
            stored = one.values[leaf]
            if tuple(stored.shape) != wanted or not stored.is_floating_point():
                raise refused(
                    one.source,
                    f"'{one.place.path}.{keys[leaf]}' is {stored.dtype} and "
                    f"{tuple(stored.shape)}; {title(one.structure)} on a weight of "
                    f"{one.layer.shape} has floating values and {wanted}",
                )
    for leaf in one.values:
        if leaf not in declared:
            raise refused(
                one.source,
                f"Its tensor '{one.place.path}.{keys.get(leaf, leaf)}' is none of "
                f"{title(one.structure)} on a weight of {one.layer.shape}",
            )


def _draw_rest(found: Sequence[Found], laid: Sequence[Laid]) -> dict[str, Tensor]:
    """Values of the leaves that the file leaves to W0; the others are filled in afterwards."""
    wanting = [
        here
        for one, here in zip(found, laid, strict=True)
        if here.places.keys() - one.values.keys() - one.shared.keys()
    ]
    if not wanting:
        return {}
    data: Mapping[str, object] = found[0].shared
    return draw_values(wanting, 0, next(iter(found[0].values.values())).dtype, data)


def _fill(one: Found, here: Laid, shared: dict[str, Tensor]) -> None:
    device = weight_of(original(here.site)).device
    dtype = next(iter(one.values.values())).dtype if one.values else torch.float32
    for leaf, node in here.leaves.items():
        if leaf in one.shared:
            shared[leaf] = one.shared[leaf].to(device)
        elif leaf in one.values:
            value = one.values[leaf].reshape(node.shape)
            value = value.to(dtype) if leaf in one.derived else value
            target = here.trained if isinstance(node, Parameter) else here.frozen
            target[leaf] = value.to(device).clone()
