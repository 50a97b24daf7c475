"""Certificates of the generic rank: an upper bound from the structure, a minor that is not 0.

The expression is evaluated by ``run.evaluate`` at random residues modulo a random prime. A minor
that is not 0 there is not the zero function, so the rank is at least its size for almost all
leaves; where the structure bounds the rank by the same number, the generic rank is proved.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from ..algebra.expression import Expr, Shape
from ..errors import UnsupportedError
from ..run.arrays import Array, to_numpy
from ..structure import Structure
from .ball_witness import lower_by_balls
from .bound import RankBound, rank_bound
from .failure import miss_probability, size_of
from .family import Family, family_of, read
from .minors import largest_minor
from .modular import UnluckyPoint
from .points import Given
from .records import RankCertificate, Witness
from .sizes import check_seed, check_size, expression_of


def certify_rank(
    update: Structure | Expr,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    base: Array | None = None,
    bias: Array | None = None,
    frozen: str = "generic",
    values: Mapping[str, Array] | None = None,
    trials: int = 3,
) -> RankCertificate:
    """Certify the generic rank of an update: what is proved, and what is only likely.

    Parameters
    ----------
    update : Structure or Expr
        What to certify.
    shape : tuple of int, optional
        The weight's shape ``(out, in, *kernel)``; needed with a structure.
    seed : int
        Chooses primes and points; the same seed gives the same certificate.
    base, bias : array, optional
        W0 and b0, which then enter exactly as dyadic rationals. Without them they are generic.
    frozen : {"generic", "values"}
        Whether seeded leaves stand for almost all values, or for those of this seed.
    values : mapping of str to array, optional
        Values of frozen leaves, for instance of those that are given as data.
    trials : int
        How many points to try where the first does not attain the upper bound.

    Returns
    -------
    RankCertificate
        ``.lower ≤ generic rank ≤ .upper``, always; ``.proved`` where they meet and nothing
        generic stands for something special.

    Raises
    ------
    ShapeError
        If a structure comes without a shape, or the matrix is too large.
    UnsupportedError
        If the expression has an operation without exact points and is too large for balls.
    StructureError
        If a value is not finite, or of a leaf that trains.

    Notes
    -----
    One evaluation and one elimination, O(out · in · rank), per trial. A sparse start is no point:
    the leaves are drawn, not started.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> certificate = certify_rank(zoo.loha(rank=2), (12, 9))
    >>> certificate.lower, certificate.upper, certificate.status
    (4, 4, 'proved')
    """
    expr = expression_of(update, shape, "A certificate")
    check_seed(seed, trials)
    check_size(expr)
    bound = rank_bound(expr)
    family = family_of(expr, Given(base, bias, values or {}, frozen, seed), seed)
    if family.obstacles:
        return _by_balls(family, bound, seed, f"{', '.join(family.obstacles)} has no exact points")
    best: tuple[int, Witness | None] = (-1, None)
    tried, reason = 0, ""
    for trial in range(4 * trials):
        p = family.prime(seed, trial)
        try:
            matrix = matrix_at(family, p, seed)
        except UnluckyPoint as unlucky:
            reason = str(unlucky)
            continue
        found = largest_minor(matrix, p, bound.value, seed)
        tried += 1
        if found.rank > best[0]:
            best = (found.rank, Witness("residues", p, seed, found.rows, found.columns))
        if best[0] >= bound.value or tried == trials:
            break
    if best[1] is None:
        return _by_balls(family, bound, seed, reason)
    return _certificate(family, bound, best[0], best[1], tried)


def matrix_at(family: Family, p: int, seed: int) -> np.ndarray:
    """The expression as a matrix of residues at the point of a prime and a seed."""
    point, arithmetic = family.point(p, seed)
    matrix = read(family.done.expr, point, arithmetic)
    return matrix.reshape(matrix.shape[0], -1)


def _certificate(
    family: Family, bound: RankBound, lower: int, witness: Witness, trials: int
) -> RankCertificate:
    missed = 0.0
    if lower < bound.value:
        fixed = {*family.given.values} | ({"W0"} if family.given.base is not None else set())
        size = size_of(family.done.expr, frozenset(fixed))
        missed = miss_probability(size, lower + 1, witness.prime) ** trials
    if lower > bound.value:
        raise AssertionError(f"a minor of {lower} contradicts the bound {bound.value} of {family}")
    return RankCertificate(
        digest=family.original.digest.hex(),
        shape=family.original.shape,
        upper=bound.value,
        lower=lower,
        status=status_of(family, lower, bound.value),
        witness=witness,
        trials=trials,
        failure_probability=missed,
        assumptions=family.assumptions,
        upper_because=str(bound.why),
        frozen=family.given.frozen,
        base=fingerprint(family.given.base),
    )


def status_of(family: Family, lower: int, upper: int, kind: str = "residues") -> str:
    """What the two bounds and the assumptions say together.

    A point certified by balls is one of the update itself, whatever was replaced in its family.
    """
    reservation = family.reservation
    if kind == "balls":
        reservation = " on an open set" if family.is_piecewise else ""
    return ("proved" if lower == upper else "bounded") + reservation


def fingerprint(base: Array | None) -> str | None:
    """A digest of the values of W0, or None."""
    if base is None:
        return None
    return blake2b(np.ascontiguousarray(to_numpy(base)).tobytes(), digest_size=16).hexdigest()


def _by_balls(family: Family, bound: RankBound, seed: int, reason: str) -> RankCertificate:
    """A lower bound at one random point, by balls: it holds for almost all leaves around it."""
    found = lower_by_balls(family, seed, bound.value)
    if found is None:
        raise UnsupportedError(
            f"The generic rank of an expression of shape {family.original.shape} was asked for.",
            f"{reason}, and it is too large or too special for balls at a random point.",
            "Pass base=W0 and frozen='values' where leaves are made from W0, use a smaller shape, "
            "or ta.rank_bound for an upper bound, or ta.rank_at at given values.",
        )
    rows, columns = found
    witness = Witness("balls", 0, seed, rows, columns)
    lower = len(rows)
    return RankCertificate(
        digest=family.original.digest.hex(),
        shape=family.original.shape,
        upper=bound.value,
        lower=lower,
        status=status_of(family, lower, bound.value, "balls"),
        witness=witness,
        trials=1,
        failure_probability=0.0 if lower == bound.value else None,
        assumptions=(*family.assumptions, f"a point certified by balls: {reason}"),
        upper_because=str(bound.why),
        frozen=family.given.frozen,
        base=fingerprint(family.given.base),
    )
