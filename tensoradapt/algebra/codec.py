"""Expressions as JSON: a flat list of nodes, operands before what uses them.

::

    {"format": "tensoradapt-expr", "version": 1, "root": 2, "nodes": [
        {"node": "Parameter", "name": "B", "shape": [8, 2], ...},
        {"node": "Parameter", "name": "A", "shape": [2, 6], ...},
        {"node": "Einsum", "operands": [0, 1], "pattern": "o k, k i -> o i", "sizes": ...}]}

Nothing nests, so depth is free and a shared part is written once. Reading trusts nothing: every
field has a type, every node goes through its own constructor, nodes point backwards only, and
text, node count and shapes have limits, so a hostile document ends in a sentence.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import ParseError, StructureError, TensorAdaptError, near
from .expression import OPERATIONS, Expr
from .nodes import Leaf
from .schema import (
    FIELDS,
    MAX_ELEMENTS,
    NODE,
    NODES,
    BadField,
    read_integer,
    read_record,
    read_reference,
    read_shape,
)
from .walk import start_of, topological

FORMAT, VERSION = "tensoradapt-expr", 1
MAX_TEXT = 2**24
"""Characters of a document."""
MAX_NODES = 100_000
MAX_START_DEPTH = 64
"""Starts computed from leaves that start from other leaves, and so on."""

_NAMES = {kind.__name__: kind for kind in FIELDS}


# --- writing -----------------------------------------------------------------------------


def to_data(expr: Expr) -> dict[str, Any]:
    """An expression as plain data: dictionaries, lists, texts and numbers.

    Parameters
    ----------
    expr : Expr
        Any expression; parts that occur several times are written once.

    Returns
    -------
    dict
        See the head of this module. Equal expressions give equal data.

    Raises
    ------
    StructureError
        If it has more than ``MAX_NODES`` nodes or ``MAX_ELEMENTS`` elements in one of them, or
        contains a NaN: what is written can be read.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> data = to_data(low_rank((8, 6), rank=2))
    >>> [node["node"] for node in data["nodes"]], data["root"]
    (['Parameter', 'Parameter', 'Einsum'], 2)
    """
    order = topological(expr, with_starts=True)
    largest = max(order, key=lambda node: node.size)
    if len(order) > MAX_NODES or largest.size > MAX_ELEMENTS:
        raise StructureError(
            f"An expression of {len(order)} nodes was to be written.",
            f"The limits are {MAX_NODES} nodes and {MAX_ELEMENTS} elements in one of them; "
            f"the largest here has the shape {largest.shape}.",
            "Write it as a method, whose name and settings are written instead.",
        )
    positions: dict[Expr, int] = {}
    nodes: list[dict[str, Any]] = []
    for node in order:
        written: dict[str, Any] = {"node": type(node).__name__}
        for name, kind in FIELDS[type(node)].items():
            written[name] = kind.encode(getattr(node, name), positions)
        positions[node] = len(nodes)
        nodes.append(written)
    return {"format": FORMAT, "version": VERSION, "root": len(nodes) - 1, "nodes": nodes}


def dumps(expr: Expr, indent: int | None = None) -> str:
    """An expression as JSON text of at most ``MAX_TEXT`` characters."""
    text = json.dumps(to_data(expr), allow_nan=False, ensure_ascii=False, indent=indent)
    if len(text) > MAX_TEXT:
        raise StructureError(
            f"An expression was to be written as {len(text)} characters.",
            f"The limit is {MAX_TEXT}; long tables of positions take most of it.",
            "Use a seeded permutation or choice, or a frozen leaf, in place of a table.",
        )
    return text


# --- reading -----------------------------------------------------------------------------


def from_data(data: Any) -> Expr:
    """The inverse of ``to_data``; trusts nothing it is given.

    Parameters
    ----------
    data : dict
        As ``to_data`` writes it.

    Returns
    -------
    Expr
        Equal to the one that was written.

    Raises
    ------
    ParseError
        If the data has another format or version, an unknown node, field or kind, a value of
        the wrong type, a reference forwards, shapes that do not fit, or exceeds a limit.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> update = low_rank((8, 6), rank=2)
    >>> from_data(to_data(update)) == update
    True
    """
    try:
        version, root, written = _envelope(data)
    except BadField as error:
        raise _refused(f"{error}.") from None
    if version != VERSION:
        raise _refused(f"Its version is {version}; this library reads version {VERSION}.")
    nodes: list[Expr] = []
    depths: dict[Expr, int] = {}
    for position, item in enumerate(written):
        try:
            node = _read_node(item, nodes)
        except (BadField, TensorAdaptError) as error:
            reason = error if isinstance(error, BadField) else " ".join(map(str, error.args[:2]))
            raise _refused(f"Node {position}: {_short(str(reason))}.") from None
        depths[node] = _start_depth(node, depths)
        if depths[node] > MAX_START_DEPTH:
            raise _refused(f"Node {position}: starts nest deeper than {MAX_START_DEPTH}.")
        nodes.append(node)
    try:
        return read_reference(root, nodes)
    except BadField as error:
        raise _refused(f"The root: {error}.") from None


def loads(text: str) -> Expr:
    """Read an expression from JSON text.

    Raises
    ------
    ParseError
        As ``from_data``, or if the text is longer than ``MAX_TEXT`` or not JSON.
    """
    if len(text) > MAX_TEXT:
        raise _refused(f"It has {len(text)} characters; the limit is {MAX_TEXT}.")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except BadField as error:
        raise _refused(f"{error}.") from None
    except RecursionError:
        raise _refused("It nests too deep; nothing in this format nests.") from None
    except ValueError as error:
        raise _refused(f"It is not JSON: {_short(str(error))}.") from None
    return from_data(data)


def _envelope(data: Any) -> tuple[int, Any, list[Any]]:
    if not isinstance(data, dict) or data.get("format") != FORMAT:  # type: ignore[arg-type]
        raise BadField(f'It does not say "format": "{FORMAT}"')
    _, version, root, nodes = read_record(data, "format", "version", "root", "nodes")
    if not isinstance(nodes, list) or len(nodes) > MAX_NODES:  # type: ignore[arg-type]
        raise BadField(f"Its nodes are not a list of at most {MAX_NODES}")
    return read_integer(version), root, nodes  # type: ignore[return-value]


def _read_node(item: Any, nodes: list[Expr]) -> Expr:
    given: Any = item
    name = str(given.get("node")) if isinstance(item, dict) else "nothing"
    if name not in _NAMES:
        raise BadField(f"no node is named {name[:40]!r}; nearest: {near(name[:40], _NAMES)}")
    kind = _NAMES[name]
    try:
        _, *values = read_record(item, "node", *FIELDS[kind])
    except BadField as error:
        raise BadField(f"{name}: {error}") from None
    read: list[Any] = []
    for (field, rule), value in zip(FIELDS[kind].items(), values, strict=True):
        try:
            read.append(rule.decode(value, nodes))
        except BadField as error:
            raise BadField(f"{name}.{field}: {error}") from None
    node = kind(*read)
    read_shape(list(node.shape))
    return node


def _start_depth(node: Expr, depths: dict[Expr, int]) -> int:
    operand = start_of(node).operand if isinstance(node, Leaf) else None
    if operand is not None:
        return 1 + depths[operand]
    fields = FIELDS[type(node)].items()
    below = [getattr(node, name) for name, kind in fields if kind is NODE]
    below += [item for name, kind in fields if kind is NODES for item in getattr(node, name)]
    return max((depths[item] for item in below), default=0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise BadField("It names a field twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise BadField(f"It contains {name}, which is not a number")


def _short(text: str) -> str:
    return text.rstrip(".") if len(text) <= 300 else text[:300] + "…"


def _refused(reason: str) -> ParseError:
    return ParseError(
        "An expression was to be read from JSON.",
        reason,
        "Give a document that ta.to_json(expression) wrote.",
    )


OPERATIONS.update(dumps=dumps, loads=loads)
