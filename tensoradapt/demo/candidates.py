"""The structures that the demo compares, at nearly one budget.

The budget is that of ``lora(rank=4)``, which is 4 (out + in) parameters a weight. Every method
that has a setting for it is brought near that; those of one size stand apart as small. The
learning rates were chosen among 5e-3 to 8e-2 on seeds 100 and 101, which are none of those
reported, and one step lower where the next one up does not train at all. The sweep was coarse:
not every structure was tried at every rate, and rates within half a point were taken as equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import tensoradapt as ta
from tensoradapt import zoo
from tensoradapt.algebra.starts import kaiming_uniform, zeros

from .transformer import Configuration


class Group(StrEnum):
    """Why a candidate is in the table."""

    REFERENCE = "reference"
    NEAR_EQUAL = "near-equal budget"
    SMALL = "one small size"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the table.

    Attributes
    ----------
    name : str
        A short name, also of its folder.
    group : Group
        Why it is in the table.
    learning_rate : float
        Of Adam at the first step.
    structure : Structure, optional
        The update of every adapted weight; None for the references.
    """

    name: str
    group: Group
    learning_rate: float
    structure: ta.Structure | None = None

    @property
    def title(self) -> str:
        """The structure as a user writes it; its name where it is a formula, or missing."""
        match self.structure:
            case None:
                return self.name
            case ta.Fixed():
                return f"{self.name} (a formula)"
            case structure:
                return str(structure)


HEAD = Candidate("head only", Group.REFERENCE, 3e-2)
FULL = Candidate("full fine-tuning", Group.REFERENCE, 4e-3)


def candidates() -> tuple[Candidate, ...]:
    """List the references and the structures, in the order of the table."""
    near_equal = {
        "lora": (2e-2, zoo.lora(rank=4)),
        "dora": (2e-2, zoo.dora(within=zoo.lora(rank=3))),
        "loha": (2e-2, zoo.loha(rank=2)),
        "lokr": (1e-2, zoo.lokr(rank=8, decompose_factor=2)),
        "hira": (4e-2, zoo.hira(rank=4)),
        "hut": (8e-2, zoo.hut(rank=4, reading="multiply")),
        "sine_lora": (2e-2, zoo.sine_lora(rank=4, frequency=10.0)),
        "vera": (8e-2, zoo.vera(rank=384)),
        "lora_xs": (2e-2, zoo.lora_xs(rank=21)),
        "ldr": (1e-2, zoo.ldr(rank=3)),
        "tt_lora": (1e-2, zoo.tt_lora(rank=5, order=4)),
        "tucker": (2e-2, zoo.tucker(rank=4)),
        "cp": (2e-2, zoo.cp(rank=15)),
        "crossed_blocks": (2e-2, crossed_blocks(4)),
    }
    small = {
        "circulant": (2e-2, zoo.circulant()),
        "symmetric_toeplitz": (1e-2, zoo.symmetric_toeplitz()),
        "toeplitz": (4e-2, zoo.toeplitz()),
    }
    return (
        HEAD,
        FULL,
        *(Candidate(n, Group.NEAR_EQUAL, rate, s) for n, (rate, s) in near_equal.items()),
        *(Candidate(n, Group.SMALL, rate, s) for n, (rate, s) in small.items()),
    )


def crossed_blocks(n_blocks: int) -> ta.Structure:
    """Write a structure that is in no zoo: two block-diagonal factors with a shuffle between.

    It has the parameters of a rank of ``n_blocks``, and its rank is bounded by their square.

    Parameters
    ----------
    n_blocks : int
        A divisor of every size of the transformer.
    """
    sizes = Configuration()
    width, inner = sizes.width, sizes.expansion * sizes.width
    shapes = ((width, width), (inner, width), (width, inner))
    return ta.Fixed(tuple(_crossed_blocks(*shape, n_blocks) for shape in shapes))


def _crossed_blocks(out: int, inp: int, n: int) -> ta.Expr:
    left = ta.parameter("L", n, out // n, n, start=zeros())
    right = ta.parameter("R", n, inp // n, n, start=kaiming_uniform())
    return ta.einsum("a o b, b i a -> (a o) (b i)", left, right)
