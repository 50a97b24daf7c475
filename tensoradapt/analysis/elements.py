"""Some elements of an expression, as an expression of their own.

The rank of a Jacobian shows in a few thousand elements, and a large matrix has millions. Where the
algebra allows it, choosing elements of a result means choosing elements of the operands: those of
a product are an einsum with one index that runs over the chosen elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..algebra.builders import einsum, take
from ..algebra.expression import Expr
from ..algebra.indexing import IndexMap
from ..algebra.leaves import ones
from ..algebra.nodes import (
    Concatenate,
    Constant,
    Einsum,
    Hold,
    Map,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Window,
)
from ..algebra.walk import rebuild
from ..run.positions import positions

CHOSEN = "chosen"


def elements_of(expr: Expr, at: np.ndarray) -> Expr:
    """The elements of an expression at flat positions, as a vector.

    Parameters
    ----------
    expr : Expr
        Without ``at_start``.
    at : numpy.ndarray
        Row-major positions, int64.

    Returns
    -------
    Expr
        Of shape ``(len(at),)``.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> elements_of(low_rank((300, 200), rank=1), np.array([0, 201, 59999])).shape
    (3,)
    """
    match expr:
        case _ if not expr.shape:
            return _gathered(expr, at)
        case Sum(terms):
            return Sum(tuple(elements_of(term, at) for term in terms))
        case Scale(_, operand) | Hold(operand):
            return rebuild(expr, (elements_of(operand, at),))
        case Map(operand, function) if function.name != "softmax_top":
            return rebuild(expr, (elements_of(operand, at),))
        case Reshape(operand, _):
            return elements_of(operand, at)
        case Constant(kind, _) if kind == "ones":
            return ones(len(at))
        case Einsum() if _is_plain(expr):
            return _of_einsum(expr, at)
        case Take(operand, axis, index):
            return _of_take(expr, operand, axis, index, at)
        case Window() | Place():
            return _of_padded(expr, at)
        case Concatenate(operands, axis):
            return _of_pieces(expr, operands, axis, at)
        case _:
            return _gathered(expr, at)


def _table(at: np.ndarray, size: int, signs: np.ndarray | None = None) -> IndexMap:
    settings = (*at.tolist(), *(() if signs is None else signs.tolist()))
    return IndexMap("table", (len(at),), size, tuple(int(k) for k in settings))


def _gathered(expr: Expr, at: np.ndarray) -> Expr:
    return Take(Reshape(expr, (expr.size,)), 0, _table(at, expr.size))


def _is_plain(expr: Einsum) -> bool:
    """Whether no index is on two axes of the result or of one operand."""
    every = (*expr.pattern.operands, expr.pattern.output)
    names = [[n for group in axes for n in group] for axes in every]
    return all(len(set(own)) == len(own) for own in names)


def _of_einsum(expr: Einsum, at: np.ndarray) -> Expr:
    sizes = dict(expr.sizes)
    output = [n for group in expr.pattern.output for n in group]
    where = dict(zip(output, np.unravel_index(at, [sizes[n] for n in output]), strict=True))
    parts: list[str] = []
    operands: list[Expr] = []
    for operand, axes in zip(expr.operands, expr.pattern.operands, strict=True):
        names = [n for group in axes for n in group]
        fixed = [n for n in names if n in where]
        rest = [n for n in names if n not in where]
        if not fixed:
            parts.append(" ".join("(" + " ".join(group) + ")" for group in axes) + " ")
            operands.append(operand)
            continue
        flat = np.ravel_multi_index([where[n] for n in fixed], [sizes[n] for n in fixed])
        if not rest:
            chosen = elements_of(operand, flat)
        else:
            chosen = _in_front(operand, axes, fixed, rest, sizes)
            chosen = Take(chosen, 0, _table(flat, chosen.shape[0]))
        parts.append(f"{CHOSEN} {' '.join(rest)}")
        operands.append(chosen)
    if not any(CHOSEN in part for part in parts):
        parts.append(f"{CHOSEN} ")
        operands.append(ones(len(at)))
    inner = {n: size for n, size in sizes.items() if n not in where}
    return einsum(f"{', '.join(parts)} -> {CHOSEN} ", *operands, **inner)


def _in_front(
    operand: Expr,
    axes: tuple[tuple[str, ...], ...],
    fixed: Sequence[str],
    rest: Sequence[str],
    sizes: dict[str, int],
) -> Expr:
    """The operand as ``(fixed together, *rest)``."""
    left = " ".join("(" + " ".join(group) + ")" for group in axes)
    own = {n: sizes[n] for n in (*fixed, *rest)}
    return einsum(f"{left} -> ({' '.join(fixed)}) {' '.join(rest)}", operand, **own)


def _of_take(expr: Take, operand: Expr, axis: int, index: IndexMap, at: np.ndarray) -> Expr:
    found, signs = positions(index)
    places = np.unravel_index(at, expr.shape)
    inside = places[axis : axis + len(index.shape)]
    source = [*places[:axis], found[inside], *places[axis + len(index.shape) :]]
    flat = np.asarray(np.ravel_multi_index(source, operand.shape))
    chosen = elements_of(operand, flat)
    if signs is None:
        return chosen
    given = signs[inside]
    kept = np.flatnonzero(given)
    signed = Take(chosen, 0, _table(kept, len(at), given[kept]))
    return _spread(signed, kept, len(at))


def _of_padded(expr: Window | Place, at: np.ndarray) -> Expr:
    """Elements of what may be zero there: those that are not, put where they belong."""
    if isinstance(expr, Place):
        found, signs = positions(expr.index)
        source = np.full(expr.index.size, -1, dtype=np.int64)
        source[found.reshape(-1)] = np.arange(found.size)
        flat = source[at]
        kept = np.flatnonzero(flat >= 0)
        given = None if signs is None else signs.reshape(-1)[flat[kept]]
    else:
        places = np.unravel_index(at, expr.shape)
        moved = [p + first for p, first in zip(places, expr.offset, strict=True)]
        limits = zip(moved, expr.operand.shape, strict=True)
        inside = np.all([(p >= 0) & (p < n) for p, n in limits], axis=0)
        kept, given = np.flatnonzero(inside), None
        flat = np.zeros(len(at), dtype=np.int64)
        flat[kept] = np.ravel_multi_index([p[kept] for p in moved], expr.operand.shape)
    if not len(kept):
        return 0 * ones(len(at))
    chosen = elements_of(expr.operand, flat[kept])
    if given is not None:
        chosen = Take(chosen, 0, _table(np.arange(len(kept)), len(kept), given))
    return _spread(chosen, kept, len(at))


def _spread(chosen: Expr, kept: np.ndarray, size: int) -> Expr:
    """Put elements at their positions of a vector of zeros."""
    if len(kept) == size:
        return chosen
    return Place(chosen, (size,), _table(kept, size)) if len(kept) else 0 * ones(size)


def _of_pieces(expr: Concatenate, operands: tuple[Expr, ...], axis: int, at: np.ndarray) -> Expr:
    places = np.unravel_index(at, expr.shape)
    first, chosen, order = 0, list[Expr](), list[np.ndarray]()
    for piece in operands:
        n = piece.shape[axis]
        kept = np.flatnonzero((places[axis] >= first) & (places[axis] < first + n))
        own = [p[kept] - first * (k == axis) for k, p in enumerate(places)]
        first += n
        if len(kept):
            chosen.append(elements_of(piece, np.ravel_multi_index(own, piece.shape)))
            order.append(kept)
    together = chosen[0] if len(chosen) == 1 else Concatenate(tuple(chosen), 0)
    return take(together, _table(np.argsort(np.concatenate(order)), len(at)))


def telling_positions(
    shape: tuple[int, int], count: int, source: np.random.RandomState
) -> np.ndarray:
    """Positions of elements that show a Jacobian of ``count`` parameters.

    A few whole rows and columns, since a low-rank matrix is fixed by those, with the outermost,
    where alone some diagonals are; and four times as many others at random.
    """
    m, n = shape
    if m * n <= 8 * (count + 32):
        return np.arange(m * n)
    lines = min(m, n, 1 + (3 * count) // (2 * (m + n)))
    rows = [0, m - 1, *source.permutation(m)[:lines]]
    columns = [0, n - 1, *source.permutation(n)[:lines]]
    chosen = np.zeros((m, n), dtype=bool)
    chosen[rows], chosen[:, columns] = True, True
    chosen.reshape(-1)[source.randint(0, m * n, 4 * (count + 32))] = True
    return np.flatnonzero(chosen)
