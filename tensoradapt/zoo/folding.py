"""Folded tensors: Kronecker products of Tucker tensors, projected, of which a weight reads a part.

A part is cut before anything is multiplied: the first mode of the first factor to the rows
that hold it, so that no tensor is larger than the part needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod, sqrt

from ..algebra.builders import clip, einsum, linear_transform, reshape, shuffle, take, window
from ..algebra.expression import Expr, Start
from ..algebra.forms import kron
from ..algebra.indexing import IndexMap
from ..algebra.nodes import Base, Frozen, Parameter
from ..algebra.starts import normal, uniform, value_of, zeros
from .kron import factor_pair
from .limits import check_at_most, near_equal

HADAMARD = 64
"""The largest transform that is applied as a matrix; d log d becomes 64 d log_64 d."""
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fold:
    """How a group is folded, factored, projected and shuffled; the settings of ``superlora``."""

    rank: int | None
    order: int
    fold: str
    splits: int
    split_factor: int
    leading: str
    core: bool
    identity: tuple[int, ...]
    ratio: Fraction
    projection: str
    shuffle: str
    seed: int


@dataclass(frozen=True, slots=True)
class Group:
    """Whole weights, or ``length`` numbers of the long list, that are one tensor."""

    prefix: str
    scope: str
    length: int
    members: tuple[Base, ...] = ()

    def leaf(self, name: str, *shape: int, start: Start) -> Parameter:
        """A trained leaf of the group."""
        return Parameter(self.prefix + name, shape, start, self.scope)

    def rows(self, name: str, count: int, *shape: int, recipe: Start) -> Frozen:
        """A frozen leaf that makes so many rows of P: a weight has its own, but of all rows."""
        scope = self.scope if count == self.length else "site"
        return Frozen(self.prefix + name, shape, recipe, scope)


# --- the projection P ----------------------------------------------------------------------


def projected(group: Group, plan: Fold, first: int, last: int) -> Expr:
    """Those numbers of P z, where z is the flattened tensor."""
    inner = ceil(plan.ratio * group.length)
    sides = _sides(plan, inner)
    factors = factors_of(group, plan, sides)
    if inner == group.length:
        return _flat(factors, first, last)
    z, count = _flat(factors, 0, inner), last - first
    if plan.projection == "tile":
        turn = IndexMap("wrap", (count,), inner, (inner, -first % inner))
        return take(shuffle(z, plan.seed), turn)
    if plan.projection == "dense":
        return group.rows("P", count, count, inner, recipe=normal(1 / sqrt(inner))) @ z
    return _fastfood(group, plan, z, count)


def _fastfood(group: Group, plan: Fold, z: Expr, count: int) -> Expr:
    """So many numbers of blocks ``S H G Π H B z``."""
    inner = z.shape[0]
    d = 1 << (inner - 1).bit_length()
    blocks = -(-count // d)
    toss = Frozen(f"{group.prefix}toss", (d,), normal(), group.scope)
    signs = value_of(clip(toss * 1e30, -1.0, 1.0))
    B = Frozen(f"{group.prefix}B", (d,), signs, group.scope)
    G = group.rows("G", count, blocks, d, recipe=normal())
    S = group.rows("S", count, blocks, d, recipe=normal(1 / sqrt(2 * d), mean=1.0))
    mixed = shuffle(_hadamard(reshape(B * window(z, d), 1, d)), plan.seed, axis=1)
    turned = _hadamard(einsum("b d, one d -> b d", G, mixed))
    return window(reshape(S * turned, blocks * d) * sqrt(d / inner), count)


def _hadamard(rows: Expr) -> Expr:
    """The Walsh–Hadamard transform of every row, as H ⊗ ⋯ ⊗ H of sides up to ``HADAMARD``."""
    count, length = rows.shape
    sides = [HADAMARD] * ((length.bit_length() - 1) // (HADAMARD.bit_length() - 1))
    sides.append(length // prod(sides))
    made = reshape(rows, count, *sides)
    for axis in range(len(sides)):
        made = linear_transform(made, "walsh_hadamard", axis=axis + 1) if sides[axis] > 1 else made
    return reshape(made, count, length)


# --- the folded tensor ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Factor:
    """One Kronecker factor: a Tucker or a CP tensor, ``None`` standing for the identity."""

    sides: tuple[int, ...]
    core: Expr | None
    arms: tuple[Expr | None, ...]

    def cut(self, ranges: Sequence[Range]) -> Expr:
        """The tensor within a range of every mode."""
        names, parts, operands = [], [], []
        core, axes = self.core, []
        for m, (arm, (low, high)) in enumerate(zip(self.arms, ranges, strict=True)):
            names.append(f"n{m}")
            if arm is not None:
                axes.append(f"r{m}" if core is not None else "r")
                parts.append(f"n{m} {axes[-1]}")
                operands.append(window(arm, high - low, arm.shape[1], offset=(low, 0)))
                continue
            axes.append(f"n{m}")
            if core is not None:
                sizes = [high - low if k == m else n for k, n in enumerate(core.shape)]
                core = window(core, *sizes, offset=[low if k == m else 0 for k in range(core.ndim)])
        if core is not None:
            parts, operands = [" ".join(axes), *parts], [core, *operands]
        if len(operands) == 1:
            return operands[0]
        return einsum(f"{' , '.join(parts)} -> {' '.join(names)} ", *operands)


def _sides(plan: Fold, length: int) -> tuple[int, ...]:
    """The sides of the tensor that a list of numbers is folded into."""
    if plan.fold == "pair":
        return near_equal(length, 2)
    side = _root(length, plan.order)
    if plan.splits > 1:
        factor = plan.split_factor if plan.split_factor > 0 else _root(side, plan.splits)
        lead = factor ** (plan.splits - 1)
        side = lead * -(-side // lead)
    return (side,) * plan.order


def _root(length: int, order: int) -> int:
    """The least side whose power of that order is no less than the length."""
    side = max(1, round(length ** (1 / order)) - 1)
    while side**order < length:
        side += 1
    return side


def factors_of(group: Group, plan: Fold, sides: tuple[int, ...]) -> list[Factor]:
    """The Kronecker factors, whose sides multiply to the tensor's."""
    left, made = list(sides), []
    for k in range(plan.splits):
        taken = list(left)
        if k < plan.splits - 1:
            taken = [_lead(plan, n, plan.splits - k) for n in left]
            left = [n // m for n, m in zip(left, taken, strict=True)]
        made.append(_factor(group, plan, k, tuple(taken)))
    return made


def _lead(plan: Fold, side: int, splits: int) -> int:
    """The side of the next of so many Kronecker factors."""
    if plan.split_factor > 0:
        return factor_pair(side, plan.split_factor)[0]
    return near_equal(side, splits)[0]


def _factor(group: Group, plan: Fold, k: int, sides: tuple[int, ...]) -> Factor:
    """Leaves of Kronecker factor k, which is named in their names if there are several."""
    is_last, name = k == plan.splits - 1, f"s{k}." if plan.splits > 1 else ""
    modes = range(plan.order)
    is_dense = not is_last and plan.leading == "dense"
    identity = tuple(modes) if is_dense or plan.rank is None else plan.identity
    has_core, ranks = plan.core or bool(identity), sides
    if plan.rank is not None and not is_dense:
        if not has_core and plan.order == 2 and is_last:
            check_at_most("superlora", plan.rank, min(sides), f"a factor {sides[0]} × {sides[1]}")
        width = plan.rank if has_core else min(plan.rank, max(sides))
        ranks = tuple(
            n if m in identity else min(width, n) if has_core else width
            for m, n in enumerate(sides)
        )
    core = None
    if has_core:
        bound = 1 / sqrt(prod(ranks[1:]))
        start = zeros() if is_last else uniform(-bound, bound)
        core = group.leaf(f"{name}C", *ranks, start=start)
    arms: list[Expr | None] = []
    for m in modes:
        bound = 1 / sqrt(sides[m])
        is_zero = is_last and not has_core and m == 0
        start = zeros() if is_zero else uniform(-bound, bound)
        leaf = (
            None
            if m in identity
            else group.leaf(f"{name}A{m + 1}", sides[m], ranks[m], start=start)
        )
        arms.append(leaf)
    return Factor(sides, core, tuple(arms))


def part_of(factors: Sequence[Factor], ranges: Sequence[Range]) -> Expr:
    """The part of the Kronecker product within a range of every mode."""
    steps = [prod(f.sides[m] for f in factors[1:]) for m in range(len(ranges))]
    outer = [(low // n, -(-high // n)) for (low, high), n in zip(ranges, steps, strict=True)]
    first = factors[0].cut(outer)
    if len(factors) == 1:
        return first
    whole = kron(first, *(f.cut([(0, n) for n in f.sides]) for f in factors[1:]))
    offset = [low - at * n for (low, _), (at, _), n in zip(ranges, outer, steps, strict=True)]
    return window(whole, *(high - low for low, high in ranges), offset=offset)


def _flat(factors: Sequence[Factor], first: int, last: int) -> Expr:
    """The numbers from ``first`` up to ``last`` of the flattened tensor."""
    sides = [prod(f.sides[m] for f in factors) for m in range(len(factors[0].sides))]
    ranges = [(0, n) for n in sides]
    low, high = first, last
    for m in range(len(sides)):
        step = prod(sides[m + 1 :])
        ranges[m] = (low // step, (high - 1) // step + 1)
        low, high = low - ranges[m][0] * step, high - ranges[m][0] * step
        if ranges[m][1] - ranges[m][0] > 1:
            break
    block = part_of(factors, ranges)
    return window(reshape(block, block.size), last - first, offset=(low,))
