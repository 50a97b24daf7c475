"""Which entries of a family are independent: the hypothesis under which sines are free numbers.

``transcendental.py`` needs the distinct arguments of the sines (up to sign, without zeros) to be
linearly independent over the rational numbers, as functions of the leaves. Here that is read off
the expression where its shape shows it, and else certified at points modulo a prime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..algebra.expression import Expr
from ..algebra.nodes import (
    Base,
    Concatenate,
    Constant,
    Einsum,
    Frozen,
    Hold,
    Map,
    Parameter,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from ..algebra.walk import children, topological
from ..run.evaluate import Reading, rule
from .eliminate import pivots
from .residues import ResidueArithmetic
from .transcendental import TRANSCENDENTAL

LABELS = ResidueArithmetic(2**31 - 1)
MOST_CLASSES = 400
"""Arguments that are tested at points; more are only read off the expression."""

Free = Callable[[Expr], bool]


def arguments(expr: Expr) -> tuple[Map, ...]:
    """The analytic functions of an expression."""
    found = [sub for sub in topological(expr) if isinstance(sub, Map)]
    return tuple(sub for sub in found if sub.function.name in TRANSCENDENTAL)


def is_nested(expr: Expr) -> bool:
    """Whether an analytic function has another in its argument."""
    return any(arguments(sub.operand) for sub in arguments(expr))


# --- read off the expression -------------------------------------------------------------


@dataclass(slots=True)
class _Labels:
    """Entry labels of sub-expressions: ±k for the k-th of independent numbers, 0 for zero."""

    free: Free
    known: dict[Expr, np.ndarray | None] = field(default_factory=dict)
    reads: dict[Expr, frozenset[Expr]] = field(default_factory=dict)

    def of(self, expr: Expr) -> np.ndarray | None:
        for sub in topological(expr):
            if sub not in self.known:
                below = children(sub)
                inner = [self.reads[child] for child in below]
                self.reads[sub] = frozenset[Expr]().union(*inner) if below else frozenset((sub,))
                self.known[sub] = self._label(sub, [self.known[child] for child in below])
        return self.known[expr]

    def _label(self, expr: Expr, parts: list[np.ndarray | None]) -> np.ndarray | None:
        match expr:
            case Parameter() | Frozen() | Base():
                return _fresh(expr) if self.free(expr) else None
            case Hold():
                return parts[0]
            case Scale(factor, _):
                return None if factor == 0 else parts[0]
            case Reshape() | Window() | Take() | Place():
                return None if parts[0] is None else self._moved(expr, parts[0])
            case Transform(_, _, kind) if not kind.removeprefix("inverse_").startswith("fourier"):
                return _fresh(expr) if _is_free(parts[0]) else None
            case Concatenate(operands, axis):
                return self._joined(operands, parts, axis)
            case Sum(terms):
                return self._sum(expr, terms, parts)
            case Einsum():
                return self._product(expr, parts)
            case _:
                return None

    def _moved(self, expr: Expr, part: np.ndarray) -> np.ndarray:
        reading = Reading({}, None, None, LABELS)
        return _signed(rule(expr, (part % LABELS.p,), reading))

    def _joined(
        self, operands: Sequence[Expr], parts: list[np.ndarray | None], axis: int
    ) -> np.ndarray | None:
        if not self._apart(operands):
            return None
        shifted, before = [], 0
        for part in parts:
            if part is None:
                return None
            shifted.append(part + before * np.sign(part))
            before += int(np.abs(part).max(initial=0))
        return np.concatenate(shifted, axis=axis)

    def _sum(
        self, expr: Expr, terms: Sequence[Expr], parts: list[np.ndarray | None]
    ) -> np.ndarray | None:
        """A term whose entries are all independent stays so beside others without its leaves.

        The others may be given any rational value; the entries of the term have no constant part
        (they are products of leaves), so they remain independent together with constants.
        """
        found = [k for k, part in enumerate(parts) if _is_free(part)]
        for k in found:
            others = [term for j, term in enumerate(terms) if j != k]
            if all(self.reads[terms[k]].isdisjoint(self.reads[other]) for other in others):
                return _fresh(expr)
        return None

    def _product(self, expr: Einsum, parts: list[np.ndarray | None]) -> np.ndarray | None:
        """Products of independent numbers without a leaf in common are independent.

        Each entry of the result is a sum of products that belong to it alone, because every index
        is read off the entries of the operands.
        """
        output = [n for group in expr.pattern.output for n in group]
        others = [k for k, operand in enumerate(expr.operands) if not isinstance(operand, Constant)]
        if set(output) == set(expr.pattern.names) and len(others) == 1:
            part = parts[others[0]]
            return None if part is None else self._spread(expr, part)
        distinct = len(set(output)) == len(output)
        if distinct and all(map(_is_free, parts)) and self._apart(expr.operands):
            return _fresh(expr)
        return None

    def _spread(self, expr: Einsum, part: np.ndarray) -> np.ndarray:
        """One operand beside ones and identities, nothing summed: its entries, repeated or 0."""
        arrays = [
            LABELS.constant(operand.kind, operand.shape)
            if isinstance(operand, Constant)
            else part % LABELS.p
            for operand in expr.operands
        ]
        return _signed(LABELS.einsum(expr.pattern, dict(expr.sizes), arrays))

    def _apart(self, operands: Sequence[Expr]) -> bool:
        together = sum(len(self.reads[operand]) for operand in operands)
        return together == len(frozenset[Expr]().union(*(self.reads[o] for o in operands)))


def _fresh(expr: Expr) -> np.ndarray:
    return np.arange(1, expr.size + 1, dtype=np.int64).reshape(expr.shape)


def _is_free(part: np.ndarray | None) -> bool:
    if part is None or not part.all():
        return False
    return len(np.unique(np.abs(part))) == part.size


def _signed(a: np.ndarray) -> np.ndarray:
    return np.where(a > LABELS.p // 2, a - LABELS.p, a)


def shown_independent(maps: Sequence[Map], free: Free) -> bool:
    """Whether the expression itself shows that the arguments are independent.

    Parameters
    ----------
    maps : sequence of Map
        Analytic functions.
    free : callable
        Whether a leaf's entries are free numbers.

    Returns
    -------
    bool
        True: each argument's entries are ± independent numbers or 0, and no two different
        arguments share a leaf. False says nothing.
    """
    if any(sub.size >= 2**30 for m in maps for sub in topological(m.operand)):
        return False
    labels = _Labels(free)
    operands = list(dict.fromkeys(m.operand for m in maps))
    if any(labels.of(operand) is None for operand in operands):
        return False
    return labels._apart(operands)


# --- certified at points -----------------------------------------------------------------


def tested_independent(maps: Sequence[Map], at: Callable[[Expr, int], np.ndarray], p: int) -> bool:
    """Certify at points modulo p that the arguments are independent.

    Parameters
    ----------
    maps : sequence of Map
        Analytic functions.
    at : callable
        The residues of an expression at the n-th point; point 0 is that of the certificate.
    p : int
        The prime.

    Returns
    -------
    bool
        True: no linear relation but those between equal or opposite arguments holds at the points.

    Notes
    -----
    Arguments that are equal up to sign at every point form a class. A relation with rational
    coefficients reduces to one modulo p; if the classes have full rank at the points, each of its
    coefficients sums to 0 over every class, so numbers that are equal over a class satisfy it.
    """
    operands = list(dict.fromkeys(m.operand for m in maps))
    if sum(operand.size for operand in operands) > 8 * MOST_CLASSES:
        return False

    def row(n: int) -> np.ndarray:
        return np.concatenate([np.ravel(at(operand, n)) for operand in operands])

    first = np.stack([row(n) for n in range(3)])
    classes = _classes(first, p)
    if len(classes) > MOST_CLASSES:
        return False
    more = [row(n) for n in range(3, len(classes) + 4)]
    points = np.concatenate([first, np.stack(more)])
    classes = _classes(points, p)
    return pivots(points[:, classes], p).rank == len(classes)


def _classes(points: np.ndarray, p: int) -> list[int]:
    """The first column of every class of columns that are equal up to sign and not zero."""
    seen: dict[bytes, int] = {}
    for column in range(points.shape[1]):
        values = points[:, column]
        leading = values[np.flatnonzero(values)[:1]]
        if not len(leading):
            continue
        key = values if leading[0] <= p // 2 else -values % p
        seen.setdefault(np.ascontiguousarray(key).tobytes(), column)
    return list(seen.values())
