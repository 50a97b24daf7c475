"""Expressions as a tree of lines: every node with its shape, every leaf with its start."""

from __future__ import annotations

from .expression import Expr, Start
from .nodes import (
    Base,
    BaseBias,
    Concatenate,
    Constant,
    Einsum,
    Leaf,
    Map,
    MatrixFunction,
    Norm,
    Place,
    Scale,
    Take,
    Transform,
    Window,
)
from .render import formula
from .styles import TEXT
from .walk import children, start_of, topological

MAX_LINES = 400
MAX_DEPTH = 40


def tree(expr: Expr) -> str:
    """Draw an expression as a tree.

    Parameters
    ----------
    expr : Expr
        Any expression.

    Returns
    -------
    str
        One line per node: what it is, its shape, and for leaves their starts. A part that occurs
        again is named ``#k`` and drawn once. At most ``MAX_LINES`` lines.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> print(tree(low_rank((8, 6), rank=2)))
    einsum o k, k i -> o i  (8, 6)
    ├─ B  parameter (8, 2), starts at zeros
    └─ A  parameter (2, 6), starts at kaiming_uniform(a=2.23607)
    """
    shared = _shared(expr)
    drawn: set[Expr] = set()
    lines: list[str] = []
    stack: list[tuple[Expr, str, str]] = [(expr, "", "")]
    while stack:
        node, lead, indent = stack.pop()
        if len(lines) >= MAX_LINES:
            lines.append(f"… ({len(topological(expr))} nodes in all)")
            break
        number = f"#{shared[node]}" if node in shared else ""
        if node in drawn and number:
            lines.append(f"{lead}{number} again")
            continue
        drawn.add(node)
        below = children(node)
        deep = len(indent) >= 3 * MAX_DEPTH and bool(below)
        lines.append(f"{lead}{number + ' ' if number else ''}{_line(node)}{' …' if deep else ''}")
        if deep:
            continue
        for position in range(len(below) - 1, -1, -1):
            last = position == len(below) - 1
            branch, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
            stack.append((below[position], indent + branch, indent + rest))
    return "\n".join(lines)


def _shared(expr: Expr) -> dict[Expr, int]:
    """Compound parts with more than one user, numbered in order of evaluation."""
    order = topological(expr)
    users: dict[Expr, int] = {}
    for node in order:
        for child in children(node):
            users[child] = users.get(child, 0) + 1
    several = [node for node in order if children(node) and users.get(node, 0) > 1]
    return {node: k for k, node in enumerate(several, start=1)}


def _line(node: Expr) -> str:
    if isinstance(node, Leaf):
        kind = type(node).__name__.lower()
        shared = "" if node.scope == "site" else f", one per {node.scope}"
        starts = start_text(start_of(node))
        return f"{TEXT.name(node.name)}  {kind} {node.shape}{shared}, starts at {starts}"
    if isinstance(node, Base | BaseBias):
        return f"{formula(node)}  frozen weight {node.shape}"
    words = _words(node)
    return f"{type(node).__name__.lower()}{' ' + words if words else ''}  {node.shape}"


def _words(node: Expr) -> str:
    """What a node says beside its operands and its shape."""
    match node:
        case Einsum(pattern=pattern):
            text = str(pattern)
            return text if len(text) <= 120 else text[:119] + "…"
        case Scale(factor=factor):
            return TEXT.number(factor)
        case Map(function=function):
            return str(function)
        case Constant(kind=kind) | MatrixFunction(kind=kind):
            return kind
        case Take(axis=axis, index=index):
            return f"{index.kind} along axis {axis}"
        case Transform(kind=kind, axis=axis):
            return f"{kind} along axis {axis}"
        case Place(index=index):
            return index.kind
        case Concatenate(axis=axis):
            return f"along axis {axis}"
        case Norm(axes=axes):
            return f"over axes {', '.join(map(str, axes))}"
        case Window(offset=offset):
            return f"from {offset}" if any(offset) else ""
        case _:
            return ""


def start_text(start: Start) -> str:
    """A start as it is called: ``kaiming_uniform(a=2.23607)``."""
    numbers = [
        f"{name}={f'{value:.6g}' if isinstance(value, float) else value}"
        for name, value in start.settings
    ]
    operand = [] if start.operand is None else [formula(start.operand)]
    inside = ", ".join([*operand, *numbers])
    return f"{start.kind}({inside})" if inside else start.kind
