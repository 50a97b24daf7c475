"""Lowering: from an expression to its normal form.

Multilinear nodes and fixed linear maps become factors and indices of networks; what is not
multilinear becomes one opaque factor, around which the network stays a network. A node
without a rule is a barrier.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache, singledispatch
from itertools import product

from ..algebra.expression import Expr
from ..algebra.indexing import IndexMap
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
from ..errors import UnsupportedError
from .form import Factor, Network, NormalForm, Ones, Opaque, Selection, Source, TransformMatrix
from .indices import Indices, NoRefinement
from .term import Term, collect, fresh, multiply_scale, single

MAX_TERMS = 8
"""A product of sums is multiplied out only while it makes at most this many networks."""

Terms = list[Term]


@lru_cache(maxsize=4096)
def lower(expr: Expr) -> NormalForm:
    """Bring an expression to normal form.

    Parameters
    ----------
    expr : Expr
        Any expression.

    Returns
    -------
    NormalForm
        A sum of canonical networks of the expression's shape; equal networks are collected,
        so ``w + (v - w)`` is ``v``.

    Raises
    ------
    UnsupportedError
        If the expression has a node of a foreign class that is no barrier.

    Examples
    --------
    >>> from tensoradapt.algebra.leaves import base, parameter
    >>> w, v = base(3, 4), parameter("v", 3, 4)
    >>> lower(w + (v - w)) == lower(v)
    True
    """
    expr = distribute_snapshots(expr)
    known: dict[Expr, Terms] = {}
    for sub in topological(expr):
        known[sub] = _lower(sub, tuple(known[child] for child in children(sub)))
    return collect(expr.shape, known[expr])


def opaque(expr_shape: tuple[int, ...], terms: Terms, reason: str) -> Terms:
    """A sum of terms as one factor that is materialized."""
    return _barrier("sum", None, terms, expr_shape, expr_shape, reason)


def _barrier(
    operation: str,
    settings: object,
    terms: Terms,
    operand_shape: tuple[int, ...],
    shape: tuple[int, ...],
    reason: str,
) -> Terms:
    form = collect(operand_shape, terms)
    if operation == "sum" and len(form.terms) == 1 and _is_bare(form.terms[0]):
        return terms
    return [single(Opaque(operation, settings, form, shape, reason), shape)]  # type: ignore[arg-type]


def _is_bare(network: Network) -> bool:
    """Whether a network is one factor as it stands, so that materializing it is free."""
    if len(network.factors) != 1 or network.scale != 1:
        return False
    factor = network.factors[0]
    plain = tuple((i,) for i in range(len(network.sizes)))
    present = tuple(g for g in factor.axes if g)
    return present == plain and tuple(g for g in network.output if g) == plain


@singledispatch
def _lower(expr: Expr, operands: tuple[Terms, ...]) -> Terms:
    raise UnsupportedError(
        f"The node {type(expr).__name__} was to be lowered to a network.",
        "No rule says what its normal form is.",
        "Register one: tensoradapt.network.lower._lower.register(...), or build it from "
        "the nodes of the algebra.",
    )


@_lower.register(Parameter | Frozen | Base | BaseBias)
def _(expr: Expr, operands: tuple[Terms, ...]) -> Terms:
    return [single(expr, expr.shape)]


@_lower.register
def _(expr: Constant, operands: tuple[Terms, ...]) -> Terms:
    space = Indices()
    if expr.kind == "identity":
        groups = (space.new(expr.shape[0] if expr.shape else 1),) * expr.ndim
    else:
        groups = tuple(space.new(n) for n in expr.shape)
    present = dict.fromkeys(i for group in groups for i in group)
    factors = [Factor(Ones(space.size[i]), ((i,),)) for i in present]
    return [Term(factors, groups, space.size, Fraction(1))]


@_lower.register
def _(expr: Sum, operands: tuple[Terms, ...]) -> Terms:
    return [term for terms in operands for term in terms]


@_lower.register
def _(expr: Scale, operands: tuple[Terms, ...]) -> Terms:
    return [multiply_scale(term, expr.factor) for term in operands[0]]


@_lower.register
def _(expr: Hold, operands: tuple[Terms, ...]) -> Terms:
    return [
        Term([_held(f) for f in term.factors], term.output, term.sizes, term.scale)
        for term in operands[0]
    ]


def _held(factor: Factor) -> Factor:
    constant = isinstance(factor.source, Ones | Selection | TransformMatrix | Frozen | Base)
    return factor if constant else Factor(factor.source, factor.axes, True)


# --- products ----------------------------------------------------------------------------


@_lower.register
def _(expr: Einsum, operands: tuple[Terms, ...]) -> Terms:
    parts = list(operands)
    while _count(parts) > MAX_TERMS:
        largest = max(range(len(parts)), key=lambda k: len(parts[k]))
        reason = f"multiplying out would make {_count(parts)} networks"
        parts[largest] = opaque(expr.operands[largest].shape, parts[largest], reason)
    while True:
        try:
            return [_multiply(expr, choice) for choice in product(*parts)]
        except _Conflict as conflict:
            k = conflict.operand
            reason = f"its axes split as {conflict.left} meet {conflict.right}"
            parts[k] = opaque(expr.operands[k].shape, parts[k], reason)


def _count(parts: list[Terms]) -> int:
    total = 1
    for terms in parts:
        total *= len(terms)
    return total


class _Conflict(Exception):
    """Operand ``operand`` cannot be brought to the pattern's indices."""

    def __init__(self, operand: int, left: object, right: object) -> None:
        Exception.__init__(self, operand, left, right)
        self.operand, self.left, self.right = operand, left, right


