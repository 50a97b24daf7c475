"""A random point of a family, certified by balls: a lower bound where no exact point exists."""

from __future__ import annotations

from ..algebra.nodes import Frozen
from ..algebra.walk import leaves
from ..errors import TensorAdaptError
from .ball_minors import certify_square, chosen_minor, sub_minor
from .classes import Classes
from .exact_point import Values
from .family import Family
from .real_points import has_exact_floats, real_point
from .records import Witness

MOST_ELEMENTS = 2**16
CAP = 1024


def lower_by_balls(
    family: Family, seed: int, target: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Rows and columns of a minor that is regular at a random point.

    Parameters
    ----------
    family : Family
        The update.
    seed : int
        Chooses the point.
    target : int
        The rank that is expected.

    Returns
    -------
    (tuple of int, tuple of int) or None
        None if the update is too large, or its frozen leaves are not exact in floats.
    """
    values = _values(family, seed)
    if values is None:
        return None
    rows, columns = family.plain.shape[0], family.plain.size // max(family.plain.shape[0], 1)
    every = Classes(tuple(range(rows)), tuple(range(columns)))
    chosen = chosen_minor(family.plain, values, every, target)
    if certify_square(family.plain, values, *chosen, CAP).regular:
        return chosen
    return sub_minor(family.plain, values, every, target, CAP)[:2]


def minor_by_balls(family: Family, witness: Witness) -> bool:
    """Whether balls prove the minor of a witness regular, at the point of its seed."""
    values = _values(family, witness.seed)
    if values is None:
        return False
    return certify_square(family.plain, values, witness.rows, witness.columns, CAP).regular


def _values(family: Family, seed: int) -> Values | None:
    frozen = [leaf for leaf in leaves(family.plain) if isinstance(leaf, Frozen)]
    exact = all(has_exact_floats(leaf, family.given) for leaf in frozen)
    if family.plain.size > MOST_ELEMENTS or not exact:
        return None
    try:
        return real_point(family.original, family.plain, family.given, seed)
    except TensorAdaptError:
        return None
