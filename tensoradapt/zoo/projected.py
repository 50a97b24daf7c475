"""Between frozen random matrices, or behind a fixed pooling: few trained numbers.

LoRA-Mini trains the inner two of four factors, RandLoRA and PVeRA diagonals, QA-LoRA a product
that reads the input in groups. VeRA and LoRA-XS are in ``low_rank``.
"""

from __future__ import annotations

from math import sqrt

from ..algebra.builders import einsum, reshape, window
from ..algebra.expression import Expr
from ..algebra.leaves import frozen, ones, parameter
from ..algebra.nodes import Base
from ..algebra.starts import constant, kaiming_uniform, uniform, zeros
from ..errors import StructureError
from ..structure import method
from .limits import check_choice, check_count, check_number, factored, scale

UNIT = uniform(-sqrt(3), sqrt(3))
"""A uniform distribution of mean 0 and deviation 1."""


@method(paper="LoRA-Mini: Singh et al. 2024, arXiv:2411.15804")
def lora_mini(
    w: Base, *, rank: int = 8, alpha: float | None = None, a: int = 64, b: int | None = None
) -> Expr:
    """ΔW = s L B A R,  L, R frozen, random,  s = α/r;  rank ≤ min(r, a, b);  r(a + b) parameters.

    Parameters
    ----------
    rank : int
        r; B is ``(a, r)`` and A is ``(r, b)``.
    alpha : float, optional
        α; the scale is 1 without it.
    a, b : int
        The inner sizes of L ``(out, a)`` and R ``(b, in)``; b is a by default.

    Notes
    -----
    The paper's sizes, scale, the distribution of L and R and the start are unverified. Here L
    and R are Kaiming (a = √5) from the adapter's seed, A is Kaiming and B = 0. LoRA-XS is the
    case of one square matrix between singular vectors.
    """
    b = a if b is None else b
    for name, value in (("rank", rank), ("a", a), ("b", b)):
        check_count("lora_mini", name, value)
    out, inp = w.matrix
    L = frozen("L", out, a, recipe=kaiming_uniform())
    B = parameter("B", a, rank, start=zeros())
    A = parameter("A", rank, b, start=kaiming_uniform())
    R = frozen("R", b, inp, recipe=kaiming_uniform())
    return scale("lora_mini", alpha, rank) * reshape(L @ B @ A @ R, *w.shape)


@method(paper="PVeRA: Fillioux et al. 2025, arXiv:2512.07703")
def pvera(w: Base, *, rank: int = 256, d_initial: float = 0.1) -> Expr:
    """ΔW = diag(b) B diag(d[:r]) A[:r],  A and B frozen;  rank ≤ r;  out + 2r parameters.

    Parameters
    ----------
    rank : int
        r; A is ``(2r, in)`` and d is ``(2r,)``. It may exceed the weight's sizes.
    d_initial : float
        The start of d.

    Notes
    -----
    The mean of the paper's distribution, which is what it merges and uses at inference. Its
    second half, the log-variance d[r:] ⊙ A[r:] x, depends on the input; in training it adds
    noise, which is no function of the weights and is not here, so d[r:] has a zero gradient.
    Start: b = 0, A and B Kaiming with a = 0. Here A and B belong to one weight, as in ``vera``.
    """
    check_count("pvera", "rank", rank)
    check_number("pvera", "d_initial", d_initial, 0.1)
    out, inp = w.matrix
    b = parameter("b", out, start=zeros())
    B = frozen("B", out, rank, recipe=kaiming_uniform(a=0.0))
    d = parameter("d", 2 * rank, start=constant(d_initial))
    A = frozen("A", 2 * rank, inp, recipe=kaiming_uniform(a=0.0))
    mean = einsum("o, o r, r, r i -> o i", b, B, window(d, rank), window(A, rank, inp))
    return reshape(mean, *w.shape)


