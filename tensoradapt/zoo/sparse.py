"""Sparse updates: trained numbers at fixed positions of the weight."""

from __future__ import annotations

from typing import Any

from ..algebra.builders import place, reshape
from ..algebra.expression import Expr
from ..algebra.forms import low_rank
from ..algebra.indexing import IndexMap, torch_choice_map
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import zeros
from ..errors import StructureError
from ..structure import method
from .limits import check_count, check_rank, check_seed, given_positions, scale


def largest_entries(
    weight: Any, sparsity: float = 0.99, select_top: bool = True
) -> tuple[int, ...]:
    """The flat positions of the entries of largest (or smallest) magnitude, in ascending order.

    Parameters
    ----------
    weight : array
        W0, of any array library whose arrays have ``argsort``.
    sparsity : float
        The share that is left out: ``int(size · (1 - sparsity))`` positions are found.
    select_top : bool
        The largest; the smallest without it.

    Examples
    --------
    >>> import numpy as np
    >>> largest_entries(np.array([[3.0, -1.0], [0.5, -4.0]]), sparsity=0.5)
    (0, 3)
    """
    order = abs(weight).reshape(-1).argsort()
    count = int(len(order) * (1 - sparsity))
    if count < 1:
        raise StructureError(
            f"The entries that sparsity={sparsity} leaves were asked for.",
            f"Of {len(order)} entries it leaves none.",
            f"Use a sparsity of {1 - 1 / len(order):.4g} or less.",
        )
    chosen = order[len(order) - count :] if select_top else order[:count]
    return tuple(sorted(int(position) for position in chosen))


@method(paper="SHiRA: Bhardwaj et al. 2024, arXiv:2406.13175")
def shira(
    w: Base, *, rank: int = 32, random_seed: int = 0, indices: tuple[int, ...] | None = None
) -> Expr:
    """ΔW = n trained numbers at fixed positions,  n = r(out + in);  any rank;  n parameters.

    Parameters
    ----------
    rank : int
        r; it only says how many, as many as LoRA's of that rank.
    random_seed : int
        Draws the positions: the first n of ``torch.randperm(out·in)``, as PEFT's random mask
        does with that seed. PEFT has no seed by default, and numbers its values row by row.
    indices : tuple of int, optional
        The positions o·in + i themselves, in the order of the values, instead of r and the
        seed: any mask (of magnitude, of gradients: see ``largest_entries``), and what PEFT
        saves.

    Notes
    -----
    Start: zero. No α. A convolution is flattened; PEFT has linear layers only.
    """
    out, inp = w.matrix
    if indices is not None:
        at = given_positions("shira", indices, out * inp)
    else:
        check_count("shira", "rank", rank)
        check_seed("shira", "random_seed", random_seed)
        if rank * (out + inp) > out * inp:
            raise StructureError(
                f"rank={rank} was asked for.",
                f"That is {rank}·({out} + {inp}) = {rank * (out + inp)} numbers, and the weight "
                f"has {out} × {inp} = {out * inp}.",
                f"Use shira(rank={max(out * inp // (out + inp), 1)}), or give indices.",
            )
        at = torch_choice_map(rank * (out + inp), out * inp, random_seed)
    return _placed(w, at)


def _placed(w: Base, at: IndexMap) -> Expr:
    values = parameter("values", *at.shape, start=zeros())
    return reshape(place(values, *w.matrix, index=at), *w.shape)


@method(paper="Super-tuning: arXiv:2607.09287")
def supertuning(
    w: Base,
    *,
    indices: tuple[int, ...] | None = None,
    rank: int | None = None,
    alpha: float | None = None,
) -> Expr:
    """ΔW = n numbers where |W0| is largest (+ s B A,  s = α/r);  n (+ r(out + in)) parameters.

    Parameters
    ----------
    indices : tuple of int
        The n positions o·in + i. They depend on the values of W0, which a formula does not see:
        ``zoo.sparse.largest_entries(W0, sparsity)`` finds them.
    rank : int, optional
        r of the paper's hybrid ("Supra"); no product without it.
    alpha : float, optional
        α of the product; the scale is 1 without it.

    Notes
    -----
    Start: the numbers and B are zero, A Kaiming. PEFT leaves 1 - sparsity of the entries, 1 % by
    default, and numbers its values from the largest entry down.
    """
    out, inp = w.matrix
    if indices is None:
        raise StructureError(
            "No positions were given in indices.",
            "Where W0 is largest depends on its values, and a formula sees its shape only.",
            "Use supertuning(indices=zoo.sparse.largest_entries(weight, 0.99)).",
        )
    update = _placed(w, given_positions("supertuning", indices, out * inp))
    if rank is None:
        return update
    check_rank("supertuning", rank, w)
    return update + scale("supertuning", alpha, rank) * low_rank(w, rank)
