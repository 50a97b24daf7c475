"""Updates built from factors of the base weight: its singular vectors, its range, itself."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..algebra.builders import (
    at_start,
    concatenate,
    einsum,
    elementwise,
    orthonormal,
    place,
    relu,
    reshape,
    sigmoid,
    take,
    window,
)
from ..algebra.expression import Expr
from ..algebra.indexing import torch_choice_map
from ..algebra.leaves import frozen, parameter
from ..algebra.nodes import Base
from ..algebra.starts import (
    kaiming_uniform,
    left_singular,
    normal,
    right_singular,
    singular_values,
    value_of,
    zeros,
)
from ..errors import StructureError
from ..structure import Update, method
from .limits import (
    check_at_most,
    check_choice,
    check_count,
    check_number,
    check_seed,
    given_positions,
    scale,
)


@method(paper="DEFT: as in PEFT 0.21 (DeftConfig)")
def deft(
    w: Base,
    *,
    rank: int = 8,
    alpha: float | None = None,
    decomposition_method: str = "relu",
    para: bool = False,
) -> Expr:
    """W' = (I - Q Pᵀ) W0 + s Q R,  s = α/r;  rank ΔW ≤ r;  r(out + in) parameters.

    Parameters
    ----------
    rank : int
        r, at most ``out``.
    alpha : float, optional
        α; the scale is 1 without it.
    decomposition_method : {"relu", "qr"}
        From the trained leaf P ``(out, r)``: Q = P and Pᵀ above is relu(P)ᵀ, or both are the
        orthonormal Q of a QR of P.
    para : bool
        Without the last term (PaRa): only removes; r·out parameters, and
        **ΔW is not zero at the start.**

    Notes
    -----
    Start: P is N(0, 0.02²) and R = Pᵀ W0/s (with relu(P) or Q for P), so that ΔW = 0. Q has the
    signs that make the diagonal of its triangle positive; PEFT's has LAPACK's, so its R is read
    with the rows of negative diagonal turned over. A convolution is flattened.
    """
    check_choice("deft", "decomposition_method", decomposition_method, ("relu", "qr"))
    out, inp = w.matrix
    check_count("deft", "rank", rank)
    check_at_most("deft", rank, out, f"the space of {out} outputs")
    s = scale("deft", alpha, rank)
    P = parameter("P", out, rank, start=normal(0.02))
    Q = P if decomposition_method == "relu" else orthonormal(P)
    removed = (relu(P) if decomposition_method == "relu" else Q).T @ reshape(w, out, inp)
    if para:
        return -reshape(Q @ removed, *w.shape)
    R = parameter("R", rank, inp, start=value_of(removed / s))
    return s * reshape(Q @ (R - removed / s), *w.shape)


ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "sin")


@method(paper="PEANuT: Zhong et al. 2024, arXiv:2410.01870")
def peanut(
    w: Base, *, rank: int = 32, depth: int = 0, act_fn: str = "relu", scaling: float = 1.0
) -> Expr:
    """ΔW = s B g(f(A W0)),  g a network of d layers;  rank ≤ r;  2r·out + 2d r² parameters.

    Parameters
    ----------
    rank : int
        r; A is ``(r, out)`` and B is ``(out, r)``.
    depth : int
        d: g has d encoders H ← f(E_k H), then d decoders H ← f(D_k H) + (what encoder d - k + 1
        was given), all ``(r, r)``. 0 is B f(A W0).
    act_fn : {"relu", "tanh", "sigmoid", "silu", "sin"}
        f, elementwise. PEFT also takes the other names of transformers.
    scaling : float
        s.

    Notes
    -----
    Start: B = 0, the others Kaiming. W0 is read at every step. A convolution is flattened; PEFT
    has linear layers only.
    """
    check_count("peanut", "rank", rank)
    check_at_most("peanut", rank, w.matrix[0], f"the space of {w.matrix[0]} outputs")
    check_count("peanut", "depth", depth, least=0)
    check_choice("peanut", "act_fn", act_fn, ACTIVATIONS)
    check_number("peanut", "scaling", scaling, 1.0)
    out = w.matrix[0]
    A = parameter("A", rank, out, start=kaiming_uniform())
    hidden = _activation(act_fn, A @ reshape(w, *w.matrix))
    given: list[Expr] = []
    for k in range(depth):
        given.append(hidden)
        E = parameter(f"E{k + 1}", rank, rank, start=kaiming_uniform())
        hidden = _activation(act_fn, E @ hidden)
    for k in range(depth):
        D = parameter(f"D{k + 1}", rank, rank, start=kaiming_uniform())
        hidden = _activation(act_fn, D @ hidden) + given.pop()
    return scaling * reshape(parameter("B", out, rank, start=zeros()) @ hidden, *w.shape)


def _activation(name: str, operand: Expr) -> Expr:
    return operand * sigmoid(operand) if name == "silu" else elementwise(name, operand)


@method(paper="OSF: as in PEFT 0.21 (OSFConfig)")
def osf(w: Base, *, effective_rank: float | None = None) -> Expr:
    """ΔW = U diag(s) V - the same at the start;  rank ≤ 2(m-k);  (m-k)(out + in + 1) parameters.

    Parameters
    ----------
    effective_rank : int or float, optional
        k, how many of the m = min(out, in) largest singular triplets of W0 stay; a fraction of m
        if it is a float up to 1, half of m without it. U, s and V start as the others.

    Notes
    -----
    The method also takes out of the gradients of U and V what lies in the k directions that
    stay. That is a rule of training, not part of the formula, and is not here; neither are the
    k directions themselves.
    """
    out, inp = w.matrix
    size = min(out, inp)
    kept = 0.5 if effective_rank is None else effective_rank
    if isinstance(kept, float) and 0 < kept <= 1:
        kept = max(int(kept * size), 1)
    if type(kept) is not int or not 1 <= kept < size:
        raise StructureError(
            f"effective_rank={effective_rank!r} was asked for.",
            f"A matrix of {out} × {inp} keeps 1 to {size - 1} of its {size} singular triplets.",
            "Use osf(effective_rank=0.5), or an integer in that range.",
        )
    matrix, rank = reshape(w, out, inp), size - kept
    U = parameter("U", out, rank, start=left_singular(matrix, rank, first=kept))
    s = parameter("s", rank, start=singular_values(matrix, rank, first=kept))
    V = parameter("V", rank, inp, start=right_singular(matrix, rank, first=kept))
    product = einsum("o r, r, r i -> o i", U, s, V)
    return reshape(product - at_start(product), *w.shape)


@method(paper="FRoD: as in PEFT 0.21 (FrodConfig)")
def frod(
    w: Base,
    *,
    sparse_rate: float = 0.01,
    projection_prng_key: int = 0,
    indices: tuple[int, ...] | None = None,
) -> Expr:
    """W' = U (S + diag(l)) V,  U diag(l) V = W0 at the start;  any rank;  in + |S| parameters.

    Parameters
    ----------
    sparse_rate : float
        The share of the in² entries of S that train; at least one, none with 0.
    projection_prng_key : int
        Draws their positions off the diagonal, as PEFT does for its first role of layers.
    indices : tuple of int, optional
        The positions a·in + b of S themselves, in the order of the values.

    Notes
    -----
    U ``(out, in)`` and V ``(in, in)`` are frozen leaves: here the singular vectors of one weight,
    V completed to a basis, U by zeros. The method decomposes all layers of a role together, and
    PEFT also takes other factors for one weight with out ≥ in, so its U and V (its V transposed)
    are handed over by value. Start: S = 0 and l the singular values, so ΔW = 0 to rounding.
    """
    out, inp = w.matrix
    matrix, size = reshape(w, out, inp), min(out, inp)
    rows = frozen("rows", size, inp, recipe=right_singular(matrix, size))
    rest = [frozen("rest", inp, inp - size)] if inp > size else []
    V = frozen("V", inp, inp, recipe=value_of(_basis(rows, rest)))
    columns = frozen("columns", out, size, recipe=left_singular(matrix, size))
    U = frozen("U", out, inp, recipe=value_of(window(columns, out, inp)))
    strengths = frozen("strengths", size, recipe=singular_values(matrix, size))
    length = parameter("l", inp, start=value_of(window(strengths, inp)))
    new = einsum("o a, a, a i -> o i", U, length, V)
    count = _sparse_count(inp, sparse_rate)
    if indices is not None:
        at = given_positions("frod", indices, inp * inp)
        S = place(parameter("S", *at.shape, start=zeros()), inp, inp, index=at)
        new = new + U @ S @ V
    elif count:
        check_seed("frod", "projection_prng_key", projection_prng_key)
        at = torch_choice_map(count, inp * (inp - 1), projection_prng_key)
        # In the order of rows, the entries off the diagonal stand in n - 1 rows of n between the
        # n entries on it: (n - 1, n), a zero behind each row, a zero before the first.
        between = place(parameter("S", count, start=zeros()), inp - 1, inp, index=at)
        flat = reshape(window(between, inp - 1, inp + 1), inp * inp - 1)
        new = new + U @ reshape(window(flat, inp * inp, offset=(-1,)), inp, inp) @ V
    return reshape(new, *w.shape) - w


def _basis(rows: Expr, rest: Sequence[Expr]) -> Expr:
    """Orthonormal rows, completed by random directions to a basis."""
    return orthonormal(concatenate([rows.T, *rest], axis=1)).T if rest else rows


def _sparse_count(n: int, rate: float) -> int:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise StructureError(
            f"sparse_rate={rate!r} was asked for.",
            "It is a share of the entries, from 0 to less than 1.",
            "Use frod(sparse_rate=0.01).",
        )
    return min(max(int(n * n * rate), 1), n * (n - 1)) if rate else 0


@method(paper="AdaMSS: as in PEFT 0.21 (AdamssConfig)")
def adamss(
    w: Base,
    *,
    rank: int = 100,
    num_subspaces: int = 5,
    subspace_rank: int = 1,
    clusters: tuple[int, ...] | None = None,
    random_seed: int = 0,
    with_bias: bool = True,
) -> Update:
    """ΔW = rows c: B_c A_c N,  N frozen,  c a cluster;  rank ≤ Σ r_c;  Σ r_c (R + |c|) parameters.

    Parameters
    ----------
    rank : int
        R, at most min(out, in + 1): N ``(R, in + 1)`` has the right singular vectors of [W0, b0].
    num_subspaces : int
        How many clusters of rows there are.
    subspace_rank : int
        r_c, less where a cluster has fewer rows.
    clusters : tuple of int, optional
        The cluster of every row, numbered from 0, instead of a random division.
    random_seed : int
        Divides the rows at random into clusters of equal sizes.
    with_bias : bool
        Without it N is that of W0 alone and the bias stays; needed for a layer without bias.

    Notes
    -----
    **Approximated:** the method clusters the rows by k-means of the left singular vectors,
    which depends on the values of W0; a formula sees its shape only, so the clusters are random
    here unless they are given. Start: B_c = 0, A_c ``(r_c, R)`` the main directions of the
    cluster's rows in U, as PEFT. The subspaces that PEFT prunes while training are not here.
    """
    out, inp = w.matrix
    for name, value in (("rank", rank), ("num_subspaces", num_subspaces)):
        check_count("adamss", name, value)
    check_count("adamss", "subspace_rank", subspace_rank)
    matrix = reshape(w, out, inp)
    whole = concatenate([matrix, reshape(w.bias, out, 1)], axis=1) if with_bias else matrix
    R = min(rank, *whole.shape)
    N = frozen("N", R, whole.shape[1], recipe=right_singular(whole, R))
    U = frozen("rows", out, R, recipe=left_singular(whole, R))
    groups, order = _clusters(out, num_subspaces, clusters, random_seed)
    parts: list[Expr] = []
    for c, members in enumerate(groups):
        r = min(subspace_rank, len(members), R)
        A = parameter(f"A{c}", r, R, start=right_singular(take(U, members), r))
        parts.append(parameter(f"B{c}", len(members), r, start=zeros()) @ A)
    rows = take(concatenate(parts), order)
    change = reshape(rows @ window(N, R, inp), *w.shape)
    if not with_bias:
        return Update(change)
    return Update(change, reshape(rows @ window(N, R, 1, offset=(0, inp)), out))


def _clusters(
    out: int, count: int, labels: tuple[int, ...] | None, seed: int
) -> tuple[list[list[int]], list[int]]:
    """The rows of each cluster, and where each row stands when the clusters are stacked."""
    if labels is None:
        check_seed("adamss", "random_seed", seed)
        source = Random(seed)
        order = sorted(range(out), key=lambda _: source.random())
        labels_of = {row: at * min(count, out) // out for at, row in enumerate(order)}
        labels = tuple(labels_of[row] for row in range(out))
    if not isinstance(labels, tuple) or len(labels) != out or {*labels} != {*range(len({*labels}))}:
        raise StructureError(
            "A cluster for every row was asked for in clusters.",
            f"They are {out} integers that number the clusters from 0 without a gap.",
            "Use adamss(clusters=(0, 0, 1, ...)), or leave them out.",
        )
    groups = [[row for row in range(out) if labels[row] == c] for c in range(len({*labels}))]
    stacked = [row for group in groups for row in group]
    place = {row: at for at, row in enumerate(stacked)}
    return groups, [place[row] for row in range(out)]
