"""Rotations of the base weight: W' = W0 Rᵀ or R W0 with R orthogonal, or nearly so.

R is built from small skew-symmetric blocks (OFT, BOFT, PSOFT), from reflections (HRA) or from
angles (RoAd). All but RoAd's are formed as R - I, so that ΔW keeps all digits of a small turn.
"""

from __future__ import annotations

from ..algebra.builders import (
    cayley,
    clip,
    cos,
    einsum,
    neumann,
    norm,
    orthonormal,
    reshape,
    scale_rows,
    sin,
    take,
    window,
)
from ..algebra.expression import Expr
from ..algebra.forms import toeplitz
from ..algebra.indexing import skew_map
from ..algebra.leaves import eye, frozen, parameter
from ..algebra.leaves import ones as all_ones
from ..algebra.nodes import Base
from ..algebra.starts import (
    identity,
    kaiming_uniform,
    left_singular,
    ones,
    paired_columns,
    right_singular,
    zeros,
)
from ..errors import StructureError
from ..structure import Update, method
from .limits import check_at_most, check_choice, check_count, check_number, check_parts, check_rank

SIDES = ("input", "output")


def _skew_part(blocks: Expr) -> Expr:
    """``B - Bᵀ`` of the last two axes."""
    batch = " ".join(f"b{k}" for k in range(blocks.ndim - 2))
    return blocks - einsum(f"{batch} i j -> {batch} j i", blocks)


def _restrained(skew: Expr, most: float, *axes: int) -> Expr:
    """Q with its norm over the axes brought down to ``most`` where it is above."""
    shrink = 1 / clip(norm(skew, *axes) / most, 1.0, float("inf"))
    kept = " ".join(f"a{k}" for k in range(skew.ndim) if k not in axes)
    every = " ".join(f"a{k}" for k in range(skew.ndim))
    return einsum(f"{kept} , {every} -> {every}", shrink, skew)


def _turn(method: str, skew: Expr, series: bool, terms: int, inverse: bool = False) -> Expr:
    """R - I: Cayley's, or PEFT's truncated series of Cayley's inverse."""
    if not series:
        return cayley(skew, inverse=inverse, minus_identity=True)
    check_count(method, "num_cayley_neumann_terms", terms, least=2)
    return neumann(skew, {2: 1, 3: 3}.get(terms, terms - 1), minus_identity=True)


def _with_row_scale(w: Base, change: Expr, name: str) -> Expr:
    """``diag(s) (W0 + change) - W0`` with s starting at one."""
    s = parameter(name, w.shape[0], start=ones())
    return scale_rows(s, w + change) - w


