"""Diagonals: vectors that scale the rows, the columns, or the terms of a product.

(IA)³ and the Hadamard adapter scale W0 and its bias, DeLoRA and KaSA the terms of B A.
"""

from __future__ import annotations

from ..algebra.builders import (
    clip,
    column_norm,
    einsum,
    reshape,
    row_norm,
    scale_columns,
    scale_rows,
)
from ..algebra.expression import Expr
from ..algebra.leaves import frozen, parameter
from ..algebra.nodes import Base
from ..algebra.starts import (
    constant,
    kaiming_uniform,
    left_singular,
    normal,
    ones,
    right_singular,
    value_of,
    zeros,
)
from ..structure import Update, method
from .limits import check_at_most, check_choice, check_number, check_rank, scale
from .penalties import orthogonality, sum_of_squares

PARAMETRIZATIONS = ("multiplier", "offset")
SIDES = ("output", "input")


@method(paper="(IA)³: Liu et al. 2022, arXiv:2205.05638")
def ia3(w: Base, *, is_feedforward: bool = False, parametrization: str = "multiplier") -> Update:
    """W' = diag(l) W0,  b' = l ⊙ b0;  W' = W0 diag(l) with is_feedforward;  out or in parameters.

    Parameters
    ----------
    is_feedforward : bool
        Scale the input channels instead of the output; the bias then stays.
    parametrization : {"multiplier", "offset"}
        ``"multiplier"``: l itself, which starts at 1 (PEFT). ``"offset"``: l - 1, which starts
        at 0 (LyCORIS).

    Notes
    -----
    No α; rank ΔW ≤ rank W0. In a convolution with groups PEFT has one l per input channel;
    here it has one per column of the weight, so the groups share it. LyCORIS leaves the bias.
    """
    check_choice("ia3", "parametrization", parametrization, PARAMETRIZATIONS)
    begin = ones() if parametrization == "multiplier" else zeros()
    size = w.shape[1] if is_feedforward and w.ndim > 1 else w.shape[0]
    length = parameter("l", size, start=begin)
    scaled = scale_columns(w, length) if is_feedforward else scale_rows(length, w)
    bias = None if is_feedforward else w.bias * length
    if parametrization == "offset":
        return Update(scaled, bias)
    return Update(scaled - w, None if bias is None else bias - w.bias)


@method(paper="Hadamard Adapter: Chen et al. 2024, arXiv:2407.11033")
def hadamard_adapter(w: Base, *, side: str = "output") -> Update:
    """W' = diag(m) W0,  b' = m ⊙ b0 + c;  with side="input" W0 diag(m), b0 + W0 c;  2d parameters.

    Parameters
    ----------
    side : {"output", "input"}
        Where the adapter ``x ↦ m ⊙ x + c`` stands: after the layer (d = out) or before it
        (d = in). Laid on the attention's output projection these are the two places that
        descriptions of the paper name; which one the paper uses is unverified.

    Notes
    -----
    Start: m = 1, c = 0. No α; rank ΔW ≤ rank W0. The bias part needs a layer with a bias. The
    paper also trains the following LayerNorm. Before a convolution c passes through the sum of
    the kernel, which is exact where its input is not padded.
    """
    check_choice("hadamard_adapter", "side", side, SIDES)
    after = side == "output"
    d = w.shape[0] if after or w.ndim < 2 else w.shape[1]
    m, c = parameter("m", d, start=ones()), parameter("c", d, start=zeros())
    if after:
        return Update(scale_rows(m, w) - w, w.bias * m + c - w.bias)
    kernel = " ".join(f"k{axis}" for axis in range(w.ndim - 2))
    return Update(scale_columns(w, m) - w, einsum(f"o i {kernel}, i -> o ", w, c))


@method(paper="DeLoRA: Bini et al. 2025, arXiv:2503.18225")
def delora(w: Base, *, rank: int = 8, delora_lambda: float = 15.0) -> Expr:
    """ΔW = λ/r B diag(1/(‖b_j‖‖a_j‖)) A diag(‖W0[:, i]‖);  rank ≤ r;  r(out + in) + 1 parameters.

    Parameters
    ----------
    rank : int
        r.
    delora_lambda : float
        The start of λ, which trains.

    Notes
    -----
    b_j are the columns of B, a_j the rows of A; their norms are at least 10⁻⁴. Start: A
    Kaiming, B = 0. The column norms of W0 are a frozen leaf. No α. A convolution is flattened
    to ``(out, in·kernel)``; the reference has linear layers only.
    """
    check_rank("delora", rank, w)
    check_number("delora", "delora_lambda", delora_lambda, 15.0)
    out, inp = w.matrix
    B = parameter("B", out, rank, start=zeros())
    A = parameter("A", rank, inp, start=kaiming_uniform())
    strength = parameter("lambda", 1, start=constant(delora_lambda))
    columns = frozen("w_norm", inp, recipe=value_of(column_norm(reshape(w, out, inp))))
    least, most = 1e-4, float("inf")
    lengths = clip(column_norm(B), least, most) * clip(row_norm(A), least, most)
    product = einsum("one, o r, r, r i, i -> o i", strength, B, 1 / lengths, A, columns)
    return reshape(product / rank, *w.shape)


@method(paper="KaSA: Wang et al. 2025, arXiv:2412.06071")
def kasa(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    truncate_base: bool = True,
    beta: float = 1e-4,
    gamma: float = 1e-3,
) -> Update:
    """ΔW = s B diag(d) A - tail_r(W0),  s = α/r;  rank ≤ 2r;  r(out + in) + r parameters.

    Parameters
    ----------
    rank : int
        r, less than the rank of W0's matrix.
    alpha : float, optional
        α; the scale is 1 without it.
    truncate_base : bool
        Subtract tail_r(W0), the part of the r smallest singular values. PEFT takes it out of
        W0 itself, once and for good; here it is a frozen pair of leaves and W0 stays untouched.
    beta, gamma : float
        The penalty β ‖d‖² + γ (‖Bᵀ B - I‖_F + ‖A Aᵀ - I‖_F); none where both are 0.

    Notes
    -----
    **ΔW is not zero at the start** but minus the tail: B = 0, A Kaiming, d is N(0, 1). With
    ``truncate_base=False`` it is zero. A convolution is flattened; PEFT has linear layers only.
    """
    check_rank("kasa", rank, w)
    out, inp = w.matrix
    check_at_most("kasa", rank, min(out, inp) - 1, f"a part of a matrix of {out} × {inp}")
    B = parameter("B", out, rank, start=zeros())
    A = parameter("A", rank, inp, start=kaiming_uniform())
    d = parameter("d", rank, start=normal())
    update = scale("kasa", alpha, rank) * einsum("o r, r, r i -> o i", B, d, A)
    if truncate_base:
        matrix, first = reshape(w, out, inp), min(out, inp) - rank
        left = frozen("tail_B", out, rank, recipe=left_singular(matrix, rank, 1.0, first))
        right = frozen("tail_A", rank, inp, recipe=right_singular(matrix, rank, 0.0, first))
        update = update - left @ right
    penalty = beta * sum_of_squares(d) + gamma * (orthogonality(B.T) + orthogonality(A))
    return Update(reshape(update, *w.shape), penalty=penalty if beta or gamma else None)
