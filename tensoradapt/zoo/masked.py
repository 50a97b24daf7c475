"""Products of rank one terms with a weight each: ΔW = s Σ_j e_j b_j a_jᵀ.

The weights e_j are what an allocator of ranks prunes (AdaLoRA, LoRA², DoRA with dynamic ranks),
or what a mask of the caller switches (T-LoRA, DyLoRA).
"""

from __future__ import annotations

from ..algebra.builders import at_start, einsum, hold, reshape
from ..algebra.expression import Expr, Factor
from ..algebra.leaves import exact, frozen, parameter
from ..algebra.nodes import Base
from ..algebra.starts import (
    kaiming_uniform,
    left_singular,
    normal,
    ones,
    right_singular,
    singular_values,
    zeros,
)
from ..structure import Update, method
from .limits import check_choice, check_count, check_number, check_rank, scale
from .penalties import mean_variance, orthogonality

SMALL = normal(0.02)
"""The start of AdaLoRA's and LoRA²'s factors."""


def _over_rank(method: str, alpha: float | None, rank: int) -> Factor:
    """``α / (r + 10⁻⁵)``, AdaLoRA's scale; 1 without alpha."""
    checked = scale(method, alpha)
    return checked if alpha is None else exact(alpha / (rank + 1e-5))


def _check_weight(method: str, name: str, value: float) -> None:
    if value != 0:
        check_number(method, name, value, 0.5)


@method(paper="AdaLoRA: Zhang et al. 2023, arXiv:2303.10512")
def adalora(
    w: Base, *, rank: int = 12, alpha: float | None = None, orth_reg_weight: float = 0.5
) -> Update:
    """ΔW = s B diag(E) A,  s = α/(r + 10⁻⁵);  rank ≤ r;  r(out + in) + r parameters.

    Parameters
    ----------
    rank : int
        r, the rank before pruning (PEFT's ``init_r``).
    alpha : float, optional
        α; the scale is 1 without it. PEFT divides by r + 10⁻⁵ with the rank at the start,
        whatever is pruned.
    orth_reg_weight : float
        γ of the penalty γ (‖A Aᵀ - I‖_F + ‖Bᵀ B - I‖_F); 0 for none. PEFT takes the mean over
        all factors of the model; a sum over sites is that mean times twice their number.

    Notes
    -----
    Start: E = 0, A and B are N(0, 0.02²). E ``(r,)`` is the leaf that an allocator of ranks
    sets to zero where it prunes. A convolution is flattened to ``(out, in·kernel)``.
    """
    check_rank("adalora", rank, w)
    _check_weight("adalora", "orth_reg_weight", orth_reg_weight)
    out, inp = w.matrix
    B = parameter("B", out, rank, start=SMALL)
    E = parameter("E", rank, start=zeros())
    A = parameter("A", rank, inp, start=SMALL)
    update = _over_rank("adalora", alpha, rank) * einsum("o r, r, r i -> o i", B, E, A)
    penalty = orth_reg_weight * (orthogonality(A) + orthogonality(B.T)) if orth_reg_weight else None
    return Update(reshape(update, *w.shape), penalty=penalty)


@method(paper="LoRA²: Zhang et al. 2024, arXiv:2408.06854")
def lora_squared(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    width: int = 8,
    orth_reg_weight: float = 0.5,
) -> Update:
    """ΔW = s D C diag(E) B A,  s = α/(r + 10⁻⁵);  rank ≤ min(k, r);  k(out+in+2r) + r parameters.

    Parameters
    ----------
    rank : int
        r, the size of E; B is ``(r, k)`` and C is ``(k, r)``.
    alpha : float, optional
        α; the scale is 1 without it.
    width : int
        k, the inner width; the authors' code has 8. A is ``(k, in)`` and D is ``(out, k)``.
    orth_reg_weight : float
        γ of the penalty γ Σ ‖· - I‖_F over A Aᵀ, Bᵀ B, C Cᵀ and Dᵀ D; 0 for none. Its weight
        in the paper is unverified, and so is a further cross term.

    Notes
    -----
    Start: E = 0 and the four matrices N(0, 0.02²). E is the leaf that an allocator of ranks
    sets to zero where it prunes. A convolution is flattened; the paper has linear layers.
    """
    check_count("lora_squared", "rank", rank)
    check_count("lora_squared", "width", width)
    _check_weight("lora_squared", "orth_reg_weight", orth_reg_weight)
    out, inp = w.matrix
    D = parameter("D", out, width, start=SMALL)
    C = parameter("C", width, rank, start=SMALL)
    E = parameter("E", rank, start=zeros())
    B = parameter("B", rank, width, start=SMALL)
    A = parameter("A", width, inp, start=SMALL)
    product = einsum("o k, k r, r, r m, m i -> o i", D, C, E, B, A)
    update = reshape(_over_rank("lora_squared", alpha, rank) * product, *w.shape)
    if not orth_reg_weight:
        return Update(update)
    first, second = orthogonality(A) + orthogonality(B.T), orthogonality(C) + orthogonality(D.T)
    return Update(update, penalty=orth_reg_weight * (first + second))


