"""What several commands read alike: shapes, modules to import, JSON."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..algebra.expression import Shape
from ..errors import ShapeError, StructureError

Import = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Import a module first, so that the methods it registers are known. Repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

MAX_AXES = 16


def read_shape(text: str) -> Shape:
    """Read a weight's shape.

    Parameters
    ----------
    text : str
        Sizes with ``x`` between them: ``"768x3072"``, or ``"64x32x3x3"`` for a convolution.

    Returns
    -------
    tuple of int
        ``(out, in, *kernel)``.

    Raises
    ------
    ShapeError
        If it is not two or more integers of 1 or more.

    Examples
    --------
    >>> read_shape("64x32x3x3")
    (64, 32, 3, 3)
    """
    parts = re.split("[x×]", text.strip().lower())
    readable = all(re.fullmatch("[0-9]{1,12}", part) for part in parts)
    shape = tuple(int(part) for part in parts) if readable else ()
    if not 2 <= len(shape) <= MAX_AXES or min(shape) < 1:
        raise ShapeError(
            f"A weight of the shape {text!r} was asked for.",
            f"A shape is 2 to {MAX_AXES} integers of 1 or more with x between them.",
            "Give --shape OUTxIN, as in --shape 768x3072, or 64x32x3x3 for a convolution.",
        )
    return shape


def import_modules(names: list[str] | None) -> None:
    """Import modules by name, from the current folder or from those installed.

    Raises
    ------
    StructureError
        If there is no module of that name.
    """
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        for name in names or []:
            if not _exists(name):
                raise StructureError(
                    f"The module {name!r} was to be imported.",
                    "No module of that name is in the current folder or installed.",
                    "Give a name as Python imports it, as in --import my_methods.",
                )
            import_module(name)
    finally:
        if added:
            sys.path.remove(here)


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def print_json(data: Any) -> None:
    """Print data as one JSON document."""
    typer.echo(json.dumps(data, indent=1))
