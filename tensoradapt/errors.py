"""Every error the library raises, and the sentence form they share.

An error has three sentences: what was asked, what stands against it (with the
numbers), and what to do. Knows nothing else of the library.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TensorAdaptError(Exception):
    """The root of all errors raised on purpose.

    Parameters
    ----------
    asked : str
        What the caller asked for, in the caller's words.
    against : str
        What stands against it, with the numbers.
    remedy : str
        What to do, as a call that works where there is one.
    """

    def __init__(self, asked: str, against: str = "", remedy: str = "") -> None:
        Exception.__init__(self, asked, against, remedy)
        self.asked, self.against, self.remedy = asked, against, remedy

    def __str__(self) -> str:
        return "\n  ".join(part for part in (self.asked, self.against, self.remedy) if part)

    def at(self, place: str) -> TensorAdaptError:
        """Return the same error with the place (a layer's path) put before what was asked."""
        return type(self)(f"{place}: {self.asked}", self.against, self.remedy)


class ShapeError(TensorAdaptError, ValueError):
    """Shapes, sizes or axes that do not fit each other."""


class PatternError(TensorAdaptError, ValueError):
    """An einsum pattern that cannot be read."""


class StructureError(TensorAdaptError, ValueError):
    """A structure, a method or its settings that make no sense, or not at this weight."""


class ParseError(TensorAdaptError, ValueError):
    """A structure string or a JSON document that cannot be read."""


class ValueMissingError(TensorAdaptError, KeyError):
    """A value (of a leaf, the base weight, given data) that an evaluation needs and did not get."""

    __str__ = TensorAdaptError.__str__


class UnsupportedError(TensorAdaptError, NotImplementedError):
    """An operation that is not defined for this node, kind or module."""


class TargetError(TensorAdaptError, ValueError):
    """Targets in a model that do not exist, cannot be adapted, or are adapted already."""


class StateError(TensorAdaptError, RuntimeError):
    """An action that the present state of the model forbids."""


class CheckpointError(TensorAdaptError, ValueError):
    """A checkpoint that is damaged, foreign, or does not fit the model."""


class MissingExtraError(TensorAdaptError, ImportError):
    """An optional dependency that is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """Say which extra brings ``package``."""
        return cls(
            f"{purpose} needs the package '{package}'.",
            f"'{package}' is not installed here; it comes with the extra '{extra}'.",
            f'Install it with: pip install "tensoradapt[{extra}]"',
        )


def near(name: str, known: Iterable[str], limit: int = 5) -> str:
    """List the known names closest to ``name``, or the first few of all."""
    names = sorted(set(known))
    close = get_close_matches(name, names, n=limit, cutoff=0.5) or names[:limit]
    more = "" if len(names) <= len(close) else f" (of {len(names)})"
    return ", ".join(close) + more if close else "none"
