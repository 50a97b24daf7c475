"""Terms: networks under construction, before they are numbered canonically."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from ..algebra.expression import Factor as Scalar
from .canonical import canonical
from .form import Axes, Factor, Network, NormalForm, Ones, Shape, Source
from .indices import Indices


@dataclass(slots=True)
class Term:
    """``scale · Σ ∏ factors`` over indices that any numbers may name."""

    factors: list[Factor]
    output: Axes
    sizes: dict[int, int]
    scale: Scalar


def single(source: Source, shape: Shape) -> Term:
    """One factor with an index for each axis."""
    space = Indices()
    axes = tuple(space.new(n) for n in shape)
    return Term([Factor(source, axes)], axes, space.size, Fraction(1))


def fresh(term: Term, space: Indices) -> Term:
    """A copy of a term with indices of its own in another space."""
    new = {i: space.new(n) for i, n in sorted(term.sizes.items())}

    def move(axes: Axes) -> Axes:
        return tuple(tuple(j for i in group for j in new[i]) for group in axes)

    factors = [Factor(f.source, move(f.axes), f.held) for f in term.factors]
    return Term(factors, move(term.output), {}, term.scale)


def multiply_scale(term: Term, scale: Scalar) -> Term:
    """The term times a number, exact while both are fractions."""
    if isinstance(term.scale, Fraction) and isinstance(scale, Fraction):
        product: Scalar = term.scale * scale
    else:
        product = float(term.scale) * float(scale)
    return Term(term.factors, term.output, term.sizes, product)


def collect(shape: Shape, terms: list[Term]) -> NormalForm:
    """Number every term canonically and add the scales of equal ones."""
    totals: dict[tuple[object, ...], Scalar] = {}
    networks: dict[tuple[object, ...], Network] = {}
    for term in terms:
        network = _simplified(term)
        networks.setdefault(network.body, network)
        before = totals.get(network.body, Fraction(0))
        exact = isinstance(before, Fraction) and isinstance(network.scale, Fraction)
        totals[network.body] = (
            before + network.scale if exact else float(before) + float(network.scale)
        )
    kept = [
        Network(n.factors, n.output, n.sizes, totals[body])
        for body, n in networks.items()
        if totals[body] != 0
    ]
    return NormalForm(shape, tuple(sorted(kept, key=lambda network: network.key)))


def _simplified(term: Term) -> Network:
    """Drop ones on indices that other factors carry; sum ones over lone indices into the scale."""
    uses = Counter(i for f in term.factors if not isinstance(f.source, Ones) for i in f.indices)
    inside = {i for group in term.output for i in group}
    kept: list[Factor] = []
    seen: set[int] = set()
    scaled = term
    for factor in term.factors:
        if isinstance(factor.source, Ones):
            index = factor.axes[0][0] if factor.axes[0] else None
            if index is None or uses[index] or index in seen or len(factor.axes[0]) > 1:
                if len(factor.axes[0]) > 1:
                    kept.extend(_split_ones(factor, term, uses, seen, inside))
                continue
            seen.add(index)
            if index not in inside:
                scaled = multiply_scale(scaled, Fraction(term.sizes[index]))
                continue
        kept.append(factor)
    used = {i for f in kept for i in f.indices} | inside
    fused, output, sizes = _fused(kept, term.output, {i: term.sizes[i] for i in used})
    return canonical(fused, output, sizes, scaled.scale)


def _split_ones(
    factor: Factor, term: Term, uses: Counter[int], seen: set[int], inside: set[int]
) -> list[Factor]:
    """A vector of ones whose axis was split is a product of vectors of ones."""
    parts: list[Factor] = []
    for index in factor.axes[0]:
        if not uses[index] and index not in seen:
            seen.add(index)
            parts.append(Factor(Ones(term.sizes[index]), ((index,),)))
    return parts


def _fused(
    factors: list[Factor], output: Axes, sizes: dict[int, int]
) -> tuple[list[Factor], Axes, dict[int, int]]:
    """Make one index of two that stand side by side wherever either of them stands.

    Without this a reshape there and back would leave its split behind, and equal expressions
    would have different forms.
    """
    while (pair := _inseparable(factors, output)) is not None:
        first, second = pair
        sizes[first] *= sizes.pop(second)
        ones = [f for f in factors if isinstance(f.source, Ones) and f.axes == ((first,),)]
        alone = (((first,),), ((second,),))
        factors = [f for f in factors if not (isinstance(f.source, Ones) and f.axes in alone)]
        factors = [Factor(f.source, _without(f.axes, second), f.held) for f in factors]
        factors += [Factor(Ones(sizes[first]), f.axes) for f in ones]
        output = _without(output, second)
    return factors, output, sizes


def _without(axes: Axes, index: int) -> Axes:
    return tuple(tuple(i for i in group if i != index) for group in axes)


def _inseparable(factors: list[Factor], output: Axes) -> tuple[int, int] | None:
    """Two indices of which the second follows the first wherever either stands."""
    before: dict[int, set[int | None]] = {}
    after: dict[int, set[int | None]] = {}
    ones = {f.axes[0][0] for f in factors if isinstance(f.source, Ones)}
    axes = [output, *(f.axes for f in factors if not isinstance(f.source, Ones))]
    for group in (group for one in axes for group in one):
        for left, right in zip((None, *group), (*group, None), strict=True):
            if left is not None:
                after.setdefault(left, set()).add(right)
            if right is not None:
                before.setdefault(right, set()).add(left)
    for first, followers in after.items():
        second = next(iter(followers)) if len(followers) == 1 else None
        if second is not None and second != first and before[second] == {first}:
            if (first in ones) == (second in ones):
                return first, second
    return None
