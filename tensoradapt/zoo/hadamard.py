"""Elementwise products: of two low ranks, or of the base weight with one.

LoHa (FedPara) and ABBA multiply two low-rank matrices; HiRA and HUT multiply W0 by one.
"""

from __future__ import annotations

from ..algebra.builders import concatenate, einsum, reshape, tanh
from ..algebra.expression import Expr
from ..algebra.forms import low_rank
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_uniform, left_singular, normal, ones, right_singular, zeros
from ..errors import StructureError
from ..structure import method
from .limits import check_choice, check_rank, scale

LOHA_STARTS = {
    "peft": (kaiming_uniform(), kaiming_uniform(), kaiming_uniform(), zeros()),
    "lycoris": (normal(0.1), normal(), zeros(), normal()),
}
"""The first values of B1, A1, B2, A2."""


@method(paper="Yeh et al. 2024, arXiv:2309.14859; FedPara: Hyeon-Woo et al. 2022, arXiv:2108.06098")
def loha(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    use_effective_conv2d: bool = False,
    start: str = "peft",
    use_tanh: bool = False,
    personalized: bool = False,
) -> Expr:
    """ΔW = s (B1 A1) ⊙ (B2 A2),  s = α/r (1 without α);  rank ≤ r²;  2r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r, of each of the two products.
    alpha : float, optional
        α.
    use_effective_conv2d : bool
        For a kernel of more than one element: each product is a Tucker tensor with a core
        ``(r, r, *kernel)``; 2(r(out + in) + r²·kernel) parameters, and the factors are stored
        ``(r, out)`` and ``(r, in)``. Without it the kernel is flattened into ``in``.
    start : {"peft", "lycoris"}
        ``"peft"``: A2 = 0 and the others Kaiming (FedPara). ``"lycoris"``: B2 = 0, A1 and A2
        N(0, 1), B1 (and the cores) N(0, 0.1²).
    use_tanh : bool
        FedPara's option, ``s tanh(B1 A1) ⊙ tanh(B2 A2)``; the rank is then not bounded by r².
    personalized : bool
        pFedPara: ``s (B1 A1) ⊙ (B2 A2 + 1)``, of rank ≤ r² + r, whose first product is what
        the clients share. So that ΔW starts at zero, the two products swap their starts.

    Notes
    -----
    LyCORIS 4.1.3 applies s twice when it merges and once in its forward; this is its forward.
    FedPara's tanh and its personal form are as recalled from the paper, unverified.
    """
    check_rank("loha", rank, w)
    check_choice("loha", "start", start, tuple(LOHA_STARTS))
    starts = LOHA_STARTS[start]
    if personalized:
        starts = (*starts[2:], *starts[:2])
    if use_effective_conv2d and w.matrix[1] > w.shape[1]:
        core = kaiming_uniform() if start == "peft" else normal(0.1)
        first, second = (
            _tucker_product(w, rank, k, (core, *starts[2 * k - 2 : 2 * k])) for k in (1, 2)
        )
    else:
        first = low_rank(w, rank, ("B1", "A1"), starts[:2])
        second = low_rank(w, rank, ("B2", "A2"), starts[2:])
    if use_tanh:
        first, second = tanh(first), tanh(second)
    if personalized:
        second = second + 1
    return scale("loha", alpha, rank) * (first * second)


def _tucker_product(w: Base, rank: int, number: int, starts: tuple) -> Expr:
    out, inp, *kernel = w.shape
    T = parameter(f"T{number}", rank, rank, *kernel, start=starts[0])
    B = parameter(f"B{number}", rank, out, start=starts[1])
    A = parameter(f"A{number}", rank, inp, start=starts[2])
    k = " ".join(f"k{axis}" for axis in range(len(kernel)))
    return einsum(f"a b {k}, a o, b i -> o i {k}", T, B, A)


