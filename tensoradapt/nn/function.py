"""One autograd node per adapted layer: a planned forward and a planned backward.

Where no gradient of a gradient is wanted, the node runs the two emitted programs, in place
where a value is read for the last time. A second derivative, a functional transform and a
compiler see the plain forward instead: what the node saved for itself would give them silently
wrong answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..planning.candidate import Candidate
from .emit import Constant, Emitted, emit

Constants = dict[Constant, Tensor]


class Pair:
    """The emitted forward and backward of one training program.

    Parameters
    ----------
    program : Candidate
        The planned steps, with a backward.
    plain : Emitted
        The forward as plain operations, for higher derivatives.
    arguments : sequence of int
        Where each input of ``plain`` stands among the layer's tensors.
    places : dict
        Where an input of a kind and name stands among the layer's tensors.
    """

    __slots__ = ("backward", "constants", "forward", "gradients", "plain", "plain_arguments",
                 "read_back", "read_forward")  # fmt: skip

    def __init__(
        self,
        program: Candidate,
        plain: Emitted,
        arguments: Sequence[int],
        places: dict[tuple[str, str], int],
    ) -> None:
        assert program.backward is not None
        self.forward = emit(program.program, in_place=True)
        self.backward = emit(program.backward, in_place=True)
        self.plain, self.plain_arguments = plain, tuple(arguments)
        self.read_forward = _places(program.program.inputs, places)
        self.read_back = _places(program.backward.inputs, places)
        self.gradients = tuple(places[entry.kind, entry.name] for entry in program.wanted)
        self.constants = (*self.forward.constants, *self.backward.constants, *plain.constants)


def _places(inputs: Sequence[Any], places: dict[tuple[str, str], int]) -> tuple[int | None, ...]:
    """Where each input stands; the gradient and saved values (None) are appended in order."""
    return tuple(places.get((entry.kind, entry.name)) for entry in inputs)


class Planned(torch.autograd.Function):
    """The node; called as ``Planned.apply(pair, constants, *tensors)``."""

    @staticmethod
    def forward(ctx: Any, pair: Pair, constants: tuple[Tensor, ...], *tensors: Any) -> Tensor:
        count = len(pair.forward.constants)
        given = [None if k is None else tensors[k] for k in pair.read_forward]
        made = pair.forward.function(*given, *constants[:count])
        y, saved = (made, ()) if isinstance(made, Tensor) else (made[0], made[1:])
        ctx.pair, ctx.constants, ctx.present = pair, constants, [t is not None for t in tensors]
        ctx.save_for_backward(*(t for t in tensors if t is not None), *saved)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        pair: Pair = ctx.pair
        stored = iter(ctx.saved_tensors)
        tensors = [next(stored) if present else None for present in ctx.present]
        (g,) = gradients
        if torch.is_grad_enabled():
            return (None, None, *_plain(ctx, pair, tensors, g))
        rest = iter((g, *stored))
        given = [next(rest) if k is None else tensors[k] for k in pair.read_back]
        first = len(pair.forward.constants)
        last = first + len(pair.backward.constants)
        made = pair.backward.function(*given, *ctx.constants[first:last])
        values = (made,) if isinstance(made, Tensor) else made
        found: list[Tensor | None] = [None] * len(tensors)
        for place, value in zip(pair.gradients, values, strict=True):
            found[place] = value
        return (None, None, *found)


def _plain(ctx: Any, pair: Pair, tensors: list[Any], g: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated again: through the forward as plain operations."""
    wanted = [k for k, need in enumerate(ctx.needs_input_grad[2:]) if need]
    given = [tensors[k] for k in pair.plain_arguments]
    y = pair.plain.function(
        *given, *ctx.constants[len(ctx.constants) - len(pair.plain.constants) :]
    )
    made = torch.autograd.grad(
        y, [tensors[k] for k in wanted], g, create_graph=True, allow_unused=True
    )
    found: list[Tensor | None] = [None] * len(tensors)
    for k, gradient in zip(wanted, made, strict=True):
        found[k] = gradient
    return found
