"""Which rows a law runs on where every row would take too long, and matrices of index maps."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import tensoradapt.algebra as ta
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.nodes import Base
from tensoradapt.algebra.starts import normal
from tensoradapt.algebra.walk import topological
from tests.rows import Row
from tests.tables import ROWS


def _has_weight(row: Row) -> bool:
    return row.structure.update(row.shape).weight is not None


WEIGHTED = [row for row in ROWS if _has_weight(row)]
"""The rows that change a weight, not the bias alone."""


def method_of(row: Row) -> str:
    return row.structure.method.name  # type: ignore[attr-defined]


def family_of(row: Row) -> str:
    """The module of the zoo that the method stands in."""
    return row.structure.method.function.__module__.split(".")[-1]  # type: ignore[attr-defined]


def spread(per_method: int, rows: Iterable[Row] = WEIGHTED) -> list[Row]:
    """So many rows of every method, spread evenly over its rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(method_of(row), []).append(row)
    chosen: list[Row] = []
    for group in groups.values():
        count = min(per_method, len(group))
        chosen += [group[(2 * k + 1) * len(group) // (2 * count)] for k in range(count)]
    return chosen


def smallest(per_family: int = 1, at_least: int = 6) -> list[Row]:
    """The cheapest rows of every family that have a matrix of some size, with W0 ≠ scalar."""
    groups: dict[str, list[Row]] = {}
    for row in WEIGHTED:
        if len(row.shape) == 2 and min(row.shape) >= at_least:
            groups.setdefault(family_of(row), []).append(row)

    def cost(row: Row) -> int:
        return row.count + prod(row.shape)

    return [row for group in groups.values() for row in sorted(group, key=cost)[:per_family]]


MATRICES = [row for row in WEIGHTED if len(row.shape) == 2]


def bases(expr: Expr) -> list[Base]:
    return [sub for sub in topological(expr) if isinstance(sub, Base)]


def leaf(name: str, *shape: int) -> Expr:
    return ta.parameter(name, *shape, start=normal())


def _mapped(name: str, kind: str, shape: tuple[int, ...], size: int, *settings: int) -> Expr:
    return ta.take(leaf(name, size), IndexMap(kind, shape, size, settings))


def index_matrices(n: int) -> dict[str, Expr]:
    """Circulants and their relatives of one size: alone, transposed, cropped, in products."""
    c, d, k = (ta.circulant(leaf(name, n)) for name in ("c", "d", "k"))
    rows = _mapped("r", "circulant_rows", (n, n), n, n)
    skew = ta.skew_circulant(leaf("s", n))
    plain = ta.toeplitz(leaf("t", 2 * n - 1), n)
    mirrored = ta.symmetric_toeplitz(leaf("y", n))
    low = leaf("B", n, 2) @ leaf("A", 2, n)
    ldr = ta.low_displacement_rank(leaf("g", n, 2), leaf("h", n, 2))
    alone = {"circulant": c, "by rows": rows, "skew": skew, "toeplitz": plain, "mirror": mirrored}
    return (
        alone
        | {f"{name}, transposed": expr.T for name, expr in alone.items()}
        | {
            "two circulants": c @ d,
            "circulant and skew": c @ skew,
            "by rows and transposed": rows @ c.T,
            "toeplitz and mirror": plain @ mirrored,
            "three": c @ d @ k,
            "tied": c @ c.T,
            "elementwise": c * plain,
            "elementwise, transposed": c * skew.T,
            "displacement rank": ldr,
            "displacement rank, transposed": ldr.T,
            "of a low rank": c @ low,
            "of a low rank, by rows": low @ rows,
            "with diagonals": ta.scale_rows(leaf("m", n), ta.scale_columns(c, leaf("o", n))),
            "with a sum": c + 2 * skew + low,
            "shuffled": ta.shuffle(c, 3, axis=1) @ d,
        }
        | cropped_matrices(n)
        | block_matrices(n)
    )


def cropped_matrices(n: int) -> dict[str, Expr]:
    """Maps that read a part of their axis, or more than one period of it."""
    return {
        "cropped": ta.circulant(leaf("c", n), n - 2, n - 1),
        "cropped toeplitz": ta.toeplitz(leaf("t", n + 2), n - 1, 4),
        "cropped toeplitz, transposed": ta.toeplitz(leaf("t", n + 2), n - 1, 4).T,
        "inside a longer toeplitz": _mapped("t", "toeplitz", (n - 1, 4), n + 9, 6),
        "more than a period": ta.circulant(leaf("c", n), n + 3, n + 2),
        "a longer axis": _mapped("c", "circulant", (n, n), n + 9, n),
        "a longer axis, skew": _mapped("c", "skew_circulant", (n, n), n + 2, n),
        "a shorter period, skew": _mapped("c", "skew_circulant", (n, n), n, n - 2),
        "a mirror of two widths": ta.symmetric_toeplitz(leaf("t", n), n - 3, n),
        "skew-symmetric": _mapped("q", "skew", (n, n), n * (n - 1) // 2, n),
        "tiled": ta.take(leaf("u", 3, 5), IndexMap("tile", (10,), 5, (4,)), axis=1),
        "tiled whole": ta.take(leaf("u", 3, 5), IndexMap("tile", (10,), 5, (5,)), axis=1),
        "shifted": ta.take(leaf("f", n, n), IndexMap("shift", (n,), n, (n, 2)), axis=1),
        "placed": ta.place(leaf("p", 4), n, n, index=[1, n + 2, 3 * n, 5]),
        "repeated and cropped": ta.window(
            ta.einsum("k o, j -> o (j k)", leaf("M", 3, n), ta.ones(4)), n, 11
        ),
        "cosine and sine": ta.linear_transform(
            ta.linear_transform(leaf("f", n, n), "dct", 0), "fourier_sin", 1
        ),
    }


def block_matrices(n: int) -> dict[str, Expr]:
    """Matrices of blocks, each a circulant or a relative."""

    def blocks(kind: str, shape: tuple[int, int], size: int, *settings: int) -> Expr:
        index = IndexMap(kind, shape, size, settings)
        return ta.einsum("b c i j -> (b i) (c j)", ta.take(leaf("b", 2, 3, size), index, axis=2))

    made = {
        "blocks of circulants": blocks("circulant", (n, n), n, n),
        "blocks of rows": blocks("circulant_rows", (n, n), n, n),
        "blocks of skew circulants": blocks("skew_circulant", (n, n), n, n),
        "blocks of toeplitz": blocks("toeplitz", (n, 3), n + 2, 3),
    }
    diagonal = ta.take(leaf("z", 3, n), IndexMap("circulant", (n, n), n, (n,)), axis=1)
    return made | {
        "blocks, transposed": made["blocks of circulants"].T,
        "block diagonal": ta.einsum("b i j -> (b i) (b j)", diagonal),
    }
