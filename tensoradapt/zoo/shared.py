"""One tensor over many weights: LoTR, FacT, Aurora, LoRTA, CaRA.

The factors of ``out`` and ``in`` are shared by all weights of the group and stored once; a
weight adds its own slice of the tensor. A factor is as long as the largest weight needs, and
a smaller weight reads its first rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from ..algebra.builders import einsum, reshape, window
from ..algebra.expression import Expr, Start
from ..algebra.leaves import parameter
from ..algebra.nodes import Base, Parameter
from ..algebra.starts import (
    kaiming_uniform,
    normal,
    ones,
    orthogonal,
    uniform,
    xavier_uniform,
    zeros,
)
from ..errors import StructureError
from ..structure import Update, method
from .limits import check_at_most, check_choice, check_count, check_number, factored, scale


def own(name: str, *shape: int, start: Start) -> Parameter:
    """A trained leaf that every weight of the group has for itself, each in its own size."""
    return Parameter(name, shape, start, "site")


def common(name: str, *shape: int, start: Start) -> Parameter:
    """A trained leaf of the whole group, stored once."""
    return parameter(name, *shape, start=start, scope="group")


def frame(ws: Sequence[Base]) -> tuple[int, int]:
    """The largest ``out`` and the largest ``in·kernel`` of the group."""
    return max(w.matrix[0] for w in ws), max(w.matrix[1] for w in ws)


def first_rows(operand: Expr, rows: int) -> Expr:
    """The first rows of a factor that is as long as the largest weight needs."""
    return window(operand, rows, *operand.shape[1:])


@method(scope="group", paper="LoTR: Bershatsky et al. 2024, arXiv:2402.01376")
def lotr(ws: list[Base], *, rank: int = 8, alpha: float | None = None) -> list[Expr]:
    """ΔW = s U G_l V,  U, V shared by all layers l,  s = α/r;  rank ≤ r;  r(out + in) + L r².

    Parameters
    ----------
    rank : int
        r; U is ``(out, r)``, V is ``(r, in)``, and every layer has its own G ``(r, r)``.
    alpha : float, optional
        α; the scale is 1 without it.

    Notes
    -----
    r(out + in) + L r² parameters for L layers. The Tucker tensor of the stacked updates with
    the identity on the axis of layers. Start: U and V N(0, 1), G = 0, as in the reference. It
    shares among weights of equal shape; here a smaller weight reads the first rows of U and
    the first columns of V. Adapt each projection under a name of its own to separate them.
    """
    check_count("lotr", "rank", rank)
    out, inp = frame(ws)
    check_at_most("lotr", rank, min(out, inp), f"a matrix of {out} × {inp}")
    U = common("U", out, rank, start=normal())
    V = common("V", rank, inp, start=normal())
    G = own("G", rank, rank, start=zeros())
    s = scale("lotr", alpha, rank)
    found: list[Expr] = []
    for w in ws:
        made = first_rows(U, w.matrix[0]) @ G @ window(V, rank, w.matrix[1])
        found.append(s * reshape(made, *w.shape))
    return found


# --- slots of one width: FacT and Aurora ---------------------------------------------------


def _slots(method: str, ws: Sequence[Base], width: int | None) -> tuple[int, int]:
    """The rows and columns of a slot, of which every weight is a grid."""
    if width is not None:
        check_count(method, "width", width)
    rows = width or min(w.matrix[0] for w in ws)
    columns = width or min(w.matrix[1] for w in ws)
    for w in ws:
        out, inp = w.matrix
        if out % rows or inp % columns:
            raise StructureError(
                f"Slots of {rows} × {columns} were asked for.",
                f"They do not divide the weight {out} × {inp} = "
                f"({factored(out)}) × ({factored(inp)}).",
                f"Leave that weight out, or give {method}(width=...) a common divisor.",
            )
    return rows, columns


def _slot_count(ws: Sequence[Base], rows: int, columns: int) -> int:
    return sum((w.matrix[0] // rows) * (w.matrix[1] // columns) for w in ws)


@method(scope="group", paper="FacT: Jie and Deng 2023, arXiv:2212.03145")
def fact_tt(
    ws: list[Base], *, rank: int = 16, alpha: float | None = None, width: int | None = None
) -> list[Expr]:
    """ΔW = s V S_t U in every slot t,  U, V shared,  s = α;  rank ≤ r a slot;  2dr + T r².

    Parameters
    ----------
    rank : int
        r; V is ``(d, r)``, U is ``(r, d)``, and every slot has its own S ``(r, r)``.
    alpha : float, optional
        The scale itself; 1 without it.
    width : int, optional
        d. A weight ``(p d, q d)`` is a grid of p·q slots, as the reference cuts fc1 into four
        chunks of outputs and fc2 into four of inputs. By default the smallest ``out`` of the
        group by its smallest ``in``, and V and U have those lengths.

    Notes
    -----
    2 d r + T r² parameters for T slots. The tensor train of the stacked updates. Start: V = 0,
    U and S Kaiming, as ``torch.nn.Linear``.
    """
    rows, columns = _slots("fact_tt", ws, width)
    check_count("fact_tt", "rank", rank)
    check_at_most("fact_tt", rank, min(rows, columns), f"a slot of {rows} × {columns}")
    V = common("V", rows, rank, start=zeros())
    U = common("U", rank, columns, start=kaiming_uniform())
    bound = 1 / sqrt(rank)
    s = scale("fact_tt", alpha)
    found: list[Expr] = []
    for w in ws:
        grid = (w.matrix[0] // rows, w.matrix[1] // columns)
        S = own("S", *grid, rank, rank, start=uniform(-bound, bound))
        made = einsum("o a, p q a b, b i -> (p o) (q i)", V, S, U)
        found.append(s * reshape(made, *w.shape))
    return found


@method(scope="group", paper="FacT: Jie and Deng 2023, arXiv:2212.03145")
def fact_tk(
    ws: list[Base], *, rank: int = 16, alpha: float | None = None, width: int | None = None
) -> list[Expr]:
    """ΔW = s V (Σ_k C_k P_tk) U in every slot t,  s = α;  rank ≤ r a slot;  2dr + r³ + T r.

    Parameters
    ----------
    rank : int
        r; V is ``(d, r)``, U is ``(r, d)``, C ``(r, r, r)`` is shared as they are, and every
        slot has its own P ``(r,)``.
    alpha : float, optional
        The scale itself; 1 without it.
    width : int, optional
        d; see ``fact_tt``.

    Notes
    -----
    2 d r + r³ + T r parameters for T slots. The Tucker tensor of the stacked updates; the
    reference stores all P as one matrix ``(r, T)``. Start: V = 0, U Kaiming, C and P Xavier
    uniform (P for the shape of that matrix).
    """
    return _tucker_slots("fact_tk", ws, rank, alpha, width)


@method(scope="group", paper="Aurora: Wang et al. 2023, arXiv:2305.08381")
def aurora(
    ws: list[Base], *, rank: int = 64, alpha: float | None = None, width: int | None = None
) -> list[Expr]:
    """ΔW = s V (Σ_k C_k P_tk) U in every slot t,  V, C, U shared,  s = α;  rank ≤ r a slot.

    Parameters
    ----------
    rank : int
        r; V is ``(out, r)``, U is ``(r, in)``, C is ``(r, r, r)``; a slot's P is ``(r,)``.
    alpha : float, optional
        The scale itself; 1 without it, as in the reference.
    width : int, optional
        The side of a slot; see ``fact_tt``.

    Notes
    -----
    r(out + in) + r³ + T r parameters for T slots. The public code is ``fact_tk`` over the
    attention of a text and a vision model; the paper writes a CP tensor Σ_r λ_r u_r ∘ v_r ∘ p_r
    (C diagonal), which is unverified. Start: as ``fact_tk``. Its gates on activations are no
    updates of weights and are not here.
    """
    return _tucker_slots("aurora", ws, rank, alpha, width)


def _tucker_slots(
    method: str, ws: Sequence[Base], rank: int, alpha: float | None, width: int | None
) -> list[Expr]:
    rows, columns = _slots(method, ws, width)
    check_count(method, "rank", rank)
    check_at_most(method, rank, min(rows, columns), f"a slot of {rows} × {columns}")
    V = common("V", rows, rank, start=zeros())
    C = common("C", rank, rank, rank, start=xavier_uniform())
    U = common("U", rank, columns, start=kaiming_uniform())
    bound = sqrt(6 / (rank + _slot_count(ws, rows, columns)))
    s = scale(method, alpha)
    found: list[Expr] = []
    for w in ws:
        grid = (w.matrix[0] // rows, w.matrix[1] // columns)
        P = own("P", *grid, rank, start=uniform(-bound, bound))
        made = einsum("o a, a b k, p q k, b i -> (p o) (q i)", V, C, P, U)
        found.append(s * reshape(made, *w.shape))
    return found


# --- with an axis of heads: LoRTA and CaRA -------------------------------------------------

HEAD_AXES = ("in", "out", "attention")


@method(scope="group", paper="LoRTA: Hounie et al. 2024, arXiv:2410.04060")
def lorta(
    ws: list[Base],
    *,
    rank: int = 8,
    alpha: float | None = None,
    use_rslora: bool = False,
    heads: int = 12,
    projections: int = 4,
    head_axis: str = "in",
    init_scale: float = 0.0,
) -> list[Expr]:
    """ΔW = s Σ_r A[a] H[h] M[m] L[l] B[e] at [a, (h, e)],  one CP tensor,  s = α/r;  rank ≤ r.

    Parameters
    ----------
    rank : int
        r, the number of terms.
    alpha : float, optional
        α; the scale is 1 without it.
    use_rslora : bool
        Divide α by √r instead of r.
    heads : int
        The number of attention heads of the largest weight. A weight with fewer (grouped
        keys and values) reads the first rows of H.
    projections : int
        How many weights a layer has: weight k of the group (in the model's order) is
        projection k mod ``projections`` of layer k div ``projections``.
    head_axis : {"in", "out", "attention"}
        Which side of the torch weight ``(out, in)`` the heads are on. ``"in"``: for all, which
        is what the reference does; ``"out"``: for all; ``"attention"``: out for all but the
        last projection of a layer, which is what q, k, v and o mean.
    init_scale : float
        H, M and L are Kaiming with a = √5·``init_scale``.

    Notes
    -----
    r(d + d_head + heads + projections + L) parameters for the whole model. A weight reads the
    row of M of its projection and the row of L of its layer, each a leaf of its own. Start:
    A ``(d, r)`` Kaiming, B ``(r, d_head)`` = 0, as in the reference. SuperLoRA's LoRTA is a
    Tucker tensor and is ``superlora(order=...)``.
    """
    for name, value in (("rank", rank), ("heads", heads), ("projections", projections)):
        check_count("lorta", name, value)
    check_choice("lorta", "head_axis", head_axis, HEAD_AXES)
    if init_scale:
        check_number("lorta", "init_scale", init_scale, 1.0)
    layers = _layers(ws, projections)
    sides = [_sides(w, head_axis, k % projections == projections - 1) for k, w in enumerate(ws)]
    plain, width = max(side for side, _ in sides), _head_width("lorta", sides, heads)
    bound = sqrt(6 / ((1 + 5 * init_scale**2) * rank))
    wide = uniform(-bound, bound)
    A = common("A", plain, rank, start=kaiming_uniform())
    H = common("H", heads, rank, start=wide)
    M = [common(f"M{m}", rank, start=wide) for m in range(min(projections, len(ws)))]
    L = [common(f"L{layer}", rank, start=wide) for layer in range(layers)]
    B = common("B", rank, width, start=zeros())
    s = scale("lorta", alpha, rank, use_rslora)
    found: list[Expr] = []
    for k, (w, (side, headed)) in enumerate(zip(ws, sides, strict=True)):
        own_rows = (M[k % projections], L[k // projections])
        parts = (first_rows(A, side), first_rows(H, headed // width), *own_rows, B)
        made = einsum("a r, h r, r, r, r e -> a (h e)", *parts)
        made = made.T if _heads_first(head_axis, k % projections == projections - 1) else made
        found.append(s * reshape(made, *w.shape))
    return found


def _layers(ws: Sequence[Base], projections: int) -> int:
    if len(ws) % projections and len(ws) > projections:
        fitting = max(d for d in range(1, projections + 1) if len(ws) % d == 0)
        raise StructureError(
            f"projections={projections} was asked for.",
            f"{len(ws)} weights are no whole number of layers of {projections} projections.",
            f"Adapt {projections} weights in every layer, or use lorta(projections={fitting}).",
        )
    return -(-len(ws) // projections)


def _heads_first(head_axis: str, is_last: bool) -> bool:
    return head_axis == "out" or (head_axis == "attention" and not is_last)


def _sides(w: Base, head_axis: str, is_last: bool) -> tuple[int, int]:
    """The side without heads, then the side with them."""
    out, inp = w.matrix
    return (inp, out) if _heads_first(head_axis, is_last) else (out, inp)


def _head_width(method: str, sides: Sequence[tuple[int, int]], heads: int) -> int:
    """The size of one head, which must divide the headed side of every weight."""
    headed = [n for _, n in sides]
    largest = max(headed)
    fitting = [h for h in range(1, largest + 1) if _has_heads(headed, largest, h)]
    if heads not in fitting:
        nearest = min(fitting, key=lambda h: abs(h - heads))
        raise StructureError(
            f"heads={heads} was asked for.",
            f"The sides with the heads are {', '.join(map(str, dict.fromkeys(headed)))}, and a "
            f"head of the largest, {largest} / {heads}, must divide them all.",
            f"Use {method}(heads={nearest}).",
        )
    return largest // heads


def _has_heads(headed: Sequence[int], largest: int, heads: int) -> bool:
    return largest % heads == 0 and all(n % (largest // heads) == 0 for n in headed)


@method(scope="group", paper="CaRA: Veeramacheneni et al. 2025 (reference code of BonnBytes)")
def cara(
    ws: list[Base],
    *,
    rank: int = 16,
    alpha: float | None = None,
    heads: int = 12,
    part: str = "attention",
) -> list[Update]:
    """ΔW = s Σ_r λ_r A1[t] A2[i] A3[h] A4[e] at [(h, e), i],  one CP tensor,  s = α;  rank ≤ r.

    Parameters
    ----------
    rank : int
        r, the number of terms.
    alpha : float, optional
        The scale itself; 1 without it.
    heads : int
        The number of attention heads of the largest weight (``part="attention"``).
    part : {"attention", "rest"}
        The method has two tensors: ``"attention"`` for q, k and v, ``"rest"`` for the
        projection and the two layers of the MLP. Adapt each part under a name of its own.

    Notes
    -----
    ``"attention"``: r(T + d + heads + d/heads) + r parameters for T weights. ``"rest"``: with
    the smallest side d, a weight is cut in slots ``(d, d)`` along its longer side, and
    ``ΔW[(t, a), c] = s Σ_r λ_r A1[t] A2[a] A3[c]``, transposed where in > out; r(T + 2d) + r
    for T slots, and one bias per shape of weight, shared and scaled by s too. Start: A2 = 0,
    λ = 1, A3 and A4 orthogonal, A1 normal with the variance of Xavier; biases 0.
    """
    check_count("cara", "rank", rank)
    check_choice("cara", "part", part, ("attention", "rest"))
    if part == "rest":
        return _rest(ws, rank, alpha)
    check_count("cara", "heads", heads)
    sides = [(w.matrix[1], w.matrix[0]) for w in ws]
    width = _head_width("cara", sides, heads)
    weights = common("lambda", rank, start=ones())
    A2 = common("A2", max(side for side, _ in sides), rank, start=zeros())
    A3 = common("A3", heads, rank, start=orthogonal())
    A4 = common("A4", width, rank, start=orthogonal())
    A1 = own("A1", rank, start=normal(sqrt(2 / (len(ws) + rank))))
    s = scale("cara", alpha)
    found: list[Update] = []
    for w in ws:
        out, inp = w.matrix
        parts = (weights, A1, first_rows(A2, inp), first_rows(A3, out // width), A4)
        made = einsum("r, r, i r, h r, e r -> (h e) i", *parts)
        found.append(Update(s * reshape(made, *w.shape)))
    return found


def _rest(ws: Sequence[Base], rank: int, alpha: float | None) -> list[Update]:
    side = min(n for w in ws for n in w.matrix)
    for w in ws:
        out, inp = w.matrix
        if min(out, inp) != side or max(out, inp) % side:
            raise StructureError(
                "part='rest' was asked for.",
                f"The weight {out} × {inp} is no row of squares {side} × {side}, the smallest "
                "side of the group.",
                "Leave that weight out, or adapt it in a group of its own.",
            )
    slots = sum(max(w.matrix) // side for w in ws)
    weights = common("lambda", rank, start=ones())
    A2 = common("A2", side, rank, start=zeros())
    A3 = common("A3", side, rank, start=orthogonal())
    s = scale("cara", alpha)
    found: list[Update] = []
    for w in ws:
        out, inp = w.matrix
        A1 = own("A1", max(out, inp) // side, rank, start=normal(sqrt(2 / (slots + rank))))
        rows = "c (t a)" if inp > out else "(t a) c"
        made = einsum(f"r , t r , a r , c r -> {rows} ", weights, A1, A2, A3)
        bias = Parameter(f"bias_{out}x{inp}", (out,), zeros(), "group")
        found.append(Update(s * reshape(made, *w.shape), s * bias))
    return found
