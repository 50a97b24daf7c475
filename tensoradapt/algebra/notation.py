"""The einsum notation with grouped axes: text to a pattern, and back.

``"o1 i1, o2 i2 -> (o1 o2) (i1 i2)"`` names the indices of every operand and of the result.
Words are separated by spaces; parentheses group several indices into one axis, the first
varying slowest. A text without any space or parenthesis is read letter by letter, as numpy
does: ``"or,ri->oi"``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ..errors import PatternError

Group = tuple[str, ...]
Axes = tuple[Group, ...]

_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|[()])")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Index names of each operand and of the result, one group of names per axis."""

    operands: tuple[Axes, ...]
    output: Axes

    def __str__(self) -> str:
        return ", ".join(map(_write, self.operands)) + " -> " + _write(self.output)

    @property
    def names(self) -> tuple[str, ...]:
        """All index names in order of first use."""
        every = (n for axes in (*self.operands, self.output) for group in axes for n in group)
        return tuple(dict.fromkeys(every))


@lru_cache(maxsize=1024)
def parse_pattern(text: str) -> Pattern:
    """Read a pattern.

    Parameters
    ----------
    text : str
        For instance ``"o r, r i -> o i"`` or ``"or,ri->oi"``.

    Returns
    -------
    Pattern

    Raises
    ------
    PatternError
        If the arrow is missing or doubled, a parenthesis does not match, a character is
        unknown, or an index occurs only in the result.

    Examples
    --------
    >>> str(parse_pattern("ac,bd->abcd"))
    'a c, b d -> a b c d'
    """
    if text.count("->") != 1:
        raise PatternError(
            f"einsum pattern {text!r} cannot be read.",
            f"It has {text.count('->')} arrows, and must have exactly one.",
            'Write it as in "o r, r i -> o i".',
        )
    left, right = text.split("->")
    letters = not re.search(r"[\s()]", text)
    operands = tuple(_axes(part, text, letters) for part in left.split(","))
    pattern = Pattern(operands, _axes(right, text, letters))
    known = {name for axes in operands for group in axes for name in group}
    lone = [name for group in pattern.output for name in group if name not in known]
    if lone:
        raise PatternError(
            f"einsum pattern {text!r} asks for the index {lone[0]!r} in its result.",
            "No operand has that index, so its size and its values are unknown.",
            "Add an operand that carries it, for instance ta.ones(size) for a tiling.",
        )
    return pattern


def _axes(part: str, text: str, letters: bool) -> Axes:
    if letters:
        _check_letters(part, text)
        return tuple((letter,) for letter in part)
    axes: list[Group] = []
    group: list[str] | None = None
    position = 0
    part = part.rstrip()
    while position < len(part):
        match = _TOKEN.match(part, position)
        token = match.group(1) if match else part[position:].lstrip()[0]
        if (
            match is None
            or (token == "(" and group is not None)
            or (token == ")" and group is None)
        ):
            raise PatternError(
                f"einsum pattern {text!r} cannot be read at {token!r}.",
                "An axis is one name or several names in one pair of parentheses.",
                'Write it as in "o1 i1, o2 i2 -> (o1 o2) (i1 i2)".',
            )
        position = match.end()
        if token == "(":
            group = []
        elif token == ")":
            axes.append(tuple(group or ()))
            group = None
        elif group is None:
            axes.append((token,))
        else:
            group.append(token)
    if group is not None:
        raise PatternError(
            f"einsum pattern {text!r} cannot be read.",
            "A parenthesis is opened and never closed.",
            'Write it as in "o1 i1, o2 i2 -> (o1 o2) (i1 i2)".',
        )
    return tuple(axes)


def _check_letters(part: str, text: str) -> None:
    if not all(letter.isalpha() and letter.isascii() for letter in part):
        raise PatternError(
            f"einsum pattern {text!r} cannot be read letter by letter.",
            "Without spaces every character is an index and must be a letter.",
            'Separate longer names by spaces, as in "o1 i1, o2 i2 -> (o1 o2) (i1 i2)".',
        )


def _write(axes: Axes) -> str:
    return " ".join(g[0] if len(g) == 1 else "(" + " ".join(g) + ")" for g in axes)
