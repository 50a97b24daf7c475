"""What a foreign method is to us: its keys and our leaves, its configuration and our settings.

A ``Method`` is one row of a table. Reading and writing are written once, in ``peft``, for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from ..algebra.expression import Shape
from ..structure import Structure, Update
from .files import refused

MAX_PATTERN = 512


@dataclass(frozen=True, slots=True)
class Config:
    """A foreign configuration, read with types; a missing field has PEFT's default."""

    folder: Path
    data: Mapping[str, Any]

    def integer(self, name: str, default: int) -> int:
        """An integer."""
        return self._typed(name, self.data.get(name, default), int)

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        return self._typed(name, self.data.get(name, default), int, float)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        return self._typed(name, self.data.get(name, default), bool)

    def text(self, name: str, default: str) -> str:
        """A text."""
        return self._typed(name, self.data.get(name, default), str)

    def at(self, name: str, pattern: str, default: int, path: str) -> int:
        """An integer that a pattern of paths may change at single layers."""
        return int(self.number_at(name, pattern, default, path))

    def number_at(self, name: str, pattern: str, default: float, path: str) -> float:
        """A number that a pattern of paths may change at single layers."""
        value = self.data.get(name, default)
        for key, other in self.mapping(pattern).items():
            if self._matches(key, path):
                value = other
                break
        return self._typed(name, value, int, float)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object, empty where there is none."""
        value = self.data.get(name) or {}
        return self._typed(name, value, dict)

    def names(self, name: str) -> list[str]:
        """A list of texts, empty where there is none."""
        value = self.data.get(name) or []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise refused(self.folder, f"The field '{name}' is not a list of texts")
        return value

    def _matches(self, pattern: str, path: str) -> bool:
        try:
            return len(pattern) <= MAX_PATTERN and bool(re.match(rf"(.*\.)?({pattern})$", path))
        except (re.error, RecursionError):
            raise refused(self.folder, f"The pattern {pattern[:40]!r} cannot be read") from None

    def _typed(self, name: str, value: Any, *kinds: type) -> Any:
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong or (isinstance(value, float) and not isfinite(value)):
            raise refused(self.folder, f"The field '{name}' is {str(value)[:40]!r}")
        return value


@dataclass(frozen=True, slots=True)
class Place:
    """One layer of a foreign file: its path, its weight's shape, its tensors by their suffix."""

    path: str
    shape: Shape
    tensors: Mapping[str, Tensor]
    is_table: bool = False
    """Whether it is an embedding, whose weight is ``(vocabulary, size)``."""


Reshape = Callable[[Shape, Place], Shape]


def same(shape: Shape, place: Place) -> Shape:
    """Stored as we store it."""
    return shape


def column(shape: Shape, place: Place) -> Shape:
    """A vector stored as a matrix of one column."""
    return (*shape, 1)


def kernel_in(shape: Shape, place: Place) -> Shape:
    """``(r, in·kernel)``, stored with the axes of a convolution's kernel."""
    return (shape[0], place.shape[1], *place.shape[2:]) if len(place.shape) > 2 else shape


def kernel_of_ones(shape: Shape, place: Place) -> Shape:
    """``(out, r)``, stored as a convolution of kernels of one element."""
    return (*shape, *(1,) * (len(place.shape) - 2))


def channels(shape: Shape, place: Place) -> Shape:
    """``(out,)``, stored as it stands beside a convolution's output."""
    return (1, *shape, *(1,) * (len(place.shape) - 2)) if len(place.shape) > 2 else shape


@dataclass(frozen=True, slots=True)
class Shared:
    """A tensor that PEFT keeps once for all layers and cuts for each.

    Parameters
    ----------
    root : str
        Its key behind ``base_model.``.
    again : callable
        The tensor from ``(config, shapes of all layers)``, where the file leaves it out.
    copied : str, optional
        The suffix under which every layer holds a copy of it.
    """

    root: str
    again: Callable[[Config, list[Shape]], Tensor]
    copied: str | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """One method that PEFT and the zoo both have.

    Parameters
    ----------
    peft_type : str
        As the configuration names it.
    zoo : str
        As the zoo names it.
    keys : mapping of leaf to suffix
        The tensors of one layer.
    read : callable
        The structure at one layer from ``(config, place)``.
    write : callable
        The configuration's fields from ``(settings, path)``; None if PEFT has no such case.
    fields : frozenset of str
        The fields that ``read`` knows, or that say how training goes only.
    when : callable
        Which configurations of the type it is.
    shapes : mapping of leaf to callable
        The stored shape of a leaf where it is not ours.
    shared : mapping of leaf to Shared
        The frozen leaves that all layers cut from one tensor.
    derive : callable, optional
        Frozen leaves that PEFT computes from W0, ``(config, place, W0) -> values``.
    per_layer : mapping of str to str
        The fields that may differ between layers, with the field of patterns for them.
    tables : mapping of leaf to suffix
        The tensors of an embedding, each stored transposed; none where PEFT has none.
    extra : callable, optional
        Tensors that are no leaf, by suffix, from ``(update, shape)`` of the weight.
    extra_keys : tuple of str
        Their suffixes.
    dropout : str
        The field that drops inputs while training; "" for none.
    """

    peft_type: str
    zoo: str
    keys: Mapping[str, str]
    read: Callable[[Config, Place], Structure]
    write: Callable[[Mapping[str, Any], str], dict[str, Any] | None]
    fields: frozenset[str]
    when: Callable[[Config], bool] = lambda config: True
    shapes: Mapping[str, Reshape] = field(default_factory=dict)
    shared: Mapping[str, Shared] = field(default_factory=dict)
    derive: Callable[[Config, Place, Tensor], dict[str, Tensor]] | None = None
    per_layer: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    extra: Callable[[Update, Shape], dict[str, Tensor]] | None = None
    extra_keys: tuple[str, ...] = ()
    dropout: str = ""

    def keys_at(self, place: Place) -> Mapping[str, str]:
        """The suffix of every leaf at a place."""
        return self.tables if place.is_table else self.keys

    def stored_shape(self, leaf: str, shape: Shape, place: Place) -> Shape:
        """The shape of a leaf's tensor in the file."""
        return shape if place.is_table else self.shapes.get(leaf, same)(shape, place)

    def to_file(self, leaf: str, value: Tensor, place: Place) -> Tensor:
        """A leaf's value as the file has it."""
        shaped = value.reshape(self.stored_shape(leaf, tuple(value.shape), place))
        return shaped.mT if place.is_table else shaped


def fields(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())
