"""Expressions as mathematics: one line of text, or LaTeX.

Every node has one rule that gives a ``Piece``: text and how tightly it binds. An einsum is
written by what its pattern says (``recognize.py``): ``B A``, ``(B1 A1) ⊙ (B2 A2)``, ``diag(m) V``,
``A ⊗ B``; what has no name of its own stays ``einsum("pattern", …)``. Shapes and starts of leaves
are left to ``outline.py``. A formula too long to read is cut at the depth where it fits: ``…``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import singledispatch

from ..errors import UnsupportedError
from .expression import OPERATIONS, Expr, Factor
from .nodes import (
    AtStart,
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
from .recognize import DIAGONAL, PLAIN, TRANSPOSED, Form, Use, recognize
from .styles import LATEX, TEXT, Style, in_text_mode
from .walk import children, topological

SUM, HADAMARD, PRODUCT, SUFFIX, ATOM = range(1, 6)
"""How tightly a piece binds, from sums to single symbols."""

MAX_LENGTH = 2000
"""Characters beyond which deep parts are left out."""
MAX_DEPTH = 40
MAX_PARTS = 16
"""Terms, factors or operands of one node that are written out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a formula and its precedence."""

    text: str
    level: int = ATOM


def formula(expr: Expr) -> str:
    """Write an expression as one line of mathematics.

    Parameters
    ----------
    expr : Expr
        Any expression.

    Returns
    -------
    str
        ``B A`` for products, ``⊙`` elementwise, ``⊗`` Kronecker, ``C(c)`` circulant, ``‖V‖`` the
        row norm, ``B@start`` the value at the start. Parts too deep to fit are ``…``.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> formula(2 * low_rank((8, 6), 2, ("B1", "A1")) * low_rank((8, 6), 2, ("B2", "A2")))
    '(2 B1 A1) ⊙ (B2 A2)'
    """
    return _fitted(expr, TEXT)


def latex(expr: Expr) -> str:
    r"""Write an expression as LaTeX, for use inside ``$…$``.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> print(latex(low_rank((8, 6), rank=2)))
    B\,A
    """
    return _fitted(expr, LATEX)


def _fitted(expr: Expr, style: Style) -> str:
    """The whole formula if it is short, else the deepest cut of it that fits."""
    depth: dict[Expr, int] = {}
    count: dict[Expr, int] = {}
    for node in topological(expr):
        below = children(node)
        depth[node] = 1 + max((depth[child] for child in below), default=0)
        count[node] = 1 + sum(count[child] for child in below)
    if depth[expr] <= MAX_DEPTH and count[expr] <= MAX_LENGTH // 8:
        return Writer(style).piece(expr, MAX_DEPTH).text
    text = Writer(style).piece(expr, 2).text
    for cut in range(3, min(depth[expr], MAX_DEPTH) + 1):
        longer = Writer(style).piece(expr, cut).text
        if len(longer) > MAX_LENGTH:
            break
        text = longer
    return text


class Writer:
    """Writes expressions in one style down to one depth; each shared part once."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.depth = 0
        self.done: dict[tuple[Expr, int], Piece] = {}

    def piece(self, expr: Expr, depth: int) -> Piece:
        """The piece of an expression of which ``depth`` levels are shown."""
        if depth < 1 and children(expr):
            return Piece(self.style.ellipsis)
        key = (expr, depth)
        if key not in self.done:
            outer, self.depth = self.depth, depth
            self.done[key] = _write(expr, self)
            self.depth = outer
        return self.done[key]

    def below(self, expr: Expr) -> Piece:
        """The piece of a child."""
        return self.piece(expr, self.depth - 1)

    def inside(self, expr: Expr) -> str:
        """A child that needs no parentheses."""
        return self.below(expr).text

    def at_least(self, piece: Piece, level: int) -> str:
        """The text, in parentheses if it binds less than ``level``."""
        return piece.text if piece.level >= level else self.style.parentheses.format(piece.text)

    def call(self, name: str, operand: Expr, *more: str) -> Piece:
        """A function with its operand and whatever else is to be said."""
        words = [in_text_mode(self.style, word) for word in more]
        return Piece(self.style.call(name, ", ".join([self.inside(operand), *words])))

    def listed(self, texts: list[str]) -> list[str]:
        """At most ``MAX_PARTS`` of them."""
        return texts if len(texts) <= MAX_PARTS else [*texts[: MAX_PARTS - 1], self.style.ellipsis]


@singledispatch
def _write(expr: Expr, to: Writer) -> Piece:
    raise UnsupportedError(
        f"A formula of a {type(expr).__name__} was asked for.",
        "No rule writes that node.",
        "Register one in algebra/render.py.",
    )


# --- leaves ------------------------------------------------------------------------------


@_write.register
def _(expr: Parameter | Frozen, to: Writer) -> Piece:
    return Piece(to.style.name(expr.name))


