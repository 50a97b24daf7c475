"""``tensoradapt demo``: the main job, on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import demo as main_job
from .arguments import Json


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Train shortly and with one seed: seconds.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="How many seeds; 3, or 1 with --quick.", show_default=False)
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The folder for the table, the plots and the adapters.")
    ] = Path("tensoradapt-demo"),
    as_json: Json = False,
) -> None:
    """Adapt a small vision transformer from digits 0-4 to 5-9 with many structures."""
    main_job.run(quick=quick, as_json=as_json, output=output, n_seeds=seeds)
