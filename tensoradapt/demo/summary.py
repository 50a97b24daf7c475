"""From the trials of all seeds to one row per candidate, and to one JSON document."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median, stdev
from typing import Any

import torch

from .candidates import Candidate
from .experiment import TOLERANCE, Pretraining, Settings, Site, Trial

SPECTRUM_SITE = "blocks.1.attention.value"
"""The weight whose singular values are drawn, and kept in the document."""


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate over all seeds.

    Attributes
    ----------
    candidate : Candidate
        Whose row it is.
    trials : tuple of Trial
        One per seed.
    """

    candidate: Candidate
    trials: tuple[Trial, ...]

    @property
    def n_parameters(self) -> int:
        """Trained parameters, the head left out; the same for every seed."""
        return self.trials[0].n_parameters

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return mean(trial.accuracy for trial in self.trials)

    @property
    def spread(self) -> float | None:
        """The standard deviation of the accuracy over the seeds; None for one seed."""
        return stdev(t.accuracy for t in self.trials) if len(self.trials) > 1 else None

    @property
    def step_time(self) -> float:
        """The median over the seeds, relative to the frozen model."""
        return median(trial.step_time for trial in self.trials)

    @property
    def rank_bounds(self) -> tuple[int, int] | None:
        """The least and the largest bound over the sites; None without sites."""
        return _range([site.rank_bound for trial in self.trials for site in trial.sites])

    @property
    def numerical_ranks(self) -> tuple[int, int] | None:
        """The least and the largest numerical rank over sites and seeds; None without sites."""
        return _range([site.numerical_rank for trial in self.trials for site in trial.sites])

    @property
    def within_bound(self) -> bool:
        """Whether no numerical rank is above its own site's bound."""
        sites = [site for trial in self.trials for site in trial.sites]
        return all(site.numerical_rank <= site.rank_bound for site in sites)

    @property
    def loaded_difference(self) -> float | None:
        """The largest over the seeds; None where there is no adapter."""
        return _largest([trial.loaded_difference for trial in self.trials])

    @property
    def merged_difference(self) -> float | None:
        """The largest over the seeds; None where there is no adapter."""
        return _largest([trial.merged_difference for trial in self.trials])


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run of the demo found.

    Attributes
    ----------
    settings : Settings
        How long was trained.
    pretrainings : tuple of Pretraining
        One per seed.
    rows : tuple of Row
        One per candidate.
    seconds : float
        Of the whole run.
    """

    settings: Settings
    pretrainings: tuple[Pretraining, ...]
    rows: tuple[Row, ...]
    seconds: float

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were run."""
        return tuple(pretraining.seed for pretraining in self.pretrainings)

    @property
    def loaded_difference(self) -> float:
        """The largest difference that saving and loading made to a score."""
        return max(row.loaded_difference or 0.0 for row in self.rows)

    @property
    def merged_difference(self) -> float:
        """The largest difference that merging made to a score."""
        return max(row.merged_difference or 0.0 for row in self.rows)


def rows_of(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> tuple[Row, ...]:
    """Group the trials by candidate, in the order of the candidates."""
    return tuple(Row(c, tuple(t for t in trials if t.candidate == c)) for c in candidates)


def to_document(report: Report) -> dict[str, Any]:
    """Write a report as plain data for JSON: the table, every trial, and what is drawn."""
    return {
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
        "settings": asdict(report.settings),
        "rank_tolerance": TOLERANCE,
        "seeds": list(report.seeds),
        "seconds": report.seconds,
        "pretraining": [asdict(pretraining) for pretraining in report.pretrainings],
        "largest_difference": {
            "loaded": report.loaded_difference,
            "merged": report.merged_difference,
        },
        "rows": [_row_document(row) for row in report.rows],
    }


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "name": row.candidate.name,
        "structure": row.candidate.title,
        "group": str(row.candidate.group),
        "learning_rate": row.candidate.learning_rate,
        "parameters": row.n_parameters,
        "rank_bound": row.rank_bounds,
        "numerical_rank": row.numerical_ranks,
        "within_bound": row.within_bound,
        "accuracy": {"mean": row.accuracy, "standard_deviation": row.spread},
        "step_time": row.step_time,
        "difference": {"loaded": row.loaded_difference, "merged": row.merged_difference},
        "trials": [_trial_document(trial) for trial in row.trials],
    }


def _trial_document(trial: Trial) -> dict[str, Any]:
    return {
        "seed": trial.seed,
        "accuracy": trial.accuracy,
        "loss": trial.loss,
        "step_time": trial.step_time,
        "difference": {"loaded": trial.loaded_difference, "merged": trial.merged_difference},
        "sites": {site.path: _site_document(site) for site in trial.sites},
    }


def _site_document(site: Site) -> dict[str, Any]:
    document: dict[str, Any] = {
        "shape": site.shape,
        "rank_bound": site.rank_bound,
        "numerical_rank": site.numerical_rank,
    }
    if site.path == SPECTRUM_SITE:
        document["singular_values"] = [float(f"{value:.6g}") for value in site.singular_values]
    return document


def _range(values: list[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None


def _largest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
