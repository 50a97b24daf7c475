"""What is small enough for exact arithmetic, and which expression a structure stands for."""

from __future__ import annotations

from ..algebra.expression import Expr, Shape
from ..algebra.snapshot import distribute_snapshots
from ..algebra.walk import topological
from ..errors import ShapeError, StructureError
from ..spelling import as_structure
from ..structure import Method, Structure

MOST_ELEMENTS = 2**26
MOST_PIVOTS = 8192


def expression_of(update: Structure | Method | Expr, shape: Shape | None, what: str) -> Expr:
    """The expression of a structure at a shape, of two axes or more.

    Raises
    ------
    ShapeError
        If a structure comes without a shape, or the expression has fewer than two axes.
    """
    if not isinstance(update, Expr) and shape is None:
        raise ShapeError(
            f"{what} of {update} was asked for without a shape.",
            "A structure has no shape of its own.",
            "Give the weight's shape, as in shape=(768, 3072).",
        )
    expr = update if isinstance(update, Expr) else as_structure(update).on(shape or ())
    if expr.ndim < 2:
        raise ShapeError(
            f"{what} of an expression of shape {expr.shape} was asked for.",
            "A rank needs two axes or more, rows first.",
            "Reshape it, for instance ta.reshape(e, rows, columns).",
        )
    return expr


def check_size(expr: Expr) -> None:
    """Refuse what does not fit memory or time.

    Raises
    ------
    ShapeError
        If a part has more than ``MOST_ELEMENTS`` elements, or the shorter side of the matrix is
        above ``MOST_PIVOTS``.
    """
    largest = max(sub.size for sub in topological(distribute_snapshots(expr)))
    shorter = min(expr.shape[0], expr.size // max(expr.shape[0], 1))
    if largest > MOST_ELEMENTS or shorter > MOST_PIVOTS:
        raise ShapeError(
            f"An exact rank of an expression of shape {expr.shape} was asked for.",
            f"Its largest part has {largest} elements and the matrix {shorter} rows or columns; "
            f"the limits are {MOST_ELEMENTS} and {MOST_PIVOTS}.",
            "Certify a smaller instance of the same structure, or use ta.rank_bound at any size.",
        )


def check_seed(seed: object, trials: object = 1) -> None:
    """Refuse a seed that is no number of 63 bits, or no trial at all.

    Raises
    ------
    StructureError
        If either is not such an integer.
    """
    for name, value, least in (("seed", seed, 0), ("trials", trials, 1)):
        if type(value) is not int or not least <= value < 2**63:
            raise StructureError(
                f"{name}={value!r} was asked for.",
                f"It must be an integer of {least} or more, below 2^63.",
                f"Use {name}={least}.",
            )
