"""ΔW and x ΔWᵀ through the plan: the fast readings beside ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod

from ..algebra.expression import Expr
from ..errors import ShapeError
from ..planning.planner import Schedule, schedule
from .arrays import Array, namespace
from .execute import execute


@lru_cache(maxsize=512)
def _schedule(expr: Expr, mode: str) -> Schedule:
    return schedule(expr, mode)


def _like(values: Mapping[str, Array], *others: Array | None) -> Array:
    given = [other for other in others if other is not None]
    found = given or list(values.values())
    if not found:
        import numpy as np

        return np.zeros(1)
    return found[0]


def materialize(
    expr: Expr, values: Mapping[str, Array], base: Array | None = None, bias: Array | None = None
) -> Array:
    """Compute an expression through its plan.

    Parameters
    ----------
    expr : Expr
        Any expression.
    values : mapping of str to array
        The leaves by name, of one library, dtype and device.
    base, bias : array, optional
        W0 and b0, where the expression reads them.

    Returns
    -------
    array
        Of the expression's shape; equal to ``evaluate`` up to rounding.

    Raises
    ------
    ValueMissingError, ShapeError
        If a value is missing or has another shape.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> from tensoradapt.run.sample import sample
    >>> e = zoo.lora(rank=2).on((4, 3))
    >>> materialize(e, sample(e)).tolist() == [[0.0] * 3] * 4
    True
    """
    candidate = _schedule(expr, "materialize").at(1)
    return execute(candidate.program, values, _like(values, base, bias), base=base, bias=bias)


def apply(
    expr: Expr,
    values: Mapping[str, Array],
    x: Array,
    base: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Compute ``x ΔWᵀ`` through the plan, without forming ΔW where that is cheaper.

    Parameters
    ----------
    expr : Expr
        ΔW, ``(out, in, *kernel)``.
    values : mapping of str to array
        The leaves by name.
    x : array
        ``(..., in · kernel)``.
    base, bias : array, optional
        W0 and b0, where the expression reads them.

    Returns
    -------
    array
        ``(..., out)``.

    Raises
    ------
    ShapeError
        If the last axis of x is not ``in``.
    """
    inner = prod(expr.shape[1:])
    if x.ndim < 1 or x.shape[-1] != inner:
        raise ShapeError(
            f"x of shape {tuple(x.shape)} was to be multiplied by ΔW of shape {expr.shape}.",
            f"The last axis of x has {x.shape[-1] if x.ndim else 0} elements; ΔW takes {inner}.",
            "Give x as (..., in).",
        )
    xp = namespace(x)
    tokens = prod(x.shape[:-1])
    rows = xp.reshape(x, (tokens, inner))
    candidate = _schedule(expr, "apply").at(tokens)
    y = execute(candidate.program, values, x, x=rows, base=base, bias=bias)
    return xp.reshape(y, (*x.shape[:-1], expr.shape[0]))
