"""Arithmetic: the operations that ``evaluate`` asks of whatever numbers it computes with.

Floats are in ``floats.py``; residues, dual numbers and balls are in ``analysis/``. A kind of
number in which an operation does not exist raises ``UnsupportedError`` there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..algebra.expression import Factor, Shape
from ..algebra.functions import Function
from ..algebra.indexing import IndexMap
from ..algebra.notation import Pattern
from .arrays import Array


class Arithmetic(Protocol):
    """One method per kind of node; the shapes are those of the nodes in ``algebra/nodes``."""

    def einsum(
        self, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[Array]
    ) -> Array:
        """A product over named indices, groups and repeated output indices included."""
        ...

    def add(self, terms: Sequence[Array]) -> Array:
        """The sum of one or more terms."""
        ...

    def scale(self, factor: Factor, a: Array) -> Array:
        """A fraction or a float times an array."""
        ...

    def constant(self, kind: str, shape: Shape) -> Array:
        """A constant of ``nodes.CONSTANTS``."""
        ...

    def reshape(self, a: Array, target: Shape) -> Array:
        """The same elements under another shape."""
        ...

    def window(self, a: Array, target: Shape, offset: Shape) -> Array:
        """Crop or zero-pad."""
        ...

    def concatenate(self, operands: Sequence[Array], axis: int) -> Array:
        """Pieces along an axis."""
        ...

    def transform(self, a: Array, axis: int, kind: str) -> Array:
        """A fixed real transform along an axis."""
        ...

    def take(self, a: Array, axis: int, index: IndexMap) -> Array:
        """Read an axis through an index map."""
        ...

    def place(self, a: Array, target: Shape, index: IndexMap) -> Array:
        """Scatter to distinct flat positions of zeros."""
        ...

    def map(self, a: Array, function: Function) -> Array:
        """An elementwise function."""
        ...

    def norm(self, a: Array, axes: tuple[int, ...]) -> Array:
        """The Euclidean norm over axes."""
        ...

    def matrix_function(self, a: Array, kind: str, settings: tuple[int, ...]) -> Array:
        """A function of the last two axes."""
        ...

    def hold(self, a: Array) -> Array:
        """The same value, without a gradient."""
        ...
