"""Irrational constants: which float scales matter for a rank, and which do not.

A float scale that is no simple fraction stands for a real number that nobody wrote down exactly,
so certificates put a random residue in its place. Where it multiplies the whole expression, or a
trained leaf that occurs nowhere else takes it up, the family is the same for every such number,
and the certificate does not depend on it.
"""

from __future__ import annotations

from collections import Counter

from ..algebra.expression import Expr
from ..algebra.leaves import exact
from ..algebra.nodes import (
    Concatenate,
    Einsum,
    Frozen,
    Hold,
    Map,
    Parameter,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from ..algebra.walk import children, start_of, topological

LINEAR = (Hold, Reshape, Place, Scale, Take, Transform, Window)
"""Nodes of one operand in which they are linear."""


class Uses:
    """Who reads each sub-expression, and how often."""

    def __init__(self, expr: Expr) -> None:
        self.root = expr
        analytic = [sub for sub in topological(expr) if _is_analytic(sub)]
        self.sole = analytic[0] if len(analytic) == 1 else None
        self.users: dict[Expr, Counter[Expr]] = {expr: Counter()}
        for sub in topological(expr):
            self.users.setdefault(sub, Counter())
            for child in children(sub):
                self.users.setdefault(child, Counter())[sub] += 1

    def only(self, expr: Expr) -> Expr | None:
        """The single place that reads a sub-expression, if there is just one."""
        users = self.users[expr]
        if expr == self.root or sum(users.values()) != 1:
            return None
        return next(iter(users))

    def absorbs(self, expr: Expr) -> bool:
        """Whether a factor on the expression is taken up by trained leaves that occur here only."""
        stack = [expr]
        while stack:
            current = stack.pop()
            match current:
                case Parameter():
                    continue
                case Map(_, function) if function.name in ("sin", "tanh") and self.sole == current:
                    continue  # its values are free numbers, and so are their multiples
                case Sum(parts) | Concatenate(parts, _):
                    below = list(parts)
                case Einsum(operands, _, _):
                    taker = next((o for o in operands if self._takes(o)), None)
                    below = [] if taker is None else [taker]
                case _ if isinstance(current, LINEAR):
                    below = list(children(current))
                case _:
                    return False
            if not below or any(self.only(child) is None for child in below):
                return False
            stack.extend(below)
        return True

    def _takes(self, operand: Expr) -> bool:
        return self.only(operand) is not None and self.absorbs(operand)

    def is_idle(self, scale: Scale) -> bool:
        """Whether the family is the same for every nonzero factor of a scale."""
        if self._takes(scale.operand):
            return True
        current: Expr = scale
        while current != self.root:
            user = self.only(current)
            match user:
                case Einsum(operands, _, _):
                    if any(o != current and self._takes(o) for o in operands):
                        return True
                case _ if isinstance(user, LINEAR):
                    pass
                case _:
                    return False
            assert user is not None
            current = user
        return True


def _is_analytic(sub: Expr) -> bool:
    return isinstance(sub, Map) and sub.function.facts.is_analytic


def generic_constants(expr: Expr) -> tuple[str, ...]:
    """The irrational numbers that a certificate of the expression depends on.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.

    Returns
    -------
    tuple of str
        Each as it is printed; empty where every constant is a simple fraction or idle.

    Examples
    --------
    >>> from tensoradapt.algebra.leaves import eye, parameter
    >>> x = parameter("x", 3, 3)
    >>> generic_constants(2**0.5 * x + eye(3)), generic_constants(x + 2**0.5 * eye(3))
    ((), ('1.41421',))
    """
    uses = Uses(expr)
    found: dict[str, None] = {}
    for sub in topological(expr):
        numbers: tuple[float, ...] = ()
        if isinstance(sub, Scale) and isinstance(exact(sub.factor), float):
            numbers = () if uses.is_idle(sub) else (float(sub.factor),)
        elif isinstance(sub, Map) and sub.function.name == "polynomial":
            numbers = tuple(c for c in sub.function.settings if isinstance(exact(c), float))
        elif isinstance(sub, Frozen) and start_of(sub).kind == "constant":
            value = float(start_of(sub)["value"])
            numbers = (value,) if isinstance(exact(value), float) else ()
        found.update((f"{number:.6g}", None) for number in numbers)
    return tuple(found)
