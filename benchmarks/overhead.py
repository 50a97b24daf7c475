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

from tensoradapt import zoo

from . import peers
from .cases import LORA, Case, Peer
from .harness import CONTROL, FLOOR, Call, quartiles, time_in_turn
from .layers import NONE, OURS, Data, Layer, frozen, ours, theirs
from .record import Document, table

SHAPE, TOKENS, GOAL = (128, 128), 1, 10.0
CASE = Case(
    "lora r8", zoo.lora(rank=8, alpha=16), Peer("LoraConfig", {"r": 8, "lora_alpha": 16}, LORA)
)
HAND = "hand-written"
VIEWS = {"t", "transpose", "permute", "view", "reshape", "detach", "alias", "expand"}
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
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        settings = kwargs or {}
        result = func(*args, **settings)
        if func.overloadpacket.__name__ not in VIEWS:
            words = ["×".join(map(str, a.shape)) for a in args if isinstance(a, Tensor)]
            words += [f"{name}={value}" for name, value in settings.items()]
            self.found.append(f"{func.overloadpacket.__name__}({', '.join(words)})")
        return result


def operations(call: Call) -> list[str]:
    """What a call asks of torch below autograd, views left out."""
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
    original = frozen(SHAPE)
    mine = ours(CASE, original)
    leaves = mine.leaves
    hand = HandWritten(original, leaves["A"], leaves["B"], 2.0)
    made = [
        Layer(FLOOR, NONE, original, None, {}),
        Layer(CONTROL, NONE, original, None, {}),
        Layer(HAND, NONE, hand, CASE, leaves),
        mine,
    ]
    return [*made, theirs(CASE, original, leaves)] if peers.are_installed() else made


def measure(rounds: int, count: int, tick: Call = lambda: None) -> Document:
    """The document of the measurement: microseconds per call and the differences per round."""
    data = Data.of(SHAPE, TOKENS)
    with one_thread():
        layers = {layer.label: layer for layer in contenders()}
        mine = next(layer for layer in layers.values() if layer.library == OURS)
        pair = {"hand_written": layers[HAND], "ours": mine}
        kinds: dict[str, Callable[[Layer], Call]] = {
            "forward": lambda layer: layer.inference(data),
            "step": lambda layer: layer.step(data),
        }
        rows, done = [], {}
        for measure, make in kinds.items():
            calls = {label: make(layer) for label, layer in layers.items()}
            done[measure] = {name: operations(make(x)) for name, x in pair.items()}
            times = time_in_turn(calls, rounds, count, tick)
            rows += [_row(measure, label, times) for label in calls]
    return {
        "shape": list(SHAPE),
        "tokens": TOKENS,
        "threads": 1,
        "calls": count,
        "rounds": rounds,
        "operations": done,
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
        parts += [f"### {title}", table(heads, rows), _operations(document["operations"][measure])]
    return "\n\n".join(parts) + "\n"


def _operations(done: dict[str, list[str]]) -> str:
    hand, mine = (
        ", ".join(f"`{text}`" for text in done[name]) for name in ("hand_written", "ours")
    )
    if hand == mine:
        return f"Ours and the hand-written layer run the same operations: {mine}."
    return f"Ours runs {mine}; the hand-written layer {hand}."


def _difference(found: dict[str, float]) -> str:
    return f"{found['microseconds']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"
