"""Index bookkeeping while networks are built: identification and common refinement.

Two axes described by different groups of indices are brought together by splitting indices
until both sides read the same: ``(6)`` against ``(2 3)`` splits 6 into 2 and 3. Where the
prefix products of one side do not divide the other's, as ``(2 3)`` against ``(3 2)``, there is
no common refinement and ``NoRefinement`` tells it.
"""

from __future__ import annotations

from itertools import count
from math import prod

Group = tuple[int, ...]


class NoRefinement(Exception):
    """Two groups of indices have no common refinement; carries both lists of sizes."""


class Indices:
    """Sizes of indices, and what each has been replaced by."""

    __slots__ = ("_image", "_next", "size")

    def __init__(self) -> None:
        self._next = count()
        self._image: dict[int, Group] = {}
        self.size: dict[int, int] = {}

    def new(self, size: int) -> Group:
        """A fresh index as a group; the empty group for size one."""
        if size == 1:
            return ()
        index = next(self._next)
        self.size[index] = size
        return (index,)

    def resolve(self, group: Group) -> Group:
        """The group in terms of indices that have not been replaced."""
        found: list[int] = []
        for index in group:
            image = self._image.get(index)
            found.extend((index,) if image is None else self.resolve(image))
        return tuple(found)

    def measure(self, group: Group) -> int:
        """The product of the sizes of a group."""
        return prod(self.size[i] for i in group)

    def unify(self, left: Group, right: Group) -> None:
        """Make two groups of equal total size the same group, splitting where needed.

        Raises
        ------
        NoRefinement
            If no common refinement exists; indices may then be half identified, so the
            caller must start over.
        """
        a, b = list(self.resolve(left)), list(self.resolve(right))
        sizes = ([self.size[i] for i in a], [self.size[i] for i in b])
        while a and b:
            # Both heads must be read again: an index that occurs twice changes under our hands.
            head_a, head_b = self.resolve((a.pop(0),)), self.resolve((b.pop(0),))
            a[:0], b[:0] = head_a[1:], head_b[1:]
            i, j = head_a[0], head_b[0]
            if i == j:
                continue
            m, n = self.size[i], self.size[j]
            if m == n:
                self._image[i] = (j,)
            elif n % m == 0:
                a_rest, b_rest = (), self._split(j, i)
                a[:0], b[:0] = a_rest, b_rest
            elif m % n == 0:
                a[:0] = self._split(i, j)
            else:
                raise NoRefinement(*sizes)
        if a or b:
            raise NoRefinement(*sizes)

    def _split(self, index: int, first: int) -> Group:
        """Replace an index by ``(first, rest)``; return the rest."""
        rest = self.new(self.size[index] // self.size[first])
        self._image[index] = (first, *rest)
        return rest
