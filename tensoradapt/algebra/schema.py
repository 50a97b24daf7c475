"""The fields of every node, and how each type of field is written as JSON data and read back.

``codec.py`` writes and reads whole expressions with this table. Reading raises ``BadField`` with
what is wrong; the codec adds which node it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, prod
from typing import Any

from ..errors import StructureError, near
from .expression import Expr, Factor, Shape, Start
from .functions import Function
from .indexing import IndexMap
from .nodes import (
    AtStart,
    Base,
    BaseBias,
    Concatenate,
    Constant,
    Einsum,
    Frozen,
    Hold,
    Map,
    MatrixFunction,
    Norm,
    Parameter,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from .notation import Pattern, parse_pattern
from .starts import STARTS, start

MAX_AXES = 64
MAX_ELEMENTS = 2**34
"""Elements of any one node: four times the largest embedding in use, and far below a terabyte."""


class BadField(Exception):
    """What is wrong with a field, as the end of a sentence."""


# --- the types of fields -----------------------------------------------------------------

Decode = Callable[[Any, list[Expr]], Any]
Encode = Callable[[Any, dict[Expr, int]], Any]


@dataclass(frozen=True, slots=True)
class FieldType:
    """How one type of field is written and read."""

    encode: Encode
    decode: Decode


def _text(value: Any, _: list[Expr]) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise BadField("it is not a text of at most 4096 characters")
    return value


def read_integer(value: Any, _: Any = None) -> int:
    """An integer of 64 bits; a bool is none."""
    if type(value) is not int or abs(value) >= 2**63:
        raise BadField("it is not an integer below 2⁶³")
    return value


def _integers(value: Any, _: Any = None) -> tuple[int, ...]:
    return tuple(read_integer(item) for item in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadField("it is not a list")
    return value  # type: ignore[return-value]


def read_shape(value: Any, _: Any = None) -> Shape:
    """A shape within the limits."""
    shape = _integers(value)
    if len(shape) > MAX_AXES:
        raise BadField(f"it has {len(shape)} axes; the limit is {MAX_AXES}")
    if prod(shape) > MAX_ELEMENTS:
        raise BadField(f"its shape has more than {MAX_ELEMENTS} elements")
    return shape


def read_reference(value: Any, nodes: list[Expr]) -> Expr:
    """The earlier node that a position stands for."""
    position = read_integer(value)
    if not 0 <= position < len(nodes):
        raise BadField(f"it points at node {position}; a node points at earlier ones only")
    return nodes[position]


def _references(value: Any, nodes: list[Expr]) -> tuple[Expr, ...]:
    return tuple(read_reference(item, nodes) for item in _list(value))


def _write_number(value: Any) -> float | int | str:
    if type(value) is int or (isinstance(value, float) and isfinite(value)):
        return float(value) if isinstance(value, float) else value
    if value in (float("inf"), -float("inf")):
        return "inf" if value > 0 else "-inf"
    raise StructureError(
        f"An expression that contains the number {value!r} was to be written.",
        "Only numbers can be written, and NaN is none.",
        "Check where it comes from.",
    )


def _number(value: Any) -> float | int:
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, float) and isfinite(value):
        return value
    return read_integer(value)


def _float(value: Any) -> float:
    number = _number(value)
    if not isinstance(number, float):
        raise BadField("it holds an integer where a float such as 2.0 belongs")
    return number


def _write_factor(value: Factor, _: Any) -> str | float:
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    return float(value)


def _factor(value: Any, _: Any) -> Factor:
    if isinstance(value, float) and isfinite(value):
        return value
    parts = value.split("/") if isinstance(value, str) and len(value) < 700 else []
    if len(parts) == 2 and all(p.removeprefix("-").isdecimal() and p.isascii() for p in parts):
        top, bottom = map(int, parts)
        if bottom > 0:
            return Fraction(top, bottom)
    raise BadField('it is not a fraction as in "1/2", or a finite float')


def _write_sizes(value: Sequence[tuple[str, int]], _: Any) -> list[list[Any]]:
    return [[name, size] for name, size in value]


def _sizes(value: Any, nodes: list[Expr]) -> tuple[tuple[str, int], ...]:
    pairs = [_list(item) for item in _list(value)]
    if any(len(pair) != 2 for pair in pairs) or len({str(p[0]) for p in pairs}) != len(pairs):
        raise BadField("it is not a list of [index, size] with each index once")
    return tuple((_text(name, nodes), read_integer(size)) for name, size in pairs)


def read_record(value: Any, *names: str) -> list[Any]:
    """The values of a record that has exactly these fields."""
    if not isinstance(value, dict) or set(value) != set(names):  # type: ignore[arg-type]
        raise BadField(f"it does not have exactly the fields {', '.join(names)}")
    return [value[name] for name in names]


def _write_start(value: Start, positions: dict[Expr, int]) -> dict[str, Any]:
    settings = {name: _write_number(number) for name, number in value.settings}
    operand = None if value.operand is None else positions[value.operand]
    return {"kind": value.kind, "settings": settings, "operand": operand}


def _start(value: Any, nodes: list[Expr]) -> Start:
    kind, settings, operand = read_record(value, "kind", "settings", "operand")
    if _text(kind, nodes) not in STARTS:
        raise BadField(f"no start is named {kind[:40]!r}; nearest: {near(kind[:40], STARTS)}")
    pairs = zip(STARTS[kind], read_record(settings, *STARTS[kind]), strict=True)
    numbers = {n: _number(v) for n, v in pairs}
    for name in ("rank", "first"):
        if name in numbers:
            read_integer(numbers[name])
    return start(kind, None if operand is None else read_reference(operand, nodes), **numbers)


def _write_index(value: IndexMap, _: Any) -> dict[str, Any]:
    shape, settings = list(value.shape), list(value.settings)
    return {"kind": value.kind, "shape": shape, "size": value.size, "settings": settings}


def _index(value: Any, nodes: list[Expr]) -> IndexMap:
    kind, shape, size, settings = read_record(value, "kind", "shape", "size", "settings")
    return IndexMap(_text(kind, nodes), read_shape(shape), read_integer(size), _integers(settings))


def _write_function(value: Function, _: Any) -> dict[str, Any]:
    return {"name": value.name, "settings": [_write_number(n) for n in value.settings]}


def _function(value: Any, nodes: list[Expr]) -> Function:
    name, settings = read_record(value, "name", "settings")
    return Function(_text(name, nodes), tuple(_float(n) for n in _list(settings)))


def _pattern(value: Any, _: Any) -> Pattern:
    if not isinstance(value, str):
        raise BadField("it is not a text")
    return parse_pattern(value)


def _as_is(value: Any, _: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # type: ignore[arg-type]


def _at(value: Expr, positions: dict[Expr, int]) -> int:
    return positions[value]


def _all_at(value: Sequence[Expr], positions: dict[Expr, int]) -> list[int]:
    return [positions[item] for item in value]


TEXT, INTEGER = FieldType(_as_is, _text), FieldType(_as_is, read_integer)
INTEGERS, SHAPE = FieldType(_as_is, _integers), FieldType(_as_is, read_shape)
NODE, NODES = FieldType(_at, read_reference), FieldType(_all_at, _references)
START, INDEX = FieldType(_write_start, _start), FieldType(_write_index, _index)
FUNCTION, FACTOR = FieldType(_write_function, _function), FieldType(_write_factor, _factor)
PATTERN, SIZES = FieldType(lambda value, _: str(value), _pattern), FieldType(_write_sizes, _sizes)

FIELDS: dict[type[Expr], dict[str, FieldType]] = {
    Parameter: {"name": TEXT, "shape": SHAPE, "initial": START, "scope": TEXT},
    Frozen: {"name": TEXT, "shape": SHAPE, "recipe": START, "scope": TEXT},
    Base: {"shape": SHAPE},
    BaseBias: {"shape": SHAPE},
    Constant: {"kind": TEXT, "shape": SHAPE},
    Einsum: {"operands": NODES, "pattern": PATTERN, "sizes": SIZES},
    Sum: {"terms": NODES},
    Scale: {"factor": FACTOR, "operand": NODE},
    Reshape: {"operand": NODE, "target": SHAPE},
    Window: {"operand": NODE, "target": SHAPE, "offset": INTEGERS},
    Concatenate: {"operands": NODES, "axis": INTEGER},
    Transform: {"operand": NODE, "axis": INTEGER, "kind": TEXT},
    Take: {"operand": NODE, "axis": INTEGER, "index": INDEX},
    Place: {"operand": NODE, "target": SHAPE, "index": INDEX},
    Map: {"operand": NODE, "function": FUNCTION},
    Norm: {"operand": NODE, "axes": INTEGERS},
    MatrixFunction: {"operand": NODE, "kind": TEXT, "settings": INTEGERS},
    AtStart: {"operand": NODE},
    Hold: {"operand": NODE},
}
"""Every node with the types of its fields, in the order of its constructor."""
