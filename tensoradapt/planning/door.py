"""The public door to plans: a structure or an expression, a shape, a token count."""

from __future__ import annotations

from ..algebra.expression import Expr, Shape
from ..errors import ShapeError
from ..structure import Structure
from .planner import Plan, plan_expression
from .rates import CPU, Rates


def plan(
    update: Structure | Expr,
    shape: Shape | None = None,
    *,
    tokens: int = 256,
    mode: str = "train",
    rates: Rates = CPU,
    has_bias: bool = True,
) -> Plan:
    """Plan the computation of an update.

    Parameters
    ----------
    update : Structure or Expr
        What to plan.
    shape : tuple of int, optional
        The weight's shape; needed with a structure.
    tokens : int
        T, the number of rows of x.
    mode : {"train", "forward", "apply", "materialize"}
        A layer with or without gradients, x ΔWᵀ alone, or ΔW alone.
    rates : Rates
        The measured rates of the device.
    has_bias : bool
        Whether the layer has a bias.

    Returns
    -------
    Plan
        Frozen data; ``print(plan)`` shows candidates, steps, flops, bytes and crossovers.

    Raises
    ------
    ShapeError
        If a structure comes without a shape, or the token count is negative.
    StructureError
        If the structure does not fit the shape, or the mode is unknown.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> plan(zoo.lora(rank=8), (768, 3072), tokens=16).chosen.name
    'factored'
    """
    if tokens < 0:
        raise ShapeError(
            f"A plan for {tokens} tokens was asked for.",
            "A token count is zero or more.",
            "Give the number of rows that x will have.",
        )
    if isinstance(update, Expr):
        return plan_expression(update, tokens, mode, rates, has_bias=has_bias)
    if shape is None:
        raise ShapeError(
            f"A plan of {update} was asked for without a shape.",
            "A structure has no shape of its own.",
            "Give the weight's shape, as in ta.plan(zoo.lora(rank=8), (768, 3072)).",
        )
    parts = update.update(shape)
    if parts.weight is None:
        update.on(shape)  # raises, saying that there is no weight part
    assert parts.weight is not None
    return plan_expression(parts.weight, tokens, mode, rates, bias=parts.bias, has_bias=has_bias)
