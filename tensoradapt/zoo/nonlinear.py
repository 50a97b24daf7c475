"""Elementwise nonlinearities of an update: the sine of a low-rank product."""

from __future__ import annotations

from math import sqrt
from typing import Any

from ..algebra.builders import sin
from ..algebra.expression import Expr
from ..algebra.forms import low_rank
from ..algebra.nodes import Base
from ..errors import StructureError
from ..structure import method
from .limits import check_number, check_rank, scale, update_of


@method(paper="Ji et al. 2025, arXiv:2403.19243")
def sine_lora(
    w: Base,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    frequency: float = 100.0,
    gain: float | None = None,
    within: Any = None,
) -> Expr:
    """ΔW = s sin(ω B A) / g,  s = α/r,  g = √in;  rank unbounded by r;  r(out + in) parameters.

    Parameters
    ----------
    rank : int, optional
        r; 8 by default. It belongs to the product B A, so it goes without ``within``.
    alpha : float, optional
        α; the scale is 1 without it.
    frequency : float
        ω, fixed. The reference has no default; 100 to 400 are used for language models.
    gain : float, optional
        g, fixed; √in by default, as in the reference (√(in·kernel) for a convolution, which
        the reference does not have).
    within : structure, optional
        ΔW = s sin(ω ΔW_within) / g with s = α instead.

    Notes
    -----
    Start: A Kaiming, B = 0. Both ω and g are numbers, not trained. The reference's Sine-DoRA
    forward takes the sine of the activation; ``dora(within=sine_lora(...))`` takes that of the
    weight, in the forward and in the merge alike.
    """
    check_number("sine_lora", "frequency", frequency, 100)
    g = sqrt(w.matrix[1]) if gain is None else gain
    check_number("sine_lora", "gain", g, 1.0)
    if within is None:
        size = 8 if rank is None else rank
        check_rank("sine_lora", size, w)
        return scale("sine_lora", alpha, size) * (sin(frequency * low_rank(w, size)) / g)
    if rank is not None:
        raise StructureError(
            f"rank={rank} was asked for together with a structure within.",
            "The rank is that of the product B A, which the structure within replaces.",
            f"Use sine_lora(rank={rank}), or give the rank to the structure within.",
        )
    return scale("sine_lora", alpha) * (sin(frequency * update_of("sine_lora", within, w)) / g)
