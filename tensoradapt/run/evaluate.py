"""Evaluate: the definition of what an expression is worth.

One rule per node, over any arithmetic; every plan, kernel and certificate is judged by it. It
walks the expression in order, so depth is free, and forms every intermediate whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from ..algebra.expression import Expr, Shape
from ..algebra.nodes import (
    Base,
    BaseBias,
    Concatenate,
    Constant,
    Einsum,
    Frozen,
    Hold,
    Map,
    MatrixFunction,
    Norm,
    Parameter,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from ..algebra.snapshot import distribute_snapshots
from ..algebra.walk import children, topological
from ..errors import ShapeError, UnsupportedError, ValueMissingError, near
from .arithmetic import Arithmetic
from .arrays import Array, common_dtype, namespace
from .floats import FloatArithmetic

Parts = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rules read from: values by leaf name, W0, b0, and the arithmetic."""

    values: Mapping[str, Array]
    base: Array | None
    bias: Array | None
    arithmetic: Arithmetic


def evaluate(
    expr: Expr,
    values: Mapping[str, Array],
    base: Array | None = None,
    bias: Array | None = None,
    arithmetic: Arithmetic | None = None,
) -> Array:
    """Evaluate an expression by its definition.

    Parameters
    ----------
    expr : Expr
        Any expression.
    values : mapping of str to array
        The value of every leaf by its name, each of the leaf's shape. What ``at_start`` reads of
        a leaf ``B`` is the value ``"B@start"`` (the constant itself where B starts as one).
    base : array, optional
        W0, where the expression reads it.
    bias : array, optional
        b0, where the expression reads it.
    arithmetic : Arithmetic, optional
        What to compute with; by default floats of the library, dtype and device of the values
        (of the dtype that theirs promote to, if they differ).

    Returns
    -------
    array
        Of ``expr.shape``; a bare leaf gives its own array back.

    Raises
    ------
    ValueMissingError
        If a value that the expression reads is not given.
    ShapeError
        If a value has another shape than its leaf.
    UnsupportedError
        If the values are not arrays of one library, or a node does not exist in the arithmetic.

    Notes
    -----
    Every sub-expression is formed once and kept: memory O(sum of all their sizes).

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> values = {"B": np.ones((2, 1)), "A": np.arange(3.0).reshape(1, 3)}
    >>> evaluate(low_rank((2, 3), rank=1), values).tolist()
    [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    """
    expr = distribute_snapshots(expr)
    order = topological(expr)
    if arithmetic is None:
        reading = _float_reading(order, values, base, bias)
    else:
        reading = Reading(values, base, bias, arithmetic)
    done: dict[Expr, Array] = {}
    for sub in order:
        quotient = _quotient(sub, done, reading)
        parts = tuple(done[child] for child in children(sub))
        done[sub] = rule(sub, parts, reading) if quotient is None else quotient
    # Reductions of numpy arrays to no axes are scalars; a reshape makes arrays of them again.
    return done[expr] if expr.shape else reading.arithmetic.reshape(done[expr], ())


def _quotient(expr: Expr, done: Mapping[Expr, Array], reading: Reading) -> Array | None:
    """``a / b``, which is written as a times the reciprocal of b, as one division.

    Then ``m / ‖V‖`` is exactly 1 where m is that norm, and 0 where the norm is 0.
    """
    divide = getattr(reading.arithmetic, "divide", None)
    if divide is None or not isinstance(expr, Einsum) or len(expr.operands) != 2:
        return None
    first, second = expr.operands
    inverse = isinstance(first, Map) and first.function.name == "reciprocal"
    plain = expr.pattern.operands[0] == expr.pattern.operands[1] == expr.pattern.output
    if not (inverse and plain):
        return None
    assert isinstance(first, Map)
    return divide(done[second], done[first.operand])


