"""What one call of an adapted layer costs beyond its tensor operations.

LoRA at 128 × 128, one token, one thread: there the operations themselves take microseconds. The
rival is the layer that a person would write by hand, with the same operations in the same order,
which is checked here by recording them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from . import peers
from .cases import CASES, Case
from .harness import CONTROL, FLOOR, Call, quartiles, time_in_turn
from .layers import NONE, OURS, Data, Layer, frozen, ours, theirs
from .record import Document, table

SHAPE, TOKENS, GOAL = (128, 128), 1, 10.0
HAND = "hand-written"
MEASURES = {"forward": "Forward", "step": "Forward and backward"}


class HandWritten(nn.Module):
    """LoRA as a person would write it: ``y = x W0ᵀ + b0 + s (x Aᵀ) Bᵀ``."""

    def __init__(self, original: nn.Linear, A: Tensor, B: Tensor, scale: float) -> None:
        super().__init__()
        self.weight, self.bias = original.weight, original.bias
        self.A, self.B = A, B
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = linear(x, self.weight, self.bias)
        return torch.addmm(y, torch.mm(x, self.A.t()), self.B.t(), alpha=self.scale)


class Operations(TorchDispatchMode):
    """Records the operations that run inside it, with the shapes of their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        shapes = tuple(tuple(a.shape) if isinstance(a, Tensor) else a for a in args)
        self.found.append((str(func), (*shapes, *sorted((kwargs or {}).items()))))
        return func(*args, **(kwargs or {}))


def operations(call: Call) -> list[tuple[str, tuple]]:
    """What a call asks of torch, below autograd."""
    call()
    with Operations() as recorded:
        call()
    return recorded.found


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which torch uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def contenders() -> list[Layer]:
    """The frozen layer twice, the hand-written one, ours, and PEFT's where it is installed."""
    lora: Case = CASES[0]
    original = frozen(SHAPE)
    mine = ours(lora, original)
    leaves = mine.leaves
    hand = HandWritten(original, leaves["A"], leaves["B"], 2.0)
    made = [
        Layer(FLOOR, NONE, original, None, {}),
        Layer(CONTROL, NONE, original, None, {}),
        Layer(HAND, NONE, hand, lora, leaves),
        mine,
    ]
    return [*made, theirs(lora, original, leaves)] if peers.are_installed() else made


def measure(rounds: int, count: int, tick: Call = lambda: None) -> Document:
    """The document of the measurement: microseconds per call and the differences per round."""
    data = Data.of(SHAPE, TOKENS)
    with one_thread():
        layers = {layer.label: layer for layer in contenders()}
        hand, mine = layers[HAND], next(x for x in layers.values() if x.library == OURS)
        kinds: dict[str, Callable[[Layer], Call]] = {
            "forward": lambda layer: layer.inference(data),
            "step": lambda layer: layer.step(data),
        }
        rows, same = [], {}
        for measure, make in kinds.items():
            calls = {label: make(layer) for label, layer in layers.items()}
            same[measure] = operations(make(hand)) == operations(make(mine))
            times = time_in_turn(calls, rounds, count, tick)
            rows += [_row(measure, label, times) for label in calls]
    return {
        "shape": list(SHAPE),
        "tokens": TOKENS,
        "threads": 1,
        "calls": count,
        "rounds": rounds,
        "same_operations": same,
        "rows": rows,
    }


def _row(measure: str, label: str, times: dict[str, list[float]]) -> Document:
    def over(other: str) -> dict[str, float]:
        pairs = zip(times[label], times[other], strict=True)
        low, middle, high = quartiles([1e6 * (a - b) for a, b in pairs])
        return {"microseconds": middle, "low": low, "high": high}

    return {
        "measure": measure,
        "method": label,
        "microseconds": 1e6 * median(times[label]),
        "least": 1e6 * min(times[label]),
        "over_frozen": over(FLOOR),
        "over_hand_written": over(HAND),
    }


def as_markdown(document: Document) -> str:
    """The tables of the document."""
    out, inp = document["shape"]
    parts = [
        "## Cost of a call",
        f"LoRA at {out}×{inp}, {document['tokens']} token, one thread: microseconds per call, "
        f"median and least of {document['rounds']} samples of {document['calls']} calls; the "
        "differences are taken within a round (median, quartiles). "
        f"The goal is at most {GOAL:.0f} µs over the hand-written layer.",
    ]
    heads = ["layer", "median", "least", "over the frozen layer", "over the hand-written layer"]
    for measure, title in MEASURES.items():
        rows = [
            [
                row["method"],
                f"{row['microseconds']:.1f}",
                f"{row['least']:.1f}",
                _difference(row["over_frozen"]),
                _difference(row["over_hand_written"]),
            ]
            for row in document["rows"]
            if row["measure"] == measure
        ]
        word = "the same" if document["same_operations"][measure] else "DIFFERENT"
        note = f"Ours and the hand-written layer make {word} tensor operations."
        parts += [f"### {title}", table(heads, rows), note]
    return "\n\n".join(parts) + "\n"


def _difference(found: dict[str, float]) -> str:
    return f"{found['microseconds']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"
