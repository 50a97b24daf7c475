"""Substitution: rational families in place of what is not rational, where that is exact.

A certificate is about a family of matrices, so a node may be replaced by another that runs
through the same family:

* ``m / ‖V‖`` with a trained m that occurs nowhere else: the norm by any positive numbers, because
  m / ‖V‖ runs through all of them (the free scale), provided that no norm is always 0, which is
  checked at the point;
* the norm of a bare leaf: a square root that the leaf is chosen to have, on the irreducible cone
  ``y² = Σ x²``;
* ``orthonormal`` of a leaf that occurs nowhere else: columns of a product of reflections;
* ``exponential`` of a skew leaf: a Cayley transform, which fills the same rotations; of any other
  leaf that occurs nowhere else: a free matrix.

Any other norm is replaced by free positive numbers too, and the result says so (``free_scales``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..algebra.builders import einsum, householder, take
from ..algebra.expression import Expr, Shape
from ..algebra.leaves import frozen
from ..algebra.nodes import (
    Base,
    BaseBias,
    Einsum,
    Frozen,
    Hold,
    Map,
    MatrixFunction,
    Norm,
    Parameter,
    Reshape,
    Take,
)
from ..algebra.walk import children, rebuild, topological
from .constants import Uses

OWN = "~"
"""What the names of leaves begin with that stand for something else."""


@dataclass(frozen=True, slots=True)
class Cone:
    """A leaf seen under a shape, whose norms over some axes must have roots."""

    leaf: Expr
    view: Shape
    axes: tuple[int, ...]

    @property
    def kept(self) -> Shape:
        """The shape of the norms."""
        return tuple(n for k, n in enumerate(self.view) if k not in self.axes)

    @property
    def name(self) -> str:
        """The leaf's name; W0 and b0 have none of their own."""
        names = {Base: "W0", BaseBias: "b0"}
        return names.get(type(self.leaf)) or getattr(self.leaf, "name", "")


@dataclass(frozen=True, slots=True)
class Substituted:
    """An expression of the same family, and what was done.

    Parameters
    ----------
    expr : Expr
        Rational where it could be made so.
    cones : tuple of Cone
        Leaves that must be drawn with norms that have roots.
    notes : tuple of str
        One sentence per replacement.
    free_scales : bool
        Whether a norm was replaced by numbers that it may not run through.
    nonzero : tuple of Expr
        What must not vanish at the point: the squares of the norms of free scales.
    """

    expr: Expr
    cones: tuple[Cone, ...] = ()
    notes: tuple[str, ...] = ()
    free_scales: bool = False
    nonzero: tuple[Expr, ...] = ()


@dataclass(slots=True)
class _Change:
    uses: Uses
    free: set[Expr]
    new: dict[Expr, Expr] = field(default_factory=dict)
    cones: dict[Expr, Cone] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    free_scales: bool = False
    nonzero: list[Expr] = field(default_factory=list)

    def name(self, word: str) -> str:
        return f"{OWN}{word}{len(self.new)}"


def substitute(expr: Expr, free: set[Expr]) -> Substituted:
    """Replace norms and matrix functions that are not rational.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.
    free : set of Expr
        The leaves whose entries are free numbers (trained ones; frozen and base if generic).

    Returns
    -------
    Substituted
        What has no substitute stays as it is.
    """
    change = _Change(Uses(expr), free)
    for sub in topological(expr):
        if isinstance(sub, Norm):
            _norm(sub, change)
        elif isinstance(sub, MatrixFunction) and sub.kind == "orthonormal":
            _orthonormal(sub, change)
        elif isinstance(sub, MatrixFunction) and sub.kind == "exponential":
            _exponential(sub, change)
    return Substituted(
        _rebuilt(expr, change.new),
        tuple(change.cones.values()),
        tuple(change.notes),
        change.free_scales,
        tuple(_rebuilt(squares, change.new) for squares in change.nonzero),
    )


def _rebuilt(expr: Expr, new: Mapping[Expr, Expr]) -> Expr:
    done: dict[Expr, Expr] = {}
    for sub in topological(expr):
        below = children(sub)
        moved = tuple(done[child] for child in below)
        done[sub] = new.get(sub) or (sub if moved == below else rebuild(sub, moved))
    return done[expr]


def _plain_leaf(expr: Expr) -> tuple[Expr, Shape]:
    """The leaf under reshapes and holds, and the shape under which it is seen."""
    current = expr
    while isinstance(current, Reshape | Hold):
        current = current.operand
    return current, expr.shape


# --- norms -------------------------------------------------------------------------------