def _float_reading(
    order: list[Expr], values: Mapping[str, Array], base: Array | None, bias: Array | None
) -> Reading:
    names = [sub.name for sub in order if isinstance(sub, Parameter | Frozen)]
    used = {name: values[name] for name in names if name in values}
    arrays = [a for a in (*used.values(), base, bias) if a is not None]
    if not arrays:
        arrays = [*values.values()][:1] or [np.zeros(())]
    dtype, xp = common_dtype(arrays), namespace(*arrays)

    def cast(a: Array) -> Array:
        return a if a is None or a.dtype == dtype else xp.astype(a, dtype)

    cast_values = {name: cast(a) for name, a in used.items()}
    like = cast(arrays[0])
    return Reading(cast_values, cast(base), cast(bias), FloatArithmetic(like))


@singledispatch
def rule(expr: Expr, parts: Parts, reading: Reading) -> Array:
    """The value of one node from the values of its children."""
    raise UnsupportedError(
        f"The value of a node of the type {type(expr).__name__} was asked for.",
        "evaluate has no rule for that type.",
        f"Register one with tensoradapt.run.evaluate.rule.register({type(expr).__name__}).",
    )


def _checked(value: Array, shape: Shape, what: str) -> Array:
    got = tuple(value.shape)
    if got != shape:
        raise ShapeError(
            f"A value of shape {got} was given for {what}.",
            f"The expression was written for the shape {shape}.",
            "Give an array of that shape, or write the expression for this one.",
        )
    return value


@rule.register
def _leaf(expr: Parameter | Frozen, parts: Parts, reading: Reading) -> Array:
    if expr.name not in reading.values:
        raise ValueMissingError(
            f"The value of the leaf {expr.name!r} of shape {expr.shape} is needed.",
            f"It is not among the values; given and near: {near(expr.name, reading.values)}.",
            f"Draw it with ta.sample(expr), or set values[{expr.name!r}].",
        )
    return _checked(reading.values[expr.name], expr.shape, f"the leaf {expr.name!r}")


@rule.register
def _base(expr: Base, parts: Parts, reading: Reading) -> Array:
    if reading.base is None:
        raise ValueMissingError(
            f"The base weight W0 of shape {expr.shape} is needed.",
            "The expression reads W0, and no base was given.",
            "Pass it: base=weight.",
        )
    return _checked(reading.base, expr.shape, "the base weight W0")


@rule.register
def _base_bias(expr: BaseBias, parts: Parts, reading: Reading) -> Array:
    if reading.bias is None:
        raise ValueMissingError(
            f"The base bias b0 of shape {expr.shape} is needed.",
            "The expression reads b0, and no bias was given.",
            "Pass it: bias=bias.",
        )
    return _checked(reading.bias, expr.shape, "the base bias b0")


@rule.register
def _constant(expr: Constant, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.constant(expr.kind, expr.shape)


@rule.register
def _einsum(expr: Einsum, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.einsum(expr.pattern, dict(expr.sizes), parts)


@rule.register
def _sum(expr: Sum, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.add(parts)


@rule.register
def _scale(expr: Scale, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.scale(expr.factor, parts[0])


@rule.register
def _reshape(expr: Reshape, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.reshape(parts[0], expr.target)


@rule.register
def _window(expr: Window, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.window(parts[0], expr.target, expr.offset)


@rule.register
def _concatenate(expr: Concatenate, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.concatenate(parts, expr.axis)


@rule.register
def _transform(expr: Transform, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.transform(parts[0], expr.axis, expr.kind)


@rule.register
def _take(expr: Take, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.take(parts[0], expr.axis, expr.index)


@rule.register
def _place(expr: Place, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.place(parts[0], expr.target, expr.index)


@rule.register
def _map(expr: Map, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.map(parts[0], expr.function)


@rule.register
def _norm(expr: Norm, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.norm(parts[0], expr.axes)


@rule.register
def _matrix_function(expr: MatrixFunction, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.matrix_function(parts[0], expr.kind, expr.settings)


@rule.register
def _hold(expr: Hold, parts: Parts, reading: Reading) -> Array:
    return reading.arithmetic.hold(parts[0])
