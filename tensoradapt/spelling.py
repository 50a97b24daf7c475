"""Structures as text and as JSON data: what prints is what can be read back.

Text is parsed as data and never evaluated; JSON names registered methods only.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any

from .algebra.expression import Expr
from .errors import ParseError, StructureError, TensorAdaptError
from .structure import Call, Fixed, Method, Structure, Total, find_method

MAX_TEXT = 4096
MAX_DEPTH = 32


def parse(text: str) -> Structure:
    """Read a structure from text; the text is data and is never evaluated as code.

    Parameters
    ----------
    text : str
        As structures print: ``"dora(within=loha(rank=4)) + circulant()"``.

    Raises
    ------
    ParseError
        If the text is anything but calls of registered methods with plain settings.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> parse("dora(within=loha(rank=4))") == zoo.dora(within=zoo.loha(rank=4))
    True
    """
    if len(text) > MAX_TEXT:
        raise ParseError(
            f"A structure text of {len(text)} characters was given.",
            f"The limit is {MAX_TEXT}.",
            "Build the structure in Python instead.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a text is no one's business
            tree = ast.parse(text.strip(), mode="eval").body
        value = _read(tree, text, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, TensorAdaptError):
            raise
        raise _unreadable(text, f"It is not well formed: {error}.") from None
    if not isinstance(value, Structure):
        raise _unreadable(text, f"It denotes {_shorten(repr(value))}, which is not a structure.")
    return value


def _unreadable(text: str, reason: str) -> ParseError:
    return ParseError(
        f"The structure {_shorten(text)!r} cannot be read.",
        reason,
        'Write calls of methods with plain settings, as in "dora(within=loha(rank=4))".',
    )


def _shorten(text: str) -> str:
    return text if len(text) < 80 else text[:77] + "..."


def _read(tree: ast.expr, text: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise _unreadable(text, f"It nests deeper than {MAX_DEPTH}.")
    match tree:
        case ast.Constant(value=value) if value is None or isinstance(
            value, bool | int | float | str
        ):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_read(item, text, depth + 1) for item in items)
        case ast.BinOp(op=ast.Add()):
            return _read_sum(tree, text, depth)
        case ast.Name(id=name):
            return find_method(name)()
        case ast.Call(func=ast.Name(id=name), args=[], keywords=words) if all(
            word.arg for word in words
        ):
            settings = {str(word.arg): _read(word.value, text, depth + 1) for word in words}
            if len(settings) < len(words):
                raise _unreadable(text, f"{name} is given a setting twice.")
            return find_method(name)(**settings)
        case _:
            raise _unreadable(text, f"It contains a {type(tree).__name__}, which is not data.")


def _read_sum(tree: ast.expr, text: str, depth: int) -> Structure:
    """A sum of any length; its terms stand on one level."""
    terms: list[Any] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        terms.append(_read(tree.right, text, depth + 1))
        tree = tree.left
    terms.append(_read(tree, text, depth + 1))
    total = terms.pop()
    for term in reversed(terms):
        if not (isinstance(total, Structure) and isinstance(term, Structure)):
            raise _unreadable(text, "Only structures can be added.")
        total = total + term
    return total


def structure_to_data(structure: Structure) -> Any:
    """A structure of registered methods as plain JSON data."""
    match structure:
        case Call(method, settings):
            return {"method": method.name, "settings": {n: _plain(v) for n, v in settings}}
        case Total(terms):
            return {"sum": [structure_to_data(term) for term in terms]}
        case _:
            raise StructureError(
                f"{structure} was to be written by name.",
                "It is an expression without a method, so it has no name.",
                "Write the expression itself with ta.to_json(expression).",
            )


def structure_from_data(data: Any, depth: int = 0) -> Structure:
    """The inverse of ``structure_to_data``; unknown methods and settings are refused."""
    match data:
        case _ if depth > MAX_DEPTH:
            reason = f"It nests deeper than {MAX_DEPTH}."
        case {"method": str(name), "settings": dict(settings), **more} if not more:  # type: ignore[misc]
            read = {str(n): _unplain(v, depth + 1) for n, v in settings.items()}  # type: ignore[misc]
            return find_method(name)(**read)
        case {"sum": [first, *rest]} if len(data) == 1:
            total = structure_from_data(first, depth + 1)
            for term in rest:  # type: ignore[misc]
                total = total + structure_from_data(term, depth + 1)
            return total
        case _:
            reason = "It has neither a method with settings nor a sum."
    raise ParseError(
        "A structure was to be read from JSON.",
        reason,
        'Write it as {"method": "lora", "settings": {"rank": 8}}.',
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Structure):
        return structure_to_data(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value  # type: ignore[misc]


def _unplain(value: Any, depth: int) -> Any:
    if isinstance(value, dict) or depth > MAX_DEPTH:
        return structure_from_data(value, depth)
    return tuple(_unplain(item, depth + 1) for item in value) if isinstance(value, list) else value  # type: ignore[misc]


def as_structure(value: Structure | Method | Expr | str) -> Structure:
    """Anything a user may hand over as a structure: one, a method, an expression, or its text."""
    if isinstance(value, Structure):
        return value
    if isinstance(value, Method):
        return value()
    if isinstance(value, Expr):
        return Fixed((value,))
    if isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return parse(value)
    raise StructureError(
        f"{value!r} was given as a structure.",
        f"A {type(value).__name__} is none.",
        "Give a structure such as zoo.lora(rank=8), its text, or an expression.",
    )
