"""Counting parameters: trained, frozen, shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..algebra.expression import Expr
from ..algebra.nodes import Parameter
from ..algebra.snapshot import constant_of
from ..algebra.walk import leaves, snapshots, start_of


@dataclass(frozen=True, slots=True)
class Count:
    """Numbers of elements.

    Parameters
    ----------
    trained : int
        In trained leaves of the site's own, and in shared ones counted once.
    frozen : int
        In seeded, derived or given leaves, and in values at the start that the update reads.
    shared : int
        The part of ``trained`` in leaves of scope "group" or "model".
    """

    trained: int
    frozen: int
    shared: int

    def __int__(self) -> int:
        return self.trained

    def __str__(self) -> str:
        more = f", {self.frozen} frozen" if self.frozen else ""
        more += f", {self.shared} of them shared" if self.shared else ""
        return f"{self.trained} trained{more}"


def count(update: Expr | Sequence[Expr]) -> Count:
    """Count the parameters of an expression, or of several sites together.

    Parameters
    ----------
    update : Expr or sequence of Expr
        With a sequence, leaves of scope "group" and "model" count once, "site" leaves per site.

    Returns
    -------
    Count

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> int(count(zoo.lora(rank=8).on((768, 768))))
    12288
    """
    sites = [update] if isinstance(update, Expr) else list(update)
    trained = frozen = shared = 0
    seen: set[str] = set()
    for expr in sites:
        for leaf in leaves(expr):
            if leaf.scope != "site":
                if leaf.name in seen:
                    continue
                seen.add(leaf.name)
            if isinstance(leaf, Parameter):
                trained += leaf.size
                shared += leaf.size if leaf.scope != "site" else 0
            else:
                frozen += leaf.size
        frozen += sum(leaf.size for leaf in snapshots(expr) if constant_of(start_of(leaf)) is None)
    return Count(trained, frozen, shared)
