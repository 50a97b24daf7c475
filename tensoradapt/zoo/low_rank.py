"""Products of thin matrices: ΔW = s B A and its descendants.

LoRA, DoRA around any structure, VeRA with frozen factors, LoRA-XS between singular vectors.
"""

from __future__ import annotations

from typing import Any

from ..algebra.builders import einsum, hold, reshape, row_norm, scale_rows
from ..algebra.expression import Expr
from ..algebra.forms import low_rank
from ..algebra.leaves import frozen, parameter
from ..algebra.nodes import Base
from ..algebra.starts import (
    constant,
    kaiming_uniform,
    left_singular,
    normal,
    right_singular,
    value_of,
    zeros,
)
from ..structure import method
from .limits import check_choice, check_count, check_number, check_rank, scale, update_of


@method(paper="Hu et al. 2022, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732")
def lora(w: Base, *, rank: int = 8, alpha: float | None = None, use_rslora: bool = False) -> Expr:
    """ΔW = s B A,  s = α/r (α/√r with use_rslora; 1 without α);  rank ≤ r;  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r; B is ``(out, r)`` and A is ``(r, in)``.
    alpha : float, optional
        α.
    use_rslora : bool
        Divide α by √r instead of r (arXiv:2312.03732).

    Notes
    -----
    Start: A as ``torch.nn.Linear`` does (Kaiming with a = √5), B = 0. The paper describes a
    Gaussian A (unverified). A convolution is flattened to ``(out, in·kernel)``, which is what
    the references store.
    """
    check_rank("lora", rank, w)
    return scale("lora", alpha, rank, use_rslora) * low_rank(w, rank)


_LORA = lora(rank=8)


@method(paper="Liu et al. 2024, arXiv:2402.09353")
def dora(w: Base, *, within: Any = _LORA, detach_norm: bool = True) -> Expr:
    """W' = m ⊙ V / ‖V‖,  V = W0 + ΔW_within;  the norm carries no gradient;  out more parameters.

    Parameters
    ----------
    within : structure
        The update of the direction V; ``lora(rank=8)`` by default.
    detach_norm : bool
        Whether ‖V‖ is a constant for the gradient, as in the paper's section 4.3 and in PEFT.
        LyCORIS differentiates it: ``detach_norm=False``.

    Notes
    -----
    ‖V‖ is the norm of every output row, over all other axes (the paper, which writes its
    weights transposed, calls it the column norm). Start: m = ‖V‖, so ΔW = 0 exactly when the
    update within is. A row where V = 0 stays there (1/0 := 0). The bias is not rescaled.
    LyCORIS adds the dtype's eps to the norm.
    """
    v = w + update_of("dora", within, w)
    length = row_norm(v)
    m = parameter("m", w.shape[0], start=value_of(length))
    length = hold(length) if detach_norm else length
    return scale_rows(m / length, v) - w


@method(paper="Kopiczko et al. 2024, arXiv:2310.11454")
def vera(w: Base, *, rank: int = 256, d_initial: float = 0.1) -> Expr:
    """ΔW = diag(b) B diag(d) A,  A and B frozen and random;  rank ≤ r;  out + r parameters.

    Parameters
    ----------
    rank : int
        r; it may exceed the weight's sizes, as only d grows with it.
    d_initial : float
        The start of d.

    Notes
    -----
    Start: b = 0, d = ``d_initial``; A ``(r, in)`` and B ``(out, r)`` are Kaiming uniform with
    a = 0, from the adapter's seed. No α. Here A and B belong to one weight; the paper shares
    them among all layers. PEFT draws them from torch's stream, so their values differ.
    """
    check_count("vera", "rank", rank)
    check_number("vera", "d_initial", d_initial, 0.1)
    out, inp = w.matrix
    b = parameter("b", out, start=zeros())
    d = parameter("d", rank, start=constant(d_initial))
    B = frozen("B", out, rank, recipe=kaiming_uniform(a=0.0))
    A = frozen("A", rank, inp, recipe=kaiming_uniform(a=0.0))
    return reshape(einsum("o, o r, r, r i -> o i", b, B, d, A), *w.shape)


@method(paper="Bałazy et al. 2024, arXiv:2405.17604")
def lora_xs(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    singular_values: str = "left",
    start_std: float = 1e-5,
) -> Expr:
    """ΔW = s B R A,  s = α/r,  frozen B A = the rank-r part of W0;  rank ≤ r;  r² parameters.

    Parameters
    ----------
    rank : int
        r; R is ``(r, r)``.
    alpha : float, optional
        α; the scale is 1 without it.
    singular_values : {"left", "right", "split"}
        Which factor carries Σ of W0 ≈ U Σ Vᵀ: B = U Σ, A = Σ Vᵀ, or √Σ in both.
    start_std : float
        The deviation of R at the start; 0 makes R zero.

    Notes
    -----
    **ΔW is not zero at the start:** R is N(0, (10⁻⁵)²), as in the reference. Use
    ``start_std=0`` for a start at exactly zero; R has a gradient there all the same. Which
    side carries Σ in the released factors is unverified.
    """
    check_rank("lora_xs", rank, w)
    check_choice("lora_xs", "singular_values", singular_values, ("left", "right", "split"))
    if start_std != 0:
        check_number("lora_xs", "start_std", start_std, 1e-5)
    out, inp = w.matrix
    power = {"left": 1.0, "right": 0.0, "split": 0.5}[singular_values]
    matrix = reshape(w, out, inp)
    B = frozen("B", out, rank, recipe=left_singular(matrix, rank, power))
    A = frozen("A", rank, inp, recipe=right_singular(matrix, rank, 1 - power))
    R = parameter("R", rank, rank, start=normal(start_std) if start_std else zeros())
    return scale("lora_xs", alpha, rank) * reshape(B @ R @ A, *w.shape)
