"""The table of kinds: every module that can be adapted is of the first one that it fits."""

from __future__ import annotations

from torch import Tensor, nn

from .bare import BareParameter
from .convolution import Convolution
from .embedding import Embedding
from .kind import Kind
from .linear import Linear, TransposedLinear

KINDS: tuple[Kind, ...] = (
    Linear(),
    TransposedLinear(),
    Convolution(),
    Embedding(),
    BareParameter(),
)

SUPPORTED = "; ".join(kind.title for kind in KINDS)


def find_kind(module: nn.Module) -> Kind | None:
    """The kind of a module, or None if it cannot be adapted."""
    return next((kind for kind in KINDS if kind.fits(module)), None)


def kind_of(module: nn.Module) -> Kind:
    """The kind of a module that can be adapted."""
    kind = find_kind(module)
    assert kind is not None, f"{type(module).__name__} is of no kind"
    return kind


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape that a structure sees of a module that can be adapted: ``(out, in, *kernel)``."""
    return kind_of(module).shape(module)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a module that can be adapted, as it stores it."""
    return kind_of(module).weight(module)


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias of a module that can be adapted."""
    return kind_of(module).bias(module)