@method(paper="DoRA with dynamic ranks: Mao et al. 2024, arXiv:2405.17357")
def dora_dynamic(
    w: Base, *, rank: int = 12, alpha: float | None = None, variance_weight: float = 0.1
) -> Update:
    """ΔW = s Σ_j c_j b_j a_jᵀ,  s = α/r0;  rank ≤ r0;  r0(out + in) + r0 parameters.

    Parameters
    ----------
    rank : int
        r0, the rank before pruning: 1.5 times the rank that is wanted, in the paper.
    alpha : float, optional
        α; the scale is 1 without it.
    variance_weight : float
        Of the penalty: the mean over j of the variances of a_j and of b_j, added; 0 for none.
        Whether the paper divides the variance by n or n - 1 is unverified; it is n here.

    Notes
    -----
    Start: c = 0, A and B Kaiming uniform with a = 0. c is the leaf that an allocator of ranks
    sets to zero where it prunes. A convolution is flattened to ``(out, in·kernel)``.
    """
    check_rank("dora_dynamic", rank, w)
    _check_weight("dora_dynamic", "variance_weight", variance_weight)
    out, inp = w.matrix
    B = parameter("B", out, rank, start=kaiming_uniform(a=0.0))
    c = parameter("c", rank, start=zeros())
    A = parameter("A", rank, inp, start=kaiming_uniform(a=0.0))
    update = scale("dora_dynamic", alpha, rank) * einsum("o r, r, r i -> o i", B, c, A)
    penalty = variance_weight * (mean_variance(A) + mean_variance(B.T)) if variance_weight else None
    return Update(reshape(update, *w.shape), penalty=penalty)


@method(paper="T-LoRA: Soboleva et al. 2025, arXiv:2507.05964")
def tlora(
    w: Base, *, rank: int = 8, alpha: float | None = None, sig_type: str = "principal"
) -> Expr:
    """ΔW = s (P diag(λ ⊙ m) Q - the same at the start),  s = α/r;  r(out + in) + r parameters.

    Parameters
    ----------
    rank : int
        r; the rank of ΔW is at most 2r.
    alpha : float, optional
        α; the scale is 1 without it.
    sig_type : {"principal", "last", "middle"}
        Which singular triplets of W0 are P, λ and Q at the start.

    Notes
    -----
    The frozen leaf ``mask`` (m, r numbers, ones at first) is the caller's: LyCORIS sets its
    first entries to one and the rest to zero by the time step of a diffusion. It stands in both
    terms, so ΔW is zero at the start under every mask. LyCORIS gives a convolution kernels of
    1 × 1; here it is flattened to ``(out, in·kernel)``.
    """
    check_rank("tlora", rank, w)
    check_choice("tlora", "sig_type", sig_type, ("principal", "last", "middle"))
    out, inp = w.matrix
    matrix, size = reshape(w, out, inp), min(out, inp)
    first = {"principal": 0, "last": size - rank, "middle": (size - rank) // 2}[sig_type]
    P = parameter("P", out, rank, start=left_singular(matrix, rank, first=first))
    length = parameter("lambda", rank, start=singular_values(matrix, rank, first=first))
    Q = parameter("Q", rank, inp, start=right_singular(matrix, rank, first=first))
    mask = frozen("mask", rank, recipe=ones())
    pattern = "o r, r, r, r i -> o i"
    begun = einsum(pattern, at_start(P), at_start(length), mask, at_start(Q))
    update = einsum(pattern, P, length, mask, Q) - begun
    return scale("tlora", alpha, rank) * reshape(update, *w.shape)


@method(paper="DyLoRA: Valipour et al. 2023, arXiv:2210.07558")
def dylora(
    w: Base, *, rank: int = 8, alpha: float | None = None, frozen_below: bool = False
) -> Expr:
    """ΔW = s B diag(m) A,  s = α/r;  rank ≤ nonzeros of the mask m;  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r, the largest rank.
    alpha : float, optional
        α; the scale is 1 without it.
    frozen_below : bool
        Train only the terms of a second mask t: those of m outside it keep their value and have
        no gradient, as LyCORIS trains one block of ranks at a time.

    Notes
    -----
    Start: A Kaiming, B = 0. The frozen leaf ``mask`` (m, r numbers, ones at first) is the
    caller's, who draws a rank b for every step and keeps the first b entries; so is ``trained``
    (t, with entries of m or zero). LyCORIS divides α by the number of blocks in use instead of
    r; put that factor into the mask.
    """
    check_rank("dylora", rank, w)
    out, inp = w.matrix
    B = parameter("B", out, rank, start=zeros())
    A = parameter("A", rank, inp, start=kaiming_uniform())
    mask, pattern = frozen("mask", rank, recipe=ones()), "o r, r, r i -> o i"
    if frozen_below:
        trained = frozen("trained", rank, recipe=ones())
        kept = einsum(pattern, hold(B), mask - trained, hold(A))
        update = einsum(pattern, B, trained, A) + kept
    else:
        update = einsum(pattern, B, mask, A)
    return scale("dylora", alpha, rank) * reshape(update, *w.shape)
