"""JSON documents of structures and expressions: one door for both."""

from __future__ import annotations

import json
from typing import Any

from .algebra.codec import from_data, to_data
from .algebra.expression import Expr
from .errors import ParseError
from .spelling import structure_from_data, structure_to_data
from .structure import Fixed, Structure

STRUCTURE_FORMAT = "tensoradapt-structure"
MAX_CHARACTERS = 64 * 2**20


def to_json(thing: Structure | Expr, indent: int | None = None) -> str:
    """Write a structure (by method and settings) or an expression (whole) as JSON.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> from_json(to_json(zoo.lora(rank=4))) == zoo.lora(rank=4)
    True
    >>> e = zoo.lora(rank=4).on((6, 5))
    >>> from_json(to_json(e)) == e
    True
    """
    if isinstance(thing, Expr):
        return json.dumps(to_data(thing), indent=indent)
    if isinstance(thing, Fixed) and len(thing.expressions) == 1:
        return json.dumps(to_data(thing.expressions[0]), indent=indent)
    data = {"format": STRUCTURE_FORMAT, "version": 1, "structure": structure_to_data(thing)}
    return json.dumps(data, indent=indent)


def from_json(text: str) -> Structure | Expr:
    """Read what ``to_json`` wrote.

    Raises
    ------
    ParseError
        If the document is too large, nests too deep, or is neither a structure nor an
        expression. Nothing is constructed from an invalid document.
    """
    if len(text) > MAX_CHARACTERS:
        raise ParseError(
            f"A JSON document of {len(text)} characters was given.",
            f"The limit is {MAX_CHARACTERS}.",
            "Give a document that ta.to_json wrote.",
        )
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(
            "A JSON document was to be read.",
            f"It is not well formed or nests too deep: {type(error).__name__}.",
            "Give a document that ta.to_json wrote.",
        ) from None
    if isinstance(data, dict) and data.get("format") == STRUCTURE_FORMAT:
        return structure_from_data(data.get("structure"))
    return from_data(data)
