"""The demo from its first image to its last file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from ..errors import TensorAdaptError
from .candidates import candidates
from .experiment import QUICK, Settings, pretrain, run_trial
from .plots import draw, require_matplotlib
from .pool import Pool, usable_cores
from .report import to_table
from .summary import Report, rows_of, to_document

OUTPUT = Path("tensoradapt-demo")


def run(
    *,
    quick: bool = False,
    as_json: bool = False,
    output: Path | str = OUTPUT,
    n_seeds: int | None = None,
    n_workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the demo: print the table, write the files, return the document.

    Parameters
    ----------
    quick : bool
        Train shortly and, unless told otherwise, with one seed: seconds instead of minutes.
    as_json : bool
        Print the JSON document instead of the table.
    output : Path
        The folder for ``results.json``, ``accuracy.png``, ``spectrum.png``, the pretrained models
        and the adapters; made when missing, its files of these names replaced.
    n_seeds : int, optional
        The number of seeds, from 0 upwards: 3, or 1 when quick.
    n_workers : int, optional
        The number of processes: one per usable core, at most four. The results are the same
        for every number, the times aside.
    console : Console, optional
        Where the result is printed; standard output by default. Progress goes to standard error.

    Returns
    -------
    dict
        What ``results.json`` holds.

    Raises
    ------
    MissingExtraError
        If scikit-learn or matplotlib is not installed.
    TensorAdaptError
        If a number is below 1, or the output folder cannot be made.
    """
    start = perf_counter()
    seeds = range(_at_least_one("n_seeds", n_seeds if n_seeds is not None else 1 if quick else 3))
    workers = _at_least_one("n_workers", n_workers if n_workers is not None else _n_workers())
    require_matplotlib()
    folder = _made(Path(output))
    settings = QUICK if quick else Settings()
    wanted = candidates()
    with Pool(workers, Console(stderr=True)) as pool:
        known = pool.run(
            "Pretraining on digits 0 to 4",
            [partial(pretrain, seed, settings, folder) for seed in seeds],
        )
        trials = pool.run(
            "Adapting to digits 5 to 9",
            [partial(run_trial, c, seed, settings, folder) for c in wanted for seed in seeds],
        )
    report = Report(settings, tuple(known), rows_of(wanted, trials), perf_counter() - start)
    return _publish(report, folder, as_json, console or Console())


def _publish(report: Report, folder: Path, as_json: bool, console: Console) -> dict[str, Any]:
    document = to_document(report)
    text = json.dumps(document, indent=1)
    results = folder / "results.json"
    results.write_text(text, encoding="utf-8")
    files = (results, *draw(report, folder), folder / "adapters")
    if as_json:
        console.file.write(text + "\n")  # as it is: rich would wrap and color it
    else:
        console.print(to_table(report))
        console.print("Written: " + ", ".join(map(str, files)), soft_wrap=True)
    return document


def _n_workers() -> int:
    return min(4, usable_cores())


def _at_least_one(name: str, number: int) -> int:
    if number < 1:
        raise TensorAdaptError(
            f"The demo was asked for with {name}={number}.",
            "It needs at least one.",
            f"Leave {name} out, or give 1 or more.",
        )
    return number


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TensorAdaptError(
            f"The demo was asked to write into {str(folder)!r}.",
            f"That folder cannot be made: {error.strerror}.",
            "Name another one: tensoradapt demo --output DIR.",
        ) from error
    return folder
