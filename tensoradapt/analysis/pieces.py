"""Pieces: a piecewise function on the open set around a point where it is smooth.

Around a point without kinks relu(X) is X times a mask of zeros and ones, a clip keeps some entries
and fixes the others, and a softmax over the largest entries has a fixed choice of them. The
expression with these masks has the same values on an open set, so its generic rank is that of the
update on the set; elsewhere the update may have another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..algebra.builders import einsum, elementwise
from ..algebra.expression import Expr
from ..algebra.leaves import frozen, ones
from ..algebra.nodes import Map
from ..algebra.starts import given as given_start
from ..algebra.walk import children, rebuild, topological
from ..run.evaluate import evaluate
from .exact_point import Values
from .substitution import OWN

PIECEWISE = ("relu", "abs", "clip", "softmax_top")
MARGIN = 1e-9


@dataclass(frozen=True, slots=True)
class Pieced:
    """An expression with masks in place of piecewise functions, and the masks by name."""

    expr: Expr
    masks: Mapping[str, np.ndarray]


@dataclass(slots=True)
class _Work:
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    def leaf(self, values: np.ndarray) -> Expr:
        name = f"{OWN}mask{len(self.masks)}"
        self.masks[name] = np.asarray(values, dtype=np.float64)
        return frozen(name, *values.shape, recipe=given_start())

    def times(self, mask: np.ndarray, x: Expr) -> Expr:
        return x if mask.all() and mask.max() == 1 == mask.min() else self.leaf(mask) * x


def is_piecewise(expr: Expr) -> bool:
    """Whether an expression has a function that is smooth on pieces only."""
    found = [sub for sub in topological(expr) if isinstance(sub, Map)]
    return any(sub.function.name in PIECEWISE for sub in found)


def pieced(expr: Expr, at: Values) -> Pieced | None:
    """Replace piecewise functions by what they are around a point.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.
    at : Values
        A real point.

    Returns
    -------
    Pieced or None
        None if the point lies on a kink.
    """
    work = _Work()
    done: dict[Expr, Expr] = {}
    for sub in topological(expr):
        moved = tuple(done[child] for child in children(sub))
        done[sub] = rebuild(sub, moved)
        if isinstance(sub, Map) and sub.function.name in PIECEWISE:
            values = np.asarray(evaluate(sub.operand, at.leaves, at.base, at.bias))
            smooth = _smooth(sub, moved[0], values, work)
            if smooth is None:
                return None
            done[sub] = smooth
    return Pieced(done[expr], work.masks)


def _smooth(sub: Map, x: Expr, values: np.ndarray, work: _Work) -> Expr | None:
    name, settings = sub.function.name, sub.function.settings
    if name == "softmax_top":
        return _chosen(x, values, int(settings[0]), work)
    kinks = (0.0,) if name in ("relu", "abs") else settings
    for kink in kinks:
        if np.isfinite(kink) and (np.abs(values - kink) <= MARGIN * max(1.0, abs(kink))).any():
            return None
    if name == "abs":
        return work.times(np.sign(values), x)
    low, high = (0.0, float("inf")) if name == "relu" else settings
    inside = (values > low) & (values < high)
    fixed = np.where(values <= low, low, np.where(values >= high, high, 0.0))
    if not inside.any():
        return work.leaf(fixed)
    kept = work.times(inside.astype(np.float64), x)
    return kept + work.leaf(fixed) if fixed.any() else kept


def _chosen(x: Expr, values: np.ndarray, count: int, work: _Work) -> Expr | None:
    """``exp`` of the chosen entries over their sum."""
    order = np.argsort(-values, axis=-1, kind="stable")
    place = np.argsort(order, axis=-1, kind="stable")
    chosen = place < count
    if not chosen.all():
        least = np.where(chosen, values, np.inf).min(axis=-1)
        most = np.where(chosen, -np.inf, values).max(axis=-1)
        if (least - most <= MARGIN).any():
            return None
    weights = work.times(chosen.astype(np.float64), elementwise("exp", x))
    axes = " ".join(f"a{k}" for k in range(x.ndim - 1))
    total = einsum(f"{axes} j , j -> {axes} ", weights, ones(x.shape[-1]))
    inverse = elementwise("reciprocal", total)
    return einsum(f"{axes} , {axes} j -> {axes} j", inverse, weights)