@method(paper="ABBA: Singhal et al. 2025, arXiv:2505.14238")
def abba(
    w: Base, *, rank: int = 8, first_rank: int | None = None, alpha: float | None = None
) -> Expr:
    """ΔW = s (B1 A1) ⊙ (B2 A2),  s = α;  rank ≤ r1 r2;  (r1 + r2)(out + in) parameters.

    Parameters
    ----------
    rank : int
        r2, the rank of the product that starts at zero.
    first_rank : int, optional
        r1, the rank of the product that starts at W0; r2 by default.
    alpha : float, optional
        √(α1 α2) of the reference, which is α where both are α; the scale is 1 without it.

    Notes
    -----
    Start: B1 A1 = the rank-r1 part of W0, √Σ on each side; B2 = 0 and A2 Kaiming with a = 0.
    All four train, and W0 is read at the start only. ``loha`` with other starts and scale.
    """
    check_rank("abba", rank, w)
    r1 = rank if first_rank is None else first_rank
    _check_first_rank(r1, w)
    matrix = reshape(w, *w.matrix)
    begin = (left_singular(matrix, r1, 0.5), right_singular(matrix, r1, 0.5))
    first = low_rank(w, r1, ("B1", "A1"), begin)
    second = low_rank(w, rank, ("B2", "A2"), (zeros(), kaiming_uniform(a=0.0)))
    return scale("abba", alpha) * (first * second)


def _check_first_rank(first_rank: int, w: Base) -> None:
    """Refuse a first rank that no part of W0 has."""
    if type(first_rank) is not int or not 1 <= first_rank <= min(w.matrix):
        raise StructureError(
            f"first_rank={first_rank!r} was asked for.",
            f"It is an integer from 1 to the rank of a matrix of {w.matrix[0]} × {w.matrix[1]}, "
            f"{min(w.matrix)}.",
            f"Use abba(first_rank={min(w.matrix)}) or less.",
        )


@method(paper="Huang et al. 2025, openreview:TwJrTz9cRS")
def hira(w: Base, *, rank: int = 32) -> Expr:
    """ΔW = W0 ⊙ (B A);  rank ≤ r·rank(W0);  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r.

    Notes
    -----
    Start: A Kaiming, B = 0. No α. PEFT's ``get_delta_weight`` gives the multiplier B A only.
    """
    check_rank("hira", rank, w)
    return w * low_rank(w, rank)


@method(paper="arXiv:2409.13501")
def hut(w: Base, *, rank: int = 8, reading: str = "multiply_one_plus") -> Expr:
    """W' = W0 ⊙ (1 + B A), or W0 ⊙ (B A);  rank ≤ r·rank(W0) (+ rank(W0));  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r.
    reading : {"multiply_one_plus", "multiply"}
        The abstract says that W0 is transformed by a Hadamard product with two low-rank
        matrices, and the paper's exact formula is unverified, so both readings stand here.
        ``"multiply_one_plus"``: W' = W0 ⊙ (1 + B A), A Kaiming and B = 0; the same as ``hira``.
        ``"multiply"``: W' = W0 ⊙ ([b B] [a; A]); the column b and the row a start at one,
        A ``(r - 1, in)`` at Kaiming and B ``(out, r - 1)`` at zero, so the product starts at
        one everywhere.

    Notes
    -----
    Scale and start of the paper are unverified; there is none here, and ΔW starts at zero.
    """
    check_rank("hut", rank, w)
    check_choice("hut", "reading", reading, ("multiply_one_plus", "multiply"))
    if reading == "multiply_one_plus":
        return w * low_rank(w, rank)
    out, inp = w.matrix
    columns: list[Expr] = [parameter("b", out, 1, start=ones())]
    rows: list[Expr] = [parameter("a", 1, inp, start=ones())]
    if rank > 1:
        columns.append(parameter("B", out, rank - 1, start=zeros()))
        rows.append(parameter("A", rank - 1, inp, start=kaiming_uniform()))
    product = concatenate(columns, axis=1) @ concatenate(rows, axis=0)
    return w * reshape(product, *w.shape) - w