def _multiply(expr: Einsum, choice: tuple[Term, ...]) -> Term:
    space = Indices()
    symbol = {name: space.new(size) for name, size in expr.sizes}
    factors: list[Factor] = []
    scale = Fraction(1)
    total = Term([], (), {}, scale)
    for k, (term, axes) in enumerate(zip(choice, expr.pattern.operands, strict=True)):
        copy = fresh(term, space)
        factors.extend(copy.factors)
        total = multiply_scale(total, term.scale)
        for group, names in zip(copy.output, axes, strict=True):
            try:
                space.unify(group, tuple(i for name in names for i in symbol[name]))
            except NoRefinement as error:
                raise _Conflict(k, *error.args) from None
    output = tuple(
        tuple(i for name in names for i in symbol[name]) for names in expr.pattern.output
    )
    return _resolved(Term(factors, output, {}, total.scale), space)


def _resolved(term: Term, space: Indices) -> Term:
    factors = [
        Factor(f.source, tuple(space.resolve(g) for g in f.axes), f.held) for f in term.factors
    ]
    output = tuple(space.resolve(g) for g in term.output)
    used = {i for f in factors for g in f.axes for i in g} | {i for g in output for i in g}
    return Term(factors, output, {i: space.size[i] for i in used}, term.scale)


# --- layout and fixed linear maps --------------------------------------------------------


@_lower.register
def _(expr: Reshape, operands: tuple[Terms, ...]) -> Terms:
    try:
        return [_regroup(term, expr.target) for term in operands[0]]
    except NoRefinement as error:
        reason = f"reshape: the split {error.args[0]} has no common refinement with {expr.target}"
        return _barrier(
            "reshape", expr.target, operands[0], expr.operand.shape, expr.target, reason
        )


def _regroup(term: Term, target: tuple[int, ...]) -> Term:
    space = Indices()
    copy = fresh(term, space)
    flat = tuple(i for group in copy.output for i in group)
    groups = tuple(space.new(n) for n in target)
    space.unify(flat, tuple(i for group in groups for i in group))
    return _resolved(Term(copy.factors, groups, {}, term.scale), space)


@_lower.register
def _(expr: Take, operands: tuple[Terms, ...]) -> Terms:
    return [
        _attach(term, expr.axis, Selection(expr.index), expr.index.shape) for term in operands[0]
    ]