@method(paper="RandLoRA: Albert et al. 2025, arXiv:2502.00987")
def randlora(w: Base, *, rank: int = 32, alpha: float | None = None, pairing: str = "peft") -> Expr:
    """ΔW = s Σ_n B_n diag(λ_n) A diag(γ_n),  n ≤ N = ⌈m/r⌉;  N(r + m) parameters.

    Parameters
    ----------
    rank : int
        r, of each of the N terms. m = min(out, in) and M = max(out, in): B is ``(M, N, r)``, A is
        ``(r, m)``, both frozen and random; the sum stands transposed where in > out.
    alpha : float, optional
        α; s = α/r. PEFT's default is 20 r.
    pairing : {"peft", "paper"}
        ``"paper"``: the formula. ``"peft"``: PEFT lays the N r columns of B out with n first and
        the N r rows of diag(λ_n) A diag(γ_n) with n last before it multiplies, so column
        ``(n, ρ)`` of B meets row ``(ρ', n')`` with n r + ρ = ρ' N + n'. Another fixed pairing of
        random columns; needed to load PEFT's adapters.

    Notes
    -----
    Start: λ = 0, γ = 1/max(N, m); A and B uniform with deviation 1 (PEFT divides a uniform
    sample by its own deviation). Here A and B belong to one weight; the paper shares them.
    """
    check_count("randlora", "rank", rank)
    check_choice("randlora", "pairing", pairing, ("peft", "paper"))
    out, inp = w.matrix
    small, large = min(out, inp), max(out, inp)
    count = -(-small // rank)
    B = frozen("B", large, count, rank, recipe=UNIT)
    A = frozen("A", rank, 1, small, recipe=UNIT)
    lambdas = parameter("lambda", rank, count, start=zeros())
    gammas = parameter("gamma", count, small, start=constant(1 / max(count, small)))
    if pairing == "paper":
        made = einsum("x n r, r n, r one m, n m -> x m", B, lambdas, A, gammas)
    else:
        right = einsum("r n, r one m, n m -> (r n) m", lambdas, A, gammas)
        made = reshape(B, large, count * rank) @ right
    made = made if out >= inp else made.T
    return scale("randlora", alpha, rank) * reshape(made, *w.shape)


@method(paper="QA-LoRA: Xu et al. 2024, arXiv:2309.14717")
def qa_lora(
    w: Base, *, rank: int = 8, alpha: float | None = None, qalora_group_size: int = 16
) -> Expr:
    """ΔW = s B A P,  P sums groups of g columns over g²/in;  s = α/r;  r(out + in/g) parameters.

    Parameters
    ----------
    rank : int
        r; B is ``(out, r)`` and A is ``(r, in/g)``.
    alpha : float, optional
        α; the scale is 1 without it.
    qalora_group_size : int
        g, a divisor of ``in``: P x is the mean of each group of g inputs, times in/g (PEFT).

    Notes
    -----
    Rank ≤ min(r, in/g), and every g neighboring columns of ΔW are equal, so that a quantized W0
    with groups of g stays quantized when ΔW is added to its zero points. Start: A Kaiming,
    B = 0. A convolution is flattened to ``(out, in·kernel)``.
    """
    check_count("qa_lora", "rank", rank)
    check_count("qa_lora", "qalora_group_size", qalora_group_size)
    out, inp = w.matrix
    g = qalora_group_size
    if inp % g:
        raise StructureError(
            f"qalora_group_size={g} was asked for.",
            f"It must divide the columns of the weight, {inp} = {factored(inp)}.",
            f"Use qa_lora(qalora_group_size={max(d for d in range(1, g + 1) if inp % d == 0)}).",
        )
    groups = inp // g
    B = parameter("B", out, rank, start=zeros())
    A = parameter("A", rank, groups, start=kaiming_uniform())
    product = einsum("o r, r n, g -> o (n g)", B, A, ones(g)) * groups / g
    return scale("qa_lora", alpha, rank) * reshape(product, *w.shape)
