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

    __slots__ = ("backward", "constants", "count", "forward", "gradients", "plain",
                 "plain_arguments", "read_back", "read_forward", "splits")  # fmt: skip

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
        self.count = count = max(places.values()) + 1
        self.read_forward = tuple(
            places.get((entry.kind, entry.name), LAST) for entry in program.program.inputs
        )
        known = places | {("saved", f"s{k}"): count + k for k in range(len(program.program.more))}
        self.read_back = tuple(
            known.get((entry.kind, entry.name), LAST) for entry in program.backward.inputs
        )
        self.gradients = tuple(places[entry.kind, entry.name] for entry in program.wanted)
        self.constants = (*self.forward.constants, *self.backward.constants, *plain.constants)
        first = len(self.forward.constants)
        self.splits = first, first + len(self.backward.constants)


LAST = -1
"""Where the gradient of the result stands; in the forward, nothing."""


class Planned(torch.autograd.Function):
    """The node; called as ``Planned.apply(pair, constants, *tensors)``."""

    @staticmethod
    def forward(ctx: Any, pair: Pair, constants: tuple[Tensor, ...], *tensors: Any) -> Tensor:
        pool = (*tensors, None)
        made = pair.forward.function(
            *[pool[k] for k in pair.read_forward], *constants[: pair.splits[0]]
        )
        y, saved = (made, ()) if isinstance(made, Tensor) else (made[0], made[1:])
        ctx.pair, ctx.constants = pair, constants
        ctx.save_for_backward(*tensors, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        pair: Pair = ctx.pair
        pool = (*ctx.saved_tensors, gradients[0])
        if torch.is_grad_enabled():
            return (None, None, *_plain(ctx, pair, pool[: pair.count], gradients[0]))
        first, last = pair.splits
        made = pair.backward.function(
            *[pool[k] for k in pair.read_back], *ctx.constants[first:last]
        )
        found: list[Tensor | None] = [None] * (pair.count + 2)
        for place, value in zip(
            pair.gradients, (made,) if isinstance(made, Tensor) else made, strict=True
        ):
            found[place + 2] = value
        return tuple(found)


def _plain(ctx: Any, pair: Pair, tensors: tuple[Any, ...], g: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated again: through the forward as plain operations."""
    wanted = [k for k, need in enumerate(ctx.needs_input_grad[2:]) if need]
    given = [tensors[k] for k in pair.plain_arguments]
    y = pair.plain.function(*given, *ctx.constants[pair.splits[1] :])
    made = torch.autograd.grad(
        y, [tensors[k] for k in wanted], g, create_graph=True, allow_unused=True
    )
    found: list[Tensor | None] = [None] * len(tensors)
    for k, gradient in zip(wanted, made, strict=True):
        found[k] = gradient
    return found
