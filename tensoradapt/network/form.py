"""The normal form: a sum of tensor networks over numbered indices.

A network is ``scale · Σ ∏ factors`` over every index that is not in its output. A factor's
axis and an output's axis are *tuples of indices*, the first varying slowest; an index may occur
in any number of factors and in the output (a hyperedge). Axes of size one carry no index.

Two expressions that are equal up to associativity, commutativity, renaming of indices, order
of factors and exact scale have equal, hashable normal forms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from math import prod

from ..algebra.expression import Expr
from ..algebra.expression import Factor as Scalar
from ..algebra.functions import Function
from ..algebra.indexing import IndexMap
from ..algebra.nodes import Base, BaseBias, Frozen, Parameter

Shape = tuple[int, ...]
Group = tuple[int, ...]
Axes = tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Ones:
    """A vector of ones: the factor of an index that nothing else carries."""

    size: int

    @property
    def key(self) -> str:
        """A text that orders and identifies the source."""
        return f"ones:{self.size}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The constant ``S[i…, k] = ±[k = position(i…)]`` of a map; axes ``(*shape, source)``."""

    index: IndexMap

    @property
    def key(self) -> str:
        """A text that orders and identifies the source."""
        return f"selection:{self.index!r}"


@dataclass(frozen=True, slots=True)
class TransformMatrix:
    """The constant matrix of a fixed transform; axes ``(result, source)``."""

    kind: str
    size: int

    @property
    def key(self) -> str:
        """A text that orders and identifies the source."""
        return f"transform:{self.kind}:{self.size}"


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A barrier: a function of a normal form that is evaluated whole.

    Barriers nest, so each is identified by a digest of what it is, and compared by that alone.

    Parameters
    ----------
    operation : {"map", "norm", "matrix_function", "reshape", "sum"}
        ``"sum"`` is the operand itself, materialized.
    settings : Function, tuple or None
        The function; the axes; the kind and its numbers; None.
    operand : NormalForm
        What it is applied to.
    shape : tuple of int
        The shape of the result.
    reason : str
        Why it stands as a barrier; not part of its identity.
    key : str
        A text that orders and identifies the source.
    """

    operation: str
    settings: Function | tuple[int | str, ...] | None
    operand: NormalForm
    shape: Shape
    reason: str = ""
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        text = f"{self.operation}:{self.settings}:{self.shape}:{self.operand.key}"
        digest = blake2b(text.encode(), digest_size=16).hexdigest()
        object.__setattr__(self, "key", f"opaque:{self.operation}:{digest}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


Source = Expr | Ones | Selection | TransformMatrix | Opaque
"""A leaf (trained, frozen, base, or one of these at the start), a constant, or a barrier."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One tensor of a network with the indices of its axes; ``held`` blocks its gradient."""

    source: Source
    axes: Axes
    held: bool = False

    @property
    def indices(self) -> Group:
        """Its distinct indices, in order of occurrence."""
        return tuple(dict.fromkeys(i for group in self.axes for i in group))

    @property
    def key(self) -> str:
        """A text that identifies the source and whether it is held, not the indices."""
        return ("held " if self.held else "") + source_key(self.source)


@dataclass(frozen=True, slots=True)
class Network:
    """One product of factors: ``scale · Σ ∏ factors``.

    Parameters
    ----------
    factors : tuple of Factor
        In canonical order.
    output : tuple of tuple of int
        The indices of each axis of the result; an index may repeat (a diagonal).
    sizes : tuple of int
        The size of index k at position k.
    scale : Fraction or float
        The number in front.
    """

    factors: tuple[Factor, ...]
    output: Axes
    sizes: tuple[int, ...]
    scale: Scalar

    @property
    def output_indices(self) -> Group:
        """The distinct indices of the output, in order."""
        return tuple(dict.fromkeys(i for group in self.output for i in group))

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        return tuple(prod(self.sizes[i] for i in group) for group in self.output)

    @property
    def body(self) -> tuple[tuple[Factor, ...], Axes, tuple[int, ...]]:
        """All but the scale."""
        return self.factors, self.output, self.sizes

    @property
    def key(self) -> str:
        """A text that orders and identifies the network."""
        inside = ";".join(f"{f.key}{f.axes}" for f in self.factors)
        return f"{inside}->{self.output}{self.sizes}*{self.scale}"

    def __str__(self) -> str:
        names = [_letter(i) for i in range(len(self.sizes))]

        def write(axes: Axes) -> str:
            groups = ["".join(names[i] for i in g) for g in axes]
            return " ".join(g if len(g) == 1 else f"({g})" for g in groups)

        left = ", ".join(f"{source_name(f.source)}[{write(f.axes)}]" for f in self.factors)
        front = "" if self.scale == 1 else f"{self.scale} · "
        return f"{front}{left or '1'} -> [{write(self.output)}]"


@dataclass(frozen=True, slots=True)
class NormalForm:
    """A sum of networks of one shape; no terms means zero."""

    shape: Shape
    terms: tuple[Network, ...]

    @property
    def key(self) -> str:
        """A text that orders and identifies the form."""
        return f"{self.shape}:" + "+".join(term.key for term in self.terms)

    def __str__(self) -> str:
        return "\n+ ".join(map(str, self.terms)) or "0"


def source_key(source: Source) -> str:
    """A text that orders and identifies any source."""
    if isinstance(source, Expr):
        return f"leaf:{source_name(source)}:{source.digest.hex()}"
    return source.key


def source_name(source: Source) -> str:
    """How a source is called in print."""
    match source:
        case Parameter() | Frozen():
            return source.name
        case Base():
            return "W0"
        case BaseBias():
            return "b0"
        case Ones():
            return "1"
        case Selection(index):
            return f"{index.kind}"
        case TransformMatrix(kind, _):
            return kind
        case Opaque("map", function, _, _):
            return f"{function}(·)"
        case Opaque(operation, _, _, _):
            return f"{operation}(·)"
        case _:
            return type(source).__name__


def _letter(i: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[i] if i < 26 else letters[i % 26] + str(i // 26)
