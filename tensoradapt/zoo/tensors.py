"""ΔW folded into a tensor of higher order: tensor train, Tucker and CP, and chains of gates.

The tensor has the modes of ``limits.modes_of``: near-equal factors of ``out``, then of ``in``,
or the user's own ``shape``; its elements are those of ΔW in row-major order. FLoRA keeps the
weight's own axes, LoRETTA folds the two factors of a low rank, QuanTA the rows and the columns.
"""

from __future__ import annotations

from math import prod, sqrt

from ..algebra import forms
from ..algebra.builders import at_start, einsum, reshape, window
from ..algebra.expression import Expr
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_normal, kaiming_uniform, normal, uniform, zeros
from ..errors import StructureError
from ..structure import method
from .limits import check_at_most, check_count, check_rank, factored, modes_of, near_equal, scale


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


@method(paper="FLoRA: Si et al. 2024, arXiv:2405.14739")
def flora(
    w: Base, *, rank: int = 8, alpha: float | None = None, kernel_rank: int | None = None
) -> Expr:
    """ΔW = s G ×_1 A1 ×_2 A2 ⋯ on all axes,  s = α;  rank ≤ r;  ∏ r_j + Σ n_j r_j parameters.

    Parameters
    ----------
    rank : int
        r of the input and of the output mode; less where the mode is smaller.
    alpha : float, optional
        The scale itself; 1 without it.
    kernel_rank : int, optional
        The rank of every mode of the kernel; r by default, less where the mode is smaller.

    Notes
    -----
    A matrix has G ``(r_in, r_out)``, a convolution a mode and a
    factor ``(n_j, r_j)`` for each axis of its kernel too. Start: G = 0, the factors Kaiming
    normal with a = √3. ``tucker(order=None)`` with another scale and order of G.
    """
    check_count("flora", "rank", rank)
    out, inp, *kernel = w.shape if w.ndim > 1 else (*w.shape, 1)
    check_at_most("flora", rank, max(out, inp), f"a mode of the weight {w.shape}")
    if kernel_rank is not None:
        check_count("flora", "kernel_rank", kernel_rank)
    sizes = [inp, out, *kernel]
    ranks = [min(rank, n) for n in (inp, out)]
    ranks += [min(kernel_rank or rank, n) for n in kernel]
    names = ["in", "out", *(f"k{axis}" for axis in range(len(kernel)))]
    core = parameter("G", *ranks, start=zeros())
    factors = [
        parameter(f"A_{name}", n, r, start=kaiming_normal(sqrt(3)))
        for name, n, r in zip(names, sizes, ranks, strict=True)
    ]
    modes = [f"n{m}" for m in range(len(sizes))]
    parts = " , ".join(
        [" ".join(f"r{m}" for m in range(len(sizes)))] + [f"n{m} r{m}" for m in range(len(sizes))]
    )
    made = einsum(f"{parts} -> {' '.join([modes[1], modes[0], *modes[2:]])}", core, *factors)
    return scale("flora", alpha) * reshape(made, *w.shape)


@method(paper="LoRETTA: Yang et al. 2024, arXiv:2402.11417")
def loretta(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    tensor_rank: int = 5,
    order: int = 4,
    shape_in: tuple[int, ...] | None = None,
    shape_out: tuple[int, ...] | None = None,
) -> Expr:
    """ΔW = s B A,  Aᵀ and Bᵀ tensor trains,  s = α/r;  rank ≤ r;  Σ t_{j-1} n_j t_j parameters.

    Parameters
    ----------
    rank : int
        r, the bottleneck.
    alpha : float, optional
        α; the scale is 1 without it.
    tensor_rank : int
        t, every inner rank of both trains.
    order : int
        How many modes each train has: near-equal factors of in·r and of r·out.
    shape_in, shape_out : tuple of int, optional
        The modes themselves, as the reference lists them ([8, 8, 12, 8] for 768 and r = 8).

    Notes
    -----
    The reparametrized form; LoRETTA_adp is an adapter beside the layer. Start: every core is
    N(0, 1)/√t_j times (1/(fan_in + fan_out))^(1/2d), as in the reference, so
    **ΔW is not zero at the start**; ``since_start(within=loretta())`` is.
    """
    check_rank("loretta", rank, w)
    check_count("loretta", "tensor_rank", tensor_rank)
    check_count("loretta", "order", order, least=2)
    out, inp = w.matrix
    folds = (("A", inp, rank, shape_in), ("B", rank, out, shape_out))
    down, up = (_folded_train(name, a, b, tensor_rank, order, s) for name, a, b, s in folds)
    return scale("loretta", alpha, rank) * reshape(up.T @ down.T, *w.shape)


