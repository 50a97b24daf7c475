"""The adapted module: the original, kept whole, and one or more updates beside it.

``y = x (W0 + Σ strength ΔW)ᵀ + b0 + Σ strength Δb``; every ΔW is relative to the original W0.

Number types. The branch of an adapter computes in one type, to which x, the leaves and (where
the update reads them) W0 and b0 are cast: under autocast autocast's own, as nn.Linear would;
else the widest among x and the leaves, so float32 leaves on a bfloat16 base compute in float32.
The sum is cast back to the type that the original gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..algebra.walk import uses_base
from ..errors import StateError
from ..structure import Update
from .bare import label
from .kinds import kind_of
from .leaves import Leaves, SharedLeaves, attribute_of
from .linear import is_plain
from .operator import Operator
from .precision import autocast_type, cast_all, wide, widest, without_autocast


@dataclass(slots=True)
class Adapter:
    """One update at one site: its expressions, its operator and how it is applied.

    Parameters
    ----------
    text : str
        The structure as it prints.
    update : Update
        The expressions.
    operator : Operator
        What runs them.
    strength : float
        The factor of ΔW and Δb.
    dropout : float
        The probability of dropping an input of the branch while training.
    shared : SharedLeaves, optional
        The container of the leaves that are not this site's own.
    places : mapping of str to bool
        Every leaf's name, and whether it lies in ``shared``.
    """

    text: str
    update: Update
    operator: Operator
    strength: float
    dropout: float
    shared: SharedLeaves | None
    places: dict[str, bool]
    slots: tuple[tuple[bool, str], ...] = ()
    reads_base: bool = False

    def __post_init__(self) -> None:
        names = self.operator.leaf_names
        self.slots = tuple((self.places[name], attribute_of(name)) for name in names)
        parts = (self.update.weight, self.update.bias)
        self.reads_base = any(part is not None and uses_base(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Original:
    """What a merge keeps: the weight and bias before it, and what rounding lost of ΔW."""

    weight: Tensor
    bias: Tensor | None
    lost: float

    @property
    def n_bytes(self) -> int:
        """The memory that is kept, in bytes."""
        kept = [self.weight] if self.bias is None else [self.weight, self.bias]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


class Adapted(nn.Module):
    """A module with updates beside it; ``base_layer`` is the original, unchanged.

    Parameters
    ----------
    base_layer : nn.Module
        A module of one of the ``kinds``.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        self.leaves = nn.ModuleDict()
        self.adapters: dict[str, Adapter] = {}
        self.is_enabled = True
        self.kind = kind_of(base_layer)
        self.original: Original | None = None
        self.training = base_layer.training
        self.__dict__.update(self.kind.face(base_layer))

    # --- the original's face -------------------------------------------------------------

    @property
    def weight(self) -> Tensor:
        """The original's weight, as the original stores it."""
        return self.kind.weight(self.base_layer)

    @property
    def bias(self) -> Tensor | None:
        """The original's bias."""
        return self.kind.bias(self.base_layer)

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape as structures see it: ``(out, in, *kernel)``."""
        return self.kind.shape(self.base_layer)

    @property
    def is_merged(self) -> bool:
        """Whether the weight holds W0 + ΔW now."""
        return self.original is not None

    def extra_repr(self) -> str:
        texts = [f"{name}: {adapter.text}" for name, adapter in self.adapters.items()]
        return ", ".join([*texts, "merged"] if self.is_merged else texts)

    # --- forward -------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Apply the original and every update to ``x``, which is what the original takes."""
        # Read from the tables of nn.Module: its attributes cost as much as a small product.
        base = cast(nn.Module, self._modules["base_layer"])
        if x.is_nested:
            return self.kind.ragged(self, x)
        if self.original is not None:
            self._refuse_training()
            return base(x)
        if not self.is_enabled:
            return base(x)
        autocast = autocast_type(x)
        if len(self.adapters) == 1 and is_plain(base):
            for name, adapter in self.adapters.items():
                leaves = self.read(name)
                weight = cast(Tensor, stored(base, "weight"))
                dtype = autocast or widest(x, leaves)
                dropped = adapter.dropout and self.training
                if not dropped and (autocast or weight.dtype == dtype):
                    bias = stored(base, "bias")
                    return self._fused(adapter, x, weight, bias, leaves, dtype, autocast)
        whole = self.kind.whole(self, x, autocast)
        if whole is not None:
            return whole
        y = base(x)
        total = y
        for name, adapter in self.adapters.items():
            change = self.kind.branch(self, name, x, autocast)
            total = total + (change if adapter.strength == 1.0 else adapter.strength * change)
        return total.to(y.dtype)

    def _fused(
        self,
        adapter: Adapter,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        leaves: tuple[Tensor, ...],
        dtype: torch.dtype,
        autocast: torch.dtype | None,
    ) -> Tensor:
        typed = cast_all(leaves, dtype)
        if autocast is None:
            return adapter.operator.layer(x, weight, bias, typed, adapter.strength)
        with without_autocast(x, autocast):
            bias = None if bias is None else bias.to(dtype)
            return adapter.operator.layer(
                x.to(dtype), weight.to(dtype), bias, typed, adapter.strength
            )

    def _refuse_training(self) -> None:
        trains = any(leaf.requires_grad for leaf in self.leaves.parameters()) or any(
            adapter.shared is not None for adapter in self.adapters.values()
        )
        if self.training and torch.is_grad_enabled() and trains:
            raise StateError(
                "A training step was asked for while the adapters are merged.",
                "The weight holds W0 + ΔW, so the leaves would get no gradient.",
                "Call unmerge(model) to train, or model.eval() (or torch.no_grad()) to run it.",
            )

    # --- what others read ----------------------------------------------------------------

    def read(self, name: str) -> tuple[Tensor, ...]:
        """The leaf tensors of an adapter, in its operator's order."""
        adapter = self.adapters[name]
        own = cast(nn.Module, cast(nn.Module, self._modules["leaves"])._modules[name])
        if adapter.shared is None:
            return tuple([cast(Tensor, stored(own, attribute)) for _, attribute in adapter.slots])
        shared = adapter.shared.adapters[name]
        return tuple(
            getattr(shared if is_shared else own, attribute)
            for is_shared, attribute in adapter.slots
        )

    def leaf_tensors(self, name: str) -> dict[str, Tensor]:
        """Every leaf of an adapter by name, those of its penalty and the shared ones too."""
        adapter = self.adapters[name]
        own: Leaves = self.leaves[name]  # pyright: ignore[reportAssignmentType]
        found = own.tensors()
        if adapter.shared is not None:
            shared: Leaves = adapter.shared.adapters[name]  # pyright: ignore[reportAssignmentType]
            found |= {leaf: t for leaf, t in shared.tensors().items() if leaf in adapter.places}
        return found

    def base_tensors(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """W0 as structures see it and b0, before any merge, in a type if one is given."""
        kept = self.original
        weight, bias = (self.weight, self.bias) if kept is None else (kept.weight, kept.bias)
        weight = weight.to(self.weight.device)
        weight = self.kind.seen(weight, self.base_layer)
        bias = None if bias is None else bias.to(self.weight.device)
        if dtype is None:
            return weight, bias
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    def changes(self, name: str | None = None) -> tuple[Tensor | None, Tensor | None]:
        """``Σ strength ΔW`` as structures see it and ``Σ strength Δb``, in float32 or wider.

        Parameters
        ----------
        name : str, optional
            One adapter's name; all of them by default.
        """
        weight_change = bias_change = None
        for key in self.adapters if name is None else [name]:
            adapter, leaves = self.adapters[key], self.read(key)
            dtype = wide(self.weight.dtype, *(leaf.dtype for leaf in leaves))
            weight, bias = self.base_tensors(dtype) if adapter.reads_base else (None, None)
            typed = cast_all(leaves, dtype)
            parts = adapter.operator.materialize(weight, bias, typed)
            scaled = [None if part is None else adapter.strength * part for part in parts]
            weight_change, bias_change = (
                _add(old, new)
                for old, new in zip((weight_change, bias_change), scaled, strict=True)
            )
        if weight_change is not None:
            weight_change = self.kind.effective(weight_change, self.base_layer)
        return weight_change, bias_change

    # --- state dicts ---------------------------------------------------------------------

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        self._refuse_merged("The state dict of a merged model was asked for")
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        self._refuse_merged("A state dict was to be loaded into a merged model")
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)

    def _refuse_merged(self, asked: str) -> None:
        if self.is_merged:
            raise StateError(
                f"{asked}.",
                "Its weights hold W0 + ΔW while the leaves are still beside them, so the update "
                "would count twice.",
                "Call unmerge(model) first, or merge(model, keep=False) for a plain model.",
            )


def stored(module: nn.Module, attribute: str) -> Tensor | None:
    """A tensor of a module, found first where parameters usually are."""
    found = module._parameters.get(attribute)
    return getattr(module, attribute) if found is None else found


def _add(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if old is None else old if new is None else old + new


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Every adapted module with its path, once."""
    for path, module in model.named_modules():
        if isinstance(module, Adapted):
            yield label(path), module
