"""Snapshots as leaves: ``at_start`` distributed down to the leaves it reads.

``AtStart(e)`` is ``e`` with every leaf ``B`` replaced by the frozen leaf ``B@start``. A leaf
whose start is one constant gives that constant. W0 does not change, so it stays itself.
"""

from __future__ import annotations

from .expression import Expr, Start
from .leaves import exact
from .nodes import AtStart, Constant, Frozen, Leaf, Scale
from .walk import rewrite, start_of, topological

SUFFIX = "@start"
"""What the name of a snapshot ends in."""


def snapshot_name(name: str) -> str:
    """The name under which the value of a leaf at the start is stored; a snapshot keeps its own."""
    return name if name.endswith(SUFFIX) else name + SUFFIX


def constant_of(start: Start) -> float | None:
    """The number that a start puts everywhere, or None where it is not one number."""
    if start.kind == "constant":
        return float(start["value"])
    return {"zeros": 0.0, "ones": 1.0}.get(start.kind)


def distribute_snapshots(expr: Expr) -> Expr:
    """Replace every ``AtStart(e)`` by ``e`` over frozen leaves named ``B@start``.

    Parameters
    ----------
    expr : Expr
        Any expression.

    Returns
    -------
    Expr
        Of the same value and shape, without any ``AtStart``; the same object if it had none.

    Examples
    --------
    >>> from tensoradapt.algebra.builders import at_start
    >>> from tensoradapt.algebra.leaves import parameter
    >>> from tensoradapt.algebra.starts import normal
    >>> from tensoradapt.algebra.walk import leaves
    >>> b = parameter("B", 2, 3, start=normal())
    >>> [leaf.name for leaf in leaves(distribute_snapshots(b - at_start(b)))]
    ['B', 'B@start']
    """
    if not any(isinstance(sub, AtStart) for sub in topological(expr)):
        return expr
    return rewrite(
        expr, lambda sub: rewrite(sub.operand, _at_start) if isinstance(sub, AtStart) else sub
    )


def _at_start(sub: Expr) -> Expr:
    if not isinstance(sub, Leaf):
        return sub
    number = constant_of(start_of(sub))
    if number is not None:
        return Scale(exact(number), Constant("ones", sub.shape))
    return Frozen(snapshot_name(sub.name), sub.shape, start_of(sub), sub.scope)
