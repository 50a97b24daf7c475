"""Small banks of numbers that all weights read: VB-LoRA, Uni-LoRA, TinyLoRA; shared random factors.

VeRA, DVoRA and RandLoRA are here as their papers have them, with one pair of random factors
for all weights; ``vera``, ``dvora`` and ``randlora`` draw a pair for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from ..algebra.builders import (
    concatenate,
    einsum,
    hold,
    reshape,
    row_norm,
    scale_rows,
    softmax_top,
    take,
    window,
)
from ..algebra.expression import Expr, Start
from ..algebra.indexing import IndexMap, permutation_map
from ..algebra.leaves import frozen
from ..algebra.nodes import Base, Frozen
from ..algebra.starts import (
    constant,
    kaiming_uniform,
    left_singular,
    normal,
    right_singular,
    uniform,
    value_of,
    zeros,
)
from ..errors import StructureError
from ..structure import method
from .limits import check_choice, check_count, check_number, factored, scale
from .projected import UNIT
from .shared import common, first_rows, frame, own


@method(scope="group", paper="VB-LoRA: Li et al. 2024, arXiv:2405.15179")
def vblora(
    ws: list[Base],
    *,
    rank: int = 4,
    num_vectors: int = 256,
    vector_length: int = 256,
    topk: int = 2,
) -> list[Expr]:
    """ΔW = B A, their pieces mixtures of k vectors of one bank V;  rank ≤ r.

    Parameters
    ----------
    rank : int
        r.
    num_vectors, vector_length : int
        V is ``(num_vectors, vector_length)``, shared by all weights; the length divides ``out``
        and ``in``.
    topk : int
        k: a piece of a row of A, or of a column of B, is the mean of k vectors of V by the
        softmax of its k largest logits.

    Notes
    -----
    h b + Σ h r(out + in)/b parameters for a bank of h vectors of length b and all weights; no
    scale. Leaves ``logits_A (r, in/b, h)`` and ``logits_B (out/b, r, h)``, as PEFT's. Start: V
    uniform in ±0.02, logits N(0, 0.1²), so **ΔW is not zero at the start** but small.
    """
    counts = {"rank": rank, "num_vectors": num_vectors, "vector_length": vector_length}
    for name, value in {**counts, "topk": topk}.items():
        check_count("vblora", name, value)
    if topk > num_vectors:
        raise StructureError(
            f"topk={topk} was asked for.",
            f"The bank has {num_vectors} vectors.",
            f"Use vblora(topk={num_vectors}) or less.",
        )
    for w in ws:
        _check_pieces(w, vector_length)
    V = common("V", num_vectors, vector_length, start=uniform(-0.02, 0.02))
    found: list[Expr] = []
    for w in ws:
        rows, columns = (n // vector_length for n in w.matrix)
        logits_A = own("logits_A", rank, columns, num_vectors, start=normal(0.1))
        logits_B = own("logits_B", rows, rank, num_vectors, start=normal(0.1))
        A = einsum("r g h, h v -> r (g v)", softmax_top(logits_A, topk), V)
        B = einsum("g r h, h v -> (g v) r", softmax_top(logits_B, topk), V)
        found.append(reshape(B @ A, *w.shape))
    return found


def _check_pieces(w: Base, length: int) -> None:
    out, inp = w.matrix
    if out % length or inp % length:
        fitting = max(d for d in range(1, length + 1) if not out % d and not inp % d)
        raise StructureError(
            f"vector_length={length} was asked for.",
            f"It must divide both sides of the weight, {out} = {factored(out)} and "
            f"{inp} = {factored(inp)}.",
            f"Use vblora(vector_length={fitting}).",
        )


@method(scope="group", paper="Uni-LoRA: Li et al. 2025, arXiv:2506.00799")
def unilora(
    ws: list[Base], *, rank: int = 4, theta_d_length: int = 256, proj_seed: int = 42
) -> list[Expr]:
    """ΔW = B A,  every element of all A and B one of d numbers θ, θ_j/√(its count);  rank ≤ r.

    Parameters
    ----------
    rank : int
        r.
    theta_d_length : int
        d, the number of parameters of the whole model; at most the number of elements of all
        A and B, so that each is read.
    proj_seed : int
        Chooses which element reads which number.

    Notes
    -----
    d parameters for the whole model; no scale. The map from θ to all A ``(r, in)`` and B
    ``(out, r)`` is an isometry: each number is read equally often, but for one. The elements
    are dealt out in turn and permuted within each weight (A, then B), so that nothing but
    seeds is stored; PEFT permutes them over the whole model, another fixed assignment. Start:
    θ uniform in ±0.02, so **ΔW is not zero at the start** but small.
    """
    check_count("unilora", "rank", rank)
    check_count("unilora", "theta_d_length", theta_d_length)
    check_count("unilora", "proj_seed", proj_seed, least=0)
    d, sizes = theta_d_length, [rank * sum(w.matrix) for w in ws]
    total = sum(sizes)
    if d > total:
        raise StructureError(
            f"theta_d_length={d} was asked for.",
            f"All A and B of rank {rank} have {total} elements together.",
            f"Use unilora(theta_d_length={total}) or less.",
        )
    theta = common("theta", d, start=uniform(-0.02, 0.02))
    often, more = divmod(total, d)
    numbers = window(theta, d - more, offset=(more,)) / sqrt(often)
    if more:
        numbers = concatenate([window(theta, more) / sqrt(often + 1), numbers])
    found: list[Expr] = []
    for k, (w, size) in enumerate(zip(ws, sizes, strict=True)):
        turn = IndexMap("wrap", (size,), d, (d, -sum(sizes[:k]) % d))
        dealt = take(take(numbers, turn), permutation_map(size, (proj_seed + k) % 2**32))
        found.append(low_rank_of(dealt, w, rank))
    return found


def low_rank_of(numbers: Expr, w: Base, rank: int) -> Expr:
    """``B A`` of a vector that holds A ``(rank, in)`` and then B ``(out, rank)``, row-major."""
    out, inp = w.matrix
    A = reshape(window(numbers, rank * inp), rank, inp)
    B = reshape(window(numbers, rank * out, offset=(rank * inp,)), out, rank)
    return reshape(B @ A, *w.shape)


@method(scope="group", paper="TinyLoRA: Morris et al. 2026, arXiv:2602.04118")
def tinylora(
    ws: list[Base], *, rank: int = 2, u: int = 64, weight_tying: float = 0.0
) -> list[Expr]:
    """ΔW = B (Σ_j v_j P_j) A,  B A = the rank-r part of W0,  P frozen, random;  rank ≤ r;  u a tie.

    Parameters
    ----------
    rank : int
        r, at most; a weight with a smaller side has that rank. B = U √Σ and A = √Σ Vᵀ.
    u : int
        The length of v; P is ``(u, r, r)``, N(0, 1/r), another for every weight.
    weight_tying : float
        t from 0 to 1: L weights have max(1, round(L(1 - t))) vectors v, one for consecutive
        weights (PEFT's rule); 1 for one v in the whole model. A tied vector is named by its
        number, as v0.

    Notes
    -----
    u parameters for each v. No scale. Start: v = 0. With u = r² and a basis of the matrices for
    P it is LoRA-XS. The order of the weights is the model's; PEFT seeds P by it, here each
    weight's path does.
    """
    check_count("tinylora", "rank", rank)
    check_count("tinylora", "u", u)
    check_tying(weight_tying)
    ties = max(1, round(len(ws) * (1.0 - weight_tying)))
    size = max(1, len(ws) // ties)
    if ties == len(ws):
        vectors = [own("v", u, start=zeros())] * ties
    else:
        vectors = [common(f"v{tie}", u, start=zeros()) for tie in range(ties)]
    found: list[Expr] = []
    for k, w in enumerate(ws):
        matrix = reshape(w, *w.matrix)
        r = min(rank, *w.matrix)
        B = Frozen("B", (w.matrix[0], r), left_singular(matrix, r, 0.5))
        A = Frozen("A", (r, w.matrix[1]), right_singular(matrix, r, 0.5))
        P = Frozen("P", (u, r, r), normal(1 / sqrt(r)))
        v = vectors[min(k // size, ties - 1)]
        found.append(reshape(einsum("o r, u, u r s, s i -> o i", B, v, P, A), *w.shape))
    return found


def check_tying(value: object) -> None:
    """Refuse a share of tied weights that is not between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StructureError(
            f"weight_tying={value!r} was asked for.",
            "It is a share between 0 (each weight its own v) and 1 (one v for all).",
            "Use tinylora(weight_tying=1.0).",
        )


# --- one pair of random factors for all weights --------------------------------------------


def _one_pair(ws: Sequence[Base], method: str, rank: int, d_initial: float) -> list[Expr]:
    check_count(method, "rank", rank)
    check_number(method, "d_initial", d_initial, 0.1)
    out, inp = frame(ws)
    random: Start = kaiming_uniform(a=0.0)
    B = frozen("B", out, rank, recipe=random, scope="group")
    A = frozen("A", rank, inp, recipe=random, scope="group")
    d = own("d", rank, start=constant(d_initial))
    found: list[Expr] = []
    for w in ws:
        rows, columns = w.matrix
        b = own("b", rows, start=zeros())
        cut = (b, first_rows(B, rows), d, window(A, rank, columns))
        found.append(reshape(einsum("o, o r, r, r i -> o i", *cut), *w.shape))
    return found


@method(scope="group", paper="Kopiczko et al. 2024, arXiv:2310.11454")
def shared_vera(ws: list[Base], *, rank: int = 256, d_initial: float = 0.1) -> list[Expr]:
    """ΔW = diag(b) B[:out] diag(d) A[:, :in],  one frozen pair B, A for all;  rank ≤ r;  out + r.

    Parameters
    ----------
    rank : int
        r; it may exceed the weights' sizes.
    d_initial : float
        The start of d.

    Notes
    -----
    out + r parameters for every weight. ``vera`` with the pair of random factors stored once,
    as in the paper and in PEFT: B has the rows of the largest ``out``, A the columns of the
    largest ``in``, and a weight reads their first ones. ``vera`` itself draws a pair for each
    weight, so its settings can differ from weight to weight. Start: as ``vera``.
    """
    return _one_pair(ws, "shared_vera", rank, d_initial)


@method(scope="group", paper="DVoRA: VeRA inside DoRA, Kopiczko et al. 2024, arXiv:2310.11454")
def shared_dvora(
    ws: list[Base], *, rank: int = 256, d_initial: float = 0.1, detach_norm: bool = True
) -> list[Expr]:
    """W' = m ⊙ V / ‖V‖,  V = W0 + diag(b) B[:out] diag(d) A[:, :in],  one pair B, A;  2·out + r.

    Parameters
    ----------
    rank : int
        r; it may exceed the weights' sizes.
    d_initial : float
        The start of d.
    detach_norm : bool
        Whether ‖V‖ is a constant for the gradient, as in ``dora``.

    Notes
    -----
    2·out + r parameters for every weight. ``dvora`` with the random factors of ``shared_vera``.
    Start: b = 0 and m = ‖W0‖ by rows, so ΔW = 0.
    """
    found: list[Expr] = []
    for w, update in zip(ws, _one_pair(ws, "shared_dvora", rank, d_initial), strict=True):
        v = w + update
        length = row_norm(v)
        m = own("m", w.shape[0], start=value_of(length))
        found.append(scale_rows(m / (hold(length) if detach_norm else length), v) - w)
    return found


@method(scope="group", paper="RandLoRA: Albert et al. 2025, arXiv:2502.00987")
def shared_randlora(
    ws: list[Base], *, rank: int = 32, alpha: float | None = None, pairing: str = "peft"
) -> list[Expr]:
    """ΔW = s Σ_n B_n diag(λ_n) A diag(γ_n),  one frozen pair B, A for all weights;  N(r + m).

    Parameters
    ----------
    rank : int
        r. B is ``(M, N, r)`` and A is ``(r, 1, m)`` for the largest sides; a weight reads the
        first N = ⌈min(out, in)/r⌉ of its terms and the first rows and columns.
    alpha : float, optional
        α; s = α/r. PEFT's default is 20 r.
    pairing : {"peft", "paper"}
        See ``randlora``.

    Notes
    -----
    N(r + m) parameters for every weight, m = min(out, in). ``randlora`` with the random factors
    stored once, as in the paper and in PEFT. Start: as ``randlora``.
    """
    check_count("shared_randlora", "rank", rank)
    check_choice("shared_randlora", "pairing", pairing, ("peft", "paper"))
    least, most = min(frame(ws)), max(frame(ws))
    whole_B = frozen("B", most, -(-least // rank), rank, recipe=UNIT, scope="group")
    whole_A = frozen("A", rank, 1, least, recipe=UNIT, scope="group")
    s = scale("shared_randlora", alpha, rank)
    found: list[Expr] = []
    for w in ws:
        small, large = sorted(w.matrix)
        count = -(-small // rank)
        B, A = window(whole_B, large, count, rank), window(whole_A, rank, 1, small)
        lambdas = own("lambda", rank, count, start=zeros())
        gammas = own("gamma", count, small, start=constant(1 / max(count, small)))
        if pairing == "paper":
            made = einsum("x n r, r n, r one m, n m -> x m", B, lambdas, A, gammas)
        else:
            right = einsum("r n, r one m, n m -> (r n) m", lambdas, A, gammas)
            made = reshape(B, large, count * rank) @ right
        made = made if w.matrix[0] >= w.matrix[1] else made.T
        found.append(s * reshape(made, *w.shape))
    return found
