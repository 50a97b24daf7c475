"""Products in blocks: block-diagonal factors, grids of low ranks, Monarch matrices, tiles.

All are one network of factors with grouped axes; a block diagonal is an index that occurs in
both axes of the result.
"""

from __future__ import annotations

from math import sqrt

from ..algebra.builders import einsum, reshape, window
from ..algebra.expression import Expr, Start
from ..algebra.leaves import ones, parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_uniform, normal, uniform, zeros
from ..errors import StructureError
from ..structure import method
from .limits import check_choice, check_count, check_parts, factored, near_equal, scale


def _kaiming_of(fan_in: int) -> Start:
    """Kaiming's start (a = √5) of each block of a stack, for the fan-in of one block."""
    return uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))


@method(paper="MELoRA: Ren et al. 2024, arXiv:2402.17263")
def melora(w: Base, *, rank: int = 4, alpha: float | None = None, blocks: int = 2) -> Expr:
    """ΔW = s diag(B_1 A_1, …, B_n A_n),  s = α/r;  rank ≤ n r;  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r, of each block; B_j is ``(out/n, r)`` and A_j is ``(r, in/n)``.
    alpha : float, optional
        α of each block; the scale is 1 without it.
    blocks : int
        n, a divisor of ``out`` and of ``in``; 1 is ``lora``.

    Notes
    -----
    Start: A Kaiming in each block, B = 0. The blocks are stored as stacks of equal ranks; the
    paper also allows a rank of its own for each. A convolution is flattened.
    """
    out, inp = w.matrix
    check_count("melora", "rank", rank)
    check_parts("melora", "blocks", blocks, {"out": out, "in": inp})
    B = parameter("B", blocks, out // blocks, rank, start=zeros())
    A = parameter("A", blocks, rank, inp // blocks, start=_kaiming_of(inp // blocks))
    product = einsum("j o r, j r i -> (j o) (j i)", B, A)
    return scale("melora", alpha, rank) * reshape(product, *w.shape)


@method(paper="GraLoRA: Jung et al. 2025, arXiv:2505.20355")
def gralora(
    w: Base,
    *,
    rank: int = 32,
    alpha: float | None = None,
    gralora_k: int = 2,
    hybrid_r: int = 0,
) -> Expr:
    """ΔW = s (k × k low ranks + B A),  s = α/(r+h);  rank ≤ kr + h;  (r+h)(out+in) parameters.

    Parameters
    ----------
    rank : int
        r, a multiple of k.
    alpha : float, optional
        α; the scale is 1 without it.
    gralora_k : int
        k, a divisor of ``out`` and of ``in``; 1 is ``lora``.
    hybrid_r : int
        h, the rank of the plain product B A besides; 0 for none.

    Notes
    -----
    Block (m, n) is ``B[m, (n s), o] A[n, i, (m s)]`` summed over s < r/k, with A ``(k, in/k,
    r)`` and B ``(k, r, out/k)``: rank ≤ k r + h. Start: A Kaiming, B = 0. A convolution is
    flattened; PEFT has linear layers only.
    """
    out, inp = w.matrix
    check_count("gralora", "rank", rank)
    check_count("gralora", "hybrid_r", hybrid_r, least=0)
    k = gralora_k
    check_parts("gralora", "gralora_k", k, {"out": out, "in": inp, "rank": rank})
    A = parameter("A", k, inp // k, rank, start=_kaiming_of(inp // k))
    B = parameter("B", k, rank, out // k, start=zeros())
    update = einsum("n i (m s), m (n s) o -> (m o) (n i)", A, B, m=k, n=k)
    if hybrid_r:
        right = parameter("A_general", hybrid_r, inp, start=kaiming_uniform())
        update = update + parameter("B_general", out, hybrid_r, start=zeros()) @ right
    return scale("gralora", alpha, rank + hybrid_r) * reshape(update, *w.shape)


@method(paper="BD-LoRA: as in PEFT 0.21 (BdLoraConfig)")
def bd_lora(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    nblocks: int = 1,
    block_diagonal: str = "a",
) -> Expr:
    """ΔW = s B A with A (or B) block-diagonal,  s = α/r;  rank ≤ r;  r(out + in/n) parameters.

    Parameters
    ----------
    rank : int
        r, a multiple of n.
    alpha : float, optional
        α; the scale is 1 without it.
    nblocks : int
        n, the number of blocks.
    block_diagonal : {"a", "b"}
        Which factor has blocks: A, stored ``(r, in/n)``, or B, stored ``(out, r/n)``, each with
        its blocks one below the other; with B there are r(out/n + in) parameters.

    Notes
    -----
    Start: B = 0 and A Kaiming (with a = 0 where it has the blocks, else a = √5), as in PEFT,
    where patterns of module names say which factor has the blocks.
    """
    out, inp = w.matrix
    check_count("bd_lora", "rank", rank)
    check_choice("bd_lora", "block_diagonal", block_diagonal, ("a", "b"))
    size = {"in": inp} if block_diagonal == "a" else {"out": out}
    check_parts("bd_lora", "nblocks", nblocks, {"rank": rank} | size)
    if block_diagonal == "a":
        B = parameter("B", out, rank, start=zeros())
        A = parameter("A", rank, inp // nblocks, start=kaiming_uniform(a=0.0))
        product = einsum("o (j s), (j s) i -> o (j i)", B, A, j=nblocks)
    else:
        B = parameter("B", out, rank // nblocks, start=zeros())
        A = parameter("A", rank, inp, start=kaiming_uniform())
        product = einsum("(j o) s, (j s) i -> (j o) i", B, A, j=nblocks)
    return scale("bd_lora", alpha, rank) * reshape(product, *w.shape)


@method(paper="MoRe: Tan et al. 2024, arXiv:2408.17383")
def monarch(w: Base, *, rank: int = 4, blocks: int = 4) -> Expr:
    """ΔW = P2 diag(L2_m) P1 diag(L1_n),  n, m ≤ N;  rank ≤ N r;  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r; L1 is ``(N, r, in/N)`` and L2 is ``(N, out/N, r)``. Where N divides r, each of the
        N × N blocks of ΔW has rank ≤ r/N.
    blocks : int
        N, a divisor of ``out`` and of ``in``.

    Notes
    -----
    P1 reads the N·r intermediates as ``(r, N)`` and transposes; P2 puts row o of block m at
    ``o N + m``. Start: L1 Kaiming in each block, L2 = 0. No α. The reference's optional scaler
    and LayerNorm are not here.
    """
    out, inp = w.matrix
    check_count("monarch", "rank", rank)
    check_parts("monarch", "blocks", blocks, {"out": out, "in": inp})
    L1 = parameter("L1", blocks, rank, inp // blocks, start=_kaiming_of(inp // blocks))
    L2 = parameter("L2", blocks, out // blocks, rank, start=zeros())
    inner = einsum("n k i -> (n k) (n i)", L1)
    return reshape(einsum("m o q, (q m) i -> (o m) i", L2, inner), *w.shape)


@method(paper="BTT: Qiu et al. 2024, arXiv:2406.06248")
def btt(
    w: Base,
    *,
    rank: int = 1,
    alpha: float | None = None,
    cores: int = 2,
    row_sizes: tuple[int, ...] | None = None,
    column_sizes: tuple[int, ...] | None = None,
) -> Expr:
    """ΔW = s Σ M_2 M_1,  s = α/r;  rank ≤ r m_1 n_2;  r m_1 n_2 (n_1 + m_2) parameters.

    Parameters
    ----------
    rank : int
        r, every inner rank.
    alpha : float, optional
        α; the scale is 1 without it.
    cores : int
        c. Core M_j has the axes ``(r_j, r_{j-1}, m_1 … m_j, n_j … n_c)``, r_0 = r_c = 1; two
        cores with r = 1 are a Monarch matrix.
    row_sizes, column_sizes : tuple of int, optional
        m and n, with products ``out`` and ``in``; near-equal factors by default.

    Notes
    -----
    The paper trains whole weights of this form; as an update the last core starts at zero and
    core j at N(0, 1/n_j). Its own start and scale for an update are unverified.
    """
    check_count("btt", "rank", rank)
    check_count("btt", "cores", cores, least=2)
    rows = _sizes("row_sizes", row_sizes, w.matrix[0], cores)
    columns = _sizes("column_sizes", column_sizes, w.matrix[1], cores)
    factors: list[Expr] = []
    parts: list[str] = []
    for j in range(1, cores + 1):
        ranks = [f"r{k}" for k in (j, j - 1) if 0 < k < cores]
        sizes = (*[rank] * len(ranks), *rows[:j], *columns[j - 1 :])
        start = normal(1 / sqrt(columns[j - 1])) if j < cores else zeros()
        factors.append(parameter(f"M{j}", *sizes, start=start))
        modes = [f"m{k}" for k in range(j)] + [f"n{k}" for k in range(j - 1, cores)]
        parts.append(" ".join(ranks + modes))
    row, column = (" ".join(f"{a}{k}" for k in range(cores)) for a in "mn")
    product = einsum(f"{', '.join(parts)} -> ({row}) ({column})", *factors)
    return scale("btt", alpha, rank) * reshape(product, *w.shape)


def _sizes(name: str, sizes: tuple[int, ...] | None, total: int, count: int) -> tuple[int, ...]:
    if sizes is None:
        return near_equal(total, count)
    product = 1
    for n in sizes:
        product *= n
    if len(sizes) != count or any(type(n) is not int or n < 1 for n in sizes) or product != total:
        raise StructureError(
            f"{name}={sizes!r} was asked for.",
            f"It must be {count} positive integers whose product is {total} = {factored(total)}.",
            f"Use btt({name}={near_equal(total, count)}).",
        )
    return sizes


@method(paper="MiSS (Bone): Kang et al. 2024, arXiv:2409.15371")
def miss(w: Base, *, rank: int = 64, variant: str = "miss", mini_r: int = 1) -> Expr:
    """ΔW = Mᵀ tiled along the columns, ΔW[o, i] = M[i mod r, o];  rank ≤ r;  r·out parameters.

    Parameters
    ----------
    rank : int
        r, at most ``in``; M is ``(r, out)``.
    variant : {"miss", "mini", "bat"}
        PEFT's ``init_weights``. ``"mini"``: M is ``(r, mini_r)``, tiled along both axes;
        r·mini_r parameters. ``"bat"`` (Bone): M is ``(out/r, r, r)``, r divides ``out`` and
        ``in``, and block (g, j) of ΔW is W0[g, j] M[g] + M[g]; full rank, r·out parameters.
    mini_r : int
        The width of "mini"; a divisor of ``out``.

    Notes
    -----
    Start: M = 0. No α. A convolution is flattened; PEFT has linear layers only.
    """
    check_choice("miss", "variant", variant, ("miss", "mini", "bat"))
    check_count("miss", "rank", rank)
    out, inp = w.matrix
    if rank > inp:
        raise StructureError(
            f"rank={rank} was asked for.",
            f"A tile is at most as wide as the weight, whose matrix is {out} × {inp}.",
            f"Use miss(rank={inp}) or less.",
        )
    if variant == "bat":
        check_parts("miss", "rank", rank, {"out": out, "in": inp})
        M = parameter("M", out // rank, rank, rank, start=zeros())
        product = einsum("(g a) (j b), g b c -> (g a) (j c)", reshape(w, out, inp), M)
        update = product + einsum("g a c, j -> (g a) (j c)", M, ones(inp // rank))
        return reshape(update, *w.shape)
    tiles = -(-inp // rank)
    if variant == "mini":
        check_parts("miss", "mini_r", mini_r, {"out": out})
        M = parameter("M", rank, mini_r, start=zeros())
        rows, columns = ones(out // mini_r), ones(tiles)
        update = einsum("k m, l, j -> (l m) (j k)", M, rows, columns)
    else:
        M = parameter("M", rank, out, start=zeros())
        update = einsum("k o, j -> o (j k)", M, ones(tiles))
    return reshape(window(update, out, inp), *w.shape)
