"""Leaves and numbers: where expressions begin."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from fractions import Fraction
from math import sqrt
from numbers import Real

from ..errors import ShapeError, StructureError
from .expression import Factor, Number, Shape, Start
from .nodes import Base, BaseBias, Constant, Frozen, Parameter
from .starts import normal, zeros

names_in_use: ContextVar[set[str] | None] = ContextVar("names_in_use", default=None)
"""The leaf names made so far in the method call that is running, if any."""


def parameter(name: str, *shape: int, start: Start | None = None, scope: str = "site") -> Parameter:
    """A trained leaf.

    Parameters
    ----------
    name : str
        Its name; the same name is the same leaf.
    *shape : int
        Its sizes.
    start : Start, optional
        Its first value; zeros by default.
    scope : {"site", "group", "model"}
        Whether it belongs to one weight, to a group of weights, or to the whole model.

    Raises
    ------
    StructureError
        If the name was already used in the running method call, or is not a name.
    ShapeError
        If a size is not a positive integer.

    Examples
    --------
    >>> parameter("A", 4, 768).shape
    (4, 768)
    """
    _claim(name)
    return Parameter(name, integers(shape), start or zeros(), scope)


def frozen(name: str, *shape: int, recipe: Start | None = None, scope: str = "site") -> Frozen:
    """A leaf that does not train; seeded N(0, 1) unless a recipe says otherwise."""
    _claim(name)
    return Frozen(name, integers(shape), recipe or normal(), scope)


def base(*shape: int) -> Base:
    """The frozen weight W0 of the site."""
    return Base(integers(shape))


def base_bias(size: int) -> BaseBias:
    """The frozen bias b0 of the site."""
    return BaseBias((size,))


def ones(*shape: int) -> Constant:
    """A constant of ones."""
    return Constant("ones", integers(shape))


def eye(n: int) -> Constant:
    """The identity matrix."""
    return Constant("identity", (n, n))


def _claim(name: str) -> None:
    used = names_in_use.get()
    if used is None:
        return
    if name in used:
        raise StructureError(
            f"A second leaf named {name!r} was made in one method.",
            "The same name is the same leaf, so the two would be tied without saying so.",
            "Give it another name, or use the first leaf twice if a tie is meant.",
        )
    used.add(name)


def integers(shape: Sequence[int]) -> Shape:
    """Sizes as Python integers; whole floats are taken, anything else is refused by the node."""
    try:
        return tuple(int(n) if int(n) == n else n for n in shape)
    except (TypeError, ValueError, OverflowError):
        raise ShapeError(
            f"A leaf was asked for with the sizes {shape!r}.",
            "Every size must be an integer.",
            'Pass the sizes one by one, as in parameter("A", rank, inp).',
        ) from None


def exact(number: Number) -> Factor:
    """A number as an exact fraction if it is one of denominator below 10⁶, else as a float."""
    given: object = number
    if not isinstance(given, Real | Fraction):
        text = repr(given)
        shown = text if len(text) < 60 and "\n" not in text else f"a {type(given).__name__}"
        raise StructureError(
            f"An expression was combined with {shown}.",
            f"That is a {type(given).__name__}, not an expression or a number.",
            "Wrap arrays as frozen(name, ..., recipe=given()).",
        )
    if isinstance(number, int | Fraction):
        return Fraction(number)
    value = float(number)
    if abs(value) == float("inf") or value != value:
        return value
    simple = Fraction(value).limit_denominator(10**6)
    return simple if float(simple) == value else value


def scaling(alpha: float | None, rank: int, root: bool = False) -> Factor:
    """``α/r``, or ``α/√r`` with ``root``; 1 without alpha."""
    if alpha is None:
        return Fraction(1)
    return float(alpha) / sqrt(rank) if root else exact(alpha) / rank