def _folded_train(
    name: str, rows: int, columns: int, rank: int, order: int, shape: tuple[int, ...] | None
) -> Expr:
    """A matrix of rows × columns that is a tensor train of its elements."""
    modes = near_equal(rows * columns, order) if shape is None else shape
    if prod(modes) != rows * columns or len(modes) < 2:
        setting = {"A": "shape_in", "B": "shape_out"}[name]
        raise StructureError(
            f"{setting}={shape!r} was asked for.",
            f"It must be two or more integers whose product is {rows} × {columns} = "
            f"{factored(rows * columns)}.",
            f"Use loretta({setting}={near_equal(rows * columns, order)}).",
        )
    last = len(modes) - 1
    std = (1 / (rows + columns)) ** (1 / (2 * len(modes)))
    cores: list[Expr] = []
    for k, n in enumerate(modes):
        sizes = [*([rank] if k else []), n, *([rank] if k < last else [])]
        after = rank if k < last else 1
        cores.append(parameter(f"{name}{k + 1}", *sizes, start=normal(std / sqrt(after))))
    return reshape(forms.tensor_train(cores), rows, columns)


@method(paper="QuanTA: Chen et al. 2024, arXiv:2406.00132")
def quanta(w: Base, *, axes: int = 3, shape: tuple[int, ...] | None = None) -> Expr:
    """ΔW = T(θ) - T(θ at the start),  T a chain of gates;  any rank;  Σ (d_m d_n)² parameters.

    Parameters
    ----------
    axes : int
        How many axes the n = max(out, in) rows and columns are folded into, near-equal ones.
    shape : tuple of int, optional
        The sizes d_1 … d_N of these axes instead; their product is n.

    Notes
    -----
    One gate ``(d_m, d_n, d_m, d_n)`` for every pair of axes, the last pair first: (-1, -2), then
    (-1, -3) and so on; each maps two axes of the input to two of the output. A weight that is not
    square is the upper left part of T. Start: the gates Uniform(±√(3/(d_m d_n))); what they
    are then stays subtracted, so that ΔW = 0. No α. A convolution is flattened.
    """
    check_count("quanta", "axes", axes, least=2)
    n = max(w.matrix)
    sizes = near_equal(n, axes) if shape is None else shape
    if prod(sizes) != n or len(sizes) < 2 or any(d < 1 for d in sizes):
        raise StructureError(
            f"shape={shape!r} was asked for.",
            f"It must be two or more integers whose product is max(out, in) = {n} = {factored(n)}.",
            f"Use quanta(shape={near_equal(n, max(axes, 2))}).",
        )
    current = [f"i{k}" for k in range(len(sizes))]
    begun, gates, parts = list(current), list[Expr](), list[str]()
    pairs = [(b, a) for b in range(len(sizes) - 1, 0, -1) for a in range(b - 1, -1, -1)]
    for step, (later, earlier) in enumerate(pairs):
        d, e = sizes[earlier], sizes[later]
        bound = sqrt(3 / (d * e))
        gate = parameter(f"G{earlier}_{later}", d, e, d, e, start=uniform(-bound, bound))
        gates.append(gate)
        new = f"x{step}", f"y{step}"
        parts.append(f"{new[0]} {new[1]} {current[earlier]} {current[later]}")
        current[earlier], current[later] = new
    chain = f"{', '.join(parts)} -> ({' '.join(current)}) ({' '.join(begun)})"
    matrix = window(einsum(chain, *gates), *w.matrix)
    return reshape(matrix - at_start(matrix), *w.shape)
