"""Steps and programs: what a plan will run, as data.

A program is a list of steps in static single assignment: step k writes value
``len(inputs) + k``. Shapes may contain the number of tokens T: a negative size ``-c`` stands
for ``c · T``, so one program serves every token count.

===================  ============================  ===========================================
operation            settings                      result
===================  ============================  ===========================================
reshape              target                        the same elements
permute              axes                          axes in another order
diagonal             (first, second)               the diagonal of two axes, put last
sum                  axes                          summed over them
multiply             ()                            elementwise, axes of size one stretch
matmul               () or (alpha,)                (alpha times) the product of matrices, or stacks
add                  (alpha,)                      first + alpha · second
addmm                (alpha,)                      first + alpha · second @ third
linear               ()                            x Wᵀ (+ b)
scale                (factor,)                     factor · operand
ones                 shape                         ones
dense                (source,)                     a constant matrix, written out
gather               (axis, index)                 an axis read through an index map
windows              (axis, columns)               ``t`` to ``T[i, j] = t[i - j + columns - 1]``
diagonal_sums        (axis, columns)               its adjoint: sums along diagonals
expand               shape                         axes of size one repeated
slope                (function,)                   the derivative of an elementwise function
scatter              (axis, index)                 an axis summed into the positions of a map
slice                (axis, start, stop)           a part of an axis
pad                  (axis, before, after)         zeros around an axis
fold                 (axis,)                       first half minus second half
unfold               (axis,)                       [x, -x]
rfft, irfft          (axis, n)                     real Fourier transform of length n
conj                 ()                            complex conjugate
map                  (function,)                   elementwise function
norm                 axes                          Euclidean norm
matrix_function      (kind, *settings)             see ``nodes.MatrixFunction``
pull_back            (operation, *settings)        the gradient through a whole operation
hold                 ()                            the same value without a gradient
===================  ============================  ===========================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

TOKENS = -1
"""The size T of the token axis."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """A value that a program receives: x, the base weight, the base bias or a leaf.

    Parameters
    ----------
    kind : {"x", "base", "bias", "leaf", "gradient", "saved"}
        What it is; a saved value is one that the forward program gave out.
    name : str
        The leaf's name (``"B@start"`` for its value at the start), or the kind.
    shape : tuple of int
        Its shape; x is ``(T, in)``.
    trains : bool
        Whether a gradient flows into it.
    is_complex : bool
        Whether it is complex, as saved values may be.
    """

    kind: str
    name: str
    shape: Shape
    trains: bool = False
    is_complex: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on earlier values."""

    operation: str
    operands: tuple[int, ...]
    settings: tuple[Any, ...]
    shape: Shape
    is_complex: bool = False
    trains: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """A list of steps from inputs to a result, and to further values that are given out too."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    result: int
    more: tuple[int, ...] = ()

    def value(self, k: int) -> Input | Step:
        """The input or the step that gives value k."""
        n = len(self.inputs)
        return self.inputs[k] if k < n else self.steps[k - n]

    def numbered(self) -> Iterator[tuple[int, Step]]:
        """Steps with the number of the value they give."""
        return enumerate(self.steps, start=len(self.inputs))


def elements(shape: Shape, tokens: int) -> int:
    """The number of elements of a shape at T tokens."""
    return prod(n if n >= 0 else -n * tokens for n in shape)


def times(*sizes: int) -> int:
    """The product of sizes of which at most one contains T."""
    product = prod(abs(n) for n in sizes)
    return -product if any(n < 0 for n in sizes) else product


class Writer:
    """Writes steps, each at most once: an operation on the same values gives the same value."""

    __slots__ = ("_known", "inputs", "steps")

    def __init__(self, inputs: tuple[Input, ...]) -> None:
        self.inputs = inputs
        self.steps: list[Step] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def value(self, k: int) -> Input | Step:
        """The input or the step that gives value k."""
        n = len(self.inputs)
        return self.inputs[k] if k < n else self.steps[k - n]

    def shape(self, k: int) -> Shape:
        """The shape of value k."""
        return self.value(k).shape

    def is_complex(self, k: int) -> bool:
        """Whether value k is complex."""
        return self.value(k).is_complex

    def input(self, name: str, kind: str = "leaf") -> int:
        """The number of an input."""
        for k, entry in enumerate(self.inputs):
            if (entry.kind, entry.name) == (kind, name):
                return k
        raise KeyError(name)

    def write(
        self,
        operation: str,
        operands: tuple[int, ...],
        settings: tuple[Any, ...],
        shape: Shape,
        is_complex: bool | None = None,
    ) -> int:
        """Append a step, or find the one that already gives the same value."""
        key = (operation, operands, settings)
        if key not in self._known:
            mixed = any(self.is_complex(k) for k in operands)
            trains = operation != "hold" and any(self.value(k).trains for k in operands)
            step = Step(
                operation,
                operands,
                settings,
                shape,
                mixed if is_complex is None else is_complex,
                trains,
            )
            self._known[key] = len(self.inputs) + len(self.steps)
            self.steps.append(step)
        return self._known[key]

    # Layout steps that do nothing are not written.

    def reshape(self, k: int, target: Shape) -> int:
        """Give value k another shape."""
        value = self.value(k)
        if value.shape == target:
            return k
        if isinstance(value, Step) and value.operation == "reshape":
            return self.reshape(value.operands[0], target)
        return self.write("reshape", (k,), target, target)

    def permute(self, k: int, axes: tuple[int, ...]) -> int:
        """Put the axes of value k in another order."""
        if axes == tuple(range(len(axes))):
            return k
        value = self.value(k)
        if isinstance(value, Step) and value.operation == "permute":
            return self.permute(value.operands[0], tuple(value.settings[a] for a in axes))
        shape = value.shape
        return self.write("permute", (k,), axes, tuple(shape[a] for a in axes))

    def reach(self, *results: int) -> set[int]:
        """The steps that some values need, by number."""
        n = len(self.inputs)
        needed: set[int] = set()
        stack = list(results)
        while stack:
            k = stack.pop()
            if k >= n and k not in needed:
                needed.add(k)
                stack.extend(self.steps[k - n].operands)
        return needed

    def program(self, result: int, *more: int) -> Program:
        """The program that gives some values, without steps that they do not need."""
        n = len(self.inputs)
        order = sorted(self.reach(result, *more))
        number = {k: k for k in range(n)} | {k: n + i for i, k in enumerate(order)}
        kept = [self.steps[k - n] for k in order]
        moved = tuple(
            Step(
                s.operation,
                tuple(number[k] for k in s.operands),
                s.settings,
                s.shape,
                s.is_complex,
                s.trains,
            )
            for s in kept
        )
        return Program(self.inputs, moved, number[result], tuple(number[k] for k in more))
