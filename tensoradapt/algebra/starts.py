"""Starts: the closed table of first values for leaves.

Conventions follow torch: for a stored tensor ``(rows, columns, *kernel)`` the fan-in is
``columns · prod(kernel)`` and the fan-out ``rows · prod(kernel)``.

========================  ==================================================================
kind                      value
========================  ==================================================================
zeros, ones, constant     the constant
identity                  1 where the first two axes agree, else 0
normal                    N(mean, std²)
uniform                   Uniform(low, high)
kaiming_uniform           Uniform(±√(6 / ((1 + a²) fan_in)))
kaiming_normal            N(0, 2 / ((1 + a²) fan_in))
xavier_uniform            Uniform(±gain √(6 / (fan_in + fan_out)))
xavier_normal             N(0, gain² 2 / (fan_in + fan_out))
orthogonal                gain · Q of a QR of a normal matrix
paired_columns            columns in equal pairs, kaiming_uniform (a Householder identity)
value_of                  the value of the operand at the start
left_singular             columns [first, first + rank) of U of the operand, times σ^power
right_singular            rows [first, first + rank) of Vᵀ of the operand, times σ^power
singular_values           σ[first, first + rank) of the operand
qr_q, qr_r                columns of Q, rows of R of the operand
given                     the user's own array, by name
========================  ==================================================================
"""

from __future__ import annotations

from math import sqrt

from ..errors import StructureError, near
from .expression import Expr, Start

STARTS: dict[str, tuple[str, ...]] = {
    "zeros": (),
    "ones": (),
    "constant": ("value",),
    "identity": (),
    "normal": ("mean", "std"),
    "uniform": ("high", "low"),
    "kaiming_uniform": ("a",),
    "kaiming_normal": ("a",),
    "xavier_uniform": ("gain",),
    "xavier_normal": ("gain",),
    "orthogonal": ("gain",),
    "paired_columns": ("a",),
    "value_of": (),
    "left_singular": ("first", "power", "rank"),
    "right_singular": ("first", "power", "rank"),
    "singular_values": ("first", "power", "rank"),
    "qr_q": ("rank",),
    "qr_r": ("rank",),
    "given": (),
}
"""Each kind with the names of its settings, sorted."""

DERIVED = ("value_of", "left_singular", "right_singular", "singular_values", "qr_q", "qr_r")
"""Kinds that are computed from their operand."""


def start(kind: str, operand: Expr | None = None, **settings: float | int | str) -> Start:
    """Make a start of the table by name.

    Raises
    ------
    StructureError
        If the kind is unknown or its settings are not the table's.
    """
    if kind not in STARTS:
        raise StructureError(
            f"The start {kind!r} was asked for.",
            f"Known starts near it: {near(kind, STARTS)}.",
            "Use one of them; a start of your own is given() with your array.",
        )
    if tuple(sorted(settings)) != STARTS[kind] or (kind in DERIVED) != (operand is not None):
        raise StructureError(
            f"The start {kind!r} was asked for with the settings {sorted(settings)}.",
            f"It takes {list(STARTS[kind])}" + (" and an operand." if kind in DERIVED else "."),
            "Give exactly those.",
        )
    return Start(kind, tuple(sorted(settings.items())), operand)


def zeros() -> Start:
    """All zeros."""
    return start("zeros")


def ones() -> Start:
    """All ones."""
    return start("ones")


def constant(value: float) -> Start:
    """One number everywhere."""
    return start("constant", value=float(value))


def identity() -> Start:
    """1 where the first two axes agree."""
    return start("identity")


def normal(std: float = 1.0, mean: float = 0.0) -> Start:
    """Independent N(mean, std²)."""
    return start("normal", mean=float(mean), std=float(std))


def uniform(low: float, high: float) -> Start:
    """Independent Uniform(low, high)."""
    return start("uniform", low=float(low), high=float(high))


def kaiming_uniform(a: float = sqrt(5)) -> Start:
    """Torch's kaiming_uniform; with a = √5 it is Uniform(±1/√fan_in)."""
    return start("kaiming_uniform", a=float(a))


def kaiming_normal(a: float = 0.0) -> Start:
    """Torch's kaiming_normal."""
    return start("kaiming_normal", a=float(a))


def xavier_uniform(gain: float = 1.0) -> Start:
    """Torch's xavier_uniform."""
    return start("xavier_uniform", gain=float(gain))


def xavier_normal(gain: float = 1.0) -> Start:
    """Torch's xavier_normal."""
    return start("xavier_normal", gain=float(gain))


def orthogonal(gain: float = 1.0) -> Start:
    """A random matrix with orthonormal rows or columns, times gain."""
    return start("orthogonal", gain=float(gain))


def paired_columns(a: float = sqrt(5)) -> Start:
    """Columns in equal pairs, so that consecutive Householder reflections cancel."""
    return start("paired_columns", a=float(a))


def value_of(operand: Expr) -> Start:
    """The value that an expression has at the start."""
    return start("value_of", operand)


def left_singular(operand: Expr, rank: int, power: float = 0.0, first: int = 0) -> Start:
    """Left singular vectors as columns ``(out, rank)``, each times σ^power.

    The sign makes the entry of largest magnitude of each left vector positive.
    """
    return start("left_singular", operand, rank=rank, power=float(power), first=first)


def right_singular(operand: Expr, rank: int, power: float = 0.0, first: int = 0) -> Start:
    """Right singular vectors as rows ``(rank, in)``, each times σ^power."""
    return start("right_singular", operand, rank=rank, power=float(power), first=first)


def singular_values(operand: Expr, rank: int, power: float = 1.0, first: int = 0) -> Start:
    """Singular values ``(rank,)`` to a power."""
    return start("singular_values", operand, rank=rank, power=float(power), first=first)


def qr_q(operand: Expr, rank: int) -> Start:
    """The first columns ``(out, rank)`` of Q, where R has a diagonal of zero or more."""
    return start("qr_q", operand, rank=rank)


def qr_r(operand: Expr, rank: int) -> Start:
    """The first rows ``(rank, in)`` of R, with a diagonal of zero or more."""
    return start("qr_r", operand, rank=rank)


def given() -> Start:
    """The user's own array, handed to ``sample`` (or ``adapt``) by the leaf's name."""
    return start("given")
