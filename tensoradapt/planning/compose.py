"""From a normal form to a program: networks contracted one by one and added in place.

``materialize`` writes ΔW; ``apply`` writes x ΔWᵀ with x as one more factor of every network.
Barriers are materialized first, their result being one more value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import prod

from ..algebra.expression import Expr
from ..algebra.expression import Factor as Scalar
from ..algebra.nodes import Base, BaseBias, Frozen, Parameter
from ..errors import UnsupportedError
from ..network.form import Network, NormalForm, Opaque
from .contract import Contraction, factor_value
from .graph import Graph, graphs
from .order import Order, Search, best_order
from .rates import Rates
from .steps import TOKENS, Input, Shape, Step, Writer


@dataclass(frozen=True, slots=True)
class Note:
    """What was decided for one network, for the printed plan."""

    network: str
    found_by: str
    materializes: str = ""


@dataclass(slots=True)
class Composer:
    """Writes normal forms as steps of one program.

    Parameters
    ----------
    writer : Writer
        Where the steps go.
    tokens : int
        The token count that orders are chosen for.
    rates : Rates
        What steps cost.
    training : bool
        Whether gradients are paid for.
    """

    writer: Writer
    tokens: int
    rates: Rates
    training: bool
    notes: list[Note] = field(default_factory=list)
    values: dict[Opaque, int] = field(default_factory=dict)

    def materialize(self, form: NormalForm) -> int:
        """The sum of the form's networks, in the form's shape."""
        total = self._sum(None, form.terms, form.shape, with_x=False)
        return self._zero(form.shape) if total is None else total

    def apply(self, form: NormalForm, bias: int | None) -> int:
        """``x Wᵀ + b`` for the matrix W of the form, ``(T, out)``."""
        out = form.shape[0]
        rest = tuple(network for network in form.terms if not _is_base(network))
        total: int | None = None
        if len(rest) < len(form.terms):
            total = self.multiply(self.writer.input("base", "base"), bias, form.shape)
            bias = None
        total = self._sum(total, rest, (TOKENS, out), with_x=True)
        total = self._zero_rows(out) if total is None else total
        return total if bias is None else self._shift(total, bias, out)

    def merged(self, form: NormalForm, bias: int | None) -> int:
        """``x Wᵀ + b`` with W formed first."""
        return self.multiply(self.materialize(form), bias, form.shape)

    # --- one network ---------------------------------------------------------------------

    def _network(self, network: Network, with_x: bool) -> int:
        for factor in network.factors:
            if isinstance(factor.source, Opaque):
                self._opaque(factor.source)
        if not with_x and len(network.factors) == 1 and _is_plain(network):
            return factor_value(self.writer, network.factors[0], self.values)
        if not network.factors and not with_x:
            return self._zero_free(network.shape)
        reads_tokens = with_x or any(size < 0 for size in network.sizes)
        tokens = self.tokens if reads_tokens else 1
        graph, order = cheapest_order(network, with_x, tokens, self.rates, self.training)
        search = Search(graph, tokens, self.rates, self.training)
        value = Contraction(self.writer, graph, search, network, self.values).run(order)
        self.notes.append(Note(str(network), order.found_by))
        groups = ((-1,), network.output[0]) if with_x else network.output
        number = self._embed(value.number, value.order, groups, graph)
        shape = (TOKENS, network.shape[0]) if with_x else network.shape
        return self.writer.reshape(number, shape)

    def _embed(
        self, number: int, order: tuple[int, ...], groups: tuple[tuple[int, ...], ...], graph: Graph
    ) -> int:
        """Write indices that the output repeats onto a diagonal."""
        wanted = tuple(i for group in groups for i in group)
        if wanted == order:
            return number
        sizes = graph.sizes
        seen: list[int] = []
        for position, index in enumerate(wanted):
            if index in seen:
                n = sizes[index]
                shape = (*(sizes[i] for i in seen), 1, *self._rest(order, seen, sizes))
                number = self.writer.reshape(number, shape)
                delta = self.writer.write("dense", (), ("identity", n), (n, n))
                first = seen.index(index)
                spread = tuple(n if a in (first, position) else 1 for a in range(len(shape)))
                delta = self.writer.reshape(delta, spread)
                target = (*shape[:position], n, *shape[position + 1 :])
                number = self.writer.write("multiply", (number, delta), (), target)
            seen.append(index)
        return number

    def _rest(self, order: tuple[int, ...], seen: list[int], sizes: dict[int, int]) -> Shape:
        return tuple(sizes[i] for i in order if i not in seen)

    # --- barriers ------------------------------------------------------------------------

    def _opaque(self, source: Opaque) -> int:
        if source not in self.values:
            number = self.materialize(source.operand)
            self.values[source] = self._operate(source, number)
            self.notes.append(Note(source.operation, "", source.reason))
        return self.values[source]

    def _operate(self, source: Opaque, number: int) -> int:
        if source.operation == "reshape":
            return self.writer.reshape(number, source.shape)
        if source.operation == "sum":
            return number
        settings = source.settings if isinstance(source.settings, tuple) else (source.settings,)
        return self.writer.write(source.operation, (number,), settings, source.shape)

    # --- sums ----------------------------------------------------------------------------

    def _sum(
        self, total: int | None, networks: tuple[Network, ...], shape: Shape, with_x: bool
    ) -> int | None:
        """Networks added up; those that end in a product come last, so they are added in place."""
        values = [(self._network(network, with_x), network.scale) for network in networks]
        for value, scale in sorted(values, key=lambda entry: self._ends_in_product(entry[0])):
            total = self._add(total, value, scale, shape)
        return total

    def _ends_in_product(self, value: int) -> bool:
        step = self.writer.value(value)
        return isinstance(step, Step) and step.operation == "matmul"

    def _add(self, total: int | None, value: int, scale: Scalar, shape: Shape) -> int:
        if total is None:
            return self._scaled(value, scale)
        inner = self.writer.value(value)
        if isinstance(inner, Step) and inner.operation == "matmul" and len(shape) == 2:
            operands = (total, *inner.operands)
            if inner.shape == shape and not inner.is_complex:
                return self.writer.write("addmm", operands, (scale,), shape)
        return self.writer.write("add", (total, value), (scale,), shape)

    def _scaled(self, value: int, scale: Scalar) -> int:
        if scale == 1 and isinstance(scale, Fraction):
            return value
        return self.writer.write("scale", (value,), (scale,), self.writer.shape(value))

    def multiply(self, weight: int, bias: int | None, shape: Shape) -> int:
        """``x Wᵀ + b`` of a weight that is formed already."""
        weight = self.writer.reshape(weight, (shape[0], prod(shape[1:])))
        operands = (self.writer.input("x", "x"), weight)
        operands = operands if bias is None else (*operands, bias)
        return self.writer.write("linear", operands, (), (TOKENS, shape[0]))

    def _shift(self, total: int, bias: int, out: int) -> int:
        row = self.writer.reshape(bias, (1, out))
        return self.writer.write("add", (total, row), (Fraction(1),), (TOKENS, out))

    def _zero(self, shape: Shape) -> int:
        ones = self.writer.write("ones", (), shape, shape)
        return self.writer.write("scale", (ones,), (Fraction(0),), shape)

    def _zero_free(self, shape: Shape) -> int:
        return self.writer.write("ones", (), shape, shape)

    def _zero_rows(self, out: int) -> int:
        x = self.writer.input("x", "x")
        total = self.writer.write("sum", (x,), (1,), (TOKENS,))
        total = self.writer.write("scale", (total,), (Fraction(0),), (TOKENS,))
        row = self.writer.write("ones", (), (1, out), (1, out))
        column = self.writer.reshape(total, (TOKENS, 1))
        return self.writer.write("multiply", (column, row), (), (TOKENS, out))


@lru_cache(maxsize=4096)
def cheapest_order(
    network: Network, with_x: bool, tokens: int, rates: Rates, training: bool
) -> tuple[Graph, Order]:
    """The cheapest graph of a network and its order; programs that share a network share it.

    Raises
    ------
    UnsupportedError
        If no sequence of kernels contracts the network.
    """
    found = [
        (order.seconds, k, graph, order)
        for k, graph in enumerate(graphs(network, with_x, training and with_x))
        if (order := best_order(graph, tokens, rates, training)) is not None
    ]
    if not found:
        raise UnsupportedError(
            f"A plan for the network {network} was asked for.",
            "No sequence of kernels contracts it: a constant meets no value it can act on.",
            "Evaluate the expression with ta.evaluate, or write the constant as a leaf.",
        )
    _, _, graph, order = min(found, key=lambda entry: entry[:2])
    return graph, order


def _is_base(network: Network) -> bool:
    return (
        len(network.factors) == 1
        and isinstance(network.factors[0].source, Base)
        and network.scale == 1
        and _is_plain(network)
    )


def _is_plain(network: Network) -> bool:
    """Whether a one-factor network is its factor as it stands."""
    return network.factors[0].axes == network.output and len(set(network.output_indices)) == len(
        [i for group in network.output for i in group]
    )


def inputs_of(forms: list[NormalForm], shape: Shape, training: bool) -> tuple[Input, ...]:
    """x, the base, the bias and every leaf that the forms read, in a fixed order."""
    found: dict[tuple[str, str], Input] = {
        ("x", "x"): Input("x", "x", (TOKENS, prod(shape[1:])), training)
    }
    for source in _leaf_sources(forms):
        entry = _input(source, training)
        found.setdefault((entry.kind, entry.name), entry)
    return tuple(found.values())


def _leaf_sources(forms: list[NormalForm]) -> list[Expr]:
    sources: list[Expr] = []
    for form in forms:
        for network in form.terms:
            for factor in network.factors:
                if isinstance(factor.source, Opaque):
                    sources.extend(_leaf_sources([factor.source.operand]))
                elif isinstance(factor.source, Expr):
                    sources.append(factor.source)
    return sources


def _input(source: Expr, training: bool) -> Input:
    match source:
        case Base():
            return Input("base", "base", source.shape)
        case BaseBias():
            return Input("bias", "bias", source.shape)
        case Parameter():
            return Input("leaf", source.name, source.shape, training)
        case Frozen():
            return Input("leaf", source.name, source.shape)
        case _:
            raise UnsupportedError(
                f"A program was to read {source!r}.", "It is not a leaf.", "Lower it first."
            )
