"""What is planned, and one way to do it.

A layer is two normal forms, of its weight and of its bias. A candidate is a program for it, in
training with a second program for the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra.expression import Expr
from ..algebra.nodes import Base, BaseBias
from ..errors import StructureError
from ..network.form import NormalForm
from ..network.lower import lower
from .compose import Note
from .rates import BYTE_PRICE, Cost, Rates, program_cost
from .steps import Input, Program, Step, elements

MODES = ("forward", "train", "apply", "materialize")


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer computes.

    Parameters
    ----------
    weight : NormalForm
        Of W0 + ΔW in the modes "forward" and "train", of ΔW in the others.
    bias : NormalForm or None
        Of b0 + Δb, or of Δb, if there is one.
    """

    weight: NormalForm
    bias: NormalForm | None


def layer(delta: Expr, mode: str, bias: Expr | None = None, has_bias: bool = False) -> Layer:
    """The normal forms that a mode computes for an update.

    Raises
    ------
    StructureError
        If the mode is unknown.
    """
    if mode not in MODES:
        raise StructureError(
            f"A plan in the mode {mode!r} was asked for.",
            f"Known modes: {', '.join(MODES)}.",
            "Use one of them.",
        )
    if mode in ("materialize", "apply"):
        return Layer(lower(delta), None if bias is None else lower(bias))
    total_bias: Expr | None = BaseBias(delta.shape[:1]) if has_bias else None
    if bias is not None:
        total_bias = bias if total_bias is None else total_bias + bias
    weight = lower(Base(delta.shape) + delta)
    return Layer(weight, None if total_bias is None else lower(total_bias))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute, with its modelled cost.

    Parameters
    ----------
    name : str
        ``factored`` contracts every network with x; ``merged`` forms W0 + ΔW and multiplies
        once; ``materialized`` forms ΔW; ``…, factored leaves`` forms the weight for y and dx and
        contracts the leaves' gradients.
    program : Program
        The forward steps; in training they also give out what the backward reads.
    cost : Cost
        flops, bytes moved, bytes saved for the backward pass, seconds.
    notes : tuple of Note
        The contraction orders and barriers.
    backward : Program or None
        The steps of the gradients; None without training, or where a step has no adjoint
        written as steps and the forward is differentiated operation by operation instead.
    wanted : tuple of Input
        The inputs whose gradients the backward gives, in order.
    """

    name: str
    program: Program
    cost: Cost
    notes: tuple[Note, ...]
    backward: Program | None = None
    wanted: tuple[Input, ...] = ()

    def cost_at(self, tokens: int, rates: Rates, training: bool) -> Cost:
        """What it costs at another token count."""
        if self.backward is None:
            return program_cost(self.program, tokens, rates, training)
        return step_total(self.program, self.backward, tokens, rates)


def step_total(
    forward: Program, backward: Program, tokens: int, rates: Rates, price: float = BYTE_PRICE
) -> Cost:
    """The cost of a forward and a backward program, and of what is kept between them."""
    ahead = program_cost(forward, tokens, rates, False)
    back = program_cost(backward, tokens, rates, False)
    kept = 0.0
    for k in forward.more:
        value = forward.value(k)
        width = 8 if isinstance(value, Step) and value.is_complex else 4
        kept += width * elements(value.shape, tokens)
    seconds = ahead.seconds + back.seconds + price * kept
    return Cost(ahead.flops + back.flops, ahead.bytes + back.bytes, kept, seconds)
