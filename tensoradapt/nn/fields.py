"""The fields of a JSON document, each read with its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from .documents import DOCUMENT, damaged


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a document: every reading checks the type and names the field.

    Parameters
    ----------
    folder : Path
        Where the document lies, for the errors.
    data : mapping
        The object.
    place : str
        What leads to it, as in ``sites[3].``.
    """

    folder: Path
    data: Mapping[str, Any]
    place: str = ""

    def get(self, name: str, *kinds: type) -> Any:
        """A field of one of some types.

        Raises
        ------
        CheckpointError
            If it is missing or of another type.
        """
        if name not in self.data:
            raise damaged(self.folder, f"{DOCUMENT} has no '{self.place}{name}'")
        value = self.data[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            kind = type(value).__name__
            raise damaged(self.folder, f"'{self.place}{name}' of {DOCUMENT} is a {kind}")
        return value

    def text(self, name: str) -> str:
        """A text."""
        return self.get(name, str)

    def integer(self, name: str) -> int:
        """An integer."""
        return self.get(name, int)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.get(name, int, float)
        if abs(value) > 1e300 or not isfinite(value):
            raise damaged(self.folder, f"'{self.place}{name}' of {DOCUMENT} is not finite")
        return float(value)

    def inside(self, name: str, position: int) -> Fields:
        """One object of a list of objects."""
        value = self.get(name, list)[position]
        if not isinstance(value, dict):
            raise damaged(self.folder, f"'{name}[{position}]' of {DOCUMENT} is no object")
        return Fields(self.folder, value, f"{self.place}{name}[{position}].")
