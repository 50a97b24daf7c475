"""Failure probabilities: how likely random points modulo random primes missed a larger rank.

A minor of size k of a matrix of polynomials of degree d vanishes at a random point modulo p with
probability at most k d / p, unless p divides it altogether (Schwartz and Zippel); of the primes
drawn from, few divide a polynomial whose coefficients have H bits: at most H / 30.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import log2, prod

from ..algebra.expression import Expr
from ..algebra.leaves import exact
from ..algebra.nodes import (
    Base,
    BaseBias,
    Concatenate,
    Einsum,
    Frozen,
    Map,
    MatrixFunction,
    Norm,
    Parameter,
    Scale,
    Sum,
    Transform,
)
from ..algebra.walk import children, topological

PRIMES = 5.0e7
"""How many primes of 31 bits there are to draw from (5.0·10⁷ between 2³⁰ and 2³¹)."""
FLOAT_BITS = 80.0
"""Bits of a float as an integer over a common power of two, for usual weights."""


@dataclass(frozen=True, slots=True)
class Size:
    """Degrees of the numerator and denominator of an entry, and bits of its coefficients."""

    degree: float
    denominator: float = 0.0
    bits: float = 0.0


def size_of(expr: Expr, fixed: frozenset[str] = frozenset()) -> Size:
    """The size of the entries of an expression as rational functions of its leaves.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.
    fixed : frozenset of str
        Names of leaves (and "W0") that are given as floats.
    """
    known: dict[Expr, Size] = {}
    for sub in topological(expr):
        known[sub] = _size(sub, [known[child] for child in children(sub)], fixed)
    return known[expr]


def _size(expr: Expr, parts: list[Size], fixed: frozenset[str]) -> Size:
    match expr:
        case Parameter() | Frozen():
            return Size(0, 0, FLOAT_BITS) if expr.name in fixed else Size(1)
        case Base():
            return Size(0, 0, FLOAT_BITS) if "W0" in fixed else Size(1)
        case BaseBias():
            return Size(0, 0, FLOAT_BITS) if "b0" in fixed else Size(1)
        case Einsum():
            inside = {n for g in expr.pattern.output for n in g}
            terms = prod(size for name, size in expr.sizes if name not in inside)
            return _product(parts, log2(max(terms, 1)))
        case Sum() | Concatenate():
            return _largest(parts, log2(len(parts)) if isinstance(expr, Sum) else 0.0)
        case Scale(factor, _):
            simple = exact(factor)
            more = _bits(simple) if isinstance(simple, Fraction) else 31.0
            return Size(parts[0].degree, parts[0].denominator, parts[0].bits + more)
        case Transform():
            n = expr.shape[expr.axis]
            return Size(parts[0].degree, parts[0].denominator, parts[0].bits + 2 * log2(n + 1))
        case Map(_, function):
            return _mapped(parts[0], function.name, len(function.settings))
        case Norm():
            return Size(1 + parts[0].degree, parts[0].denominator, parts[0].bits + 31)
        case MatrixFunction(_, kind, settings):
            return _function(parts[0], kind, expr.shape[-1], settings)
        case _:
            return parts[0] if parts else Size(0)


def _bits(number: Fraction) -> float:
    return log2(abs(number.numerator) + 1) + log2(number.denominator)


def _product(parts: list[Size], more: float) -> Size:
    degree, below = sum(x.degree for x in parts), sum(x.denominator for x in parts)
    return Size(degree, below, sum(x.bits for x in parts) + more)


def _largest(parts: list[Size], more: float) -> Size:
    below = sum(x.denominator for x in parts)
    degree = max(x.degree - x.denominator for x in parts) + below
    return Size(max(degree, 0), below, sum(x.bits for x in parts) + more)


def _mapped(part: Size, name: str, count: int) -> Size:
    if name == "reciprocal":
        return Size(part.denominator, part.degree, part.bits)
    times = max(count - 1, 1) if name == "polynomial" else 2  # rational functions of one number
    return Size(times * part.degree + 2, times * part.denominator + 2, times * part.bits + 31)


def _function(part: Size, kind: str, n: int, settings: tuple[int, ...]) -> Size:
    times = settings[0] if kind == "neumann" else 2 * n
    below = 0 if kind == "neumann" else times * max(part.degree, 1)
    return Size(times * max(part.degree, 1) + below, below, times * (part.bits + log2(n + 1)))


def miss_probability(size: Size, minor: int, p: int) -> float:
    """How likely a minor that is not 0 vanishes at a random point modulo a random prime.

    Parameters
    ----------
    size : Size
        Of the entries.
    minor : int
        The number of its rows.
    p : int
        About the size of the primes.

    Returns
    -------
    float
        At most 1.
    """
    degree = minor * size.degree + minor * minor * size.denominator
    bits = minor * (size.bits + log2(minor + 1)) * (1 + minor * (size.denominator > 0))
    return min(1.0, degree / p + bits / 30 / PRIMES)