def _norm(sub: Norm, change: _Change) -> None:
    if _is_divided_by(sub, change):
        change.new[sub] = frozen(change.name("norm"), *sub.shape)
        change.nonzero.append(_squares(sub))
        note = "m / ‖V‖ runs through all scales with m, so the norm is any positive one"
        change.notes[note] = None
        return
    leaf, view = _plain_leaf(sub.operand)
    cone = Cone(leaf, view, sub.axes)
    if leaf in change.free and change.cones.get(leaf, cone) == cone:
        change.cones[leaf] = cone
        change.notes["norms of a bare leaf are exact: it is drawn where they have roots"] = None
        return
    change.new[sub] = frozen(change.name("norm"), *sub.shape)
    change.free_scales = True
    change.notes[f"the norm of shape {sub.shape} is replaced by a free positive scale"] = None


def _squares(sub: Norm) -> Expr:
    axes = [f"a{k}" for k in range(sub.operand.ndim)]
    kept = [axis for k, axis in enumerate(axes) if k not in sub.axes]
    inside = " ".join(axes)
    return einsum(f"{inside} , {inside} -> {' '.join(kept)} ", sub.operand, sub.operand)


def _is_divided_by(sub: Norm, change: _Change) -> bool:
    """Whether the norm occurs only as ``m / ‖V‖`` with trained m of their own."""
    inverses = [
        user
        for holder in _through_holds(sub, change.uses)
        for user in change.uses.users[holder]
        if not isinstance(user, Hold)
    ]
    if not inverses or change.uses.root in (sub, *inverses):
        return False
    return all(
        isinstance(inverse, Map)
        and inverse.function.name == "reciprocal"
        and _is_multiplied(inverse, change)
        for inverse in inverses
    )


def _through_holds(sub: Expr, uses: Uses) -> list[Expr]:
    found = [sub]
    for current in found:
        found.extend(user for user in uses.users[current] if isinstance(user, Hold))
    return found


def _is_multiplied(inverse: Expr, change: _Change) -> bool:
    holders = _through_holds(inverse, change.uses)
    if change.uses.root in holders:
        return False
    users = [
        (holder, user)
        for holder in holders
        for user in change.uses.users[holder]
        if not isinstance(user, Hold)
    ]
    return bool(users) and all(_has_magnitude(user, holder, change) for holder, user in users)


def _has_magnitude(user: Expr, inverse: Expr, change: _Change) -> bool:
    """Whether an einsum multiplies the inverse norm by a trained leaf of the same axes."""
    if not isinstance(user, Einsum) or user.operands.count(inverse) != 1:
        return False
    axes = user.pattern.operands[user.operands.index(inverse)]
    return any(
        isinstance(operand, Parameter)
        and user.pattern.operands[k] == axes
        and change.uses.only(operand) == user
        for k, operand in enumerate(user.operands)
    )


# --- functions of matrices ---------------------------------------------------------------


def _own_leaf(sub: MatrixFunction, change: _Change) -> Expr | None:
    """The free leaf that the function reads as it is, if nothing else reads it."""
    current: Expr = sub
    while True:
        below = children(current)[0]
        if change.uses.only(below) is None:
            return None
        if not isinstance(below, Reshape | Hold):
            return below
        current = below


def _orthonormal(sub: MatrixFunction, change: _Change) -> None:
    leaf = _own_leaf(sub, change)
    if leaf not in change.free or isinstance(leaf, Base):
        return
    assert isinstance(leaf, Parameter | Frozen)
    start = leaf.initial if isinstance(leaf, Parameter) else leaf.recipe
    own = type(leaf)(change.name("reflections"), sub.shape, start, leaf.scope)
    columns = range(sub.shape[-1])
    change.new[sub] = take(householder(own), list(columns), axis=sub.ndim - 1)
    change.notes["orthonormal columns are columns of a product of reflections"] = None


def _exponential(sub: MatrixFunction, change: _Change) -> None:
    leaf = _own_leaf(sub, change)
    if isinstance(leaf, Take) and leaf.index.kind == "skew":
        inner = leaf.operand
        while isinstance(inner, Reshape | Hold) and change.uses.only(inner) is not None:
            inner = inner.operand
        if inner in change.free and change.uses.only(inner) is not None:
            change.new[sub] = MatrixFunction(sub.operand, "cayley", (1,))
            change.notes["exponentials of skew matrices fill the rotations, as Cayley's do"] = None
    elif leaf in change.free and not isinstance(leaf, Base):
        change.new[sub] = sub.operand
        change.notes["the exponential of a free matrix is a free matrix"] = None
