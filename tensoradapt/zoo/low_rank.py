"""Products of thin matrices: ΔW = s B A and its descendants.

LoRA, DoRA around any structure, VeRA with frozen factors, LoRA-XS between singular vectors.
"""

from __future__ import annotations

from typing import Any

from ..algebra.builders import (
    at_start,
    column_norm,
    einsum,
    hold,
    reshape,
    row_norm,
    scale_columns,
    scale_rows,
    take,
)
from ..algebra.expression import Expr, Factor, Start
from ..algebra.leaves import frozen, parameter
from ..algebra.nodes import Base
from ..algebra.starts import (
    constant,
    given,
    kaiming_uniform,
    left_singular,
    normal,
    orthogonal,
    qr_q,
    qr_r,
    right_singular,
    value_of,
    zeros,
)
from ..errors import StructureError
from ..structure import method
from .limits import check_choice, check_count, check_number, check_rank, scale, update_of

LORA_STARTS = ("kaiming", "gaussian", "normal", "pissa", "olora", "mica", "orthogonal", "given")


@method(paper="Hu et al. 2022, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732")
def lora(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    use_rslora: bool = False,
    use_effective_conv2d: bool = False,
    start: str = "kaiming",
) -> Expr:
    """ΔW = s B A,  s = α/r (α/√r with use_rslora; 1 without α);  rank ≤ r;  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r; B is ``(out, r)`` and A is ``(r, in)``.
    alpha : float, optional
        α.
    use_rslora : bool
        Divide α by √r instead of r (arXiv:2312.03732).
    use_effective_conv2d : bool
        For a kernel of more than one element: a Tucker tensor with a core ``T (r, r, *kernel)``
        between B ``(out, r)`` and A ``(r, in)``, as LyCORIS stores it; r(out + in) + r²·kernel
        parameters. Without it the kernel is flattened into ``in``.
    start : {"kaiming", "gaussian", "normal", "pissa", "olora", "mica", "orthogonal", "given"}
        See below.

    Notes
    -----
    A convolution is flattened to ``(out, in·kernel)``, which is what the references store. The
    paper describes a Gaussian A (unverified). Starts, as PEFT has them:

    * ``"kaiming"``: A as ``torch.nn.Linear`` does (a = √5), B = 0.
    * ``"gaussian"``: A is N(0, 1/r²), B = 0. ``"normal"``: A is N(0, 1), B = 0, which is how
      PEFT starts an embedding.
    * ``"pissa"`` (arXiv:2404.02948): s B A = the rank-r part of W0, √(Σ/s) on each side.
      ``"olora"`` (arXiv:2406.01775): B and A from a QR of W0. ``"given"``: the user's arrays
      for "B" and "A" (CorDA, EVA, LoRA-GA). With these three
      **ΔW = s (B A - B@start A@start)**: it is zero at the start and W0 stays untouched, where
      PEFT subtracts s B A from W0 once and for good.
    * ``"mica"`` (arXiv:2604.01694): B = the last r left singular vectors of W0, **frozen**;
      A = 0; r·in parameters.
    * ``"orthogonal"``: an even r; the rows of A and the columns of B lie in complementary halves
      of a random basis of R^r, so that B A = 0 to rounding, not exactly.
    """
    check_rank("lora", rank, w)
    check_choice("lora", "start", start, LORA_STARTS)
    s = scale("lora", alpha, rank, use_rslora)
    if use_effective_conv2d and w.matrix[1] > w.shape[1]:
        return s * _tucker_product(w, rank, start)
    out, inp = w.matrix
    begin_B, begin_A = _starts(reshape(w, out, inp), rank, s, start)
    if start == "mica":
        B: Expr = frozen("B", out, rank, recipe=begin_B)
    else:
        B = parameter("B", out, rank, start=begin_B)
    A = parameter("A", rank, inp, start=begin_A)
    product = B @ A
    if start in ("pissa", "olora", "given"):
        product = product - at_start(product)
    return s * reshape(product, *w.shape)


def _starts(matrix: Expr, rank: int, s: Factor, start: str) -> tuple[Start, Start]:
    """The first values of B and A for the weight as a matrix."""
    last = min(matrix.shape) - rank
    match start:
        case "gaussian":
            return zeros(), normal(1 / rank)
        case "normal":
            return zeros(), normal()
        case "pissa":
            matrix = matrix / s
            return left_singular(matrix, rank, 0.5), right_singular(matrix, rank, 0.5)
        case "olora":
            return qr_q(matrix, rank), qr_r(matrix, rank)
        case "mica":
            return left_singular(matrix, rank, first=last), zeros()
        case "orthogonal":
            return _orthogonal_pair(matrix, rank)
        case "given":
            return given(), given()
        case _:
            return zeros(), kaiming_uniform()


