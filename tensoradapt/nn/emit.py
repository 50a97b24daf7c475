"""Emitting programs: the steps of a plan as readable torch source.

The source of a program is a plain function of tensors, generic in the token count: no string,
no dispatch and no planning is left in it, so a call makes the tensor operations that a person
would have written by hand, and torch's own transformations (autograd, compile, vmap) see
nothing but those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from array_api_compat import torch as xp
from torch import Tensor

from ..algebra.functions import Function
from ..planning.steps import Input, Program, Step
from ..run.elementwise import apply_function, euclidean, slope
from ..run.execute import dense_constant
from ..run.floats import FloatArithmetic
from ..run.positions import positions

MODULE = "<tensoradapt program>"


@dataclass(frozen=True, slots=True)
class Constant:
    """An array that a program needs besides its inputs: ``kind`` and what it is made from."""

    kind: str
    settings: tuple[Any, ...]

    def array(self) -> np.ndarray:
        """The array: int64 positions, or float64 values to be cast to the compute type."""
        match self.kind:
            case "positions":
                return positions(self.settings[0])[0].reshape(-1)
            case "signs":
                index, shape, after = self.settings
                signs = positions(index)[1]
                assert signs is not None
                return signs.reshape(shape + (1,) * after).astype(np.float64)
            case "ones":
                return np.ones(self.settings)
            case _:
                return dense_constant(self.settings)


@dataclass(frozen=True, slots=True)
class Emitted:
    """A program as a function of its inputs and constants, and its source."""

    source: str
    constants: tuple[Constant, ...]
    function: Callable[..., Tensor]


@lru_cache(maxsize=2048)
def emit(program: Program, in_place: bool = False) -> Emitted:
    """Write a program as source and compile it to a function ``run(*inputs, *constants)``.

    Parameters
    ----------
    program : Program
        Its steps become one line each.
    in_place : bool
        Whether a value that is read for the last time may be overwritten; only where no
        gradient is recorded.
    """
    lines, constants, objects = _Lines(program, in_place).all()
    count = len(constants)
    arguments = [_argument(k, entry) for k, entry in enumerate(program.inputs)]
    arguments += [f"c{k}" for k in range(count)]
    body = "\n".join(f"    {line}" for line in lines)
    source = f"def run({', '.join(arguments)}):\n{body}\n"
    names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, **_NAMES, **objects}
    exec(compile(source, MODULE, "exec"), names)
    return Emitted(source, tuple(constants), names["run"])


def diagonal_sums(matrix: Tensor, axis: int, columns: int) -> Tensor:
    """``t[k] = Σ_{i - j + columns - 1 = k} M[i, j]``: rows laid one further each, then summed."""
    rows = matrix.shape[axis]
    tail = matrix.dim() - axis - 2
    padded = torch.nn.functional.pad(matrix.flip(axis + 1), (0, 0) * tail + (0, rows))
    lines = padded.flatten(axis, axis + 1).narrow(axis, 0, rows * (columns + rows - 1))
    return lines.unflatten(axis, (rows, columns + rows - 1)).sum(axis)


def norm(a: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``√Σ a²``; half precision sums in float32."""
    if a.dtype.itemsize >= 4:
        return euclidean(torch, a, axes)
    return euclidean(torch, a.float(), axes).to(a.dtype)


def elementwise(a: Tensor, function: Function) -> Tensor:
    """A function of the table; torch itself is namespace enough for all but one."""
    return apply_function(xp if function.name == "softmax_top" else torch, a, function)