@_lower.register
def _(expr: Transform, operands: tuple[Terms, ...]) -> Terms:
    n = expr.operand.shape[expr.axis]
    return [_attach(t, expr.axis, TransformMatrix(expr.kind, n), (n,)) for t in operands[0]]


def _attach(term: Term, axis: int, constant: Source, shape: tuple[int, ...]) -> Term:
    """Let a constant read one axis of a term; its other axes take that axis's place."""
    space = Indices()
    copy = fresh(term, space)
    new = tuple(space.new(n) for n in shape)
    factor = Factor(constant, (*new, copy.output[axis]))
    output = copy.output[:axis] + new + copy.output[axis + 1 :]
    return _resolved(Term([*copy.factors, factor], output, {}, term.scale), space)


@_lower.register
def _(expr: Place, operands: tuple[Terms, ...]) -> Terms:
    placed: Terms = []
    for term in operands[0]:
        space = Indices()
        copy = fresh(term, space)
        target = tuple(space.new(n) for n in expr.target)
        flat = tuple(i for group in target for i in group)
        factor = Factor(Selection(expr.index), (*copy.output, flat))
        moved = Term([*copy.factors, factor], target, {}, term.scale)
        placed.append(_resolved(moved, space))
    return placed


@_lower.register
def _(expr: Window, operands: tuple[Terms, ...]) -> Terms:
    terms = operands[0]
    for axis, (n, m, offset) in enumerate(
        zip(expr.operand.shape, expr.target, expr.offset, strict=True)
    ):
        terms = [part for term in terms for part in _window_axis(term, axis, n, m, offset)]
    return terms


def _window_axis(term: Term, axis: int, n: int, m: int, offset: int) -> Terms:
    """``result[j] = operand[j + offset]``: crop to what is read, then place where it belongs."""
    low, high = max(offset, 0), min(n, m + offset)
    if high <= low:
        return []
    if high - low < n:
        crop = IndexMap("slice", (high - low,), n, (low, 1))
        term = _attach(term, axis, Selection(crop), (high - low,))
    if high - low < m:
        term = _put(term, axis, high - low, m, low - offset)
    return [term]


def _put(term: Term, axis: int, n: int, m: int, first: int) -> Term:
    """Place an axis of n elements into m, starting at ``first``."""
    space = Indices()
    copy = fresh(term, space)
    new = space.new(m)
    factor = Factor(Selection(IndexMap("slice", (n,), m, (first, 1))), (copy.output[axis], new))
    output = (*copy.output[:axis], new, *copy.output[axis + 1 :])
    return _resolved(Term([*copy.factors, factor], output, {}, term.scale), space)


@_lower.register
def _(expr: Concatenate, operands: tuple[Terms, ...]) -> Terms:
    total = expr.shape[expr.axis]
    count = sum(len(terms) for terms in operands)
    placed: Terms = []
    before = 0
    for piece, terms in zip(expr.operands, operands, strict=True):
        n = piece.shape[expr.axis]
        placed.extend(_put(term, expr.axis, n, total, before) for term in terms)
        before += n
    if count <= MAX_TERMS:
        return placed
    return opaque(expr.shape, placed, f"concatenate of {count} networks")


# --- barriers ----------------------------------------------------------------------------


@_lower.register
def _(expr: Map, operands: tuple[Terms, ...]) -> Terms:
    shape = expr.shape
    reason = f"{expr.function} is not multilinear"
    return _barrier("map", expr.function, operands[0], shape, shape, reason)


@_lower.register
def _(expr: Norm, operands: tuple[Terms, ...]) -> Terms:
    reason = "a norm is not multilinear"
    return _barrier("norm", expr.axes, operands[0], expr.operand.shape, expr.shape, reason)


@_lower.register
def _(expr: MatrixFunction, operands: tuple[Terms, ...]) -> Terms:
    settings = (expr.kind, *expr.settings)
    reason = f"{expr.kind} is a function of whole matrices"
    return _barrier(
        "matrix_function", settings, operands[0], expr.operand.shape, expr.shape, reason
    )