def _orthogonal_pair(matrix: Expr, rank: int) -> tuple[Start, Start]:
    """``Y Q_even / 10`` and ``(X Q_odd)ᵀ / 10`` with the rows of one random orthogonal Q."""
    if rank % 2:
        raise StructureError(
            f"start='orthogonal' was asked for with rank={rank}.",
            "It splits the rows of a basis in two halves, so the rank must be even.",
            f"Use lora(rank={rank + 1}, start='orthogonal').",
        )
    out, inp = matrix.shape
    Q = frozen("basis", rank, rank, recipe=orthogonal())
    Y = frozen("coordinates_B", out, rank // 2)
    X = frozen("coordinates_A", inp, rank // 2)
    left = Y @ take(Q, range(1, rank, 2)) / 10
    return value_of(left), value_of((X @ take(Q, range(0, rank, 2))).T / 10)


def _tucker_product(w: Base, rank: int, start: str) -> Expr:
    if start != "kaiming":
        raise StructureError(
            f"start={start!r} was asked for together with use_effective_conv2d.",
            "A Tucker tensor has three factors, and these starts are for two.",
            "Use lora(use_effective_conv2d=True), which starts at B = 0 and the others Kaiming.",
        )
    out, inp, *kernel = w.shape
    B = parameter("B", out, rank, start=zeros())
    T = parameter("T", rank, rank, *kernel, start=kaiming_uniform())
    A = parameter("A", rank, inp, start=kaiming_uniform())
    k = " ".join(f"k{axis}" for axis in range(len(kernel)))
    return einsum(f"o a, a b {k}, b i -> o i {k}", B, T, A)


_LORA = lora(rank=8)


@method(paper="Liu et al. 2024, arXiv:2402.09353")
def dora(w: Base, *, within: Any = _LORA, detach_norm: bool = True, wd_on_out: bool = True) -> Expr:
    """W' = m ⊙ V / ‖V‖,  V = W0 + ΔW_within;  the norm carries no gradient;  out more parameters.

    Parameters
    ----------
    within : structure
        The update of the direction V; ``lora(rank=8)`` by default.
    detach_norm : bool
        Whether ‖V‖ is a constant for the gradient, as in the paper's section 4.3 and in PEFT.
        LyCORIS differentiates it: ``detach_norm=False``.
    wd_on_out : bool
        One magnitude for every output row. Without it one for every column (input channel), in
        more parameters: LyCORIS' option of that name, and what PEFT does to the table of an
        embedding, whose columns are its outputs.

    Notes
    -----
    ‖V‖ is the norm of every output row, over all other axes (the paper, which writes its
    weights transposed, calls it the column norm). Start: m = ‖V‖, so ΔW = 0 exactly when the
    update within is. A row where V = 0 stays there (1/0 := 0). The bias is not rescaled.
    LyCORIS adds the dtype's eps to the norm.
    """
    return _decomposed(w, w + update_of("dora", within, w), detach_norm, wd_on_out)


def _decomposed(w: Base, v: Expr, detach_norm: bool, on_out: bool = True) -> Expr:
    """``m ⊙ V / ‖V‖ - W0``, where m starts as the norm of every row, or of every column."""
    length = row_norm(v) if on_out else column_norm(v)
    m = parameter("m", *length.shape, start=value_of(length))
    length = hold(length) if detach_norm else length
    return (scale_rows(m / length, v) if on_out else scale_columns(v, m / length)) - w


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
    return _between_random_factors(w, "vera", rank, d_initial)


@method(paper="DVoRA: VeRA inside DoRA, Kopiczko et al. 2024, arXiv:2310.11454")
def dvora(w: Base, *, rank: int = 256, d_initial: float = 0.1, detach_norm: bool = True) -> Expr:
    """W' = m ⊙ V / ‖V‖,  V = W0 + diag(b) B diag(d) A;  2·out + r parameters.

    Parameters
    ----------
    rank : int
        r of ``vera``; it may exceed the weight's sizes.
    d_initial : float
        The start of d.
    detach_norm : bool
        Whether ‖V‖ is a constant for the gradient, as in ``dora``.

    Notes
    -----
    ``dora(within=vera(rank=r))`` with plain leaf names. Its hyper-parameters in the paper are
    unverified. Start: as ``vera`` and ``dora``, so ΔW = 0.
    """
    v = w + _between_random_factors(w, "dvora", rank, d_initial)
    return _decomposed(w, v, detach_norm)


def _between_random_factors(w: Base, method: str, rank: int, d_initial: float) -> Expr:
    check_count(method, "rank", rank)
    check_number(method, "d_initial", d_initial, 0.1)
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
