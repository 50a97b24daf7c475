"""ΔW folded into a tensor of higher order: tensor train, Tucker and CP.

The tensor has the modes of ``limits.modes_of``: near-equal factors of ``out``, then of ``in``,
or the user's own ``shape``; its elements are those of ΔW in row-major order.
"""

from __future__ import annotations

from math import prod, sqrt

from ..algebra import forms
from ..algebra.builders import reshape
from ..algebra.expression import Expr
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_normal, kaiming_uniform, normal, zeros
from ..structure import method
from .limits import check_at_most, check_count, modes_of, scale


@method(paper="TT-LoRA: Anjum et al. 2024, arXiv:2408.01008")
def tt_lora(
    w: Base,
    *,
    rank: int = 5,
    alpha: float | None = None,
    order: int = 6,
    shape: tuple[int, ...] | None = None,
) -> Expr:
    """ΔW = s fold(G1 G2 ⋯ Gd),  s = α (1 without α);  rank ≤ r;  Σ r_{j-1} n_j r_j parameters.

    Parameters
    ----------
    rank : int
        r, every inner rank; less where the modes on one side of it multiply to less.
    alpha : float, optional
        The scale itself.
    order : int
        d, the number of modes: half of them factors of ``out``, half of ``in``.
    shape : tuple of int, optional
        The modes n_1 … n_d instead; their product is out·in. Where no first few of them
        multiply to ``out``, the matrix rank is not bounded by r.

    Notes
    -----
    The order of the modes and the start in the published code are unverified. Here the modes
    of ``out`` come first, G1 = 0, and the others are normal so that the tensor without G1 has
    the variance 1/(out + in), as LoRETTA's cores (arXiv:2402.11417).
    """
    check_count("tt_lora", "rank", rank)
    modes = modes_of("tt_lora", w, order, shape)
    last = len(modes) - 1
    cuts = [min(prod(modes[:k]), prod(modes[k:])) for k in range(1, last + 1)]
    check_at_most("tt_lora", rank, max(cuts), f"a tensor train of the modes {modes}")
    ranks = [1, *(min(rank, cut) for cut in cuts), 1]
    std = (1 / sqrt(sum(w.matrix))) ** (1 / last)
    cores: list[Expr] = []
    for k, n in enumerate(modes):
        sizes = (n, ranks[1]) if k == 0 else (ranks[k], n, ranks[k + 1])
        start = normal(std / sqrt(ranks[k + 1])) if k else zeros()
        cores.append(parameter(f"G{k + 1}", *(sizes[:2] if k == last else sizes), start=start))
    return scale("tt_lora", alpha) * reshape(forms.tensor_train(cores), *w.shape)


@method(
    paper="SuperLoRA: Chen et al. 2024, arXiv:2403.11887; FLoRA: Si et al. 2024, arXiv:2405.14739"
)
def tucker(
    w: Base,
    *,
    rank: int = 4,
    alpha: float | None = None,
    order: int | None = 4,
    shape: tuple[int, ...] | None = None,
) -> Expr:
    """ΔW = s fold(C ×_1 A1 ⋯ ×_M AM),  s = α/r;  rank ≤ r^(M/2);  ∏ r_m + Σ n_m r_m parameters.

    Parameters
    ----------
    rank : int
        r; r_m = min(r, n_m).
    alpha : float, optional
        α; the scale is 1 without it.
    order : int, optional
        M, the number of modes: half of them factors of ``out``, half of ``in``. ``None`` keeps
        the weight's own axes, which is FLoRA: C A_in A_out for a matrix, four modes for a
        convolution.
    shape : tuple of int, optional
        The modes n_1 … n_M instead; their product is out·in.

    Notes
    -----
    One weight of SuperLoRA's order-M update with a full core, folded without padding. Start:
    C = 0 and the factors ``(n_m, r_m)`` Kaiming normal with a = √3, as in FLoRA; SuperLoRA's
    start and scale are unverified, and FLoRA has a free scale instead of α/r. Matrix rank ≤
    the product of the r_m on one side of the fold.
    """
    check_count("tucker", "rank", rank)
    modes = modes_of("tucker", w, order, shape)
    check_at_most("tucker", rank, max(modes), f"a mode of the tensor {modes}")
    ranks = [min(rank, n) for n in modes]
    core = parameter("C", *ranks, start=zeros())
    factors = [
        parameter(f"A{m + 1}", n, ranks[m], start=kaiming_normal(sqrt(3)))
        for m, n in enumerate(modes)
    ]
    return scale("tucker", alpha, rank) * reshape(forms.tucker(core, factors), *w.shape)


@method(paper="CP, as folded in SuperLoRA: Chen et al. 2024, arXiv:2403.11887")
def cp(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    order: int | None = 4,
    shape: tuple[int, ...] | None = None,
) -> Expr:
    """ΔW = s fold(Σ_r A1[:, r] ∘ ⋯ ∘ AM[:, r]),  s = α/r;  rank ≤ r;  r Σ n_m parameters.

    Parameters
    ----------
    rank : int
        r, the number of terms.
    alpha : float, optional
        α; the scale is 1 without it.
    order : int, optional
        M, the number of modes: half of them factors of ``out``, half of ``in``; 2 is LoRA with
        A stored transposed. ``None`` keeps the weight's own axes.
    shape : tuple of int, optional
        The modes n_1 … n_M instead; their product is out·in. Where no first few of them
        multiply to ``out``, the matrix rank is not bounded by r.

    Notes
    -----
    The CP form of one folded weight: LoRTA (arXiv:2410.04060) and CaRA fold whole models so.
    Start: A1 = 0, the others ``(n_m, r)`` Kaiming, as LoRTA's A. Weights of the terms would be
    redundant and are left out.
    """
    check_count("cp", "rank", rank)
    modes = modes_of("cp", w, order, shape)
    check_at_most("cp", rank, prod(modes) // max(modes), f"a tensor of the modes {modes}")
    factors = [
        parameter(f"A{m + 1}", n, rank, start=kaiming_uniform() if m else zeros())
        for m, n in enumerate(modes)
    ]
    return scale("cp", alpha, rank) * reshape(forms.cp(factors), *w.shape)
