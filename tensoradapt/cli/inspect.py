"""``tensoradapt inspect``: what a file of adapters holds, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import integrations
from .arguments import Json, print_json

if TYPE_CHECKING:
    from ..integrations.inspecting import Report

Base = Annotated[
    Path | None,
    typer.Option(help="The base model's weights: a .safetensors file, or a folder of them."),
]


def inspect(
    adapter: Annotated[
        Path, typer.Argument(help="A folder of tensoradapt or PEFT; a file of LyCORIS or kohya.")
    ],
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Inspect an adapter's file: per layer method, rank, scale, ‖ΔW‖/‖W0‖, stable rank, NaN."""
    report = integrations.inspecting.inspect(adapter, base)
    if as_json:
        print_json(report.data())
    else:
        Console().print(_bad(report) if report.not_finite else _table(report))
    if report.not_finite:
        raise typer.Exit(1)


def _bad(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("values that are not finite", justify="right")
    for name, count in report.not_finite.items():
        table.add_row(Text(name), str(count))
    return table


def _table(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption="all values are finite")
    for title in ("layer", "method"):
        table.add_column(title, overflow="fold")
    for title in ("rank", "rank ≤", "scale", "parameters", "‖ΔW‖", "‖ΔW‖/‖W0‖", "stable rank"):
        table.add_column(title, justify="right")
    for one in report.layers:
        numbers = (one.scale, None, one.norm, one.relative, one.stable_rank)
        scale, _, norm, relative, stable = ("-" if n is None else f"{n:.3g}" for n in numbers)
        rank = "-" if one.rank is None else str(one.rank)
        table.add_row(
            Text(one.path),
            Text(one.method),
            *(rank, str(one.bound), scale, str(one.parameters), norm, relative, stable),
        )
    return table
