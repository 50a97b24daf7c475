"""Measure adapted layers against the frozen layer and against PEFT.

``python -m benchmarks.step_time`` measures training step, inference, peak extra memory and saved
bytes at every shape and number of tokens, and the cost of a call of the smallest LoRA layer, and
writes ``benchmarks/results/step_time.json`` and ``.md``. ``--overhead`` measures the cost of a
call alone; ``--quick`` goes through everything once, at sizes that say nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import columns, overhead, peers
from .cases import CASES, Case
from .harness import few_objects, progress
from .layers import layers
from .record import SCHEMA, Document, described, environment, show, write
from .reference import WrongResultError

RESULTS = Path(__file__).resolve().parent / "results"
SHAPES, TOKENS = ((768, 768), (2048, 2048), (3072, 768)), (16, 256, 2048)
QUICK_SHAPES, QUICK_TOKENS = ((96, 64),), (8,)


def shape_of(text: str) -> tuple[int, int]:
    """``768x3072`` as (out, in)."""
    sizes = text.lower().replace("×", "x").split("x")
    if len(sizes) != 2 or not all(size.isdigit() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 768x3072 (out x in)")
    return int(sizes[0]), int(sizes[1])


def whole_number(text: str) -> int:
    """A number of one or more."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of one or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.step_time",
        description="Adapted layers against the frozen layer and PEFT.",
    )
    names = ", ".join(case.name for case in CASES)
    made.add_argument("--quick", action="store_true", help="tiny sizes and two rounds")
    made.add_argument("--overhead", action="store_true", help="the cost of a call alone")
    made.add_argument("--shapes", nargs="+", type=shape_of, metavar="OUTxIN")
    made.add_argument("--tokens", nargs="+", type=whole_number, metavar="T")
    made.add_argument("--rounds", type=whole_number, help="samples of each layer (9; quick: 2)")
    made.add_argument("--only", metavar="TEXT", help=f"methods whose name contains it: {names}")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes")
    made.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return made


def run(options: argparse.Namespace) -> Document:
    """Measure what was asked for."""
    document: Document = {"schema": SCHEMA, "environment": environment()}
    if not options.overhead:
        cases = [case for case in CASES if (options.only or "") in case.name]
        document["columns"] = _columns(options, cases)
    if options.overhead or not options.only:
        rounds, count = (2, 10) if options.quick else (max(300, options.rounds or 0), 40)
        with few_objects(), progress(2 * rounds, "cost of a call") as tick:
            document["overhead"] = overhead.measure(rounds, count, tick)
    return document


def _columns(options: argparse.Namespace, cases: list[Case]) -> list[Document]:
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    tokens = options.tokens or (QUICK_TOKENS if options.quick else TOKENS)
    rounds = options.rounds or (2 if options.quick else 9)
    seconds = 1e-4 if options.quick else 8e-3
    made = []
    for shape in shapes:
        around = layers(cases, shape, with_peers=peers.are_installed())
        for count in tokens:
            label = f"{shape[0]}×{shape[1]}, {count} tokens"
            with few_objects(), progress(2 * rounds + 1, label) as tick:
                made.append(columns.measure(around, shape, count, rounds, seconds, tick))
    return made


def as_markdown(document: Document) -> str:
    """The tables of a document."""
    parts = ["# Step time", described(document["environment"])]
    if "columns" in document:
        parts.append(
            "float32; a training step is a forward pass and the gradients of x and of every "
            "trained leaf; every layer's output and gradients were compared with a float64 "
            "reference first. `frozen again` is the noise: a second copy of the frozen layer."
        )
        parts.append(columns.as_markdown(document["columns"]))
    if "overhead" in document:
        parts.append(overhead.as_markdown(document["overhead"]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 1 where a layer gave a wrong result."""
    options = parser().parse_args(arguments)
    try:
        document = run(options)
    except WrongResultError as error:
        print(f"Wrong result: {error}", file=sys.stderr)
        return 1
    text = as_markdown(document)
    name = "overhead" if options.overhead else "step_time"
    write(
        document,
        text,
        options.json or options.output / f"{name}.json",
        options.output / f"{name}.md",
    )
    show(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
