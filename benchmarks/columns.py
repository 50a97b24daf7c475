"""One column of the tables: every layer at one shape and one number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .harness import CONTROL, FLOOR, Call, Summary, time_against_floor
from .layers import OURS, PEFT, Data, Layer, program_name
from .memory import peak_bytes, saved_bytes
from .record import Document, table
from .reference import Results, expected, largest_error

TIMES = {"step": "Training step", "inference": "Inference"}
MEMORY = {"extra_peak_bytes": "Extra peak memory", "saved_bytes": "Saved bytes"}


def errors(layers: Sequence[Layer], data: Data) -> dict[str, float]:
    """The largest error of every adapted layer; PEFT's stand behind ours and share its judge."""
    found: dict[str, float] = {}
    wanted: Results = {}
    for layer in layers:
        if layer.case is not None:
            wanted = expected(layer, data) if layer.library == OURS else wanted
            found[layer.label] = largest_error(layer, data, wanted)
    return found


def measure(
    layers: Sequence[Layer],
    shape: tuple[int, int],
    tokens: int,
    rounds: int,
    seconds: float,
    tick: Call = lambda: None,
) -> Document:
    """Check, time and weigh every layer.

    Raises
    ------
    WrongResultError
        If a layer's output or a gradient is wrong.
    """
    data = Data.of(shape, tokens)
    off = errors(layers, data)
    tick()
    floor, adapted = layers[0], layers[1:]
    for layer in layers:
        layer.module.train()
    steps = time_against_floor(
        floor.step(data), {x.label: x.step(data) for x in adapted}, rounds, seconds, tick
    )
    memory = {x.label: (peak_bytes(x.step(data)), _saved(x, data)) for x in layers}
    for layer in layers:
        layer.module.eval()
    inferences = time_against_floor(
        floor.inference(data), {x.label: x.inference(data) for x in adapted}, rounds, seconds, tick
    )
    memory[CONTROL] = (peak_bytes(floor.step(data)), _saved(floor, data))
    rows = [_row(CONTROL, floor, steps, inferences, memory)]
    for layer in adapted:
        row = _row(layer.label, layer, steps, inferences, memory)
        program = program_name(layer.case, shape, tokens) if layer.case else None
        rows.append(
            row | {"error": off[layer.label], "program": program if layer.library == OURS else None}
        )
    return {"shape": list(shape), "tokens": tokens, "rows": rows}


def _saved(layer: Layer, data: Data) -> int:
    return saved_bytes(layer.forward(data), layer.fixed(data))


def _row(
    label: str,
    layer: Layer,
    steps: dict[str, Summary],
    inferences: dict[str, Summary],
    memory: dict[str, tuple[int, int]],
) -> Document:
    peak, saved = memory[label]
    return {
        "method": label,
        "library": layer.library,
        "structure": None if layer.case is None else str(layer.case.structure),
        "parameters": sum(leaf.numel() for leaf in layer.trained.values()),
        "program": None,
        "error": None,
        "step": asdict(steps[label]),
        "inference": asdict(inferences[label]),
        "peak_bytes": peak,
        "extra_peak_bytes": peak - memory[FLOOR][0],
        "saved_bytes": saved,
    }


# --- tables --------------------------------------------------------------------------------


def as_markdown(columns: Sequence[Document]) -> str:
    """The tables of all columns."""
    heads = ["method", *(_head(column) for column in columns)]
    parts = []
    for key, title in TIMES.items():
        text = "Time divided by the frozen layer's: median (quartiles)."
        parts += [f"## {title}", text, table(heads, _rows(columns, key, _time))]
        ratios = _against_peers(columns, key)
        if ratios:
            text = f"PEFT's time divided by ours, the same leaves: {title.lower()}."
            parts += [text, table(heads, ratios)]
    explained = {
        "extra_peak_bytes": "Peak of a training step above the frozen layer's, MiB.",
        "saved_bytes": "Kept for the backward pass besides x, parameters and buffers, MiB.",
    }
    for key, title in MEMORY.items():
        parts += [f"## {title}", explained[key], table(heads, _rows(columns, key, _mebibytes))]
    parts += ["## Programs", "What the planner chose for the training step.",
              table(heads, _rows(columns, "program", str, library=OURS))]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(column: Document) -> str:
    out, inp = column["shape"]
    return f"{out}×{inp} T{column['tokens']}"


def _rows(
    columns: Sequence[Document], key: str, text: Any, library: str | None = None
) -> list[list[str]]:
    return [
        [row["method"], *(text(column["rows"][k][key]) for column in columns)]
        for k, row in enumerate(columns[0]["rows"])
        if library in (None, row["library"])
    ]


def _time(found: dict[str, float]) -> str:
    return f"{found['ratio']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _mebibytes(found: int) -> str:
    return f"{found / 2**20:.2f}"


def _against_peers(columns: Sequence[Document], key: str) -> list[list[str]]:
    rows = columns[0]["rows"]
    return [
        [
            rows[k - 1]["method"],
            *(
                f"{c['rows'][k][key]['ratio'] / c['rows'][k - 1][key]['ratio']:.2f}"
                for c in columns
            ),
        ]
        for k, row in enumerate(rows)
        if row["library"] == PEFT
    ]
