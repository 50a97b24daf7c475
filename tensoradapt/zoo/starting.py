"""Any structure with another beginning: at zero whatever its leaves, or from the user's arrays."""

from __future__ import annotations

from typing import Any

from ..algebra.builders import at_start
from ..algebra.expression import Expr
from ..algebra.nodes import Base, Parameter
from ..algebra.starts import given
from ..algebra.walk import parameters, rewrite
from ..errors import StructureError, near
from ..structure import Update, method
from .limits import within_of


@method(paper="as PiSSA, CorDA and LoRA-GA do with LoRA: arXiv:2404.02948, 2406.05223, 2407.05000")
def since_start(w: Base, *, within: Any, leaves: tuple[str, ...] = ()) -> Update:
    """ΔW = ΔW_within - ΔW_within at the start;  the parameters of the structure within.

    Parameters
    ----------
    within : structure
        What is shifted so that it begins at zero; its bias part too, its penalty as it is.
    leaves : tuple of str
        The trained leaves, by their names in the structure within, that begin as the user's own
        arrays (CorDA's, EVA's or LoRA-GA's factors, for instance): handed to ``sample`` or
        ``adapt`` as data["within.A"] and so on.

    Notes
    -----
    For a structure whose ΔW is zero at the start anyway it changes nothing but the cost. Where
    the reference takes the first value out of W0 once and for good, here W0 stays untouched and
    the first values of the leaves are kept, so the rank bound doubles.
    """
    update = within_of("since_start", within).update(w)
    parts = [part for part in (update.weight, update.bias) if part is not None]
    known = [leaf.name.removeprefix("within.") for part in parts for leaf in parameters(part)]
    for name in leaves:
        if name not in known:
            raise StructureError(
                f"The leaf {name!r} was asked to begin as an array.",
                f"The structure within has no such trained leaf; nearest: {near(name, known)}.",
                f"Name some of: {', '.join(dict.fromkeys(known))}.",
            )
    chosen = {f"within.{name}" for name in leaves}

    def shifted(part: Expr | None) -> Expr | None:
        if part is None:
            return None
        begun = rewrite(part, lambda sub: _given(sub) if _is_leaf(sub, chosen) else sub)
        return begun - at_start(begun)

    penalty = update.penalty
    if penalty is not None:
        penalty = rewrite(penalty, lambda sub: _given(sub) if _is_leaf(sub, chosen) else sub)
    return Update(shifted(update.weight), shifted(update.bias), penalty)


def _is_leaf(sub: Expr, chosen: set[str]) -> bool:
    return isinstance(sub, Parameter) and sub.name in chosen


def _given(leaf: Expr) -> Expr:
    assert isinstance(leaf, Parameter)
    return Parameter(leaf.name, leaf.shape, given(), leaf.scope)
