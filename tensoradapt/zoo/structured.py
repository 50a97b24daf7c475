"""Matrices of low displacement rank: circulant, Toeplitz, and sums of their products (SURM).

The reference code has square layers only. Here a weight of ``out × in`` is the upper left part
of the square matrix of n = max(out, in), where every parameter still occurs; a Toeplitz matrix
is rectangular by itself. A convolution is flattened to ``(out, in·kernel)``.
"""

from __future__ import annotations

from collections.abc import Callable

from ..algebra.builders import einsum, reshape, window
from ..algebra.expression import Expr
from ..algebra.forms import circulant as circulant_matrix
from ..algebra.forms import low_displacement_rank
from ..algebra.forms import symmetric_toeplitz as symmetric_toeplitz_matrix
from ..algebra.forms import toeplitz as toeplitz_matrix
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import normal, zeros
from ..structure import method
from .limits import check_at_most, check_choice, check_count, scale

FORMS = ("elementwise", "product", "single", "gated")
Matrix = Callable[[Expr, int, int], Expr]


def _structured(
    name: str, w: Base, alpha: float | None, form: str, std: float, matrix: Matrix, count: Callable
) -> Expr:
    """``s M`` in one of the four forms; ``count(rows, columns)`` parameters make one matrix."""
    check_choice(name, "form", form, FORMS)
    out, inp = w.matrix
    n = max(out, inp)
    size = count(out, inp)
    if form == "elementwise":
        a = parameter("a", size, start=normal(std))
        made = matrix(a * parameter("b", size, start=zeros()), out, inp)
    elif form == "product":
        a = parameter("a", count(n, inp), start=normal(std))
        b = parameter("b", count(out, n), start=zeros())
        made = matrix(b, out, n) @ matrix(a, n, inp)
    elif form == "single":
        made = matrix(parameter("a", size, start=zeros()), out, inp)
    else:
        a = parameter("a", size, start=normal(std))
        gate = parameter("gate", start=zeros())
        made = einsum(" , o i -> o i", gate, matrix(a, out, inp))
    return scale(name, alpha) * reshape(made, *w.shape)


@method(paper="SURM: Sehanobish et al. 2024, arXiv:2406.17740")
def circulant(w: Base, *, alpha: float | None = None, form: str = "elementwise") -> Expr:
    """ΔW = s C(a ⊙ b),  C(c)[i, j] = c[(i - j) mod n],  s = α;  full rank;  2n parameters.

    Parameters
    ----------
    alpha : float, optional
        The scale itself; 1 without it.
    form : {"elementwise", "product", "single", "gated"}
        ``"elementwise"``: C(a ⊙ b), the reference code. ``"product"``: C(b) C(a), the paper's
        pair, circulant again. ``"single"``: C(a), n parameters. ``"gated"``: g C(a) with a
        trained number g, n + 1 parameters, in the reference code.

    Notes
    -----
    n = max(out, in), and ΔW is the upper left ``out × in`` part. Start: a is N(0, 1) and b (or
    the gate, or the single vector) is zero. The reference's comment says 0.02 where its code
    draws N(0, 1).
    """
    n = max(w.matrix)
    return _structured("circulant", w, alpha, form, 1.0, circulant_matrix, lambda r, c: n)


@method(paper="SURM: Sehanobish et al. 2024, arXiv:2406.17740")
def symmetric_toeplitz(w: Base, *, alpha: float | None = None, form: str = "product") -> Expr:
    """ΔW = s T(b) T(a),  T(t)[i, j] = t[|i - j|],  s = α;  full rank;  2n parameters.

    Parameters
    ----------
    alpha : float, optional
        The scale itself; 1 without it.
    form : {"product", "elementwise", "single", "gated"}
        ``"product"``: T(b) T(a), which is not Toeplitz. ``"elementwise"``: T(a ⊙ b), the
        reference's adapter. ``"single"``: T(a), n parameters. ``"gated"``: g T(a).

    Notes
    -----
    n = max(out, in), and ΔW is the upper left ``out × in`` part. Start: a is N(0, 0.02²), b
    (or the gate, or the single vector) is zero.
    """
    n = max(w.matrix)
    matrix = symmetric_toeplitz_matrix
    return _structured("symmetric_toeplitz", w, alpha, form, 0.02, matrix, lambda r, c: n)


@method(paper="SURM: Sehanobish et al. 2024, arXiv:2406.17740")
def toeplitz(w: Base, *, alpha: float | None = None, form: str = "elementwise") -> Expr:
    """ΔW = s T(a ⊙ b),  T(t)[i, j] = t[i - j + in - 1],  s = α;  2(out + in - 1) parameters.

    Parameters
    ----------
    alpha : float, optional
        The scale itself; 1 without it.
    form : {"elementwise", "product", "single", "gated"}
        ``"elementwise"``: T(a ⊙ b). ``"product"``: T(b) T(a) through n = max(out, in), with
        out + in + 2n - 2 parameters. ``"single"``: T(a), out + in - 1. ``"gated"``: g T(a).

    Notes
    -----
    The paper compares a Toeplitz variant; its code for it is not public, so the form and the
    start are those of its siblings: a is N(0, 0.02²) and b (or the gate, or the single vector)
    is zero.
    """
    return _structured("toeplitz", w, alpha, form, 0.02, toeplitz_matrix, lambda r, c: r + c - 1)


@method(paper="SURM: Sehanobish et al. 2024, arXiv:2406.17740")
def ldr(w: Base, *, rank: int = 1, alpha: float | None = None) -> Expr:
    """ΔW = s Σ_j C(g_j) S(h_j),  j ≤ r,  s = α;  displacement rank ≤ r;  2nr parameters.

    Parameters
    ----------
    rank : int
        r, the displacement rank: ``Z_1 W - W Z_{-1}`` has rank r or less when out = in.
    alpha : float, optional
        The scale itself; 1 without it.

    Notes
    -----
    C is circulant and S skew-circulant, both given by their first columns; G and H are
    ``(n, r)`` with n = max(out, in), and ΔW is the upper left ``out × in`` part. Start: G = 0,
    H is N(0, 0.02²). The matrix itself has full rank in general.
    """
    n = max(w.matrix)
    check_count("ldr", "rank", rank)
    check_at_most("ldr", rank, n, f"the displacement of a matrix of {n} × {n}")
    G = parameter("G", n, rank, start=zeros())
    H = parameter("H", n, rank, start=normal(0.02))
    matrix = window(low_displacement_rank(G, H), *w.matrix)
    return scale("ldr", alpha) * reshape(matrix, *w.shape)
