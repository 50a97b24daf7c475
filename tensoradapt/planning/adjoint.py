"""Adjoints: the backward steps of a program, written as more steps of the same kind.

Reverse differentiation over the step table. Gradients stay in the layout of what they belong
to: the transpose of a product is written as the product of transposes, so a leaf's gradient
comes back contiguous. In frequency, a gradient is kept as the plain transform of the gradient
in time; then the adjoints of ``rfft`` and ``irfft`` are each other without any weights.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ..algebra.functions import Function
from ..errors import UnsupportedError
from .steps import Input, Shape, Step, Writer, times

Rule = Callable[["Adjoint", Step, int, int, int], int]


class Adjoint:
    """Writes the gradients of one value with respect to the inputs that train.

    Parameters
    ----------
    writer : Writer
        Holds the forward steps; the backward steps are appended to it.
    """

    __slots__ = ("gradients", "writer")

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.gradients: dict[int, int] = {}

    def run(self, result: int, seed: int) -> dict[int, int]:
        """The gradient of every trained input, by input number.

        Parameters
        ----------
        result : int
            The value that is differentiated.
        seed : int
            The value that holds the gradient of the result.

        Raises
        ------
        UnsupportedError
            If a step on the way has no adjoint written as steps.
        """
        writer = self.writer
        count = len(writer.inputs)
        self.gradients = {result: seed}
        for k in range(result, count - 1, -1):
            step = writer.value(k)
            if k not in self.gradients or not isinstance(step, Step) or not step.trains:
                continue
            if not self._is_covered(step):
                raise UnsupportedError(
                    f"The backward steps of {step.operation} were asked for.",
                    "Its adjoint is not written as steps.",
                    "Differentiate the emitted forward instead.",
                )
            for position, operand in enumerate(step.operands):
                if writer.value(operand).trains:
                    gradient = RULES[step.operation](self, step, k, position, self.gradients[k])
                    self.add(operand, gradient)
        return {k: self.gradients[k] for k in range(count) if k in self.gradients}

    def _is_covered(self, step: Step) -> bool:
        """Whether the step has an adjoint: not over real and complex numbers mixed."""
        if step.operation in ("multiply", "matmul", "add"):
            return len({self.writer.is_complex(k) for k in step.operands}) == 1
        return step.operation in RULES

    def add(self, value: int, gradient: int) -> None:
        """Add to the gradient of a value; a product is added onto what is there."""
        known = self.gradients.get(value)
        if known is None:
            self.gradients[value] = gradient
            return
        first, second = (known, gradient)
        if self._is_product(known) and not self._is_product(gradient):
            first, second = gradient, known
        self.gradients[value] = self._sum(first, second)

    def _sum(self, first: int, second: int) -> int:
        writer = self.writer
        shape = writer.shape(first)
        step = writer.value(second)
        if self._is_product(second) and isinstance(step, Step) and not step.is_complex:
            scale = step.settings or (Fraction(1),)
            return writer.write("addmm", (first, *step.operands), scale, shape)
        return writer.write("add", (first, second), (Fraction(1),), shape)

    def _is_product(self, value: int) -> bool:
        step = self.writer.value(value)
        return isinstance(step, Step) and step.operation == "matmul" and len(step.shape) == 2

    # --- words the rules are written in --------------------------------------------------

    def flipped(self, value: int) -> int:
        """The value with its last two axes exchanged, as a view."""
        last = len(self.writer.shape(value)) - 1
        return self.writer.permute(value, (*range(last - 1), last, last - 1))

    def transposed(self, value: int) -> int:
        """The same of a gradient; of a product, the product of transposes, so it is contiguous."""
        step = self.writer.value(value)
        if not (self._is_product(value) and isinstance(step, Step)):
            return self.flipped(value)
        rows, columns = step.shape
        operands = (self.flipped(step.operands[1]), self.flipped(step.operands[0]))
        return self.writer.write("matmul", operands, step.settings, (columns, rows))

    def conjugate(self, value: int) -> int:
        """The complex conjugate; a real value is its own."""
        if not self.writer.is_complex(value):
            return value
        return self.writer.write("conj", (value,), (), self.writer.shape(value), is_complex=True)

    def product(self, a: int, b: int) -> int:
        """The product of (stacks of) matrices."""
        left, right = self.writer.shape(a), self.writer.shape(b)
        return self.writer.write("matmul", (a, b), (), (*left[:-1], right[-1]))

    def scaled(self, value: int, factor: object) -> int:
        """A number times a value."""
        if factor == 1:
            return value
        step = self.writer.value(value)
        shape = self.writer.shape(value)
        if self._is_product(value) and isinstance(step, Step) and not step.settings:
            return self.writer.write("matmul", step.operands, (factor,), shape)
        return self.writer.write("scale", (value,), (factor,), shape)

    def reduced(self, value: int, shape: Shape) -> int:
        """Summed over the axes that a shape has only once."""
        have = self.writer.shape(value)
        axes = tuple(a for a, (n, m) in enumerate(zip(have, shape, strict=True)) if n != m)
        if not axes:
            return value
        rest = tuple(n for a, n in enumerate(have) if a not in axes)
        return self.writer.reshape(self.writer.write("sum", (value,), axes, rest), shape)

    def times(self, a: int, b: int) -> int:
        """The elementwise product of values that stretch to one shape."""
        left, right = self.writer.shape(a), self.writer.shape(b)
        shape = tuple(m if n == 1 else n for n, m in zip(left, right, strict=True))
        return self.writer.write("multiply", (a, b), (), shape)

    def pulled_back(self, step: Step, g: int) -> int:
        """The gradient through a step that is differentiated whole, by the array library."""
        x = step.operands[0]
        settings = (step.operation, *step.settings)
        return self.writer.write("pull_back", (x, g), settings, self.writer.shape(x))

    def applied(self, name: str, value: int) -> int:
        """An elementwise function of the table."""
        return self.writer.write("map", (value,), (Function(name),), self.writer.shape(value))


# --- rules: (adjoint, step, its number, which operand, its gradient) → the operand's gradient ----


def _reshape(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.writer.reshape(g, a.writer.shape(step.operands[0]))


def _permute(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    if step.settings == (1, 0):
        return a.transposed(g)
    inverse = tuple(step.settings.index(axis) for axis in range(len(step.settings)))
    return a.writer.permute(g, inverse)


def _sum(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    shape = a.writer.shape(step.operands[0])
    kept = tuple(1 if axis in step.settings else n for axis, n in enumerate(shape))
    return a.writer.write("expand", (a.writer.reshape(g, kept),), shape, shape)


def _expand(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.reduced(g, a.writer.shape(step.operands[0]))


def _multiply(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    other = a.conjugate(step.operands[1 - position])
    return a.reduced(a.times(g, other), a.writer.shape(step.operands[position]))


def _matmul(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    left, right = step.operands
    factor = step.settings[0] if step.settings else 1
    if position == 0:
        return a.scaled(a.product(g, a.flipped(a.conjugate(right))), factor)
    return a.scaled(a.product(a.flipped(a.conjugate(left)), g), factor)


def _linear(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    if position == 0:
        return a.product(g, step.operands[1])
    if position == 1:
        return a.product(a.flipped(g), step.operands[0])
    return a.writer.write("sum", (g,), (0,), a.writer.shape(step.operands[2]))


def _add(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    g = g if position == 0 else a.scaled(g, step.settings[0])
    return a.reduced(g, a.writer.shape(step.operands[position]))


def _addmm(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    if position == 0:
        return g
    _, left, right = step.operands
    if position == 1:
        return a.scaled(a.product(g, a.flipped(right)), step.settings[0])
    return a.scaled(a.product(a.flipped(left), g), step.settings[0])


def _scale(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.scaled(g, step.settings[0])


def _gather(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    axis, index = step.settings
    shape = a.writer.shape(step.operands[0])
    flat = times(*index.shape)
    lines = a.writer.reshape(g, (*shape[:axis], flat, *shape[axis + 1 :]))
    return a.writer.write("scatter", (lines,), (axis, index), shape)


def _scatter(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    axis, index = step.settings
    shape = a.writer.shape(step.operands[0])
    made = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    return a.writer.reshape(a.writer.write("gather", (g,), (axis, index), made), shape)


def _windows(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.writer.write("diagonal_sums", (g,), step.settings, a.writer.shape(step.operands[0]))


def _slice(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    axis, start, stop = step.settings
    shape = a.writer.shape(step.operands[0])
    return a.writer.write("pad", (g,), (axis, start, shape[axis] - stop), shape)


def _pad(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    axis, before, _ = step.settings
    shape = a.writer.shape(step.operands[0])
    return a.writer.write("slice", (g,), (axis, before, before + shape[axis]), shape)


def _fold(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.writer.write("unfold", (g,), step.settings, a.writer.shape(step.operands[0]))


def _unfold(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.writer.write("fold", (g,), step.settings, a.writer.shape(step.operands[0]))


def _rfft(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    axis, n = step.settings
    shape = a.writer.shape(step.operands[0])
    full = (*shape[:axis], n, *shape[axis + 1 :])
    time = a.writer.write("irfft", (g,), (axis, n), full, is_complex=False)
    if shape[axis] == n:
        return time
    return a.writer.write("slice", (time,), (axis, 0, shape[axis]), shape)


def _irfft(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    shape = a.writer.shape(step.operands[0])
    return a.writer.write("rfft", (g,), step.settings, shape, is_complex=True)


def _conj(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.conjugate(g)


def _map(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    function: Function = step.settings[0]
    x = step.operands[0]
    match function.name:
        case "sin":
            return a.times(g, a.applied("cos", x))
        case "cos":
            return a.scaled(a.times(g, a.applied("sin", x)), Fraction(-1))
        case "exp":
            return a.times(g, k)
        case "softmax_top":
            return a.pulled_back(step, g)
        case _:
            shape = a.writer.shape(x)
            slope = a.writer.write("slope", (x,), (function,), shape)
            return a.times(g, slope)


def _matrix_function(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    return a.pulled_back(step, g)


def _diagonal(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    first, second = step.settings
    shape = a.writer.shape(step.operands[0])
    n, last = shape[first], len(shape) - 2
    there = (*range(first), last, *range(first, last))
    narrow = tuple(1 if axis == second else size for axis, size in enumerate(shape))
    line = a.writer.reshape(a.writer.permute(g, there), narrow)
    delta = a.writer.write("dense", (), ("identity", n), (n, n))
    spread = tuple(n if axis in (first, second) else 1 for axis in range(len(shape)))
    return a.writer.write("multiply", (line, a.writer.reshape(delta, spread)), (), shape)


def _norm(a: Adjoint, step: Step, k: int, position: int, g: int) -> int:
    shape = a.writer.shape(step.operands[0])
    kept = tuple(1 if axis in step.settings else n for axis, n in enumerate(shape))
    ratio = a.times(g, a.applied("reciprocal", k))
    return a.times(step.operands[0], a.writer.reshape(ratio, kept))


RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "permute": _permute,
    "sum": _sum,
    "expand": _expand,
    "multiply": _multiply,
    "matmul": _matmul,
    "linear": _linear,
    "add": _add,
    "addmm": _addmm,
    "scale": _scale,
    "gather": _gather,
    "scatter": _scatter,
    "windows": _windows,
    "slice": _slice,
    "pad": _pad,
    "fold": _fold,
    "unfold": _unfold,
    "rfft": _rfft,
    "irfft": _irfft,
    "conj": _conj,
    "map": _map,
    "norm": _norm,
    "matrix_function": _matrix_function,
    "diagonal": _diagonal,
}
"""The adjoint of each operation that has one written as steps."""


def gradient_input(shape: Shape) -> Input:
    """The input that holds the gradient of a program's result."""
    return Input("gradient", "gradient", shape)
