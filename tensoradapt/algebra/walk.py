"""Walking an expression: children, order, leaves, rebuilding. Never recursive, so depth is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from .expression import Expr, Start
from .nodes import AtStart, Base, BaseBias, Frozen, Leaf, Parameter


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly below, in order."""
    found: list[Expr] = []
    for field in fields(expr):  # type: ignore[arg-type]
        value: Any = getattr(expr, field.name)
        if isinstance(value, Expr):
            found.append(value)
        elif isinstance(value, tuple):
            found.extend(item for item in value if isinstance(item, Expr))  # type: ignore[misc]
    return tuple(found)


def rebuild(expr: Expr, new: tuple[Expr, ...]) -> Expr:
    """The same node over other children."""
    queue = iter(new)
    changes: dict[str, Any] = {}
    for field in fields(expr):  # type: ignore[arg-type]
        value: Any = getattr(expr, field.name)
        if isinstance(value, Expr):
            changes[field.name] = next(queue)
        elif isinstance(value, tuple) and any(isinstance(item, Expr) for item in value):  # type: ignore[misc]
            changes[field.name] = tuple(next(queue) for _ in value)  # type: ignore[misc]
    return replace(expr, **changes) if changes else expr  # type: ignore[type-var]


def topological(expr: Expr, with_starts: bool = False) -> list[Expr]:
    """Every distinct sub-expression once, operands before what uses them.

    With ``with_starts`` also what the first values of the leaves are computed from.
    """
    below = _children_and_start if with_starts else children
    order: dict[Expr, None] = {}
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        current, ready = stack.pop()
        if current in order:
            continue
        if ready:
            order[current] = None
        else:
            stack.append((current, True))
            stack.extend((child, False) for child in reversed(below(current)))
    return list(order)


def _children_and_start(expr: Expr) -> tuple[Expr, ...]:
    operand = start_of(expr).operand if isinstance(expr, Leaf) else None
    return children(expr) if operand is None else (operand,)


def leaves(expr: Expr) -> tuple[Leaf, ...]:
    """The distinct trained and frozen leaves, in order of first use.

    A leaf that occurs only inside ``at_start`` counts as frozen and is listed by ``starts_of``.
    """
    found: dict[Leaf, None] = {}
    hidden = _only_at_start(expr)
    for sub in topological(expr):
        if isinstance(sub, Parameter | Frozen) and sub not in hidden:
            found[sub] = None
    return tuple(found)


def parameters(expr: Expr) -> tuple[Parameter, ...]:
    """The distinct trained leaves."""
    return tuple(leaf for leaf in leaves(expr) if isinstance(leaf, Parameter))


def snapshots(expr: Expr) -> tuple[Leaf, ...]:
    """The distinct leaves whose value at the start is read through ``at_start``."""
    found: dict[Leaf, None] = {}
    for sub in topological(expr):
        if isinstance(sub, AtStart):
            found.update((leaf, None) for leaf in topological(sub) if isinstance(leaf, Leaf))
    return tuple(found)


def _only_at_start(expr: Expr) -> set[Expr]:
    live: set[Expr] = set()
    stack = [expr]
    while stack:
        current = stack.pop()
        if current in live or isinstance(current, AtStart):
            continue
        live.add(current)
        stack.extend(children(current))
    return {leaf for leaf in snapshots(expr) if leaf not in live}


def uses_base(expr: Expr, with_starts: bool = False) -> bool:
    """Whether W0 or b0 occurs in the expression (and, if asked, in its leaves' starts)."""
    return any(isinstance(sub, Base | BaseBias) for sub in topological(expr, with_starts))


def start_of(leaf: Leaf) -> Start:
    """How the leaf gets its first value."""
    return leaf.initial if isinstance(leaf, Parameter) else leaf.recipe


def rewrite(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Rebuild bottom-up: ``change`` sees every node with its children already changed."""
    done: dict[Expr, Expr] = {}
    for sub in topological(expr):
        old = children(sub)
        new = tuple(done[child] for child in old)
        done[sub] = change(sub if old == new else rebuild(sub, new))
    return done[expr]


def rename_leaves(expr: Expr, rename: Callable[[str], str]) -> Expr:
    """Rename every leaf, also inside starts, by a function of its name."""
    done: dict[Expr, Expr] = {}
    for sub in topological(expr, with_starts=True):
        if isinstance(sub, Leaf):
            start = start_of(sub)
            if start.operand is not None:
                start = replace(start, operand=done[start.operand])
            done[sub] = type(sub)(rename(sub.name), sub.shape, start, sub.scope)
        else:
            done[sub] = rebuild(sub, tuple(done[child] for child in children(sub)))
    return done[expr]


def iterate(expr: Expr) -> Iterator[Expr]:
    """Every distinct sub-expression, operands first."""
    yield from topological(expr)
