"""What every node is: a frozen value with a shape, operators, and an identity.

Two expressions are equal when they are written alike: equality compares a digest of the
whole expression, so it costs O(1) and works as a dictionary key on deep shared expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from hashlib import blake2b
from math import isfinite, prod
from typing import Any, TypeVar, dataclass_transform

from ..errors import ShapeError

Shape = tuple[int, ...]
Number = int | float | Fraction
Factor = Fraction | float
"""A scale: an exact fraction where possible, else a float (a generic constant)."""

MAX_ELEMENTS = 2**40
T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def node(cls: type[T]) -> type[T]:
    """Make a class a frozen node: slots, identity by digest, printed as a formula."""
    return dataclass(frozen=True, slots=True, eq=False, repr=False)(cls)


class Expr:
    """A tensor-valued expression; the common face of all nodes."""

    __slots__ = ("__weakref__", "digest", "shape")
    __array_ufunc__ = None  # else numpy makes an object array of one expression per element
    shape: Shape
    digest: bytes

    def __post_init__(self) -> None:
        shape = self.infer_shape()
        if any(n < 0 for n in shape):
            raise ShapeError(
                f"An expression of shape {shape} was asked for.",
                "A size cannot be negative.",
                "Check what the shape is computed from.",
            )
        if prod(shape) > MAX_ELEMENTS:
            raise ShapeError(
                f"A {type(self).__name__} with {len(shape)} axes was asked for.",
                f"Its shape has more than {MAX_ELEMENTS} elements, which is the limit.",
                "Use a smaller shape.",
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "digest", _digest(self))

    def infer_shape(self) -> Shape:
        """Compute the shape from the fields, or raise if they do not fit."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.digest == other.digest

    def __hash__(self) -> int:
        return int.from_bytes(self.digest[:8], "little")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (OPERATIONS["dumps"](self),)

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: object) -> Expr:
        return self

    def __repr__(self) -> str:
        return OPERATIONS["formula"](self)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def T(self) -> Expr:
        """The expression with its axes reversed."""
        return OPERATIONS["transpose"](self)

    def __add__(self, other: Expr | Number) -> Expr:
        return OPERATIONS["add"](self, other)

    def __radd__(self, other: Number) -> Expr:
        return OPERATIONS["add"](self, other)

    def __sub__(self, other: Expr | Number) -> Expr:
        return OPERATIONS["add"](self, -other)

    def __rsub__(self, other: Number) -> Expr:
        return OPERATIONS["add"](-self, other)

    def __neg__(self) -> Expr:
        return OPERATIONS["multiply"](self, -1)

    def __mul__(self, other: Expr | Number) -> Expr:
        return OPERATIONS["multiply"](self, other)

    def __rmul__(self, other: Number) -> Expr:
        return OPERATIONS["multiply"](self, other)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return OPERATIONS["divide"](self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return OPERATIONS["divide"](other, self)

    def __matmul__(self, other: Expr) -> Expr:
        return OPERATIONS["matmul"](self, other)


OPERATIONS: dict[str, Callable[..., Any]] = {}
"""The operators' meanings, filled by builders.py, render.py and codec.py so that nodes import none.

Pickling writes the flat text of codec.py: pickle's own recursion ends at a few hundred levels.
"""


def _restore(text: str) -> Expr:
    return OPERATIONS["loads"](text)


def is_scale(factor: object) -> bool:
    """Whether a number can scale an expression: finite, and a fraction not beyond every float."""
    if isinstance(factor, Fraction):
        return max(factor.numerator.bit_length(), factor.denominator.bit_length()) <= 1000
    return isinstance(factor, float) and isfinite(factor)


def _digest(expr: Expr) -> bytes:
    parts = [type(expr).__name__] + [_encode(getattr(expr, f.name)) for f in fields(expr)]  # type: ignore[arg-type]
    return blake2b("|".join(parts).encode(), digest_size=16).digest()


def _encode(value: object) -> str:
    if isinstance(value, Expr):
        return value.digest.hex()
    if isinstance(value, tuple):
        return "(" + ",".join(_encode(item) for item in value) + ")"  # type: ignore[misc]
    if isinstance(value, Start):
        return f"{value.kind}{_encode(value.settings)}{_encode(value.operand)}"
    return f"{type(value).__name__}:{value!r}"


# --- how a leaf begins -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """How a leaf gets its first value: a kind of the closed table, its numbers, an operand.

    Parameters
    ----------
    kind : str
        A name of ``starts.STARTS``.
    settings : tuple of (str, number)
        The numbers of the kind, sorted by name.
    operand : Expr, optional
        The expression that the start is computed from (W0 for an SVD start).
    """

    kind: str
    settings: tuple[tuple[str, float | int | str], ...] = ()
    operand: Expr | None = None

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]
