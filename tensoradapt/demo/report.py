"""The table of the demo, as a person reads it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .experiment import TOLERANCE
from .summary import Report, Row

COLUMNS = ("structure", "params", "bound", "rank", "accuracy %", "step", "loaded", "merged")


def to_table(report: Report) -> RenderableType:
    """Lay the report out as one table, with the meaning of its columns below.

    Parameters
    ----------
    report : Report
        What was found.

    Returns
    -------
    rich renderable
        For ``console.print``; it fits a terminal of 80 characters, and a wider one better.
    """
    seeds = ", ".join(map(str, report.seeds))
    table = Table(
        title=f"A model of digits 0 to 4, adapted to digits 5 to 9 (seeds {seeds})",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column(COLUMNS[0], overflow="fold")
    for title in COLUMNS[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    for row, following in zip(report.rows, (*report.rows[1:], None), strict=True):
        ends = following is None or following.candidate.group != row.candidate.group
        table.add_row(*_cells(row), end_section=ends)
    return Stack(table, Text(_legend(report)))


def _cells(row: Row) -> tuple[str, ...]:
    spread = "" if row.spread is None else f" ± {100 * row.spread:.1f}"
    return (
        row.candidate.title,
        f"{row.n_parameters:,}",
        _range_text(row.rank_bounds),
        _range_text(row.numerical_ranks) + ("" if row.within_bound else " > bound"),
        f"{100 * row.accuracy:.1f}{spread}",
        f"{row.step_time:.2f}",
        _difference_text(row.loaded_difference),
        _difference_text(row.merged_difference),
    )


def _range_text(ends: tuple[int, int] | None) -> str:
    if ends is None:
        return "–"
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def _difference_text(difference: float | None) -> str:
    if difference is None:
        return "–"
    return f"{difference:.1e}" if difference else "0"


def _legend(report: Report) -> str:
    known = sum(p.accuracy for p in report.pretrainings) / len(report.pretrainings)
    lines = (
        f"Pretrained: {100 * known:.1f} % right on digits 0 to 4, "
        f"{report.pretrainings[0].n_parameters:,} parameters, frozen while adapting.",
        "params    trained parameters, without the new head, which every row trains",
        "bound     of the rank of ΔW, from the structure alone, over the adapted weights",
        f"rank      of the trained ΔW: singular values above {TOLERANCE:g} of the largest",
        "accuracy  on unseen images of digits 5 to 9, mean ± standard deviation",
        "step      time of forward and backward, by that of the frozen model",
        "loaded    largest change of a score after saving and loading into a fresh model",
        "merged    the same after merging that model",
        f"Largest change of all: loaded {_difference_text(report.loaded_difference)}, "
        f"merged {_difference_text(report.merged_difference)}. Done in {report.seconds:.0f} s.",
    )
    return "\n".join(lines)
