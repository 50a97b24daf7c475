"""Rank bounds: the least of what the normal form, the expression and the shape say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod

from ..algebra.expression import Expr
from ..algebra.nodes import (
    AtStart,
    Einsum,
    Hold,
    MatrixFunction,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from ..errors import ShapeError
from ..network.form import Factor, Network, NormalForm, Opaque, source_name
from ..network.lower import lower
from .cut import minimum_cut


@dataclass(frozen=True, slots=True)
class Reason:
    """A rule of a bound with the rules it rests on; prints as an indented proof."""

    rule: str
    value: int
    parts: tuple[Reason, ...] = ()

    def __str__(self) -> str:
        inside = "".join("\n" + _indent(str(part)) for part in self.parts)
        return f"≤ {self.value}  {self.rule}{inside}"


@dataclass(frozen=True, slots=True)
class RankBound:
    """An upper bound of the rank, valid for every value of the leaves.

    Parameters
    ----------
    value : int
        The bound; ``int(bound)`` is the same.
    why : Reason
        The rules it follows from.
    """

    value: int
    why: Reason

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return f"rank {self.why}"


def rank_bound(expr: Expr) -> RankBound:
    """Bound the matrix rank of an expression from its structure alone.

    ``rank ΔW ≤ Σ_networks min-cut(out | rest)``, never more than ``min(out, rest)``, nor than
    what the expression says before its sums are multiplied out.

    Parameters
    ----------
    expr : Expr
        An expression of shape ``(out, in, *kernel)``, read as the matrix ``(out, in · kernel)``.

    Returns
    -------
    RankBound
        An upper bound valid for every value of the leaves and of W0. It may not be attained.

    Raises
    ------
    ShapeError
        If the expression has fewer than two axes.

    Notes
    -----
    O(V E²) per network in its factors and indices. Sufficient, never necessary.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> int(rank_bound(zoo.loha(rank=3).on((64, 32))))
    9
    """
    if expr.ndim < 2:
        raise ShapeError(
            f"The rank of an expression of shape {expr.shape} was asked for.",
            "A rank needs two axes or more, rows first.",
            "Reshape it, for instance ta.reshape(e, rows, columns).",
        )
    reason = _least(_form_reason(lower(expr)), _expression_reason(expr), _shape_reason(expr.shape))
    return RankBound(reason.value, reason)


def _least(*reasons: Reason) -> Reason:
    return min(reasons, key=lambda reason: reason.value)


def _shape_reason(shape: tuple[int, ...]) -> Reason:
    rows, columns = shape[0], prod(shape[1:])
    return Reason(f"the shape {rows} × {columns}", min(rows, columns))


# --- from the normal form ----------------------------------------------------------------


def _form_reason(form: NormalForm) -> Reason:
    if not form.terms:
        return Reason("the expression is zero", 0)
    parts = tuple(_network_reason(network) for network in form.terms)
    if len(parts) == 1:
        return parts[0]
    return Reason(f"sum of {len(parts)} networks", sum(p.value for p in parts), parts)


def _network_reason(network: Network) -> Reason:
    cut = minimum_cut(network, (0,), _factor_bound)
    names = [f"{_index_place(network, i)} = {network.sizes[i]}" for i in cut.indices]
    names += [f"rank of {source_name(network.factors[k].source)}" for k in cut.bounded]
    inside = tuple(
        reason for k in cut.bounded if (reason := _opaque_reason(network.factors[k])) is not None
    )
    where = ", ".join(names) or "nothing, so a rank-one product"
    return Reason(f"minimum cut of {network} through {where}", cut.value, inside)


def _index_place(network: Network, index: int) -> str:
    carriers = [source_name(f.source) for f in network.factors if index in f.indices]
    return "the index of " + " and ".join(dict.fromkeys(carriers))


def _factor_bound(factor: Factor) -> int | None:
    reason = _opaque_reason(factor)
    return None if reason is None else reason.value


def _opaque_reason(factor: Factor) -> Reason | None:
    """What is known of a barrier of two axes."""
    source = factor.source
    if not isinstance(source, Opaque) or len(source.shape) != 2:
        return None
    if source.operation == "sum":
        return _least(_form_reason(source.operand), _shape_reason(source.shape))
    if source.operation == "matrix_function" and isinstance(source.settings, tuple):
        if source.settings[0] == "householder":
            reflections = source.operand.shape[-1]
            return Reason(f"{reflections} reflections minus the identity", reflections)
        if source.settings[0] == "cayley":
            return _least(
                Reason("Cayley minus identity is 2Q times a regular matrix", _rank_of(source)),
                _shape_reason(source.shape),
            )
    return None


def _rank_of(source: Opaque) -> int:
    return _least(_form_reason(source.operand), _shape_reason(source.shape)).value


# --- from the expression before it is multiplied out -------------------------------------


@lru_cache(maxsize=4096)
def _expression_reason(expr: Expr) -> Reason:
    """The bound of the undistributed expression: sums add, products take the smaller."""
    reason = _shape_reason(expr.shape) if expr.ndim >= 2 else Reason("a vector", 1)
    match expr:
        case Sum(terms):
            parts = tuple(_expression_reason(term) for term in terms)
            total = Reason(f"sum of {len(parts)} terms", sum(p.value for p in parts), parts)
            return _least(reason, total)
        case Scale(_, operand) | Hold(operand) | AtStart(operand):
            return _least(reason, _expression_reason(operand))
        case Window(operand, _, _) if expr.ndim == 2:
            return _least(reason, _expression_reason(operand))
        case Reshape(operand, target) if operand.ndim >= 2 and operand.shape[0] == target[0]:
            return _least(reason, _expression_reason(operand))
        case Take(operand, axis, index) | Transform(operand, axis, index) if _keeps_matrix(
            expr, operand, axis, index
        ):
            return _least(reason, _expression_reason(operand))
        case Einsum(operands, _, _) if _is_matrix_product(expr):
            inner = _least(*(_expression_reason(operand) for operand in operands))
            return _least(reason, Reason("rank of the smaller operand", inner.value, (inner,)))
        case MatrixFunction():
            return _least(reason, _form_reason(lower(expr)))
        case _:
            return reason


def _keeps_matrix(expr: Expr, operand: Expr, axis: int, index: object) -> bool:
    return operand.ndim == 2 and expr.ndim == 2


def _is_matrix_product(expr: Einsum) -> bool:
    """Whether it is a chain ``A B C …`` of matrices, read off the pattern."""
    axes = expr.pattern.operands
    if any(len(a) != 2 or any(len(g) != 1 for g in a) for a in axes):
        return False
    links = [a[1] == b[0] for a, b in pairwise(axes)]
    names = [name for a in axes for g in a for name in g]
    return (
        all(links)
        and expr.pattern.output == (axes[0][0], axes[-1][1])
        and len(set(names)) == len(axes) + 1
    )


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.split("\n"))
