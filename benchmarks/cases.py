"""What is measured: structures, and for those that PEFT has too, how PEFT spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensoradapt import zoo
from tensoradapt.structure import Structure

LORA = {"B": "lora_B.default.weight", "A": "lora_A.default.weight"}
DORA = {f"within.{name}": key for name, key in LORA.items()} | {
    "m": "lora_magnitude_vector.default.weight"
}
LOHA = {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}
LOKR = {
    **{"W1": "lokr_w1", "W1_a": "lokr_w1_a", "W1_b": "lokr_w1_b"},
    **{"W2": "lokr_w2", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b"},
}
HIRA = {"B": "hira_B", "A": "hira_A"}
VERA = {"b": "vera_lambda_b", "d": "vera_lambda_d", "B": "vera_B", "A": "vera_A"}


@dataclass(frozen=True, slots=True)
class Peer:
    """How PEFT makes the same layer: the config's class, its settings, its names of our leaves."""

    config: str
    settings: Mapping[str, Any]
    leaves: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the tables, and a second one where there is a peer."""

    name: str
    structure: Structure
    peer: Peer | None = None


def _lora(**more: Any) -> Peer:
    return Peer(
        "LoraConfig", {"r": 16, "lora_alpha": 32, **more}, DORA if more.get("use_dora") else LORA
    )


CASES = (
    Case("lora r16", zoo.lora(rank=16, alpha=32), _lora()),
    Case("rslora r16", zoo.lora(rank=16, alpha=32, use_rslora=True), _lora(use_rslora=True)),
    Case("dora r16", zoo.dora(within=zoo.lora(rank=16, alpha=32)), _lora(use_dora=True)),
    *(
        Case(
            f"loha r{rank}",
            zoo.loha(rank=rank, alpha=2 * rank),
            Peer("LoHaConfig", {"r": rank, "alpha": 2 * rank}, LOHA),
        )
        for rank in (4, 16)
    ),
    Case(
        "lokr r16 f8",
        zoo.lokr(rank=16, alpha=32, decompose_factor=8),
        Peer("LoKrConfig", {"r": 16, "alpha": 32, "decompose_factor": 8}, LOKR),
    ),
    Case("hira r16", zoo.hira(rank=16), Peer("HiraConfig", {"r": 16}, HIRA)),
    Case("vera r256", zoo.vera(rank=256), Peer("VeraConfig", {"r": 256}, VERA)),
    Case("hut r16", zoo.hut(rank=16, reading="multiply")),
    Case("lora_xs r16", zoo.lora_xs(rank=16, alpha=32)),
    Case("sine_lora r16", zoo.sine_lora(rank=16, alpha=32)),
    Case("circulant", zoo.circulant()),
    Case("toeplitz", zoo.toeplitz()),
    Case("ldr r2", zoo.ldr(rank=2)),
    Case("tt_lora r5", zoo.tt_lora(rank=5)),
    Case("tucker r4", zoo.tucker(rank=4, alpha=8)),
    Case("cp r8", zoo.cp(rank=8, alpha=16)),
)
"""Scales differ from 1 wherever a method has one, so that a scale left out is a wrong result."""
