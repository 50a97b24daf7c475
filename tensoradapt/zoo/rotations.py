"""Rotations of the base weight: W' = W0 R or R W0 with R orthogonal, or nearly so.

R is built from small skew-symmetric blocks (OFT, BOFT, PSOFT), from reflections (HRA) or from
angles (RoAd). All are formed as R - I, so that ΔW keeps all digits of a small rotation.
"""

from __future__ import annotations

from ..algebra.builders import (
    cayley,
    clip,
    cos,
    einsum,
    householder,
    neumann,
    norm,
    orthonormal,
    reshape,
    scale_rows,
    sin,
    take,
)
from ..algebra.expression import Expr
from ..algebra.indexing import IndexMap, skew_map
from ..algebra.leaves import eye, frozen, ones, parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_uniform, left_singular, paired_columns, right_singular
from ..algebra.starts import ones as at_one
from ..algebra.starts import zeros
from ..errors import StructureError
from ..structure import Update, method
from .limits import (
    check_at_most,
    check_choice,
    check_count,
    check_number,
    check_parts,
    check_rank,
)

CONVENTIONS = ("peft", "lycoris")


def _skew_part(blocks: Expr) -> Expr:
    """``B - Bᵀ`` of the last two axes."""
    batch = " ".join(f"b{k}" for k in range(blocks.ndim - 2))
    return blocks - einsum(f"{batch} i j -> {batch} j i", blocks)


def _restrained(skew: Expr, most: float | None, *axes: int) -> Expr:
    """Q with its norm over the axes brought down to ``most``, where it is above."""
    if most is None:
        return skew
    shrink = 1 / clip(norm(skew, *axes) / most, 1.0, float("inf"))
    kept = " ".join(f"a{k}" for k in range(skew.ndim) if k not in axes)
    every = " ".join(f"a{k}" for k in range(skew.ndim))
    return einsum(f"{kept} , {every} -> {every}", shrink, skew)


def _rotation(
    method: str, skew: Expr, use_cayley_neumann: bool, terms: int, inverse: bool = False
) -> Expr:
    """R - I: Cayley's, or PEFT's truncated series of its inverse."""
    if not use_cayley_neumann:
        return cayley(skew, inverse=inverse, minus_identity=True)
    check_count(method, "num_cayley_neumann_terms", terms, least=2)
    return neumann(skew, {2: 1, 3: 3}.get(terms, terms - 1), minus_identity=True)


@method(paper="OFT: Qiu et al. 2023, arXiv:2306.07280")
def oft(
    w: Base,
    *,
    oft_block_size: int = 32,
    block_share: bool = False,
    use_cayley_neumann: bool = True,
    num_cayley_neumann_terms: int = 5,
    coft: bool = False,
    eps: float = 6e-5,
    convention: str = "peft",
    rescaled: bool = False,
) -> Expr:
    """W' = W0 diag(R_1, …, R_n)ᵀ,  R_k orthogonal, b × b;  rank ΔW ≤ rank W0;  in(b - 1)/2 parameters.

    Parameters
    ----------
    oft_block_size : int
        b, 2 or more, a divisor of ``in`` (of ``out`` in LyCORIS' convention).
    block_share : bool
        One block for all: b(b - 1)/2 parameters.
    use_cayley_neumann : bool
        R = I + 2Q + 2Q² + 2Q³ + Q⁴; without it R = (I - Q)(I + Q)⁻¹. **These turn in opposite
        directions**, so a checkpoint needs the flag.
    num_cayley_neumann_terms : int
        How many terms of that series, as PEFT counts them (its 3 is its 4).
    coft : bool
        Bring every ‖Q_k‖_F down to ε/√n. PEFT overwrites the leaf so; here the value is the same
        and the leaf stays.
    eps : float
        ε: of coft, or in LyCORIS' convention the bound on the norm of all Q together.
    convention : {"peft", "lycoris"}
        ``"peft"``: Q_k is filled from the strict upper triangle R ``(n, b(b - 1)/2)`` and turns
        the input. ``"lycoris"`` (Diag-OFT): the whole ``(n, b, b)`` is stored, Q = B - Bᵀ,
        R = (I - Q)(I + Q)⁻¹ turns the output, W' = diag(R_1, …, R_n) W0; out·b parameters, no
        series and no sharing.
    rescaled : bool
        In LyCORIS' convention: multiply every row by a trained number as well.

    Notes
    -----
    Start: 0, so R = I. A convolution is flattened to ``(out, in·kernel)``, which is what PEFT
    merges; its own forward of a convolution adds overlapping patches and differs.
    """
    b, peft = oft_block_size, convention == "peft"
    check_choice("oft", "convention", convention, CONVENTIONS)
    check_count("oft", "oft_block_size", b, least=2)
    check_parts("oft", "oft_block_size", b, {"in": w.matrix[1]} if peft else {"out": w.matrix[0]})
    if coft:
        check_number("oft", "eps", eps, 6e-5)
    if not peft:
        _refuse_for_lycoris(block_share=block_share)
        return _diagonal_oft(w, b, eps if coft else None, rescaled)
    _refuse_for_peft(rescaled=rescaled)
    flat = reshape(w, *w.matrix)
    count = 1 if block_share else w.matrix[1] // b
    free = parameter("R", count, b * (b - 1) // 2, start=zeros())
    skew = _restrained(take(free, skew_map(b), axis=1), eps / count**0.5 if coft else None, 1, 2)
    turn = _rotation("oft", skew, use_cayley_neumann, num_cayley_neumann_terms)
    index = "one" if block_share else "n"
    return reshape(einsum(f"o (n i), {index} j i -> o (n j)", flat, turn, i=b), *w.shape)
