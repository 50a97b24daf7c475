"""Random expressions from the whole algebra, for hypothesis.

An expression is drawn from its shape downwards: a rule of the table takes the shape that is wanted
and draws a node of that shape over smaller expressions. Leaves are named by their shape, so equal
names are equal leaves and sharing happens by itself. With ``smooth`` every function drawn is
infinitely differentiable near the values that normal leaves give it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import prod

from hypothesis import strategies as st

import tensoradapt.algebra as ta
from tensoradapt.algebra import starts
from tensoradapt.algebra.builders import elementwise
from tensoradapt.algebra.expression import Expr, Shape
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.nodes import (
    TRANSFORMS,
    AtStart,
    Base,
    BaseBias,
    Concatenate,
    Hold,
    MatrixFunction,
    Norm,
    Place,
    Reshape,
    Scale,
    Take,
    Transform,
    Window,
)

Draw = Callable[..., object]

SIZES = (1, 2, 3, 4, 5, 6)
MAX_ELEMENTS = 144
"""Elements of any part of a drawn expression."""


class Source:
    """One drawing: what is common to all parts of an expression."""

    def __init__(self, draw: Draw, base: Shape, smooth: bool) -> None:
        self.draw = draw
        self.base = base
        self.smooth = smooth

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))  # type: ignore[return-value]

    def pick(self, items):
        return self.draw(st.sampled_from(list(items)))

    def expression(self, shape: Shape, depth: int) -> Expr:
        """Draw an expression of this shape."""
        if depth <= 0:
            return self.leaf(shape)
        for _ in range(4):
            found = self.pick(RULES)(self, shape, depth - 1)
            if found is not None:
                return found
        return self.leaf(shape)

    def leaf(self, shape: Shape) -> Expr:
        name = "x".join(map(str, shape)) or "scalar"
        kinds = ["p0", "p1", "p2", "f0"]
        kinds += ["base"] * (3 * (shape == self.base != ()))
        kinds += ["bias"] * (shape == self.base[:1] != ())
        kinds += ["ones"] + ["eye"] * (len(shape) == 2 and len(set(shape)) == 1)
        match self.pick(kinds):
            case "base":
                return Base(shape)
            case "bias":
                return BaseBias(shape)
            case "ones":
                return ta.ones(*shape)
            case "eye":
                return ta.eye(shape[0])
            case "f0":
                return ta.frozen(f"f0_{name}", *shape)
            case kind:
                return ta.parameter(f"{kind}_{name}", *shape, start=STARTS[str(kind)])


STARTS = {
    "p0": starts.normal(),
    "p1": starts.uniform(-1.0, 1.0),
    "p2": starts.normal(std=0.5, mean=0.1),
}

Rule = Callable[[Source, Shape, int], Expr | None]


# --- multilinear -------------------------------------------------------------------------


def _sum(s: Source, shape: Shape, depth: int) -> Expr:
    left, right = s.expression(shape, depth), s.expression(shape, depth)
    match s.integer(0, 3):
        case 0:
            return left - right
        case 1:
            return left + left
        case 2:
            return left + s.pick((1, -2, Fraction(1, 3)))
        case _:
            return left + right


def _scale(s: Source, shape: Shape, depth: int) -> Expr:
    return Scale(
        s.pick((Fraction(2), Fraction(-1, 3), 0.7310585786, -1.5e-1)), s.expression(shape, depth)
    )


def _matmul(s: Source, shape: Shape, depth: int) -> Expr | None:
    if len(shape) != 2:
        return None
    k = s.pick(SIZES[:4])
    left, right = s.expression((shape[0], k), depth), s.expression((k, shape[1]), depth)
    if s.integer(0, 3) == 0:
        return ta.einsum("o r, r, r i -> o i", left, s.expression((k,), depth), right)
    return left @ right


def _hadamard(s: Source, shape: Shape, depth: int) -> Expr:
    left = s.expression(shape, depth)
    return left * (left if s.integer(0, 4) == 0 else s.expression(shape, depth))


def _rows(s: Source, shape: Shape, depth: int) -> Expr | None:
    if len(shape) < 2:
        return None
    axis = s.integer(0, 1)
    vector, rest = s.expression((shape[axis],), depth), s.expression(shape, depth)
    return ta.scale_columns(rest, vector) if axis else ta.scale_rows(vector, rest)


def _loha(s: Source, shape: Shape, depth: int) -> Expr | None:
    if len(shape) != 2:
        return None
    (o, i), r, q = shape, s.pick((1, 2, 3)), s.pick((1, 2, 3))
    shapes = ((o, r), (r, i), (o, q), (q, i))
    return ta.einsum("or,ri,oq,qi->oi", *(s.expression(part, depth) for part in shapes))


def _kron(s: Source, shape: Shape, depth: int) -> Expr | None:
    if not shape:
        return None
    left = tuple(s.pick(_divisors(n)) for n in shape)
    right = tuple(n // d for n, d in zip(shape, left, strict=True))
    return ta.kron(s.expression(left, depth), s.expression(right, depth))


def _transpose(s: Source, shape: Shape, depth: int) -> Expr | None:
    return s.expression(shape[::-1], depth).T if len(shape) > 1 else None


def _blocks(s: Source, shape: Shape, depth: int) -> Expr | None:
    if len(shape) != 2:
        return None
    j = s.pick([d for d in _divisors(shape[0]) if shape[1] % d == 0])
    return ta.block_diag(s.expression((j, shape[0] // j, shape[1] // j), depth))


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _network(s: Source, shape: Shape, depth: int) -> Expr:
    """An einsum of any pattern: grouped axes on both sides, hyperedges, repeated indices."""
    sizes: dict[str, int] = {}
    output: list[tuple[str, ...]] = []
    for n in shape:
        group: list[str] = []
        d = s.pick(_divisors(n)) if s.integer(0, 2) == 0 else n
        for size in (d, n // d) if d != n else (n,):
            again = [name for name in sizes if sizes[name] == size]
            name = s.pick(again) if again and s.integer(0, 7) == 0 else f"o{len(sizes)}"
            sizes[name] = size
            group.append(name)
        output.append(tuple(group))
    for _ in range(s.integer(0, 2)):
        sizes[f"k{len(sizes)}"] = s.pick((1, 2, 3))
    parts: list[list[str]] = []
    for _ in range(s.integer(1, 3)):
        names = [name for name in sizes if s.integer(0, 1)]
        parts.append(list(s.draw(st.permutations(names))))
    seen = {name for part in parts for name in part}
    parts[-1] += [name for name in sizes if name not in seen]
    if parts[0] and s.integer(0, 9) == 0:
        parts[0].append(parts[0][0])
    left = [_grouped(s, part) for part in parts]
    if any(prod(sizes[n] for group in axes for n in group) > MAX_ELEMENTS for axes in left):
        return s.leaf(shape)
    text = ", ".join(map(_axes, left)) + f" -> {_axes(output)}"
    operands = [
        s.expression(tuple(prod(sizes[n] for n in group) for group in axes), depth) for axes in left
    ]
    return ta.einsum(text, *operands, **sizes)


def _grouped(s: Source, names: list[str]) -> list[tuple[str, ...]]:
    groups: list[tuple[str, ...]] = []
    for name in names:
        if groups and (len(names) > 4 or s.integer(0, 5) == 0):
            groups[-1] = (*groups[-1], name)
        else:
            groups.append((name,))
    return groups


def _axes(groups) -> str:
    return " ".join(g[0] if len(g) == 1 else f"({' '.join(g)})" for g in groups) + " "


# --- layout and fixed linear maps --------------------------------------------------------


def _reshape(s: Source, shape: Shape, depth: int) -> Expr:
    n = prod(shape)
    d = s.pick(_divisors(n))
    target = s.pick([(n,), (d, n // d), (n // d, d), (1, n), (d, 1, n // d)])
    operand = s.expression(target, depth)
    return Reshape(operand, shape)


def _window(s: Source, shape: Shape, depth: int) -> Expr | None:
    if not shape:
        return None
    source = tuple(max(1, n + s.integer(-2, 2)) for n in shape)
    if prod(source) > MAX_ELEMENTS:
        return None
    offset = tuple(s.integer(-1, 1) for _ in shape)
    return Window(s.expression(source, depth), shape, offset)


def _concatenate(s: Source, shape: Shape, depth: int) -> Expr | None:
    axes = [k for k, n in enumerate(shape) if n > 1]
    if not axes:
        return None
    axis = s.pick(axes)
    first = s.integer(1, shape[axis] - 1)
    pieces = [(*shape[:axis], n, *shape[axis + 1 :]) for n in (first, shape[axis] - first)]
    return Concatenate(tuple(s.expression(piece, depth) for piece in pieces), axis)


def _transform(s: Source, shape: Shape, depth: int) -> Expr | None:
    if not shape:
        return None
    axis = s.integer(0, len(shape) - 1)
    kinds = TRANSFORMS if shape[axis] & (shape[axis] - 1) == 0 else TRANSFORMS[:3]
    kind = s.pick(("", "inverse_")) + s.pick(kinds)
    return Transform(s.expression(shape, depth), axis, kind)


def _take(s: Source, shape: Shape, depth: int) -> Expr | None:
    if not shape:
        return None
    axis = s.integer(0, len(shape) - 1)
    wide = len(shape) > axis + 1 and s.integer(0, 1)
    index = _matrix_map(s, shape[axis : axis + 2]) if wide else _vector_map(s, shape[axis])
    rest = shape[axis + len(index.shape) :]
    source = (*shape[:axis], index.size, *rest)
    return Take(s.expression(source, depth), axis, index) if prod(source) <= MAX_ELEMENTS else None


def _matrix_map(s: Source, shape: Shape) -> IndexMap:
    rows, columns = shape
    n = s.integer(1, 6)
    choices = [
        IndexMap("circulant", shape, n, (n,)),
        IndexMap("circulant_rows", shape, n, (n,)),
        IndexMap("skew_circulant", shape, n, (n,)),
        IndexMap("toeplitz", shape, rows + columns - 1, (columns,)),
        IndexMap("symmetric_toeplitz", shape, max(shape), ()),
    ]
    if rows == columns > 1:
        choices.append(IndexMap("skew", shape, rows * (rows - 1) // 2, (rows,)))
    return s.pick(choices)


def _vector_map(s: Source, m: int) -> IndexMap:
    extra = s.integer(0, 3)
    size = m + extra
    table = tuple(s.integer(0, size - 1) for _ in range(m))
    signs = tuple(s.pick((1, -1)) for _ in range(m)) if s.integer(0, 1) else ()
    step = s.pick((1, 2))
    return s.pick(
        [
            IndexMap("table", (m,), size, table + signs),
            IndexMap("permutation", (m,), m, (s.integer(0, 99),)),
            IndexMap("choice", (m,), size, (s.integer(0, 99),)),
            IndexMap("tile", (m,), s.pick(SIZES), (1,)),
            IndexMap("tile", (m,), m, (m,)),
            IndexMap("slice", (m,), extra + step * (m - 1) + 1, (extra, step)),
            IndexMap("shift", (m,), m, (m, s.integer(0, m))),
            IndexMap("wrap", (m,), size, (size, s.integer(0, m))),
            IndexMap("skew_wrap", (m,), size, (size, s.integer(0, m))),
            IndexMap("reverse", (m,), m, (m,)),
        ]
    )


def _place(s: Source, shape: Shape, depth: int) -> Expr:
    n = prod(shape)
    count = s.integer(1, n)
    positions = s.draw(st.permutations(range(n)))[:count]  # type: ignore[index]
    seed = s.integer(0, 99)
    index = s.pick(
        [
            IndexMap("table", (count,), n, tuple(positions)),
            IndexMap("choice", (count,), n, (seed,)),
            IndexMap("permutation", (n,), n, (seed,)),
            IndexMap("slice", (count,), n, (n - count, 1)),
        ]
    )
    return Place(s.expression(index.shape, depth), shape, index)


# --- barriers and training ---------------------------------------------------------------


def _map(s: Source, shape: Shape, depth: int) -> Expr:
    operand = s.expression(shape, depth)
    name = s.pick((*SMOOTH, *([] if s.smooth else ROUGH)))
    match name:
        case "exp":
            return ta.exp(ta.tanh(operand))
        case "polynomial":
            return ta.polynomial(ta.sin(operand), 0.5, -1.0, 1.0)
        case "reciprocal" | "sqrt":
            return elementwise(str(name), _above_one(operand))
        case "clip":
            return ta.clip(operand, -0.5, 0.5)
        case "softmax_top":
            count = s.integer(1, shape[-1]) if shape else 1
            return ta.softmax_top(operand, count) if shape else ta.sin(operand)
        case _:
            return elementwise(str(name), operand)


SMOOTH = ("sin", "cos", "tanh", "sigmoid", "exp", "polynomial", "reciprocal", "sqrt")
ROUGH = ("relu", "abs", "clip", "softmax_top")


def _above_one(operand: Expr) -> Expr:
    """``1 + x²``, where reciprocal, sqrt and norm are smooth."""
    return ta.polynomial(operand, 1.0, 0.0, 1.0)


def _quotient(s: Source, shape: Shape, depth: int) -> Expr:
    return s.expression(shape, depth) / _above_one(s.expression(shape, depth))


def _norm(s: Source, shape: Shape, depth: int) -> Expr | None:
    axis, n = s.integer(0, len(shape)), s.pick(SIZES[:4])
    source = (*shape[:axis], n, *shape[axis:])
    if len(source) > 4 or prod(source) > MAX_ELEMENTS:
        return None
    operand = s.expression(source, depth)
    return Norm(_above_one(operand) if s.smooth else operand, (axis,))


def _matrix_function(s: Source, shape: Shape, depth: int) -> Expr | None:
    if len(shape) not in (2, 3):
        return None
    rows, columns = shape[-2:]
    name = "x".join(map(str, shape))
    if rows != columns:
        operand = ta.parameter(f"basis_{name}", *shape, start=starts.normal())
        return MatrixFunction(operand, "orthonormal") if rows > columns else None
    kind = s.pick(("cayley", "neumann", "householder", "exponential"))
    if kind == "householder":
        r = s.integer(1, 3)
        vectors = ta.parameter(f"u_{name}_{r}", *shape[:-1], r, start=starts.normal())
        return MatrixFunction(vectors, kind)
    square = ta.tanh(s.expression(shape, depth))
    b = "b " if len(shape) == 3 else ""
    skew = Scale(Fraction(1, 4), square - ta.einsum(f"{b}i j -> {b}j i", square))
    settings = {"cayley": ((1,), (-1,)), "neumann": ((1,), (2,), (3,))}.get(str(kind), ((),))
    return MatrixFunction(skew, str(kind), s.pick(settings))


def _at_start(s: Source, shape: Shape, depth: int) -> Expr:
    return AtStart(s.expression(shape, min(depth, 1)))


def _hold(s: Source, shape: Shape, depth: int) -> Expr:
    return Hold(s.expression(shape, depth))


RULES: tuple[Rule, ...] = (
    _sum,
    _scale,
    _matmul,
    _hadamard,
    _rows,
    _loha,
    _kron,
    _transpose,
    _blocks,
    _network,
    _network,
    _reshape,
    _window,
    _concatenate,
    _transform,
    _take,
    _take,
    _place,
    _map,
    _map,
    _quotient,
    _norm,
    _matrix_function,
    _at_start,
    _hold,
)

matrix_shapes = st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES))
any_shapes = st.lists(st.sampled_from(SIZES), max_size=3).map(tuple)


@st.composite
def expressions(draw, max_depth: int = 3, shape=None, smooth: bool = True) -> Expr:
    """Random expressions.

    Parameters
    ----------
    max_depth : int
        Levels of rules above the leaves; a rule may write up to three nodes.
    shape : tuple of int, or a strategy of them, optional
        The shape of the result; a small matrix ``(out, in)`` by default (``any_shapes`` for all).
    smooth : bool
        Only smooth functions, at places where they are smooth.
    """
    wanted = shape if isinstance(shape, tuple) else draw(matrix_shapes if shape is None else shape)
    source = Source(draw, wanted, smooth)
    return source.expression(wanted, draw(st.integers(min(1, max_depth), max_depth)))
