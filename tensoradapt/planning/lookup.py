"""Rows of an update, ``ΔE[ids]``, without the update: the row index is read first.

In a network every factor that carries the row's indices is replaced by its rows at the ids, with
one index of T tokens in their place; what remains is contracted by a plan like any other. Where
the row is one index (``E = B A``) the rows of B are read; where it is several (``E = A ⊗ C``:
row ``a p + c``) each factor is read at its digits of the row's number.

Elementwise functions and norms of other axes are taken of the rows of their operand. A row index
inside an index map, a matrix function or a diagonal cannot be read first: the update is then
formed whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

from ..algebra.expression import Expr
from ..algebra.nodes import Frozen, Parameter
from ..algebra.starts import zeros
from ..errors import UnsupportedError
from ..network.form import Factor, Network, NormalForm, Ones, Opaque, source_name
from ..network.lower import lower
from .compose import Composer
from .rates import CPU, Rates
from .steps import TOKENS, Input, Program, Shape, Writer

TYPICAL_TOKENS = 1024
"""The token count that orders are chosen for."""


@dataclass(frozen=True, slots=True)
class Read:
    """One input of a lookup: a leaf or the base, whole or its rows at the ids.

    Parameters
    ----------
    kind : {"leaf", "base", "bias"}
        What is read.
    name : str
        The leaf's name, or the kind.
    shape : tuple of int
        The shape to give it, one axis per index.
    axes : tuple of int
        The axes that the row's indices are on; empty where it is read whole.
    digits : tuple of (int, int)
        For each of them ``(stride, size)``: its digit of a row's number is
        ``number // stride % size``.
    """

    kind: str
    name: str
    shape: Shape
    axes: tuple[int, ...] = ()
    digits: tuple[tuple[int, int], ...] = ()

    @property
    def rows_shape(self) -> Shape:
        """The shape of what the program receives."""
        if not self.axes:
            return self.shape
        return (TOKENS, *(n for a, n in enumerate(self.shape) if a not in self.axes))

    def __str__(self) -> str:
        if not self.axes:
            return f"{self.name} {self.shape}, whole"
        axes = ", ".join(map(str, self.axes))
        return f"{self.name} {self.shape}, T rows on {'axes' if ',' in axes else 'axis'} {axes}"


@dataclass(frozen=True, slots=True)
class Lookup:
    """A program for the rows of an update at T ids, and what it reads, in order."""

    program: Program
    reads: tuple[Read, ...]


def lookup(update: Expr, rates: Rates = CPU) -> Lookup:
    """Plan ``ΔE[ids]``, ``(T, *ΔE.shape[1:])``.

    Parameters
    ----------
    update : Expr
        ΔE, of shape ``(rows, ...)``.
    rates : Rates
        Of the device.

    Raises
    ------
    UnsupportedError
        If a row cannot be read before the update is formed.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> for read in lookup(low_rank((1000, 8), rank=2)).reads:
    ...     print(read)
    A (2, 8), whole
    B (1000, 2), T rows on axis 0
    """
    restriction = _Restriction()
    form = restriction.form(lower(update))
    reads = dict(sorted(restriction.reads.items()))
    inputs = [Input("leaf", name, read.rows_shape) for name, read in reads.items()]
    writer = Writer(tuple(inputs))
    composer = Composer(writer, TYPICAL_TOKENS, rates, False)
    program = writer.program(composer.materialize(form))
    return Lookup(program, tuple(reads.values()))


@dataclass(slots=True)
class _Restriction:
    """Rewrites normal forms to their rows, collecting what is read."""

    reads: dict[str, Read] = field(default_factory=dict)

    def form(self, form: NormalForm) -> NormalForm:
        if not form.terms:
            raise _impossible("it is zero")
        return NormalForm((TOKENS, *form.shape[1:]), tuple(map(self._network, form.terms)))

    def _network(self, network: Network) -> Network:
        group = network.output[0]
        inner = {i for axis in network.output[1:] for i in axis}
        if not group or len(set(group)) < len(group) or inner & set(group):
            raise _impossible("its rows lie on a diagonal, or there is only one")
        strides = {i: prod(network.sizes[j] for j in group[k + 1 :]) for k, i in enumerate(group)}
        row = _Row(group, {i: (strides[i], network.sizes[i]) for i in group}, network.sizes)
        factors = [f for f in network.factors if not self._is_idle(f, network, row)]
        sizes = tuple(TOKENS if i == group[0] else n for i, n in enumerate(network.sizes))
        return Network(
            tuple(self._factor(factor, row) for factor in factors),
            ((group[0],), *network.output[1:]),
            sizes,
            network.scale,
        )

    def _is_idle(self, factor: Factor, network: Network, row: _Row) -> bool:
        """Whether a factor of ones may go: another factor is read at the ids."""
        if not (isinstance(factor.source, Ones) and set(factor.indices) <= set(row.group)):
            return False
        others = [f for f in network.factors if not isinstance(f.source, Ones)]
        return any(set(f.indices) & set(row.group) for f in others)

    def _factor(self, factor: Factor, row: _Row) -> Factor:
        flat = [i for axis in factor.axes for i in axis]
        axes = tuple(a for a, i in enumerate(flat) if i in row.digits)
        if not isinstance(factor.source, Expr):
            return self._constant(factor, row, has_row=bool(axes))
        if len({flat[a] for a in axes}) < len(axes):
            raise _impossible(f"{source_name(factor.source)} is read on a diagonal")
        shape = tuple(row.sizes[i] for i in flat)
        digits = tuple(row.digits[flat[a]] for a in axes)
        source = self._read(factor.source, shape, axes, digits)
        if not axes:
            return replace(factor, source=source, axes=tuple((i,) for i in flat))
        rest = tuple((i,) for a, i in enumerate(flat) if a not in axes)
        return replace(factor, source=source, axes=((row.group[0],), *rest))

    def _constant(self, factor: Factor, row: _Row, has_row: bool) -> Factor:
        """A barrier by the rows of its operand; every other constant as it stands."""
        source = factor.source
        if isinstance(source, Opaque):
            return self._barrier(source, factor, row, has_row)
        if has_row:
            raise _impossible(f"its row index is inside {source_name(source)}")
        return factor

    def _barrier(self, source: Opaque, factor: Factor, row: _Row, has_row: bool) -> Factor:
        if not has_row:
            return replace(factor, source=self._whole(source))
        settings = source.settings
        is_norm = source.operation == "norm" and isinstance(settings, tuple) and 0 not in settings
        is_map = source.operation == "map" and getattr(settings, "name", "") != "softmax_top"
        others = {i for axis in factor.axes[1:] for i in axis}
        if not (is_norm or is_map or source.operation == "sum"):
            raise _impossible(f"its row index is inside {source_name(source)}")
        if factor.axes[0] != row.group or others & set(row.group):
            raise _impossible(f"its row is not the first axis of {source_name(source)}")
        rows = self.form(source.operand)
        shape = (TOKENS, *source.shape[1:])
        read = Opaque(source.operation, settings, rows, shape, source.reason)
        return replace(factor, source=read, axes=((row.group[0],), *factor.axes[1:]))

    def _whole(self, source: Opaque) -> Opaque:
        """A barrier that carries no row, with its leaves read whole."""
        terms = tuple(
            replace(
                network,
                factors=tuple(
                    self._factor(f, _Row((), {}, network.sizes)) for f in network.factors
                ),
            )
            for network in source.operand.terms
        )
        operand = NormalForm(source.operand.shape, terms)
        return Opaque(source.operation, source.settings, operand, source.shape, source.reason)

    def _read(
        self, source: Expr, shape: Shape, axes: tuple[int, ...], digits: tuple[tuple[int, int], ...]
    ) -> Expr:
        """A leaf that stands for what is read; one for equal readings."""
        trains = isinstance(source, Parameter)
        is_leaf = isinstance(source, Parameter | Frozen)
        name = source.name if is_leaf else source_name(source)
        kind = "leaf" if is_leaf else "base" if name == "W0" else "bias"
        read = Read(kind, name if is_leaf else kind, shape, axes, digits)
        label = f"{kind}:{name}:{shape}:{axes}:{digits}".replace(" ", "").replace(",", ";")
        label = label.replace("(", "[").replace(")", "]")
        self.reads[label] = read
        sizes = tuple(1 if n == TOKENS else n for n in read.rows_shape)
        if isinstance(source, Frozen):
            return Frozen(label, sizes, source.recipe)
        initial = source.initial if trains else zeros()
        return Parameter(label, sizes, initial)


@dataclass(frozen=True, slots=True)
class _Row:
    """The indices of a network's row, each one's digit, and the sizes of all indices."""

    group: tuple[int, ...]
    digits: dict[int, tuple[int, int]]
    sizes: Shape


def _impossible(reason: str) -> UnsupportedError:
    return UnsupportedError(
        "The rows of an update were to be read before it is formed.",
        f"They cannot be: {reason}.",
        "Form the update with ta.materialize and read its rows.",
    )