@_write.register
def _(expr: Base, to: Writer) -> Piece:
    return Piece(to.style.base)


@_write.register
def _(expr: BaseBias, to: Writer) -> Piece:
    return Piece(to.style.bias)


@_write.register
def _(expr: Constant, to: Writer) -> Piece:
    return Piece("I" if expr.kind == "identity" else to.style.ones)


# --- multilinear -------------------------------------------------------------------------


@_write.register
def _(expr: Einsum, to: Writer) -> Piece:
    form = recognize(expr.pattern)
    if form is not None:
        return _write_form(form, expr, to)
    pattern = str(expr.pattern)
    shown = pattern if len(pattern) <= 240 else pattern[:239] + "…"
    quoted = in_text_mode(to.style, f'"{shown}"')
    operands = to.listed([to.inside(operand) for operand in expr.operands])
    return Piece(to.style.call("einsum", ", ".join([quoted, *operands])))


def _write_form(form: Use | Form, expr: Einsum, to: Writer) -> Piece:
    if isinstance(form, Use):
        return _write_use(expr.operands[form.position], form.mode, to)
    if form.kind == "hadamard" and all(isinstance(part, Use) for part in form.parts):
        quotient = _quotient(form, expr, to)
        if quotient is not None:
            return quotient
    pieces = [_write_form(part, expr, to) for part in form.parts]
    if form.kind not in ("product", "hadamard", "kron"):
        inside = ", ".join(to.listed([piece.text for piece in pieces]))
        return Piece(to.style.call(form.kind, inside))
    joint: str = getattr(to.style, form.kind)
    text = joint.join(to.listed([to.at_least(piece, SUFFIX) for piece in pieces]))
    return Piece(text, PRODUCT if form.kind == "product" else HADAMARD)


def _write_use(operand: Expr, mode: str, to: Writer) -> Piece:
    piece = to.below(operand)
    if mode == DIAGONAL:
        return Piece(to.style.diagonal.format(piece.text))
    if mode == TRANSPOSED:
        return Piece(to.style.transposed.format(to.at_least(piece, ATOM)), SUFFIX)
    return piece


def _quotient(form: Form, expr: Einsum, to: Writer) -> Piece | None:
    """``a / b`` where a factor is a reciprocal."""
    uses = [part for part in form.parts if isinstance(part, Use)]
    operands = [expr.operands[use.position] for use in uses]
    below = [op for op in operands if isinstance(op, Map) and op.function.name == "reciprocal"]
    above = [op for op in operands if op not in below]
    if len(below) != 1 or not above or any(use.mode != PLAIN for use in uses):
        return None
    assert isinstance(below[0], Map)
    top = [to.at_least(to.below(op), SUFFIX) for op in above]
    whole = Piece(to.style.hadamard.join(to.listed(top)), SUFFIX if len(top) == 1 else HADAMARD)
    bottom = to.at_least(to.below(below[0].operand), SUFFIX)
    return Piece(to.at_least(whole, SUFFIX) + to.style.divide + bottom, HADAMARD)


@_write.register
def _(expr: Sum, to: Writer) -> Piece:
    rotation = _bare_rotation(expr)
    if rotation is not None:
        return _rotation(rotation, to)
    parts = [_signed(term, to) for term in expr.terms[: MAX_PARTS + 1]]
    text = ("-" if parts[0][0] else "") + parts[0][1]
    for negative, part in parts[1:MAX_PARTS]:
        text += (" - " if negative else " + ") + part
    return Piece(text + (f" + {to.style.ellipsis}" if len(parts) > MAX_PARTS else ""), SUM)


def _bare_rotation(expr: Sum) -> MatrixFunction | None:
    """The rotation of a sum ``(rotation - I) + I``."""
    first, last = expr.terms[0], expr.terms[-1]
    if len(expr.terms) == 2 and isinstance(first, MatrixFunction) and _is_identity(last):
        return None if first.kind == "orthonormal" else first
    return None


def _is_identity(term: Expr) -> bool:
    last = term.operands[-1] if isinstance(term, Einsum) and len(term.operands) == 2 else term
    batch = term is last or (isinstance(term, Einsum) and isinstance(term.operands[0], Constant))
    return isinstance(last, Constant) and last.kind == "identity" and batch


def _signed(term: Expr, to: Writer) -> tuple[bool, str]:
    if isinstance(term, Scale) and term.factor < 0:
        return True, to.at_least(_scaled(-term.factor, term.operand, to), HADAMARD)
    return False, to.at_least(to.below(term), HADAMARD)


@_write.register
def _(expr: Scale, to: Writer) -> Piece:
    if expr.factor < 0:
        inner = to.at_least(_scaled(-expr.factor, expr.operand, to), HADAMARD)
        return Piece(f"-{inner}", SUM)
    return _scaled(expr.factor, expr.operand, to)


