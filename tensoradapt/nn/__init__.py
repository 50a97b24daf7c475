"""The torch side: adapt a model, train it, merge it, save it, and report on it."""

from .adapt import adapt, delta_weight, detach, disabled, parameters, penalty, sites
from .checkpoint import save
from .layer import Adapted
from .loading import load
from .merging import merge, rounding_loss, unmerge
from .report import Report, SiteReport, report
from .structured import StructuredLinear

__all__ = [
    "Adapted",
    "Report",
    "SiteReport",
    "StructuredLinear",
    "adapt",
    "delta_weight",
    "detach",
    "disabled",
    "load",
    "merge",
    "parameters",
    "penalty",
    "report",
    "rounding_loss",
    "save",
    "sites",
    "unmerge",
]
