"""The two plots of the demo: accuracy against parameters, singular values against the bound."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingExtraError
from .candidates import FULL, Group
from .experiment import TOLERANCE
from .summary import SPECTRUM_SITE, Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {Group.REFERENCE: "0.35", Group.NEAR_EQUAL: "tab:blue", Group.SMALL: "tab:orange"}
SMALLEST_SHOWN = 1e-9
ACCURACY = "accuracy on digits 5 to 9 (%)"
TITLE = "mean and standard deviation over the seeds"


def require_matplotlib() -> None:
    """Raise ``MissingExtraError`` now, not after minutes of training, if there is none."""
    new_figure((1, 1))


def new_figure(inches: tuple[float, float]) -> Figure:
    """Make a figure that belongs to no window and no global state."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("matplotlib", "plot", "Drawing the demo's plots") from error
    return Figure(figsize=inches, layout="constrained")


def draw(report: Report, output: Path) -> tuple[Path, Path]:
    """Draw both plots into a folder.

    Parameters
    ----------
    report : Report
        What was found.
    output : Path
        An existing folder.

    Returns
    -------
    tuple of Path
        ``accuracy.png`` and ``spectrum.png``.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    accuracy, spectrum = output / "accuracy.png", output / "spectrum.png"
    accuracy_figure(report).savefig(accuracy, dpi=150)
    spectrum_figure(report).savefig(spectrum, dpi=150)
    return accuracy, spectrum


def accuracy_figure(report: Report) -> Figure:
    """Draw accuracy against parameters, and beside it the same accuracies with their names."""
    figure = new_figure((12, 6))
    scatter, ladder = figure.subplots(1, 2, width_ratios=(3, 2))
    for row in report.rows:
        if row.n_parameters:
            _error_bar(scatter, row, row.n_parameters, vertical=True)
        else:  # the head alone, which has no place on a logarithmic axis
            scatter.axhline(100 * row.accuracy, color=COLORS[row.candidate.group], linestyle=":")
            place = (0.99, 100 * row.accuracy)
            scatter.annotate(
                row.candidate.name,
                place,
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
            )
    for group in Group:
        scatter.plot([], [], "o", color=COLORS[group], label=group.value)
    scatter.legend(loc="center right")
    scatter.set(
        xlabel="trained parameters, the head left out", ylabel=ACCURACY, xscale="log", title=TITLE
    )
    ticks = [2**n * 1000 for n in range(1, 7)]
    scatter.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    scatter.minorticks_off()
    scatter.grid(alpha=0.3)
    adapted = [row for row in report.rows if row.n_parameters]  # the head would hide the rest
    rising = sorted(adapted, key=lambda row: row.accuracy)
    for height, row in enumerate(rising):
        _error_bar(ladder, row, height, vertical=False)
    names = [f"{row.candidate.name}  {row.n_parameters:,}" for row in rising]
    ladder.set_yticks(range(len(rising)), names)
    ladder.set(xlabel=ACCURACY, title="the same by name, with the parameters")
    ladder.grid(axis="x", alpha=0.3)
    return figure


def _error_bar(axes: Axes, row: Row, place: float, *, vertical: bool) -> None:
    center, spread = 100 * row.accuracy, 100 * (row.spread or 0.0)
    style = {"fmt": "o", "color": COLORS[row.candidate.group], "capsize": 2, "elinewidth": 1}
    if vertical:
        axes.errorbar([place], [center], yerr=[spread], **style)
    else:
        axes.errorbar([center], [place], xerr=[spread], **style)


def spectrum_figure(report: Report) -> Figure:
    """Draw the singular values of one trained ΔW, a panel for each candidate, with its bound."""
    rows = [row for row in report.rows if row.candidate.structure or row.candidate == FULL]
    across = 5
    down = ceil(len(rows) / across)
    figure = new_figure((2.7 * across, 2.2 * down + 0.6))
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(rows) :]:
        panel.set_visible(False)
    for panel, row in zip(panels.flat, rows, strict=False):
        _spectrum(panel, row)
    figure.suptitle(
        f"Singular values of the trained ΔW of {SPECTRUM_SITE}, by the largest; one line a seed\n"
        "red: the rank bound   dotted: what the numerical rank counts is above"
    )
    figure.supxlabel("number of the singular value")
    return figure


def _spectrum(panel: Axes, row: Row) -> None:
    for trial in row.trials:
        (site,) = (site for site in trial.sites if site.path == SPECTRUM_SITE)
        largest = site.singular_values[0] or 1.0
        heights = [max(value / largest, SMALLEST_SHOWN) for value in site.singular_values]
        panel.semilogy(
            range(1, len(heights) + 1), heights, color=COLORS[row.candidate.group], alpha=0.7
        )
        panel.axvline(site.rank_bound + 0.5, color="tab:red", linewidth=1)
        panel.set_title(f"{row.candidate.name}: bound {site.rank_bound}", fontsize="medium")
    panel.axhline(TOLERANCE, color="0.4", linestyle=":", linewidth=1)
    panel.set_ylim(SMALLEST_SHOWN / 2, 3)
