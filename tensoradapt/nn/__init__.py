"""The torch side: adapt a model, train it, merge it, save it, and report on it."""

from .adapt import adapt, delta_weight, detach, disabled, parameters, penalty, sites

__all__ = [
    "adapt",
    "delta_weight",
    "detach",
    "disabled",
    "parameters",
    "penalty",
    "sites",
]