def pull_back(a: Tensor, g: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient with respect to ``a`` of a function that is differentiated whole."""
    with torch.enable_grad():
        inner = a.detach().requires_grad_()
        return torch.autograd.grad(function(inner), inner, g)[0]


_NAMES: dict[str, Any] = {
    "pull_back": pull_back,
    "diagonal_sums": diagonal_sums,
    "elementwise": elementwise,
    "norm": norm,
    "rfft": lambda a, n, axis: torch.fft.rfft(a.float() if a.itemsize < 4 else a, n, axis),
    "slope": lambda a, f: slope(torch, a, f),
    "matrix_function": lambda a, kind, s: FloatArithmetic(a).matrix_function(a, kind, s),
}


def _argument(k: int, entry: Input) -> str:
    names = {"x": "x", "base": "w0", "bias": "b0", "gradient": "g", "saved": entry.name}
    return names.get(entry.kind, f"v{k}")


class _Lines:
    """Writes one line per step."""

    def __init__(self, program: Program, in_place: bool) -> None:
        self.program = program
        self.free = overwritable(program) if in_place else frozenset[int]()
        self.constants: list[Constant] = []
        self.objects: dict[str, Any] = {}

    def all(self) -> tuple[list[str], list[Constant], dict[str, Any]]:
        """The lines of the body, the constants, and the objects that the lines name."""
        lines = [
            f"# {entry.name}: {_argument(k, entry)} {entry.shape}".replace("-1", "T")
            for k, entry in enumerate(self.program.inputs)
        ]
        for number, step in self.program.numbered():
            shape = ", ".join("T" if n == -1 else str(n) for n in step.shape)
            lines.append(f"v{number} = {self._line(number, step)}  # ({shape})")
        results = (self.program.result, *self.program.more)
        lines.append(f"return {', '.join(self._name(k) for k in results)}")
        return lines, self.constants, self.objects

    def _name(self, number: int) -> str:
        value = self.program.value(number)
        return _argument(number, value) if isinstance(value, Input) else f"v{number}"

    def _constant(self, kind: str, settings: tuple[Any, ...]) -> str:
        constant = Constant(kind, settings)
        if constant not in self.constants:
            self.constants.append(constant)
        return f"c{self.constants.index(constant)}"

    def _object(self, value: Any) -> str:
        name = f"o{len(self.objects)}"
        self.objects[name] = value
        return name

    def _line(self, number: int, step: Step) -> str:
        v = [self._name(k) for k in step.operands]
        if number in self.free:
            return _IN_PLACE[step.operation](step, v)
        write = getattr(self, f"_{step.operation}", None)
        return write(step, v) if write is not None else _PLAIN[step.operation](step, v)

    def _matmul(self, step: Step, v: list[str]) -> str:
        if not step.settings:
            return f"torch.{'mm' if len(step.shape) == 2 else 'bmm'}({v[0]}, {v[1]})"
        nothing = self._constant("ones", (1,))
        return f"torch.addmm({nothing}, {v[0]}, {v[1]}, beta=0{_alpha(step)})"

    def _dense(self, step: Step, v: list[str]) -> str:
        return self._constant("dense", step.settings)

    def _ones(self, step: Step, v: list[str]) -> str:
        return self._constant("ones", step.shape)

    def _gather(self, step: Step, v: list[str]) -> str:
        axis, index = step.settings
        where = self._constant("positions", (index,))
        text = f"torch.index_select({v[0]}, {axis}, {where})"
        if len(index.shape) != 1:
            text += f".reshape({_sizes(step.shape)})"
        if positions(index)[1] is None:
            return text
        after = len(step.shape) - axis - len(index.shape)
        return f"{text} * {self._constant('signs', (index, index.shape, after))}"

    def _scatter(self, step: Step, v: list[str]) -> str:
        axis, index = step.settings
        where = self._constant("positions", (index,))
        value = v[0]
        if positions(index)[1] is not None:
            flat = (index, (prod(index.shape),), len(step.shape) - axis - 1)
            value = f"({value} * {self._constant('signs', flat)})"
        zeros = f"{v[0]}.new_zeros({_zeros(step, v[0], axis)})"
        return f"torch.index_add({zeros}, {axis}, {where}, {value})"

    def _rfft(self, step: Step, v: list[str]) -> str:
        return f"rfft({v[0]}, {step.settings[1]}, {step.settings[0]})"

    def _irfft(self, step: Step, v: list[str]) -> str:
        """Half types are transformed in float32, and come back as they were."""
        used = {k for other in self.program.steps for k in other.operands}
        like = next(k for k, i in enumerate(self.program.inputs) if k in used and not i.is_complex)
        text = f"torch.fft.irfft({v[0]}, {step.settings[1]}, {step.settings[0]})"
        return f"{text}.to({self._name(like)}.dtype)"

    def _map(self, step: Step, v: list[str]) -> str:
        function = step.settings[0]
        if function.name in ("sin", "cos", "tanh", "exp", "sigmoid", "relu", "abs"):
            return f"torch.{function.name}({v[0]})"
        return f"elementwise({v[0]}, {self._object(function)})"

    def _pull_back(self, step: Step, v: list[str]) -> str:
        operation, *settings = step.settings
        if operation == "map":
            function = self._object(settings[0])
            return f"pull_back({v[0]}, {v[1]}, lambda a: elementwise(a, {function}))"
        call = f"matrix_function(a, {settings[0]!r}, {tuple(settings[1:])})"
        return f"pull_back({v[0]}, {v[1]}, lambda a: {call})"

    def _slope(self, step: Step, v: list[str]) -> str:
        return f"slope({v[0]}, {self._object(step.settings[0])})"


def overwritable(program: Program) -> frozenset[int]:
    """The steps that may overwrite their first operand.

    The operand must be made by a step of its own (no input, no view of one), have the result's
    shape and type, and neither it nor a view of it may be read later or be given out.
    """
    root: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in program.numbered():
        for k in step.operands:
            last[root.get(k, k)] = number
        shares = step.operation in _SHARING
        root[number] = root.get(step.operands[0], step.operands[0]) if shares else number
    results = {root.get(k, k) for k in (program.result, *program.more)}
    found: set[int] = set()
    for number, step in program.numbered():
        if step.operation not in _IN_PLACE or not step.operands:
            continue
        first = step.operands[0]
        made = program.value(first)
        own = isinstance(made, Step) and root[first] == first and made.operation not in _GIVEN
        same = made.shape == step.shape and made.is_complex == step.is_complex
        again = {root.get(k, k) for k in step.operands[1:]}
        if own and same and last[first] == number and first not in results | again:
            found.add(number)
    return frozenset(found)


_SHARING = ("reshape", "permute", "slice", "diagonal", "expand", "hold", "conj")
"""Operations whose result may share memory with their operand."""

_GIVEN = ("dense", "ones", *_SHARING)
"""Operations whose result is not memory of their own."""


def _zeros(step: Step, name: str, axis: int) -> str:
    sizes = [f"{name}.shape[{a}]" if n < 0 else str(n) for a, n in enumerate(step.shape)]
    return ", ".join(sizes)


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(str(-1 if n < 0 else n) for n in shape) or "()"


def _permute(step: Step, v: list[str]) -> str:
    return f"{v[0]}.t()" if step.settings == (1, 0) else f"{v[0]}.permute{step.settings}"


def _diagonal(step: Step, v: list[str]) -> str:
    first, second = step.settings
    return f"torch.diagonal({v[0]}, 0, {first}, {second})"


def _sum(step: Step, v: list[str]) -> str:
    return f"torch.sum({v[0]}, {step.settings})"


def _alpha(step: Step) -> str:
    return "" if step.settings[0] == 1 else f", alpha={float(step.settings[0])!r}"


def _scale(step: Step, v: list[str]) -> str:
    return f"{v[0]} * {float(step.settings[0])!r}"


def _windows(step: Step, v: list[str]) -> str:
    axis, columns = step.settings
    text = f"{v[0]}.unfold({axis}, {columns}, 1)"
    last = len(step.shape) - 1
    order = (*range(axis + 1), last, *range(axis + 1, last))
    moved = text if order == tuple(range(last + 1)) else f"{text}.permute{order}"
    return f"{moved}.flip({axis + 1})"


def _slice(step: Step, v: list[str]) -> str:
    axis, start, stop = step.settings
    return f"{v[0]}.narrow({axis}, {start}, {stop - start})"


def _pad(step: Step, v: list[str]) -> str:
    axis, before, after = step.settings
    widths = (0, 0) * (len(step.shape) - axis - 1) + (before, after)
    return f"F.pad({v[0]}, {widths})"


def _fold(step: Step, v: list[str]) -> str:
    (axis,) = step.settings
    half = step.shape[axis]
    return f"{v[0]}.narrow({axis}, 0, {half}) - {v[0]}.narrow({axis}, {half}, {half})"


def _diagonal_sums(step: Step, v: list[str]) -> str:
    axis, columns = step.settings
    return f"diagonal_sums({v[0]}, {axis}, {columns})"


def _expand(step: Step, v: list[str]) -> str:
    return f"{v[0]}.expand({_sizes(step.shape)})"


_IN_PLACE: dict[str, Callable[[Step, list[str]], str]] = {
    "add": lambda s, v: f"{v[0]}.add_({v[1]}{_alpha(s)})",
    "addmm": lambda s, v: f"{v[0]}.addmm_({v[1]}, {v[2]}{_alpha(s)})",
    "scale": lambda s, v: f"{v[0]}.mul_({float(s.settings[0])!r})",
    "multiply": lambda s, v: f"{v[0]}.mul_({v[1]})",
}

_PLAIN: dict[str, Callable[[Step, list[str]], str]] = {
    "reshape": lambda s, v: f"{v[0]}.reshape({_sizes(s.shape)})",
    "permute": _permute,
    "diagonal": _diagonal,
    "sum": _sum,
    "multiply": lambda s, v: f"{v[0]} * {v[1]}",
    "add": lambda s, v: f"torch.add({v[0]}, {v[1]}{_alpha(s)})",
    "addmm": lambda s, v: f"torch.addmm({v[0]}, {v[1]}, {v[2]}{_alpha(s)})",
    "linear": lambda s, v: f"F.linear({', '.join(v)})",
    "scale": _scale,
    "windows": _windows,
    "diagonal_sums": _diagonal_sums,
    "expand": _expand,
    "slice": _slice,
    "pad": _pad,
    "fold": _fold,
    "unfold": lambda s, v: f"torch.cat([{v[0]}, -{v[0]}], {s.settings[0]})",
    "conj": lambda s, v: f"torch.conj({v[0]})",
    "norm": lambda s, v: f"norm({v[0]}, {s.settings})",
    "matrix_function": lambda s, v: (
        f"matrix_function({v[0]}, {s.settings[0]!r}, {tuple(s.settings[1:])})"
    ),
    "hold": lambda s, v: f"{v[0]}.detach()",
}
