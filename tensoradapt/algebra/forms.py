"""The named tensor formats, as builders on einsum, take and reshape.

They take expressions and return expressions; only ``low_rank`` makes leaves of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ShapeError
from .builders import concatenate, einsum, reshape, take, window
from .expression import Expr, Shape, Start
from .indexing import circulant_map, skew_circulant_map, symmetric_toeplitz_map, toeplitz_map
from .leaves import parameter
from .starts import kaiming_uniform, zeros


def low_rank(
    w: Expr | Shape,
    rank: int,
    names: tuple[str, str] = ("B", "A"),
    starts: tuple[Start, Start] | None = None,
) -> Expr:
    """``B A`` for a weight: B ``(out, rank)`` starts at zero, A ``(rank, in·kernel)`` Kaiming.

    Parameters
    ----------
    w : Expr or tuple of int
        The weight, or its shape ``(out, in, *kernel)``.
    rank : int
        The inner size.
    names : (str, str)
        The names of B and A.
    starts : (Start, Start), optional
        Their first values.

    Examples
    --------
    >>> low_rank((8, 6), rank=2)
    B A
    """
    shape = w.shape if isinstance(w, Expr) else tuple(w)
    out, inp = shape[0], _size(shape[1:])
    start_left, start_right = starts or (zeros(), kaiming_uniform())
    left = parameter(names[0], out, rank, start=start_left)
    right = parameter(names[1], rank, inp, start=start_right)
    return reshape(left @ right, *shape)


def _size(shape: Shape) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def kron(*factors: Expr) -> Expr:
    """The Kronecker product of tensors with equally many axes, the first varying slowest.

    ``(A ⊗ B)[a·p + b, c·q + d] = A[a, c] B[b, d]`` for B of shape ``(p, q)``.
    """
    axes = {factor.ndim for factor in factors}
    if len(axes) != 1:
        raise ShapeError(
            f"kron of {len(factors)} factors was asked for.",
            f"Their shapes are {', '.join(str(f.shape) for f in factors)}.",
            "Give factors with equally many axes.",
        )
    ndim, count = axes.pop(), len(factors)
    left = ", ".join(" ".join(f"x{k}_{a}" for a in range(ndim)) for k in range(count))
    right = " ".join("(" + " ".join(f"x{k}_{a}" for k in range(count)) + ")" for a in range(ndim))
    return einsum(f"{left} -> {right} ", *factors)


def khatri_rao(left: Expr, right: Expr) -> Expr:
    """The column-wise Kronecker product: ``(o1 r), (o2 r) -> (o1 o2) r``."""
    return einsum("o1 r, o2 r -> (o1 o2) r", left, right)


def cp(factors: Sequence[Expr], weights: Expr | None = None) -> Expr:
    """The CP tensor ``Σ_r weights[r] ∘_m factors[m][:, r]`` of factors ``(n_m, r)``."""
    parts = [f"n{m} r" for m in range(len(factors))]
    operands = list(factors)
    if weights is not None:
        parts.append("r ")
        operands.append(weights)
    result = " ".join(f"n{m}" for m in range(len(factors)))
    return einsum(f"{' , '.join(parts)} -> {result} ", *operands)


def tucker(core: Expr, factors: Sequence[Expr]) -> Expr:
    """The Tucker tensor ``core ×_1 factors[0] ×_2 …`` of factors ``(n_m, r_m)``."""
    modes = range(len(factors))
    parts = [" ".join(f"r{m}" for m in modes) + " "] + [f"n{m} r{m}" for m in modes]
    return einsum(f"{', '.join(parts)} -> {' '.join(f'n{m}' for m in modes)} ", core, *factors)


def tensor_train(cores: Sequence[Expr]) -> Expr:
    """The tensor train of cores ``(r_{k-1}, n_k, r_k)``; the ends may leave out their rank 1."""
    last = len(cores) - 1
    parts: list[str] = []
    for k, core in enumerate(cores):
        before = f"r{k} " if k or core.ndim == 3 else ""
        after = f" r{k + 1}" if k < last or (core.ndim == 3 - (not before)) else ""
        parts.append(f"{before}n{k}{after} ")
    result = " ".join(f"n{k}" for k in range(len(cores)))
    return einsum(f"{', '.join(parts)} -> {result} ", *cores)


def tensor_ring(cores: Sequence[Expr]) -> Expr:
    """The tensor ring of cores ``(r_k, n_k, r_{k+1})`` with ``r_d = r_0``."""
    count = len(cores)
    parts = [f"r{k} n{k} r{(k + 1) % count}" for k in range(count)]
    return einsum(f"{', '.join(parts)} -> {' '.join(f'n{k}' for k in range(count))} ", *cores)


def block_diag(*blocks: Expr) -> Expr:
    """A block diagonal matrix: of one stack ``(blocks, out, in)``, or of matrices of any shapes."""
    if len(blocks) == 1 and blocks[0].ndim == 3:
        return einsum("j o i -> (j o) (j i)", blocks[0])
    if any(block.ndim != 2 for block in blocks):
        raise ShapeError(
            f"block_diag of {len(blocks)} blocks was asked for.",
            f"Their shapes are {', '.join(str(b.shape) for b in blocks)}.",
            "Give matrices, or one stack of shape (blocks, out, in).",
        )
    columns = sum(block.shape[1] for block in blocks)
    rows: list[Expr] = []
    before = 0
    for block in blocks:
        rows.append(window(block, block.shape[0], columns, offset=(0, -before)))
        before += block.shape[1]
    return concatenate(rows)


def monarch(left: Expr, right: Expr) -> Expr:
    """``(a b) × (c d)`` from left ``(a, b, d)`` and right ``(a, c, d)``: blocks of rank one."""
    return einsum("a b d, a c d -> (a b) (c d)", left, right)


def circulant(c: Expr, rows: int | None = None, columns: int | None = None) -> Expr:
    """The circulant matrix of a first column: ``C[i, j] = c[(i - j) mod n]``.

    Further axes of ``c`` come last in the result; ``rows`` and ``columns`` crop it.
    """
    return take(c, circulant_map(c.shape[0], rows, columns))


def skew_circulant(s: Expr) -> Expr:
    """``S[i, j] = ±s[(i - j) mod n]``, minus above the diagonal."""
    return take(s, skew_circulant_map(s.shape[0]))


def toeplitz(t: Expr, rows: int, columns: int | None = None) -> Expr:
    """``T[i, j] = t[i - j + columns - 1]`` of a vector of ``rows + columns - 1`` elements."""
    return take(t, toeplitz_map(rows, columns or rows))


def symmetric_toeplitz(t: Expr, rows: int | None = None, columns: int | None = None) -> Expr:
    """``T[i, j] = t[|i - j|]``."""
    return take(t, symmetric_toeplitz_map(t.shape[0], rows, columns))


def low_displacement_rank(g: Expr, h: Expr) -> Expr:
    """``Σ_r C(g[:, r]) S(h[:, r])`` of ``(n, r)`` and ``(n, r)``: displacement rank r.

    With ``Z_1 W - W Z_{-1} = 2 Σ_r g_r (J h_r)ᵀ``, where J reverses (arXiv:2406.17740).
    """
    return einsum("i k r, k j r -> i j", circulant(g), skew_circulant(h))
