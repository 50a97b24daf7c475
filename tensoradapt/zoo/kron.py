"""Kronecker products: LoKr, KronA, and the Kronecker form of SURM."""

from __future__ import annotations

from math import isqrt

from ..algebra.builders import einsum, reshape
from ..algebra.expression import Expr, Start
from ..algebra.forms import kron
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_uniform, zeros
from ..errors import StructureError
from ..structure import method
from .limits import check_choice, check_count, check_divides, scale

CONVENTIONS = ("peft", "lycoris")


def factor_pair(size: int, factor: int = -1, convention: str = "peft") -> tuple[int, int]:
    """Split a size in two, as LoKr's references do.

    ``(factor, size / factor)`` if the factor divides the size (``"lycoris"`` puts the smaller
    first); else the most square pair whose smaller side is at most ``factor``, smaller first,
    where -1 means no limit.

    Examples
    --------
    >>> factor_pair(128), factor_pair(360, 16), factor_pair(127, 5)
    ((8, 16), (15, 24), (1, 127))
    >>> factor_pair(8, 4), factor_pair(8, 4, "lycoris")
    ((4, 2), (2, 4))
    """
    if factor > 0 and size % factor == 0:
        pair = (factor, size // factor)
        return pair if convention == "peft" else (min(pair), max(pair))
    limit = isqrt(size) if factor == -1 else min(factor, isqrt(size))
    small = max(d for d in range(1, limit + 1) if size % d == 0)
    return small, size // small


@method(paper="Yeh et al. 2024, arXiv:2309.14859")
def lokr(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    decompose_both: bool = False,
    decompose_factor: int = -1,
    full_matrix: bool = False,
    unbalanced_factorization: bool = False,
    use_effective_conv2d: bool = False,
    convention: str = "peft",
) -> Expr:
    """ΔW = s W1 ⊗ W2,  s = α/r (1 without α);  rank ≤ rank(W1) rank(W2);  |W1| + |W2| parameters.

    Parameters
    ----------
    rank : int
        r. W2 ``(b, d)`` is a product of rank r if r < max(b, d)/2 and dense otherwise; so any
        rank of 1 or more is allowed.
    alpha : float, optional
        α.
    decompose_both : bool
        W1 ``(a, c)`` is also a product of rank r, if r < max(a, c)/2.
    decompose_factor : int
        out = a·b and in = c·d by ``factor_pair``; -1 for the most square pairs.
    full_matrix : bool
        Both factors dense (LyCORIS).
    unbalanced_factorization : bool
        Swap a and b (LyCORIS).
    use_effective_conv2d : bool
        For a kernel of more than one element: a low-rank W2 is a Tucker tensor with the core
        ``T2 (r, r, *kernel)`` and the factors ``W2_a (r, b)``, ``W2_b (r, d)``. Without it,
        and for a dense W2, the kernel is flattened into d.
    convention : {"peft", "lycoris"}
        Where the two differ. ``"peft"``: a factor above the root of a size stays first; W1
        starts at zero (its left factor if it is a product); s = α/r always. ``"lycoris"``: the
        smaller of a pair comes first; W2 starts at zero (its right factor if it is a product);
        s = 1 if both are dense.

    Notes
    -----
    A dense factor has ac or bd·kernel parameters, a product r(a + c) or r(b + d·kernel), a
    Tucker W2 r(b + d) + r²·kernel. All factors that do not start at zero are Kaiming.
    """
    check_count("lokr", "rank", rank)
    check_choice("lokr", "convention", convention, CONVENTIONS)
    _check_factor(decompose_factor)
    a, b = factor_pair(w.shape[0], decompose_factor, convention)
    c, d = factor_pair(w.shape[1] if w.ndim > 1 else 1, decompose_factor, convention)
    if unbalanced_factorization:
        a, b = b, a
    kernel = w.shape[2:]
    first_is_dense = full_matrix or not (decompose_both and 2 * rank < max(a, c))
    second_is_dense = full_matrix or 2 * rank >= max(b, d)
    at_zero, random = zeros(), kaiming_uniform()
    peft = convention == "peft"
    first = _factor(
        "W1", a, c, 0 if first_is_dense else rank, (at_zero if peft else random, random)
    )
    last = random if peft else at_zero
    if use_effective_conv2d and not second_is_dense and w.matrix[1] > w.shape[1]:
        second = _tucker_factor(b, d, kernel, rank, last)
    else:
        columns = w.matrix[1] // c
        second = _factor("W2", b, columns, 0 if second_is_dense else rank, (random, last))
    s = scale("lokr", alpha, rank)
    if convention == "lycoris" and first_is_dense and second_is_dense:
        s = scale("lokr", None)
    return s * reshape(kron(first, second), *w.shape)


def _check_factor(factor: int, method: str = "lokr") -> None:
    if factor != -1:
        if type(factor) is int and factor < 1:
            raise StructureError(
                f"decompose_factor={factor} was asked for.",
                "It must be a positive integer, or -1 for the most square pair.",
                f"Use {method}(decompose_factor=-1).",
            )
        check_count(method, "decompose_factor", factor)


def _factor(name: str, rows: int, columns: int, rank: int, starts: tuple[Start, Start]) -> Expr:
    """A dense leaf (rank 0), or a product of two; the start that is zero makes the product zero."""
    if not rank:
        is_zero = starts[0] == zeros() or starts[1] == zeros()
        return parameter(name, rows, columns, start=zeros() if is_zero else kaiming_uniform())
    left = parameter(f"{name}_a", rows, rank, start=starts[0])
    return left @ parameter(f"{name}_b", rank, columns, start=starts[1])


def _tucker_factor(b: int, d: int, kernel: tuple[int, ...], rank: int, last: Start) -> Expr:
    T = parameter("T2", rank, rank, *kernel, start=kaiming_uniform())
    left = parameter("W2_a", rank, b, start=kaiming_uniform())
    right = parameter("W2_b", rank, d, start=last)
    k = " ".join(f"k{axis}" for axis in range(len(kernel)))
    return einsum(f"u v {k}, u b, v d -> b (d {k})", T, left, right)


@method(paper="SURM: Sehanobish et al. 2024, arXiv:2406.17740")
def kronecker(w: Base, *, rank: int = 8, alpha: float | None = None) -> Expr:
    """ΔW = s B ⊗ A,  s = α/r;  rank ≤ min(r, out/r) min(r, in/r);  out + in parameters.

    Parameters
    ----------
    rank : int
        r, a divisor of ``out`` and of ``in``: A is ``(r, in/r)`` and B is ``(out/r, r)``.
    alpha : float, optional
        α; the scale is 1 without it.

    Notes
    -----
    The number of parameters does not depend on r. Start: A Kaiming, B = 0. A convolution is
    flattened to ``(out, in·kernel)``; the reference has linear layers only.
    """
    check_count("kronecker", "rank", rank)
    check_divides("kronecker", rank, w.matrix)
    out, inp = w.matrix
    B = parameter("B", out // rank, rank, start=zeros())
    A = parameter("A", rank, inp // rank, start=kaiming_uniform())
    return scale("kronecker", alpha, rank) * reshape(kron(B, A), *w.shape)


@method(paper="KronA: Edalati et al. 2022, arXiv:2212.10650")
def krona(
    w: Base, *, alpha: float | None = None, decompose_factor: int = -1, start: str = "right"
) -> Expr:
    """ΔW = s A ⊗ B,  s = α (1 without α);  rank ≤ rank(A) rank(B);  ac + bd parameters.

    Parameters
    ----------
    alpha : float, optional
        The scale itself.
    decompose_factor : int
        out = a·b and in = c·d by ``factor_pair``; -1 for the most square pairs. A is
        ``(a, c)`` and B is ``(b, d)``.
    start : {"right", "left"}
        Which factor starts at zero, B or A; the paper's choice is unverified. The other one is
        Kaiming.

    Notes
    -----
    On a linear layer ``lokr(full_matrix=True)`` with another scale. KronA_B and KronA_B-res
    stand beside a whole block of the network; they are adapters, not updates of a weight.
    """
    check_choice("krona", "start", start, ("right", "left"))
    _check_factor(decompose_factor, "krona")
    a, b = factor_pair(w.matrix[0], decompose_factor)
    c, d = factor_pair(w.matrix[1], decompose_factor)
    begin = (kaiming_uniform(), zeros()) if start == "right" else (zeros(), kaiming_uniform())
    A = parameter("A", a, c, start=begin[0])
    B = parameter("B", b, d, start=begin[1])
    return scale("krona", alpha) * reshape(kron(A, B), *w.shape)
