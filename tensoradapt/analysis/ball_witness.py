"""A random point of a family, certified by balls: a lower bound where no exact point exists."""

from __future__ import annotations

from ..algebra.expression import Expr
from ..errors import TensorAdaptError
from .ball_minors import certify_square, chosen_minor, sub_minor
from .classes import Classes
from .points import Given
from .real_points import real_point
from .records import Witness

MOST_ELEMENTS = 2**16
CAP = 1024


def lower_by_balls(
    expr: Expr, given: Given, seed: int, target: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Rows and columns of a minor that is regular at a random point.

    Parameters
    ----------
    expr : Expr
        The update.
    given : Given
        What the caller fixed.
    seed : int
        Chooses the point.
    target : int
        The rank that is expected.

    Returns
    -------
    (tuple of int, tuple of int) or None
        None if the update is too large, or has no random point.
    """
    if expr.size > MOST_ELEMENTS:
        return None
    try:
        values = real_point(expr, given, seed)
    except TensorAdaptError:
        return None
    rows, columns = expr.shape[0], expr.size // max(expr.shape[0], 1)
    every = Classes(tuple(range(rows)), tuple(range(columns)))
    chosen = chosen_minor(expr, values, every, target)
    if certify_square(expr, values, *chosen, CAP).regular:
        return chosen
    found = sub_minor(expr, values, every, target, CAP)
    return found[:2]


def minor_by_balls(expr: Expr, given: Given, witness: Witness) -> bool:
    """Whether balls prove the minor of a witness regular, at the point of its seed."""
    if expr.size > MOST_ELEMENTS:
        return False
    values = real_point(expr, given, witness.seed)
    return certify_square(expr, values, witness.rows, witness.columns, CAP).regular
