"""The dimension of a family: how many independent directions its parameters really have.

The rank of the Jacobian at a random point modulo a prime is a lower bound of the generic one,
without any tolerance; the parameters less their known gauges are an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algebra.expression import Expr, Shape
from ..algebra.nodes import Hold, Parameter, Reshape
from ..algebra.snapshot import distribute_snapshots
from ..algebra.walk import children, parameters, topological
from ..errors import ShapeError, UnsupportedError
from ..run.arrays import Array
from ..run.draw import stream
from ..run.evaluate import evaluate
from ..structure import Structure
from .dual import Dual, DualArithmetic, leaf_dual
from .elements import elements_of, telling_positions
from .eliminate import pivots
from .family import Family, family_of
from .gauges import Gauge, gauges_of
from .modular import UnluckyPoint
from .points import Given, Point
from .residues import ResidueArithmetic
from .sizes import check_seed, expression_of

MOST_DERIVATIVES = 2**27
"""Derivatives of one node that may be held: 1 GiB of int64."""
MORE_SUMS = 20
MOST_RETRIED = 2**26
"""Derivatives up to which all elements are tried where a choice of them did not settle it."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """The dimension of the set of matrices that a family reaches.

    Parameters
    ----------
    value : int
        The rank of the Jacobian at a point: a proved lower bound of the dimension.
    n_parameters : int
        The number of trained entries.
    expected : int
        ``min(elements, n_parameters - gauge_dimension)``: a proved upper bound.
    gauges : tuple of Gauge
        The known redundancies.
    gauge_dimension : int
        What they span together.
    elements : int
        The number of elements of the matrix.
    status : str
        ``"proved"`` where the bounds meet, ``"bounded"`` where they do not; with the reservations
        of ``RankCertificate.status``.
    prime, seed : int
        Where the Jacobian was evaluated.
    assumptions : tuple of str
        What stands for what.
    """

    value: int
    n_parameters: int
    expected: int
    gauges: tuple[Gauge, ...]
    gauge_dimension: int
    elements: int
    status: str
    prime: int
    seed: int
    assumptions: tuple[str, ...]

    def __int__(self) -> int:
        return self.value

    @property
    def proved(self) -> bool:
        """Whether ``value`` is proved to be the dimension."""
        return self.status == "proved"

    @property
    def redundant(self) -> int:
        """Parameters beyond the dimension."""
        return self.n_parameters - self.value

    @property
    def defect(self) -> int:
        """How far the dimension falls short of the expected one."""
        return self.expected - self.value

    @property
    def fills_space(self) -> bool:
        """Whether almost every matrix near a generic one of the family is in it."""
        return self.value == self.elements

    def __str__(self) -> str:
        lines = [
            f"dimension {self.value} ({self.status}) of {self.n_parameters} parameters in "
            f"{self.elements} elements; {self.redundant} redundant, defect {self.defect}",
            *(f"gauge {gauge}" for gauge in self.gauges),
            *(f"given that {text}" for text in self.assumptions),
        ]
        return "\n".join(lines)


def family_dimension(
    update: Structure | Expr,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    base: Array | None = None,
    bias: Array | None = None,
    frozen: str = "generic",
    values: Mapping[str, Array] | None = None,
) -> Dimension:
    """Compute the dimension of a family: the generic rank of its Jacobian.

    Parameters
    ----------
    update : Structure or Expr
        The family; its trained leaves are the parameters.
    shape : tuple of int, optional
        The weight's shape; needed with a structure.
    seed : int
        Chooses prime and point.
    base, bias, frozen, values
        As for ``certify_rank``.

    Returns
    -------
    Dimension
        ``.value ≤ dimension ≤ .expected``, always.

    Raises
    ------
    ShapeError
        If a structure comes without a shape, or the Jacobian does not fit.
    UnsupportedError
        If an operation has no exact derivatives.

    Notes
    -----
    O(parameters · elements) memory and O(parameters² · elements) time; for larger layers take a
    smaller instance of the same structure. Modulo p a derivative may vanish that does not over the
    real numbers (of x^p only), so ``value`` stays a lower bound.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> found = family_dimension(zoo.lora(rank=2), (6, 5))
    >>> found.value, found.redundant, found.status
    (18, 4, 'proved')
    """
    expr = expression_of(update, shape, "The dimension of a family")
    check_seed(seed)
    family = family_of(expr, Given(base, bias, values or {}, frozen, seed), seed)
    trained = parameters(family.done.expr)
    obstacles = (*family.obstacles, *(["a norm of a product"] * family.done.free_scales))
    if obstacles:
        raise UnsupportedError(
            f"The dimension of a family of shape {expr.shape} was asked for.",
            f"{', '.join(obstacles)} has no exact derivatives.",
            "Take it out of the expression: an elementwise analytic function does not change the "
            "dimension.",
        )
    reason = ""
    for trial in range(12):
        p = family.prime(seed, trial)
        try:
            return _at(family, trained, p, seed)
        except UnluckyPoint as unlucky:
            reason = str(unlucky)
    raise UnsupportedError(
        f"The dimension of a family of shape {expr.shape} was asked for.",
        f"At every point that was tried, {reason}.",
        "Write the expression without that, or take a smaller instance.",
    )


def derivatives_in(expr: Expr) -> int:
    """The most derivatives that a node has; those of a leaf by itself are never formed."""
    below: dict[Expr, frozenset[Expr]] = {}
    most = 0
    for sub in topological(expr):
        if isinstance(sub, Parameter):
            below[sub] = frozenset((sub,))
            continue
        below[sub] = frozenset[Expr]().union(*(below[child] for child in children(sub)))
        if not (isinstance(sub, Reshape | Hold) and sub.size in (leaf.size for leaf in below[sub])):
            most = max(most, sub.size * sum(leaf.size for leaf in below[sub]))
    return most


def _check_fits(family: Family, expr: Expr, count: int) -> None:
    if derivatives_in(expr) > MOST_DERIVATIVES:
        raise ShapeError(
            f"The dimension of a family of shape {family.original.shape} was asked for.",
            f"It has {count} parameters, and needs {derivatives_in(expr)} derivatives at once; "
            f"the limit is {MOST_DERIVATIVES}.",
            "Take a smaller instance of the same structure; the formula shows on small sizes.",
        )


def _at(family: Family, trained: tuple[Parameter, ...], p: int, seed: int) -> Dimension:
    point, numbers = family.point(p, seed)
    own = {leaf.name: point.values[leaf.name] for leaf in trained}
    gauges = gauges_of(family.done.expr, own, p)
    count = sum(leaf.size for leaf in trained)
    n_parameters = sum(leaf.size for leaf in parameters(distribute_snapshots(family.original)))
    elements = family.original.size
    expected = min(elements, n_parameters, count - gauges.dimension)
    value = _rank(family, set(own), point, numbers, expected) if count else 0
    status = ("bounded" if value < expected else "proved") + family.reservation
    return Dimension(
        value,
        n_parameters,
        expected,
        gauges.found,
        gauges.dimension,
        elements,
        status,
        p,
        seed,
        family.assumptions,
    )


def _rank(
    family: Family, names: set[str], point: Point, numbers: ResidueArithmetic, expected: int
) -> int:
    """The rank of the Jacobian: of telling elements first, of all where those do not settle it."""
    whole = family.done.expr
    count = sum(point.values[name].size for name in names)
    source = stream(numbers.seed, "elements", str(numbers.p))
    shape = (whole.shape[0], whole.size // max(whole.shape[0], 1))
    at = telling_positions(shape, count, source)
    if len(at) < whole.size:
        part = elements_of(whole, at)
        if derivatives_in(part) <= MOST_DERIVATIVES:
            found = pivots(jacobian(part, names, point, numbers), numbers.p).rank
            if found >= expected or derivatives_in(whole) > MOST_RETRIED:
                return found
    _check_fits(family, whole, count)
    made = jacobian(whole, names, point, numbers)
    if made.shape[1] > 2 * count + MORE_SUMS:
        made = _sums(made, count + MORE_SUMS, source, numbers.p)
    return pivots(made, numbers.p).rank


def _sums(columns: np.ndarray, width: int, source: np.random.RandomState, p: int) -> np.ndarray:
    """Every column added to three of ``width`` random sums: as many as matter, of all of them."""
    total = np.zeros((len(columns), width), dtype=np.int64)
    for _ in range(3):
        order = source.permutation(columns.shape[1])
        for first in range(0, len(order), width):
            chosen = order[first : first + width]
            factors = source.randint(1, p, size=len(chosen), dtype=np.int64)
            total[:, : len(chosen)] += columns[:, chosen] * factors % p
        total %= p
    return total


def jacobian(expr: Expr, names: set[str], point: Point, numbers: ResidueArithmetic) -> np.ndarray:
    """The derivatives of every element by every entry of some leaves.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.
    names : set of str
        The leaves that vary.
    point : Point
        Where.
    numbers : ResidueArithmetic
        Modulo which prime.

    Returns
    -------
    numpy.ndarray
        int64 residues, one row per entry of a leaf that the expression reads, one column per
        element.
    """
    values = {
        name: leaf_dual(name, value) if name in names else Dual(value)
        for name, value in point.values.items()
    }
    fixed = [None if value is None else Dual(value) for value in (point.base, point.bias)]
    result: Any = evaluate(expr, values, *fixed, arithmetic=DualArithmetic(numbers))  # type: ignore[arg-type]
    blocks = [result.block(name) for name in result.blocks]
    rows = [block.reshape(len(block), -1) for block in blocks]
    return np.concatenate(rows) if rows else np.zeros((1, 1), dtype=np.int64)
