"""Canonical numbering: equal networks get equal encodings.

Indices are told apart by color refinement on the graph of factors and indices; where symmetric
ones remain tied, each is singled out in turn and the least encoding wins. The search stops
after ``EFFORT`` leaves, so that a very symmetric network costs bounded time; it is then still
a correct network, only perhaps not recognized as equal to a differently written one.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

from ..algebra.expression import Factor as Scalar
from .form import Axes, Factor, Network

EFFORT = 120
Colors = dict[int, str]


def canonical(factors: list[Factor], output: Axes, sizes: dict[int, int], scale: Scalar) -> Network:
    """Number the indices and order the factors canonically."""
    colors = {
        i: f"{n}:{[(a, p) for a, g in enumerate(output) for p, j in enumerate(g) if i == j]}"
        for i, n in sizes.items()
    }
    budget = [EFFORT]
    ordered = _search(factors, output, sizes, _refine(factors, colors), budget)
    number = {index: k for k, index in enumerate(ordered)}
    return Network(
        tuple(sorted((_renumber(f, number) for f in factors), key=_factor_order)),
        tuple(tuple(number[i] for i in group) for group in output),
        tuple(sizes[i] for i in ordered),
        scale,
    )


def _search(
    factors: list[Factor], output: Axes, sizes: dict[int, int], colors: Colors, budget: list[int]
) -> list[int]:
    classes = Counter(colors.values())
    tied = sorted(color for color, members in classes.items() if members > 1)
    if not tied:
        budget[0] -= 1
        return _order(output, colors)
    members = sorted(i for i, color in colors.items() if color == tied[0])
    best: tuple[str, list[int]] | None = None
    for index in members:
        if best is not None and budget[0] <= 0:
            break
        marked = _refine(factors, {**colors, index: "!" + colors[index]})
        ordered = _search(factors, output, sizes, marked, budget)
        code = _encode(factors, output, ordered)
        if best is None or code < best[0]:
            best = code, ordered
    assert best is not None
    return best[1]


def _refine(factors: list[Factor], colors: Colors) -> Colors:
    """Refine until no class splits: an index is known by the factors it meets, and where."""
    while True:
        before = len(set(colors.values()))
        seen: dict[int, list[str]] = {i: [] for i in colors}
        for factor in factors:
            around = _hash(factor.key + repr([[colors[i] for i in g] for g in factor.axes]))
            for a, group in enumerate(factor.axes):
                for p, i in enumerate(group):
                    seen[i].append(f"{around}.{a}.{p}")
        colors = {i: _hash(colors[i] + repr(sorted(seen[i]))) for i in colors}
        if len(set(colors.values())) == before:
            return colors


def _order(output: Axes, colors: Colors) -> list[int]:
    """Output indices first, as they stand; then the others by color."""
    outer = list(dict.fromkeys(i for group in output for i in group))
    return outer + sorted((i for i in colors if i not in outer), key=lambda i: colors[i])


def _encode(factors: list[Factor], output: Axes, ordered: list[int]) -> str:
    number = {index: k for k, index in enumerate(ordered)}
    inside = sorted((_renumber(f, number) for f in factors), key=_factor_order)
    return repr([(f.key, f.axes) for f in inside]) + repr(
        [[number[i] for i in group] for group in output]
    )


def _renumber(factor: Factor, number: dict[int, int]) -> Factor:
    axes = tuple(tuple(number[i] for i in group) for group in factor.axes)
    return Factor(factor.source, axes, factor.held)


def _factor_order(factor: Factor) -> tuple[str, Axes]:
    return factor.key, factor.axes


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=12).hexdigest()
