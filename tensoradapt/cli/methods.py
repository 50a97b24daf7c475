"""``tensoradapt methods``: every registered method with its formula and its source."""

from __future__ import annotations

from inspect import Parameter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import zoo as _published  # noqa: F401  (registers the published methods)
from ..structure import Method, Structure
from ..structure import methods as registered
from .arguments import Import, Json, import_modules, print_json


def methods(modules: Import = None, as_json: Json = False) -> None:
    """List the registered methods: name, formula, paper."""
    import_modules(modules)
    if as_json:
        print_json([_data(method) for method in registered().values()])
    else:
        Console().print(_table())


def _table() -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("formula", overflow="fold")
    table.add_column("paper", overflow="fold")
    for name, method in registered().items():
        table.add_row(Text(name), Text(method.summary), Text(method.paper))
    return table


def _data(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "formula": method.summary,
        "paper": method.paper,
        "scope": method.scope,
        "settings": {name: _plain(value) for name, value in method.defaults.items()},
    }


def _plain(value: Any) -> Any:
    """A default as JSON data; a structure is its text, and a setting without default is absent."""
    if value is Parameter.empty:
        return {"required": True}
    return str(value) if isinstance(value, Structure) else value
