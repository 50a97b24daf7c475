"""``tensoradapt convert``: from one kind of adapter's file to another, with the error."""

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
from .inspect import Base

if TYPE_CHECKING:
    from ..integrations.exporting import Exported


def convert(
    adapter: Annotated[
        Path, typer.Argument(help="A folder of tensoradapt or PEFT; a file of LyCORIS or kohya.")
    ],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Annotated[str, typer.Option(help="lora, peft or tensoradapt.")] = "lora",
    base: Base = None,
    tolerance: Annotated[
        float, typer.Option(help="‖ΔW - B A‖/‖ΔW‖ of every layer, for --to lora.")
    ] = 1e-3,
    rank: Annotated[
        int | None, typer.Option(help="The most that a layer may have, for --to lora.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert an adapter's file; a LoRA has the rank it needs, and its error is printed."""
    exported = integrations.inspecting.convert(adapter, output, to, base, tolerance, rank)
    if as_json:
        lora = None if exported is None else exported.data()
        print_json({"output": str(output), "to": to, "lora": lora})
    elif exported is None:
        typer.echo(f"{output}: the same values, nothing lost")
    else:
        Console().print(_table(exported))


def _table(exported: Exported) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=f"error of all: {exported.error:.2e}")
    table.add_column("layer", overflow="fold")
    table.add_column("rank", justify="right")
    table.add_column("‖ΔW - B A‖/‖ΔW‖", justify="right")
    for site in exported.sites:
        table.add_row(Text(site.path), str(site.rank), f"{site.error:.2e}")
    return table
