"""Embeddings: the rows that are looked up are contracted, the table is never formed.

``y = E0[ids] + ΔE[ids]``. ΔE is ``(vocab, dim)``, as the weight; what carries its first axis is
read at the ids first (see ``planning.lookup``). Where that is impossible (a circulant, a
rotation) ΔE is formed and its rows are read; the report says so. The row of ``padding_idx`` gets
no update, and none at a merge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..planning.lookup import Lookup, Read, lookup
from ..structure import Update
from .emit import emit
from .kind import Kind
from .precision import cast_all, widest, without_autocast

if TYPE_CHECKING:
    from .layer import Adapted, Adapter

FACE = (
    "num_embeddings",
    "embedding_dim",
    "padding_idx",
    "max_norm",
    "norm_type",
    "scale_grad_by_freq",
    "sparse",
)


class Rows:
    """``ΔE[ids]`` of an update, ready to run.

    Parameters
    ----------
    update : Update
        Its weight part is ΔE.
    leaf_names : tuple of str
        The order in which the leaves come.
    """

    def __init__(self, update: Update, leaf_names: tuple[str, ...]) -> None:
        assert update.weight is not None
        self.reason = ""
        self.planned: Lookup | None = None
        try:
            self.planned = lookup(update.weight)
        except UnsupportedError as error:
            self.reason = error.against
            return
        self.emitted = emit(self.planned.program)
        names = {name: k for k, name in enumerate(leaf_names)}
        self.places = tuple(names.get(read.name, -1) for read in self.planned.reads)
        self.constants = tuple(
            torch.from_numpy(constant.array().copy()) for constant in self.emitted.constants
        )

    def __call__(self, ids: Tensor, weight: Tensor, leaves: tuple[Tensor, ...]) -> Tensor:
        """``(T, dim)`` for ids ``(T,)``; only the rows that are read change their type."""
        assert self.planned is not None
        dtype = leaves[0].dtype if leaves else weight.dtype
        given: list[Tensor] = []
        for place, read in zip(self.places, self.planned.reads, strict=True):
            value = leaves[place] if read.kind == "leaf" else weight
            given.append(read_rows(value, read, ids).to(dtype))
        like = given[0]
        constants = [
            c.to(like.device) if c.dtype == torch.int64 else c.to(like) for c in self.constants
        ]
        return self.emitted.function(*given, *constants)

    def __str__(self) -> str:
        if self.planned is None:
            return f"the rows of ΔE cannot be read before it is formed: {self.reason}"
        reads = "\n".join(f"  reads {read}" for read in self.planned.reads)
        return f"the rows of ΔE at T ids\n{reads}\n{self.emitted.source}"


def read_rows(value: Tensor, read: Read, ids: Tensor) -> Tensor:
    """A leaf as a lookup wants it: whole, or its rows at the ids, ``(T, ...)``."""
    if value.shape != read.shape:
        value = value.reshape(read.shape)
    if not read.axes:
        return value
    if read.axes != tuple(range(len(read.axes))):
        rest = [axis for axis in range(len(read.shape)) if axis not in read.axes]
        value = value.permute(*read.axes, *rest)
    value = value.flatten(0, len(read.axes) - 1) if len(read.axes) > 1 else value
    position: Tensor | None = None
    for stride, size in read.digits:
        digit = ids if stride == 1 else torch.div(ids, stride, rounding_mode="floor")
        digit = digit % size
        position = digit if position is None else position * size + digit
    assert position is not None
    return torch.index_select(value, 0, position)


class Embedding(Kind):
    """nn.Embedding: the weight is ``(vocab, dim)``, and the input are ids."""

    title = "nn.Embedding"
    takes_dropout = False

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Embedding)

    def reason_against(self, module: nn.Module) -> str | None:
        assert isinstance(module, nn.Embedding)
        if module.max_norm is not None:
            return "has a max_norm, by which each call rewrites W0"
        if module.scale_grad_by_freq:
            return (
                "has scale_grad_by_freq, which divides the gradient of every row by its count; the "
                "rows of an update share their leaves"
            )
        return Kind.reason_against(self, module)

    def bias(self, module: nn.Module) -> Tensor | None:
        return None

    def effective(self, change: Tensor, module: nn.Module) -> Tensor:
        assert isinstance(module, nn.Embedding)
        if module.padding_idx is None:
            return change
        row = torch.tensor([module.padding_idx], device=change.device)
        return change.index_fill(0, row, 0.0)

    def face(self, module: nn.Module) -> dict[str, Any]:
        return {name: getattr(module, name) for name in FACE}

    def runs_otherwise(self, module: nn.Module) -> bool:
        return type(module).forward is not nn.Embedding.forward

    def prepare(self, layer: Adapted, adapter: Adapter, types: set[torch.dtype]) -> None:
        adapter.operator.prepare("materialize")
        adapter.operator.attach("rows", Rows)

    def branch(self, layer: Adapted, name: str, x: Tensor, autocast: torch.dtype | None) -> Tensor:
        adapter, module = layer.adapters[name], layer.base_layer
        assert isinstance(module, nn.Embedding)
        weight, _ = layer.base_tensors()
        leaves = layer.read(name)
        leaves = cast_all(leaves, widest(leaves[0], leaves)) if leaves else leaves
        ids, rows = x.reshape(-1), adapter.operator.attached["rows"]
        with without_autocast(weight, autocast):
            if rows.planned is not None:
                change = rows(ids, weight, leaves)
            else:
                base = weight.to(leaves[0].dtype) if leaves else weight
                formed, _ = adapter.operator.materialize(base, None, leaves)
                assert formed is not None
                change = torch.index_select(formed, 0, ids)
        if module.padding_idx is not None:
            change = change.masked_fill((ids == module.padding_idx).unsqueeze(1), 0.0)
        return change.reshape(*x.shape, change.shape[-1])

    def describe(self, layer: Adapted, adapter: Adapter, tokens: int) -> tuple[str, str]:
        rows = adapter.operator.attached["rows"]
        return "rows looked up" if rows.planned is not None else "ΔE formed", str(rows)
