"""SuperLoRA: all updates as one long list of numbers, grouped, folded, factored and projected.

``ΔW_group = F(P(⊗_k C_k ×_1 A_k1 ⋯ ×_M A_kM))``: a group of weights is folded into a tensor of
order M, which is a Kronecker product of Tucker tensors; P is a fixed random projection, F cuts
the list into weights. A weight reads its own part: the first mode is cut before anything is
multiplied, so that no tensor is larger than the part needs, but for the projected list (short)
and for a shuffle over the group (long, and its docstring says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ..algebra.builders import concatenate, reshape, shuffle, window
from ..algebra.expression import Expr
from ..algebra.leaves import exact
from ..algebra.nodes import Base
from ..errors import StructureError
from ..structure import method
from .folding import Fold, Group, Range, factors_of, part_of, projected
from .limits import check_choice, check_count, scale

FOLDS = ("cube", "pair", "concat", "stack")
PROJECTIONS = ("fastfood", "dense", "tile")
SHUFFLES = ("none", "weight", "group")


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
    """ΔW = s F(P(⊗_k C_k ×_1 A_k1 ⋯ ×_M A_kM)),  s = α/r;  Σ_k (Σ_m n_km r_km + ∏_m r_km) a group.

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
    has_core = rank is None or (bool(identity) or order > 2 if core is None else core)
    plan = Fold(
        rank,
        order,
        fold,
        splits,
        split_factor,
        leading,
        has_core,
        tuple(identity) if rank is not None else tuple(range(order)),
        _ratio(ratio, fold),
        projection,
        shuffle,
        seed % 2**32,
    )
    _check(plan)
    s = scale("superlora", alpha, rank or 1)
    made = _whole if fold in ("concat", "stack") else _listed
    return [s * update for update in made(ws, plan, groups, projections)]


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
        update = part_of(factors_of(group, plan, sides), ranges)
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
        whole = shuffle(projected(group, plan, 0, group.length), plan.seed)
        return window(whole, last - first, offset=(first,))
    return projected(group, plan, first, last)