@method(paper="OFT: Qiu et al. 2023, arXiv:2306.07280")
def oft(
    w: Base,
    *,
    oft_block_size: int = 32,
    side: str = "input",
    stored: str = "triangle",
    block_share: bool = False,
    use_cayley_neumann: bool = True,
    num_cayley_neumann_terms: int = 5,
    coft: bool = False,
    eps: float = 6e-5,
    constraint: float | None = None,
    rescaled: bool = False,
) -> Expr:
    """W' = W0 diag(R_1, …, R_n)ᵀ,  R_k orthogonal of b × b;  any rank;  in(b - 1)/2 parameters.

    Parameters
    ----------
    oft_block_size : int
        b, 2 or more, a divisor of ``in`` (of ``out`` on the output side).
    side : {"input", "output"}
        ``"output"`` turns the output instead, W' = diag(R_1, …, R_n) W0; out(b - 1)/2
        parameters.
    stored : {"triangle", "square"}
        ``"triangle"``: the leaf R ``(n, b(b - 1)/2)`` is the strict upper triangle of Q.
        ``"square"``: it is ``(n, b, b)`` and Q = R - Rᵀ; n b² parameters.
    block_share : bool
        One block for all, n = 1 in the counts.
    use_cayley_neumann : bool
        R_k = I + 2Q + 2Q² + 2Q³ + Q⁴; without it R_k = (I - Q)(I + Q)⁻¹. **These two turn in
        opposite directions**, so a checkpoint needs the flag.
    num_cayley_neumann_terms : int
        How many terms the series has, as PEFT counts them (its 3 gives its 4).
    coft : bool
        Bring every ‖Q_k‖_F down to ε/√n. PEFT overwrites the leaf with that; here the leaf stays.
    eps : float
        ε.
    constraint : float, optional
        Bring the norm of all blocks together down to it (LyCORIS, whose own setting is divided
        by ``out``).
    rescaled : bool
        Multiply every row of W' by a trained number, out more parameters (LyCORIS).

    Notes
    -----
    LyCORIS' Diag-OFT is ``oft(side="output", stored="square", use_cayley_neumann=False)``. Start:
    R = 0, so that ΔW = 0. A convolution is flattened to ``(out, in·kernel)``, which is what PEFT
    merges; PEFT's forward of a convolution adds overlapping patches and differs from its merge.
    """
    b = oft_block_size
    check_choice("oft", "side", side, SIDES)
    check_choice("oft", "stored", stored, ("triangle", "square"))
    check_count("oft", "oft_block_size", b, least=2)
    size = w.matrix[1] if side == "input" else w.matrix[0]
    check_parts("oft", "oft_block_size", b, {"in" if side == "input" else "out": size})
    count = 1 if block_share else size // b
    if stored == "triangle":
        free = parameter("R", count, b * (b - 1) // 2, start=zeros())
        skew = take(free, skew_map(b), axis=1)
    else:
        skew = _skew_part(parameter("R", count, b, b, start=zeros()))
    if coft:
        check_number("oft", "eps", eps, 6e-5)
        skew = _restrained(skew, eps / count**0.5, 1, 2)
    if constraint is not None:
        check_number("oft", "constraint", constraint, 1.0)
        skew = _restrained(skew, constraint, 0, 1, 2)
    turn = _turn("oft", skew, use_cayley_neumann, num_cayley_neumann_terms)
    block = "one j i" if block_share else "n j i"
    if side == "input":
        pattern = f"o (n i), {block} -> o (n j)"
    else:
        pattern = f"(n i) o, {block} -> (n j) o"
    change = reshape(einsum(pattern, reshape(w, *w.matrix), turn, i=b), *w.shape)
    return _with_row_scale(w, change, "s") if rescaled else change


@method(paper="BOFT: Liu et al. 2024, arXiv:2311.06243")
def boft(
    w: Base,
    *,
    boft_block_size: int = 4,
    boft_n_butterfly_factor: int = 1,
    convention: str = "peft",
    rescaled: bool = True,
    constraint: float | None = None,
) -> Expr:
    """W' = diag(s) W0 (M_m ⋯ M_1)ᵀ,  M_k a butterfly of b × b blocks;  m·in·b + out parameters.

    Parameters
    ----------
    boft_block_size : int
        b, even where there are butterflies; 2^(m-1) b divides ``in`` (LyCORIS: ``out``).
    boft_n_butterfly_factor : int
        m. Factor k mixes within stretches of 2^(k-1) b neighbors; m·in·b + out parameters.
    convention : {"peft", "lycoris"}
        ``"peft"``: turns the input, each block (I - A)(I + A)⁻¹ with A = ½(R - Rᵀ).
        ``"lycoris"``: turns the output, W' = diag(s) M_m ⋯ M_1 W0, each block
        (I + Q)(I - Q)⁻¹ with Q = R - Rᵀ, and the two halves of a block interleaved.
    rescaled : bool
        Whether s trains; LyCORIS leaves it out by default.
    constraint : float, optional
        Bring the norm of all Q together down to it, as in ``oft``.

    Notes
    -----
    R is ``(m, n, b, b)`` for n blocks and starts at zero, s at one. Without its CUDA extension
    PEFT uses m = 1 whatever is asked. A convolution is flattened to ``(out, in·kernel)``.
    """
    b, m, peft = boft_block_size, boft_n_butterfly_factor, convention == "peft"
    check_choice("boft", "convention", convention, ("peft", "lycoris"))
    check_count("boft", "boft_n_butterfly_factor", m)
    check_count("boft", "boft_block_size", b)
    size = w.matrix[1] if peft else w.matrix[0]
    halves = m > 1 or not peft
    if size % (b * 2 ** (m - 1)) or (halves and b % 2):
        raise StructureError(
            f"boft_block_size={b} with boft_n_butterfly_factor={m} was asked for.",
            f"2^{m - 1} blocks of {b} must fit a whole number of times into {size}, and a block "
            "has two equal halves.",
            "Use boft(boft_block_size=2, boft_n_butterfly_factor=1), or another pair that fits.",
        )
    R = parameter("R", m, size // b, b, b, start=zeros())
    skew = _skew_part(R) / 2 if peft else _skew_part(R)
    if constraint is not None:
        check_number("boft", "constraint", constraint, 1.0)
        skew = _restrained(skew, constraint, 0, 1, 2, 3)
    turned = reshape(w, *w.matrix)
    for k in range(m):
        factor = reshape(take(skew, [k]), *R.shape[1:])
        turned = turned + _butterfly(turned, _turn("boft", factor, False, 0, not peft), k, peft)
    change = reshape(turned - reshape(w, *w.matrix), *w.shape)
    return _with_row_scale(w, change, "s") if rescaled else change


def _butterfly(matrix: Expr, turn: Expr, stage: int, peft: bool) -> Expr:
    """Blocks of pairs of half blocks that are 2^stage half blocks apart, on one side."""
    if peft and stage == 0:
        return einsum("o (s x), s y x -> o (s y)", matrix, turn)
    half = turn.shape[-1] // 2
    if peft:
        pattern = "o (s h k d), (s k) (g c) (h d) -> o (s g k c)"
    else:
        pattern = "(s h k d) o, (s k) (c g) (d h) -> (s g k c) o"
    return einsum(pattern, matrix, turn, h=2, g=2, k=2**stage, c=half, d=half)


@method(paper="HRA: Yuan et al. 2024, arXiv:2405.17484")
def hra(w: Base, *, rank: int = 8, apply_GS: bool = False) -> Expr:
    """W' = W0 ∏_j (I - 2 u_j u_jᵀ/‖u_j‖²),  j ≤ r;  rank ΔW ≤ r;  r·in parameters.

    Parameters
    ----------
    rank : int
        r; u ``(in, r)`` has the reflections as columns.
    apply_GS : bool
        Orthonormalize the columns first: W' = W0 (I - 2 Q Qᵀ).

    Notes
    -----
    Start: the columns in equal pairs, Kaiming, so that the reflections cancel and ΔW = 0 to
    rounding. **ΔW is not zero at the start** for an odd r, and never with ``apply_GS``, where
    the columns are all different here (PEFT's equal pairs have no second direction, and its
    Gram-Schmidt divides rounding errors by their norm). A convolution is flattened to
    ``(out, in·kernel)``.
    """
    check_count("hra", "rank", rank)
    inp = w.matrix[1]
    check_at_most("hra", rank, inp, f"the space of {inp} inputs")
    u = parameter("u", inp, rank, start=kaiming_uniform() if apply_GS else paired_columns())
    flat = reshape(w, *w.matrix)
    if apply_GS:
        basis = orthonormal(u)
        return reshape(-2 * (flat @ basis @ basis.T), *w.shape)
    return reshape(-(flat @ u @ _between_reflections(u) @ u.T), *w.shape)


def _between_reflections(u: Expr) -> Expr:
    """T of ``∏ (I - 2 u_j u_jᵀ/‖u_j‖²) = I - U T Uᵀ``, upper triangular of r × r.

    T = (S + D/2)⁻¹ for ``UᵀU = Sᵀ + D + S`` with D its diagonal and S what is above (the compact
    WY form). With N = 2 D⁻¹ S that is ``2 (I + N)⁻¹ D⁻¹``, and ``(I + N)⁻¹ = I + ½ (C(N) - I)``
    with Cayley's function C, which N need not be skew for. A zero column has 1/0 := 0.
    """
    r = u.shape[1]
    squares = einsum("i r, i r -> r ", u, u)
    inverse = einsum("r , r s -> r s", 1 / squares, eye(r))
    if r == 1:
        return 2 * inverse
    above = toeplitz(window(all_ones(r - 1), 2 * r - 1), r)
    N = inverse @ (2 * (u.T @ u) * above)
    return (cayley(N, minus_identity=True) + 2 * eye(r)) @ inverse


@method(paper="PSOFT: as in PEFT 0.21 (PsoftConfig)")
def psoft(
    w: Base,
    *,
    rank: int = 32,
    psoft_orth: bool = True,
    psoft_mag_a: bool = True,
    psoft_mag_b: bool = True,
    use_cayley_neumann: bool = False,
    num_cayley_neumann_terms: int = 5,
    cayley_neumann_eps: float | None = None,
) -> Expr:
    """ΔW = U Σ (diag(β) R diag(α) - I) Vᵀ,  R orthogonal;  rank ≤ r;  r(r - 1)/2 + 2r parameters.

    Parameters
    ----------
    rank : int
        r, 2 or more; U Σ Vᵀ is the rank-r part of W0, a frozen pair of leaves.
    psoft_orth : bool
        R = (I + Q)(I - Q)⁻¹ from the strict upper triangle of Q; without it R is any matrix,
        r² parameters.
    psoft_mag_a, psoft_mag_b : bool
        Whether α and β are there.
    use_cayley_neumann : bool
        R = I + 2Q + 2Q² + 2Q³ + Q⁴ instead, which turns in the same direction here.
    num_cayley_neumann_terms : int
        How many terms that series has, as PEFT counts them.
    cayley_neumann_eps : float, optional
        With the series: bring ‖Q‖_F down to it.

    Notes
    -----
    Start: Q = 0, α = β = 1. PEFT's α/r is divided out of its factors again, so there is no scale.
    A convolution is flattened; PEFT has linear layers only.
    """
    check_rank("psoft", rank, w)
    check_count("psoft", "rank", rank, least=2)
    out, inp = w.matrix
    matrix = reshape(w, out, inp)
    B = frozen("B", out, rank, recipe=left_singular(matrix, rank, 1.0))
    A = frozen("A", rank, inp, recipe=right_singular(matrix, rank, 0.0))
    if psoft_orth:
        skew = take(parameter("R", rank * (rank - 1) // 2, start=zeros()), skew_map(rank))
        if use_cayley_neumann and cayley_neumann_eps is not None:
            check_number("psoft", "cayley_neumann_eps", cayley_neumann_eps, 0.9)
            skew = _restrained(skew, cayley_neumann_eps, 0, 1)
        turn = _turn("psoft", skew, use_cayley_neumann, num_cayley_neumann_terms, inverse=True)
    else:
        turn = parameter("R", rank, rank, start=identity()) - eye(rank)
    inner = turn + eye(rank)
    if psoft_mag_b:
        inner = einsum("i , i j -> i j", parameter("beta", rank, start=ones()), inner)
    if psoft_mag_a:
        inner = einsum("i j, j -> i j", inner, parameter("alpha", rank, start=ones()))
    inner = inner - eye(rank) if psoft_mag_a or psoft_mag_b else turn
    return reshape(B @ inner @ A, *w.shape)


@method(paper="RoAd: Liao and Monz 2024, arXiv:2409.00119")
def road(w: Base, *, variant: str = "road_1", group_size: int = 64) -> Update:
    """W' = R W0,  b' = R b0,  R scales and turns pairs of rows;  any rank;  out parameters.

    Parameters
    ----------
    variant : {"road_1", "road_2", "road_4"}
        How many angles θ and lengths α each pair of rows has: one (out parameters in all), one
        for each row (2·out), or one for each entry of its 2 × 2 block (4·out).
    group_size : int
        g, even, a divisor of ``out``: rows j and j + g/2 of each group of g are a pair.

    Notes
    -----
    Row j becomes α_j cos θ_j W0[j] - α_j sin θ_j W0[j + g/2], and its partner
    α cos θ W0[j + g/2] + α sin θ W0[j] with its own numbers. Start: θ = 0, α = 1. PEFT has
    linear layers only.
    """
    out, g = w.shape[0], group_size
    check_choice("road", "variant", variant, ("road_1", "road_2", "road_4"))
    check_count("road", "group_size", g, least=2)
    check_parts("road", "group_size", g, {"out": out})
    if g % 2:
        raise StructureError(
            f"group_size={g} was asked for.",
            "Rows turn in pairs, so a group has an even number of them.",
            f"Use road(group_size={2 * (g // 2)}).",
        )
    count = {"road_1": out // 2, "road_2": out, "road_4": 2 * out}[variant]
    theta = parameter("theta", count, start=zeros())
    alpha = parameter("alpha", count, start=ones())
    kept, swapped = (
        _road_column(f(theta) * alpha, variant, g, k) for k, f in enumerate((cos, sin))
    )
    # The skew 2 × 2 matrix [[0, 1], [-1, 0]] brings the partner of each row, with its sign.
    partner = take(all_ones(1), skew_map(2))

    def rotated(x: Expr) -> Expr:
        halves = reshape(x, out // g, 2, g // 2, x.size // out)
        turned = reshape(einsum("h k, n k j c -> n h j c", partner, halves), *x.shape)
        return scale_rows(kept, x) - scale_rows(swapped, turned)

    return Update(rotated(w) - w, rotated(w.bias) - w.bias)


def _road_column(entries: Expr, variant: str, group: int, number: int) -> Expr:
    """The column of R's 2 × 2 blocks of that number, one entry per row."""
    if variant == "road_1":
        return einsum("(n j), h -> (n h j)", entries, all_ones(2), j=group // 2)
    if variant == "road_2":
        return entries
    half = take(reshape(entries, -1, 2, group), [number], axis=1)
    return reshape(half, entries.size // 2)
