"""From a tree to steps: every contraction as reshapes, one product, and nothing else.

A value is written with the order of its indices, one axis each. A contraction becomes a product
of matrices (stacked where indices are shared and kept) or an elementwise product with a sum,
whichever the rates say; the operand that carries the tokens goes first, so tokens stay leading.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra.nodes import Base, BaseBias, Frozen, Parameter
from ..network.form import Factor, Network, Ones, Opaque, Selection, TransformMatrix
from .graph import TOKEN_INDEX, Graph, Vertex
from .kernels import apply_move
from .order import Apply, Join, Leaf, Order, Search, Tree
from .steps import Shape, Writer, times


@dataclass(frozen=True, slots=True)
class Value:
    """The number of a value and the indices of its axes, in order."""

    number: int
    order: tuple[int, ...]


class Contraction:
    """Writes the steps of one graph along one tree."""

    __slots__ = ("graph", "opaque", "search", "writer", "x_groups")

    def __init__(
        self,
        writer: Writer,
        graph: Graph,
        search: Search,
        network: Network,
        opaque: dict[Opaque, int],
    ) -> None:
        self.writer, self.graph, self.search, self.opaque = writer, graph, search, opaque
        self.x_groups = tuple(i for group in network.output[1:] for i in group)

    def run(self, order: Order) -> Value:
        """Write all steps; the value holds the graph's output, in that order."""
        value, _ = self._tree(order.tree)
        target = self.graph.output
        axes = tuple(value.order.index(i) for i in target)
        return Value(self.writer.permute(value.number, axes), target)

    def _tree(self, tree: Tree) -> tuple[Value, int]:
        if isinstance(tree, Leaf):
            mask = 1 << tree.vertex
            return self._leaf(self.graph.vertices[tree.vertex], mask), mask
        if isinstance(tree, Apply):
            value, mask = self._tree(tree.operand)
            vertex = self.graph.vertices[tree.vertex]
            number, order = apply_move(
                self.writer, self.graph, vertex, tree.move, value.number, value.order
            )
            mask |= 1 << tree.vertex
            return self._closed(number, order, mask), mask
        assert isinstance(tree, Join)
        left, a = self._tree(tree.left)
        right, b = self._tree(tree.right)
        return self._join(left, right, a, b), a | b

    # --- leaves --------------------------------------------------------------------------

    def _leaf(self, vertex: Vertex, mask: int) -> Value:
        number, indices = self._source(vertex)
        writer, sizes = self.writer, self.graph.sizes
        number = writer.reshape(number, tuple(sizes[i] for i in indices))
        while len(set(indices)) < len(indices):
            number, indices = self._diagonal(number, indices)
        return self._closed(number, indices, mask)

    def _closed(self, number: int, indices: tuple[int, ...], mask: int) -> Value:
        """A value summed over the indices that nothing else needs."""
        kept = self.search.open(mask)
        lone = tuple(a for a, i in enumerate(indices) if i not in kept)
        order = tuple(i for i in indices if i in kept)
        if lone:
            number = self.writer.write("sum", (number,), lone, self._shape(order))
        return Value(number, order)

    def _source(self, vertex: Vertex) -> tuple[int, tuple[int, ...]]:
        writer = self.writer
        factor = vertex.factor
        if factor is None:
            return writer.input("x", "x"), (TOKEN_INDEX, *self.x_groups)
        number = factor_value(writer, factor, self.opaque)
        return number, tuple(i for group in factor.axes for i in group)

    def _diagonal(self, number: int, indices: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        repeated = next(i for i in indices if indices.count(i) > 1)
        first = indices.index(repeated)
        second = indices.index(repeated, first + 1)
        rest = tuple(i for a, i in enumerate(indices) if a not in (first, second))
        indices = (*rest, repeated)
        shape = tuple(self.graph.sizes[i] for i in indices)
        return self.writer.write("diagonal", (number,), (first, second), shape), indices

    # --- joins ---------------------------------------------------------------------------

    def _join(self, left: Value, right: Value, a: int, b: int) -> Value:
        kept = self.search.open(a | b)
        summed = tuple(i for i in left.order if i in right.order and i not in kept)
        if self._comes_second(left, right):
            left, right = right, left
        if summed and self._prefers_product(left, right, summed):
            return self._product(left, right, summed)
        return self._elementwise(left, right, summed)

    def _comes_second(self, left: Value, right: Value) -> bool:
        """Tokens first; else the operand whose own indices come first in the output."""
        if TOKEN_INDEX in left.order or TOKEN_INDEX in right.order:
            return TOKEN_INDEX not in left.order
        rank = {i: k for k, i in enumerate(self.graph.output)}
        own_left = [rank.get(i, 99) for i in left.order if i not in right.order]
        own_right = [rank.get(i, 99) for i in right.order if i not in left.order]
        return min(own_right, default=99) < min(own_left, default=99)

    def _prefers_product(self, left: Value, right: Value, summed: tuple[int, ...]) -> bool:
        graph, search = self.graph, self.search
        if graph.is_complex(left.order) != graph.is_complex(right.order):
            return False
        own = set(left.order) ^ set(right.order)
        if not own:
            return False
        a, b = frozenset(left.order), frozenset(right.order)
        return search.product_seconds(a, b, frozenset(summed)) <= search.elementwise_seconds(
            a | b, True
        )

    def _product(self, left: Value, right: Value, summed: tuple[int, ...]) -> Value:
        batch = tuple(i for i in left.order if i in right.order and i not in summed)
        rows = tuple(i for i in left.order if i not in right.order)
        columns = tuple(i for i in right.order if i not in left.order)
        a = self._matrix(left, batch, rows, summed)
        b = self._matrix(right, batch, summed, columns)
        shape = (*self._front(batch), self._size(rows), self._size(columns))
        number = self.writer.write("matmul", (a, b), (), shape)
        order = (*batch, *rows, *columns)
        return Value(self.writer.reshape(number, self._shape(order)), order)

    def _matrix(
        self, value: Value, batch: tuple[int, ...], rows: tuple[int, ...], columns: tuple[int, ...]
    ) -> int:
        """The value as (a stack of) matrices; a transposed matrix stays a view."""
        order = (*batch, *rows, *columns)
        target = (*self._front(batch), self._size(rows), self._size(columns))
        flipped = (*batch, *columns, *rows)
        if value.order == flipped and rows and columns:
            stored = (*target[:-2], target[-1], target[-2])
            number = self.writer.reshape(value.number, stored)
            last = len(stored) - 1
            return self.writer.permute(number, (*range(last - 1), last, last - 1))
        axes = tuple(value.order.index(i) for i in order)
        return self.writer.reshape(self.writer.permute(value.number, axes), target)

    def _elementwise(self, left: Value, right: Value, summed: tuple[int, ...]) -> Value:
        more = tuple(i for i in right.order if i not in left.order)
        full = tuple(i for i in (*left.order, *more) if i not in summed) + summed
        a, b = self._spread(left, full), self._spread(right, full)
        number = self.writer.write("multiply", (a, b), (), self._shape(full))
        if not summed:
            return Value(number, full)
        order = full[: len(full) - len(summed)]
        axes = tuple(range(len(order), len(full)))
        return Value(self.writer.write("sum", (number,), axes, self._shape(order)), order)

    def _spread(self, value: Value, full: tuple[int, ...]) -> int:
        """The value with its axes in the full order, of size one where it has no index."""
        present = tuple(i for i in full if i in value.order)
        number = self.writer.permute(value.number, tuple(value.order.index(i) for i in present))
        shape = tuple(self.graph.sizes[i] if i in value.order else 1 for i in full)
        return self.writer.reshape(number, shape)

    def _shape(self, order: tuple[int, ...]) -> Shape:
        return tuple(self.graph.sizes[i] for i in order)

    def _size(self, group: tuple[int, ...]) -> int:
        return times(*(self.graph.sizes[i] for i in group))

    def _front(self, batch: tuple[int, ...]) -> Shape:
        return (self._size(batch),) if batch else ()


def factor_value(writer: Writer, factor: Factor, opaque: dict[Opaque, int]) -> int:
    """The value of a tensor factor in its source's own shape."""
    source = factor.source
    match source:
        case Ones(size):
            return writer.write("ones", (), (size,), (size,))
        case Opaque():
            number = opaque[source]
        case Base():
            number = writer.input("base", "base")
        case BaseBias():
            number = writer.input("bias", "bias")
        case Selection(index):
            return writer.write("dense", (), (source,), (*index.shape, index.size))
        case TransformMatrix(_, n):
            return writer.write("dense", (), (source,), (n, n))
        case Parameter() | Frozen():
            number = writer.input(source.name)
        case _:
            raise AssertionError(f"{source!r} is no factor")
    if factor.held:
        return writer.write("hold", (number,), (), writer.shape(number))
    return number
