"""Kernels: how a structured constant acts on one value, as steps.

Each is written for any value that carries the consumed indices; the judge of all of them is
the constant written out as a dense tensor.
"""

from __future__ import annotations

from math import prod

from ..algebra.indexing import IndexMap
from ..network.form import TransformMatrix
from .fourier import Convolution, convolution, diagonals
from .graph import Graph, Move, Vertex
from .steps import Shape, Writer

Order = tuple[int, ...]


def apply_move(
    writer: Writer, graph: Graph, vertex: Vertex, move: Move, number: int, order: Order
) -> tuple[int, Order]:
    """Apply a map to a value; return the new value and its order of indices."""
    number, order, axis = _together(writer, graph, number, order, move.consumes)
    before, after = order[:axis], order[axis + len(move.consumes) :]
    sizes = graph.sizes
    flat = prod(sizes[i] for i in move.consumes)
    front, back = tuple(sizes[i] for i in before), tuple(sizes[i] for i in after)
    number = writer.reshape(number, (*front, flat, *back))
    match move.kernel:
        case "gather":
            number = _gather(writer, number, axis, move.settings[0])
        case "scatter":
            number = _scatter(writer, number, axis, move.settings[0])
        case "dense":
            number = _transform(writer, vertex, move, number, axis)
        case "source":
            number = _source(writer, number, axis, move.settings[0])
        case "enter":
            number = _enter(writer, number, axis, move.settings[0])
        case _:
            number = _leave(writer, number, axis, *move.settings)
    made = tuple(sizes[i] for i in move.produces)
    return writer.reshape(number, (*front, *made, *back)), (*before, *move.produces, *after)


def _together(
    writer: Writer, graph: Graph, number: int, order: Order, group: Order
) -> tuple[int, Order, int]:
    """Bring a group of indices side by side, in order; where they are not, move them last."""
    if group and group[0] in order:
        start = order.index(group[0])
        if order[start : start + len(group)] == group:
            return number, order, start
    target = (*(i for i in order if i not in group), *group)
    number = writer.permute(number, tuple(order.index(i) for i in target))
    return number, target, len(order) - len(group)


def _replace(shape: Shape, axis: int, *sizes: int) -> Shape:
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def _gather(writer: Writer, number: int, axis: int, index: IndexMap) -> int:
    shape = writer.shape(number)
    if index.kind == "slice" and index.settings[1] == 1:
        start = index.settings[0]
        return _slice(writer, number, axis, start, start + index.shape[0])
    target = _replace(shape, axis, *index.shape)
    seen = convolution(index)
    if seen is None:
        return writer.write("gather", (number,), (axis, index), target)
    rows, columns = index.shape[::-1] if seen.flipped else index.shape
    line = _gather_line(writer, number, axis, diagonals(index, seen))
    made = writer.write("windows", (line,), (axis, columns), _replace(shape, axis, rows, columns))
    order = list(range(len(target)))
    if seen.flipped:
        order[axis], order[axis + 1] = axis + 1, axis
    return writer.permute(made, tuple(order))


def _gather_line(writer: Writer, number: int, axis: int, index: IndexMap) -> int:
    """A gather of one axis into one axis."""
    if index.kind == "slice":
        return _gather(writer, number, axis, index)
    target = _replace(writer.shape(number), axis, *index.shape)
    return writer.write("gather", (number,), (axis, index), target)


