"""What a kind of site is: how a module holds its weight, runs beside updates and takes them in.

A structure sees a weight ``(out, in, *kernel)``; a module may store it otherwise. Everything that
differs between kinds of modules is one class with the methods below; ``kinds`` has the table.
Kinds hold no state, so every adapted module of a kind shares one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

if TYPE_CHECKING:
    from .layer import Adapted, Adapter

Places = Sequence[tuple[nn.Module, str]]
"""Every parent that holds a module, with the attribute it holds it under."""


class Kind:
    """One kind of site. Abstract; see ``linear``, ``convolution``, ``embedding``, ``bare``."""

    title = ""
    takes_dropout = True

    # --- the weight ----------------------------------------------------------------------

    def fits(self, module: nn.Module) -> bool:
        """Whether a module is of this kind."""
        raise NotImplementedError

    def reason_against(self, module: nn.Module) -> str | None:
        """Why this module cannot be adapted though it is of this kind, after its path."""
        if isinstance(module.weight, UninitializedParameter):
            return "is a lazy layer whose weight has no shape yet"
        if not isinstance(module.weight, Tensor):
            return "has no weight tensor"
        return None

    def weight(self, module: nn.Module) -> Tensor:
        """The weight as the module stores it."""
        return cast(Tensor, module.weight)

    def bias(self, module: nn.Module) -> Tensor | None:
        """The bias."""
        return cast("Tensor | None", module.bias)

    def shape(self, module: nn.Module) -> tuple[int, ...]:
        """The shape that a structure sees: ``(out, in, *kernel)``."""
        return tuple(self.weight(module).shape)

    def seen(self, weight: Tensor, module: nn.Module) -> Tensor:
        """A stored weight as a structure sees it."""
        return weight

    def stored(self, weight: Tensor, module: nn.Module) -> Tensor:
        """The inverse of ``seen``."""
        return weight

    def effective(self, change: Tensor, module: nn.Module) -> Tensor:
        """What of ΔW the module lets take effect."""
        return change

    def parameters(self, module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
        """The weight and bias, each with the module and attribute that hold it."""
        found = module._parameters.items()
        return [(module, name, tensor) for name, tensor in found if tensor is not None]

    def owner(self, module: nn.Module) -> nn.Module:
        """The module of the user's model that the weight belongs to."""
        return module

    def face(self, module: nn.Module) -> dict[str, Any]:
        """Attributes of the original that others read from it."""
        return {}

    def reason_against_merge(self, module: nn.Module) -> str | None:
        """Why W0 + ΔW in the weight would not be the adapted module."""
        if self.runs_otherwise(module) or "forward" in module.__dict__:
            name = type(module).__name__
            return f"Its {name} has a forward of its own, which may not be that of {self.title}."
        if "weight" not in module._parameters or not self.weight(module).is_floating_point():
            name = type(module).__name__
            return f"Its weight is not a plain parameter of floating numbers: {name}."
        return None

    def runs_otherwise(self, module: nn.Module) -> bool:
        """Whether the class of the module has a forward of its own."""
        return False

    # --- running -------------------------------------------------------------------------

    def prepare(self, layer: Adapted, adapter: Adapter, types: set[torch.dtype]) -> None:
        """Plan what a call will need, before any call; ``types`` are those of the leaves."""
        adapter.operator.prepare("materialize")

    def whole(self, layer: Adapted, x: Tensor, autocast: torch.dtype | None) -> Tensor | None:
        """The adapted module's result in one go, or None where it is a sum of branches."""
        return None

    def branch(self, layer: Adapted, name: str, x: Tensor, autocast: torch.dtype | None) -> Tensor:
        """What one adapter adds to the original's result, before its strength."""
        raise NotImplementedError

    def ragged(self, layer: Adapted, x: Tensor) -> Tensor:
        """The result for a nested tensor: a batch of sequences of different lengths.

        Rows do not meet in a module, so all of them may go through it together.
        """
        parts = x.unbind()
        y = layer(torch.cat(parts)).split([part.shape[0] for part in parts])
        return torch.nested.as_nested_tensor(list(y), layout=x.layout)

    def describe(self, layer: Adapted, adapter: Adapter, tokens: int) -> tuple[str, str]:
        """How a training step runs, in a few words and as a whole plan."""
        plan = adapter.operator.plan(tokens, "materialize")
        return "ΔW formed", str(plan)

    # --- in and out of a model -----------------------------------------------------------

    def put(self, places: Places, layer: Adapted) -> None:
        """Put an adapted module where its original is."""
        for parent, attribute in places:
            parent._modules[attribute] = layer

    def take_out(self, parent: nn.Module, attribute: str, layer: Adapted) -> None:
        """Put the original back in one place."""
        parent._modules[attribute] = layer.base_layer


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs more than its class's forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