def _scaled(factor: Factor, operand: Expr, to: Writer) -> Piece:
    piece = to.below(operand)
    if factor == 1 and isinstance(factor, Fraction):
        return piece
    inner = to.at_least(piece, ATOM if isinstance(operand, Scale) else PRODUCT)
    return Piece(f"{to.style.number(factor)}{to.style.product}{inner}", PRODUCT)


# --- layout and fixed linear maps --------------------------------------------------------


def _shape(expr: Expr) -> str:
    return "×".join(map(str, expr.shape)) or "scalar"


def _numbers(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"[{shown}{', …' if len(numbers) > 8 else ''}]"


@_write.register
def _(expr: Reshape, to: Writer) -> Piece:
    return to.call("reshape", expr.operand, _shape(expr))


@_write.register
def _(expr: Window, to: Writer) -> Piece:
    origin = [f"from {_numbers(expr.offset)}"] if any(expr.offset) else []
    return to.call("window", expr.operand, _shape(expr), *origin)


@_write.register
def _(expr: Concatenate, to: Writer) -> Piece:
    parts = to.listed([to.inside(operand) for operand in expr.operands])
    if expr.axis > 1:
        axis = in_text_mode(to.style, f"axis {expr.axis}")
        return Piece(to.style.call("concatenate", ", ".join([*parts, axis])))
    return Piece(to.style.brackets.format(("; ", ", ")[expr.axis].join(parts)))


@_write.register
def _(expr: Transform, to: Writer) -> Piece:
    name = expr.kind.removeprefix("inverse_")
    inverse = "⁻¹" if name != expr.kind else ""
    return to.call(name + inverse, expr.operand, *_axis(expr.axis))


def _axis(axis: int) -> list[str]:
    return [f"axis {axis}"] if axis else []


_TAKES = {
    "circulant": "C",
    "circulant_rows": "C",
    "skew_circulant": "S",
    "toeplitz": "T",
    "symmetric_toeplitz": "Tsym",
    "skew": "skew",
    "permutation": "shuffle",
    "choice": "choose",
    "torch_choice": "choose_torch",
    "table": "take",
}


@_write.register
def _(expr: Take, to: Writer) -> Piece:
    index = expr.index
    name, more = _TAKES.get(index.kind, index.kind), list[str]()
    if index.kind in ("permutation", "choice", "torch_choice"):
        more.append(f"seed {index.settings[0]}")
    elif index.kind in ("table", "slice"):
        more.append(_numbers(index.settings))
    elif index.kind == "shift":
        more.append(str(index.settings[1]))
    elif index.kind == "tile":
        more.append("×".join(map(str, index.shape)))
    piece = to.call(name, expr.operand, *more, *_axis(expr.axis))
    if index.kind == "circulant_rows":
        return Piece(to.style.transposed.format(piece.text), SUFFIX)
    return piece


@_write.register
def _(expr: Place, to: Writer) -> Piece:
    return to.call("place", expr.operand, _shape(expr))


# --- barriers and training ---------------------------------------------------------------


@_write.register
def _(expr: Map, to: Writer) -> Piece:
    if expr.function.name == "reciprocal":
        inner = to.at_least(to.below(expr.operand), SUFFIX)
        return Piece(f"1{to.style.divide}{inner}", HADAMARD)
    numbers = [f"{number:g}" for number in expr.function.settings[:MAX_PARTS]]
    return to.call(expr.function.name, expr.operand, *numbers)


@_write.register
def _(expr: Norm, to: Writer) -> Piece:
    every = tuple(range(expr.operand.ndim))
    if expr.axes == every and len(every) > 1:
        kind = "F"
    elif expr.axes == every[1:] or expr.axes == every:
        kind = ""
    elif expr.axes == tuple(k for k in every if k != 1):
        kind = "col"
    else:
        kind = " ".join(map(str, expr.axes)) or "none"
    below = to.style.subscript.format(kind) if kind else ""
    return Piece(to.style.norm.format(to.inside(expr.operand), below))


@_write.register
def _(expr: MatrixFunction, to: Writer) -> Piece:
    rotation = _rotation(expr, to)
    return rotation if expr.kind == "orthonormal" else Piece(f"{rotation.text} - I", SUM)


def _rotation(expr: MatrixFunction, to: Writer) -> Piece:
    if expr.kind == "cayley":
        return to.call("cayley⁻¹" if expr.settings == (-1,) else "cayley", expr.operand)
    degree = [f"degree {expr.settings[0]}"] if expr.kind == "neumann" else []
    return to.call("expm" if expr.kind == "exponential" else expr.kind, expr.operand, *degree)


@_write.register
def _(expr: AtStart, to: Writer) -> Piece:
    inner = to.at_least(to.below(expr.operand), ATOM)
    return Piece(to.style.at_start.format(inner), SUFFIX)


@_write.register
def _(expr: Hold, to: Writer) -> Piece:
    return to.call("hold", expr.operand)


OPERATIONS["formula"] = formula
