"""SuperLoRA: all updates as one long list of numbers, grouped, folded, factored and projected.

``ΔW_group = F(P(⊗_k C_k ×_1 A_k1 ⋯ ×_M A_kM))``: a group of weights is folded into a tensor of
order M, which is a Kronecker product of Tucker tensors; P is a fixed random projection, F cuts
the list into weights. A weight reads its own part: the first mode is cut before anything is
multiplied, so that no tensor is larger than the part needs, but for the projected list (short)
and for a shuffle over the group (long, and its docstring says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod, sqrt

from ..algebra.builders import (
    clip,
    concatenate,
    einsum,
    linear_transform,
    reshape,
    shuffle,
    take,
    window,
)
from ..algebra.expression import Expr, Start
from ..algebra.forms import kron
from ..algebra.indexing import IndexMap
from ..algebra.leaves import exact
from ..algebra.nodes import Base, Frozen, Parameter
from ..algebra.starts import normal, uniform, value_of, zeros
from ..errors import StructureError
from ..structure import method
from .kron import factor_pair
from .limits import check_at_most, check_choice, check_count, near_equal, scale

FOLDS = ("cube", "pair", "concat", "stack")
PROJECTIONS = ("fastfood", "dense", "tile")
SHUFFLES = ("none", "weight", "group")
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


@method(scope="group", paper="Chen et al. 2024, arXiv:2403.11887")
def superlora(
    ws: list[Base],
    *,
    rank: int | None = 4,
    alpha: float | None = None,
    order: int = 2,
    groups: str | int = "weight",
    projections: int = 2,
    fold: str = "cube",
    splits: int = 1,
    split_factor: int = -1,
    leading: str = "dense",
    core: bool | None = None,
    identity: tuple[int, ...] = (),
    ratio: float = 1.0,
    projection: str = "fastfood",
    shuffle: str = "none",
    seed: int = 0,
) -> list[Expr]:
    """ΔW_group = s F(P(⊗_k C_k ×_1 A_k1 ⋯ ×_M A_kM)),  s = α/r;  Σ_k Σ_m n_km r_km + ∏_m r_km.

    Parameters
    ----------
    rank : int, optional
        r; r_m = min(r, n_m). None: every factor is the identity and the core is the tensor.
    alpha : float, optional
        α; the scale is 1 without it.
    order : int
        M, the number of modes.
    groups : {"weight", "shape", "projection"} or int
        One group per weight; per shape of weight; per projection, where weight k of the group
        (in the model's order) is projection k mod ``projections``; or that many equal parts of
        the whole list of numbers, or of the list of weights if the fold keeps weights whole.
    projections : int
        The weights per layer, for ``groups="projection"``.
    fold : {"cube", "pair", "concat", "stack"}
        ``"cube"``: every mode has the side ⌈(ρN)^(1/M)⌉ and what is too much is dropped.
        ``"pair"``: two modes, the most square pair of divisors of N. ``"concat"``: two modes,
        the weights side by side (equal ``out``) or one below the other (equal ``in``).
        ``"stack"``: three modes (out, weight, in), for weights of one shape.
    splits : int
        K, the number of Kronecker factors.
    split_factor : int
        The side of the factors but the last; -1 for near-equal sides. Where the fold is exact,
        ``lokr``'s rule decides, and a cube grows to a multiple of it.
    leading : {"dense", "low_rank"}
        Whether the Kronecker factors before the last are dense.
    core : bool, optional
        Whether C trains; without it the tensor is a sum of r products. By default it does for
        M > 2.
    identity : tuple of int
        Modes (0 to M-1) whose factor is the identity.
    ratio : float
        ρ: the tensor has ρN numbers and P makes N of them (with ``fold="cube"`` only).
    projection : {"fastfood", "dense", "tile"}
        P. ``"dense"``: N(0, 1/(ρN)). ``"fastfood"``: blocks S H G Π H B of a power of two, with
        H a Walsh–Hadamard transform, Π a permutation, B signs, G normal and S about 1; B and Π
        are the group's, G and S each block's. ``"tile"``: a permutation of the ρN numbers,
        again and again. All keep the mean square of an element; only seeds are stored.
    shuffle : {"none", "weight", "group"}
        A fixed permutation within each weight, or of the whole group; then every weight needs
        the group's whole tensor.
    seed : int
        Chooses the permutations.

    Notes
    -----
    Law of the paper's counts: G(M r ⌈(ρN/G)^(1/M)⌉ + r^M) for M > 2, without r^M for M = 2.
    ``groups="weight", fold="concat"`` is ``lora`` (A stored transposed), with ``rank=None``
    dense training, with ``splits=2`` ``lokr`` with a low-rank second factor; ``groups="shape",
    fold="stack", order=3, identity=(1,)`` is ``lotr``. Its LoNKr is ``splits=2`` or more of
    order 2. LoHa is a part of the Kronecker product of two updates and no setting here. Start
    (unverified): the core of the last factor, or its first factor, is 0, and the others are
    uniform in ±1/√n_m. The modified and the tanh projections of the paper are unknown. The
    matrix rank is not bounded by r where the fold is not in line with the weight.
    """
    check_count("superlora", "seed", seed, least=0)
    if rank is None:
        core = True
    plan = Fold(
        rank,
        order,
        fold,
        splits,
        split_factor,
        leading,
        bool(identity) or order > 2 if core is None else core,
        tuple(identity) if rank is not None else tuple(range(order)),
        _ratio(ratio, fold),
        projection,
        shuffle,
        seed % 2**32,
    )
    _check(plan)
    s = scale("superlora", alpha, rank or 1)
    made = {
        "concat": _whole,
        "stack": _whole,
    }.get(fold, _listed)(ws, plan, groups, projections)
    return [s * update for update in made]


def _ratio(ratio: float, fold: str) -> Fraction:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise StructureError(
            f"ratio={ratio!r} was asked for.",
            "It is the share of a group's numbers that the tensor has, above 0 and up to 1.",
            "Use superlora(ratio=0.5).",
        )
    if ratio < 1 and fold != "cube":
        raise StructureError(
            f"ratio={ratio} was asked for with fold={fold!r}.",
            "Only the padded cube can have fewer numbers than its group.",
            f'Use superlora(ratio={ratio}, fold="cube").',
        )
    return Fraction(exact(ratio))


def _check(plan: Fold) -> None:
    if plan.rank is not None:
        check_count("superlora", "rank", plan.rank)
    check_count("superlora", "order", plan.order, least=2)
    check_count("superlora", "splits", plan.splits)
    check_choice("superlora", "fold", plan.fold, FOLDS)
    check_choice("superlora", "leading", plan.leading, ("dense", "low_rank"))
    check_choice("superlora", "projection", plan.projection, PROJECTIONS)
    check_choice("superlora", "shuffle", plan.shuffle, SHUFFLES)
    needed = {"pair": 2, "concat": 2, "stack": 3}.get(plan.fold, plan.order)
    if plan.order != needed:
        raise StructureError(
            f"order={plan.order} was asked for with fold={plan.fold!r}.",
            f"That fold has {needed} modes.",
            f"Use superlora(order={needed}, fold={plan.fold!r}), or fold='cube'.",
        )
    if plan.shuffle == "group" and plan.fold in ("concat", "stack"):
        raise StructureError(
            f"shuffle='group' was asked for with fold={plan.fold!r}.",
            "That fold keeps every weight in place.",
            "Use superlora(shuffle='weight'), or fold='cube'.",
        )
    if any(type(m) is not int or not 0 <= m < plan.order for m in plan.identity):
        raise StructureError(
            f"identity={plan.identity} was asked for.",
            f"The modes are numbered 0 to {plan.order - 1}.",
            "Use superlora(identity=(1,), order=3).",
        )
    if plan.identity and not plan.core:
        raise StructureError(
            f"core=False was asked for with identity={plan.identity}.",
            "A mode whose factor is the identity is an axis of the core.",
            "Use superlora(core=True) with it.",
        )


# --- groups --------------------------------------------------------------------------------


def _grouping(ws: Sequence[Base], groups: str | int, projections: int) -> list[str]:
    """The name of the group of every weight."""
    if groups == "projection":
        check_count("superlora", "projections", projections)
    match groups:
        case "weight":
            return ["" for _ in ws]
        case "shape":
            return [f"{w.matrix[0]}x{w.matrix[1]}." for w in ws]
        case "projection":
            return [f"{k % projections}." for k in range(len(ws))]
        case int() if not isinstance(groups, bool) and 1 <= groups <= len(ws):
            return [f"{k * groups // len(ws)}." for k in range(len(ws))]
        case _:
            raise StructureError(
                f"groups={groups!r} was asked for.",
                f"It is 'weight', 'shape', 'projection', or a number of groups; a fold that "
                f"keeps weights whole has at most {len(ws)} here.",
                'Use superlora(groups="weight").',
            )


def _whole(ws: Sequence[Base], plan: Fold, groups: str | int, projections: int) -> list[Expr]:
    """The updates of folds that keep weights whole and in line."""
    names = _grouping(ws, groups, projections)
    found: list[Expr] = []
    for k, w in enumerate(ws):
        mates = [j for j, name in enumerate(names) if name == names[k]] if names[k] else [k]
        group = Group(names[k], "group" if names[k] else "site", 0, tuple(ws[j] for j in mates))
        before = [j for j in mates if j < k]
        sides, ranges = _in_line(group, plan, w, [ws[j] for j in before])
        update = _block(_factors(group, plan, sides), ranges)
        if plan.shuffle == "weight":
            update = shuffle(reshape(update, w.size), plan.seed)
        found.append(reshape(update, *w.shape))
    return found


def _in_line(
    group: Group, plan: Fold, w: Base, before: Sequence[Base]
) -> tuple[tuple[int, ...], list[Range]]:
    """The sides of the group's tensor, and the range of every mode that is the weight's."""
    out, inp = w.matrix
    outs, ins = ([m.matrix[axis] for m in group.members] for axis in (0, 1))
    if plan.fold == "stack" and len(set(outs)) == len(set(ins)) == 1:
        place = len(before)
        return (out, len(outs), inp), [(0, out), (place, place + 1), (0, inp)]
    if plan.fold == "concat" and len(set(outs)) == 1:
        start = sum(m.matrix[1] for m in before)
        return (out, sum(ins)), [(0, out), (start, start + inp)]
    if plan.fold == "concat" and len(set(ins)) == 1:
        start = sum(m.matrix[0] for m in before)
        return (sum(outs), inp), [(start, start + out), (0, inp)]
    raise StructureError(
        f"fold={plan.fold!r} was asked for.",
        "A group has weights of the shapes "
        f"{', '.join(dict.fromkeys(f'{o} × {i}' for o, i in zip(outs, ins, strict=True)))}, which "
        + ("must be equal." if plan.fold == "stack" else "share neither out nor in."),
        'Use superlora(groups="shape"), or fold="cube".',
    )


def _listed(ws: Sequence[Base], plan: Fold, groups: str | int, projections: int) -> list[Expr]:
    """The updates of folds of a list of numbers, which may end within a weight."""
    starts = [sum(w.size for w in ws[:k]) for k in range(len(ws) + 1)]
    if type(groups) is int and 1 <= groups <= starts[-1]:
        ends = [g * starts[-1] // groups for g in range(groups + 1)]
        parts = [Group(f"{g}.", "group", ends[g + 1] - ends[g]) for g in range(groups)]
        return [
            _cut(
                w,
                plan,
                [
                    (parts[g], max(first, ends[g]) - ends[g], min(last, ends[g + 1]) - ends[g])
                    for g in range(groups)
                    if max(first, ends[g]) < min(last, ends[g + 1])
                ],
            )
            for w, first, last in zip(ws, starts, starts[1:], strict=False)
        ]
    names = _grouping(ws, groups, projections)
    found: list[Expr] = []
    for k, w in enumerate(ws):
        mates = [j for j, name in enumerate(names) if name == names[k]] if names[k] else [k]
        length = sum(ws[j].size for j in mates)
        first = sum(ws[j].size for j in mates if j < k)
        group = Group(names[k], "group" if names[k] else "site", length)
        found.append(_cut(w, plan, [(group, first, first + w.size)]))
    return found


def _cut(w: Base, plan: Fold, pieces: Sequence[tuple[Group, int, int]]) -> Expr:
    """A weight's update from its pieces of groups."""
    update = concatenate([_part(group, plan, first, last) for group, first, last in pieces])
    if plan.shuffle == "weight":
        update = shuffle(update, plan.seed)
    return reshape(update, *w.shape)


def _part(group: Group, plan: Fold, first: int, last: int) -> Expr:
    """The numbers from ``first`` up to ``last`` of a group."""
    if plan.shuffle == "group":
        whole = shuffle(_projected(group, plan, 0, group.length), plan.seed)
        return window(whole, last - first, offset=(first,))
    return _projected(group, plan, first, last)


# --- the projection P ----------------------------------------------------------------------


def _projected(group: Group, plan: Fold, first: int, last: int) -> Expr:
    """Those numbers of P z, where z is the flattened tensor."""
    inner = ceil(plan.ratio * group.length)
    sides = _sides(plan, inner)
    factors = _factors(group, plan, sides)
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
    mixed = shuffle(linear_transform(B * window(z, d), "walsh_hadamard"), plan.seed)
    turned = linear_transform(einsum("b d, d -> b d", G, mixed), "walsh_hadamard", axis=1)
    return window(reshape(S * turned, blocks * d) * sqrt(d / inner), count)


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


def _factors(group: Group, plan: Fold, sides: tuple[int, ...]) -> list[Factor]:
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


def _block(factors: Sequence[Factor], ranges: Sequence[Range]) -> Expr:
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
    block = _block(factors, ranges)
    return window(reshape(block, block.size), last - first, offset=(low,))
