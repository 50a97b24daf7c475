"""Training programs: a forward and a backward program for one layer, chosen together.

The forward may be factored or formed, and so, independently, may the gradients of the leaves:

=========================  ============================================================
way                        what it does
=========================  ============================================================
factored                   every network contracted with x; gradients along the same tree
formed                     the weight formed once; leaf gradients through dW = gᵀ x
formed, factored leaves    the weight for y and dx; leaf gradients contracted with x and g
=========================  ============================================================

What the backward needs of the forward is either kept or computed again, whichever is cheaper
at the stated price per byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UnsupportedError
from ..network.form import NormalForm
from .adjoint import Adjoint, gradient_input
from .candidate import Candidate, Layer, step_total
from .compose import Composer, Note, inputs_of
from .rates import BYTE_PRICE, VIEWS, Rates, program_cost
from .steps import TOKENS, Input, Program, Shape, Step, Writer, elements

FACTORED, FORMED, MIXED = "factored", "formed", "formed, factored leaves"


def training_program(
    asked: Layer,
    shape: Shape,
    way: str,
    tokens: int,
    rates: Rates,
    x_trains: bool = True,
    price: float = BYTE_PRICE,
) -> Candidate:
    """Write the forward and backward programs of a layer.

    Parameters
    ----------
    asked : Layer
        The normal forms of W0 + ΔW and b0 + Δb, or of ΔW and Δb.
    shape : tuple of int
        The weight's shape.
    way : str
        ``FACTORED``, ``FORMED`` or ``MIXED``.
    tokens : int
        The token count that orders and savings are chosen for.
    rates : Rates
        Of the device.
    x_trains : bool
        Whether the gradient of x is wanted.
    price : float
        Seconds that one saved byte is worth.

    Raises
    ------
    UnsupportedError
        If a step that a gradient flows through has no adjoint written as steps.
    """
    forms = [asked.weight] + ([asked.bias] if asked.bias is not None else [])
    given = _inputs(forms, shape, x_trains)
    writer = Writer((*given, gradient_input((TOKENS, shape[0]))))
    composer = Composer(writer, tokens, rates, training=True)
    bias = None if asked.bias is None else composer.materialize(asked.bias)
    g = writer.input("gradient", "gradient")
    if way == FACTORED:
        y = composer.apply(asked.weight, bias)
        gradients = Adjoint(writer).run(y, g)
    else:
        weight = composer.materialize(asked.weight)
        y = composer.multiply(weight, bias, shape)
        source = y if way == FORMED else composer.apply(asked.weight, bias)
        gradients = Adjoint(writer).run(source, g)
        x = writer.input("x", "x")
        if x in gradients:
            flat = writer.reshape(weight, (shape[0], writer.shape(x)[1]))
            gradients[x] = Adjoint(writer).product(g, flat)
    return _split(writer, way, y, gradients, tokens, rates, price, tuple(composer.notes))


def _inputs(forms: list[NormalForm], shape: Shape, x_trains: bool) -> tuple[Input, ...]:
    found = inputs_of(forms, shape, True)
    x = found[0]
    return (Input(x.kind, x.name, x.shape, x_trains), *found[1:])


def _split(
    writer: Writer,
    way: str,
    y: int,
    gradients: dict[int, int],
    tokens: int,
    rates: Rates,
    price: float,
    notes: tuple[Note, ...],
) -> Candidate:
    """Cut the joint list of steps in two: what is kept between them, what is done again."""
    if not gradients:
        raise UnsupportedError(
            "The gradients of a layer were to be planned.",
            "Its output depends on nothing that trains.",
            "Plan its forward alone, in the mode 'forward'.",
        )
    wanted = tuple(sorted(gradients))
    results = tuple(gradients[k] for k in wanted)
    forward = writer.reach(y)
    saved = _Saving(writer, forward, tokens, rates, price).choose(results)
    first = writer.program(y, *saved)
    second = _backward(writer, saved, results)
    inputs = tuple(writer.inputs[k] for k in wanted)
    cost = step_total(first, second, tokens, rates, price)
    return Candidate(way, first, cost, notes, second, inputs)


@dataclass(slots=True)
class _Saving:
    """Decides for each forward value that the backward reads whether to keep it."""

    writer: Writer
    forward: set[int]
    tokens: int
    rates: Rates
    price: float

    def choose(self, results: tuple[int, ...]) -> tuple[int, ...]:
        kept: dict[int, None] = {}
        done: set[int] = set()
        stack = list(results)
        while stack:
            k = stack.pop()
            step = self.writer.value(k)
            if k in done or isinstance(step, Input):
                continue
            done.add(k)
            if k in self.forward and self._is_kept(k, step):
                kept[k] = None
            else:
                stack.extend(step.operands)
        return tuple(sorted(kept))

    def _is_kept(self, k: int, step: Step) -> bool:
        if step.operation in (*VIEWS, "conj", "ones", "dense"):
            return False
        width = 8 if step.is_complex else 4
        return width * elements(step.shape, self.tokens) * self.price < self._again(k)

    def _again(self, k: int) -> float:
        """Seconds to compute a value from the inputs."""
        return program_cost(self.writer.program(k), self.tokens, self.rates, False).seconds


def _backward(writer: Writer, saved: tuple[int, ...], results: tuple[int, ...]) -> Program:
    """The steps that the results need, with the saved values as inputs."""
    count = len(writer.inputs)
    extra = tuple(
        Input("saved", f"s{k}", writer.shape(value), is_complex=writer.is_complex(value))
        for k, value in enumerate(saved)
    )
    copy = Writer((*writer.inputs, *extra))
    shift = len(extra)
    number = {k: k if k < count else k + shift for k in range(count + len(writer.steps))}
    number |= {value: count + k for k, value in enumerate(saved)}
    for step in writer.steps:
        operands = tuple(number[k] for k in step.operands)
        copy.steps.append(replace(step, operands=operands))
    return copy.program(*(number[k] for k in results))
