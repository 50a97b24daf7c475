"""Methods that tests of structures use; registered once, whoever imports them."""

from __future__ import annotations

import tensoradapt.algebra as ta
from tensoradapt.structure import Update, method


@method(paper="a test")
def plain_pair(w, *, rank=2, alpha=None, kind="a"):
    """ΔW = s B A."""
    return ta.scaling(alpha, rank) * ta.low_rank(w, rank)


@method(paper="a test")
def outer_wrap(w, *, within=None, others=(), factor=1.0):
    """ΔW = m ⊙ (within + others)."""
    found = within(w) if within is not None else ta.low_rank(w, 1)
    for other in others:
        found = found + other(w)
    return ta.scale_rows(ta.parameter("m", w.shape[0]), found) * factor


@method(paper="a test")
def needs_size(w, *, size):
    """A setting without default."""
    return ta.low_rank(w, size)


@method(paper="a test", scope="group")
def tied_core(ws, *, rank=2):
    """One core for a group of weights."""
    core = ta.parameter("core", rank, rank, scope="group")
    made = []
    for k, w in enumerate(ws):
        left = ta.parameter(f"L{k}", w.shape[0], rank)
        made.append(left @ core @ ta.parameter(f"R{k}", rank, w.shape[1]))
    return made


@method(paper="a test")
def bias_shift(w):
    """Only the bias."""
    return Update(bias=ta.parameter("b", w.shape[0]))