def _scatter(writer: Writer, number: int, axis: int, index: IndexMap) -> int:
    shape = writer.shape(number)
    if index.kind == "slice" and index.settings[1] == 1:
        start = index.settings[0]
        return _pad(writer, number, axis, start, index.size - start - shape[axis])
    whole = index.settings == (index.size,)  # a modulus below the axis leaves a part of it zero
    if index.kind == "tile" and whole and shape[axis] % index.size == 0:
        split = _replace(shape, axis, shape[axis] // index.size, index.size)
        folded = writer.reshape(number, split)
        return writer.write("sum", (folded,), (axis,), _replace(shape, axis, index.size))
    return writer.write("scatter", (number,), (axis, index), _replace(shape, axis, index.size))


def _slice(writer: Writer, number: int, axis: int, start: int, stop: int) -> int:
    shape = writer.shape(number)
    if (start, stop) == (0, shape[axis]):
        return number
    return writer.write(
        "slice", (number,), (axis, start, stop), _replace(shape, axis, stop - start)
    )


def _pad(writer: Writer, number: int, axis: int, before: int, after: int) -> int:
    shape = writer.shape(number)
    if before == after == 0:
        return number
    size = before + shape[axis] + after
    return writer.write("pad", (number,), (axis, before, after), _replace(shape, axis, size))


def _transform(writer: Writer, vertex: Vertex, move: Move, number: int, axis: int) -> int:
    """A fixed transform as a product with its matrix."""
    assert vertex.factor is not None
    source = vertex.factor.source
    assert isinstance(source, TransformMatrix)
    shape = writer.shape(number)
    matrix = writer.write("dense", (), (source,), (source.size, source.size))
    if tuple(vertex.factor.axes[-1]) == move.consumes:
        matrix = writer.permute(matrix, (1, 0))
    last = len(shape) - 1
    there = (*(a for a in range(last + 1) if a != axis), axis)
    back = (*range(axis), last, *range(axis, last))
    moved = writer.permute(number, there)
    lines = writer.reshape(moved, (_lines(shape, axis), shape[axis]))
    made = writer.write("matmul", (lines, matrix), (), (_lines(shape, axis), source.size))
    full = writer.reshape(made, writer.shape(moved))
    return writer.permute(full, back)


def _lines(shape: Shape, axis: int) -> int:
    rest = _replace(shape, axis)
    product = prod(abs(n) for n in rest)
    return -product if any(n < 0 for n in rest) else product


# --- convolutions ------------------------------------------------------------------------


def _rfft(writer: Writer, number: int, axis: int, n: int) -> int:
    shape = _replace(writer.shape(number), axis, n // 2 + 1)
    return writer.write("rfft", (number,), (axis, n), shape, is_complex=True)


def _irfft(writer: Writer, number: int, axis: int, n: int) -> int:
    shape = _replace(writer.shape(number), axis, n)
    return writer.write("irfft", (number,), (axis, n), shape, is_complex=False)


def _source(writer: Writer, number: int, axis: int, c: Convolution) -> int:
    if c.kind == "symmetric_toeplitz":
        size, count = writer.shape(number)[axis], c.rows + c.columns - 1
        mirror = IndexMap("mirror", (count,), size, (c.columns - 1,))
        number = _gather_line(writer, number, axis, mirror)
    number = _rfft(writer, number, axis, c.length)
    if c.is_adjoint:
        number = writer.write("conj", (number,), (), writer.shape(number), is_complex=True)
    return number


def _enter(writer: Writer, number: int, axis: int, c: Convolution) -> int:
    if c.transposed and c.kind in ("toeplitz", "symmetric_toeplitz"):
        number = _pad(writer, number, axis, c.columns - 1, 0)
    if c.transposed and c.kind == "skew_circulant":
        shape = _replace(writer.shape(number), axis, 2 * writer.shape(number)[axis])
        number = writer.write("unfold", (number,), (axis,), shape)
    return _rfft(writer, number, axis, c.length)


def _leave(writer: Writer, number: int, axis: int, c: Convolution, size: int) -> int:
    number = _irfft(writer, number, axis, c.length)
    if c.kind == "skew_circulant" and not c.transposed:
        return writer.write("fold", (number,), (axis,), _replace(writer.shape(number), axis, size))
    start = c.columns - 1 if "toeplitz" in c.kind and not c.transposed else 0
    return _slice(writer, number, axis, start, start + size)
