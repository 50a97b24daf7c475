"""What steps cost: measured rates, not FLOPs alone.

The default rates are of one core-pair of a recent x86 server CPU in float32 and of a
Hopper-class GPU; they are named so that a plan can say which it used.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from .steps import Input, Program, Shape, Step, elements

VIEWS = ("reshape", "permute", "slice", "hold", "diagonal", "expand")
"""Operations that usually move no data."""

TRANSCENDENTAL = ("sin", "cos", "tanh", "exp", "sigmoid", "softmax_top")


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of a device.

    Parameters
    ----------
    name : str
        What was measured.
    square : float
        flops per second of a large product of matrices.
    half : float
        The least of a product's three sizes at which it runs at half that rate.
    batched : float
        flops per second of a product of stacks of small matrices.
    bandwidth : float
        bytes per second of an elementwise pass.
    transcendental : float
        seconds per element of sin and its like.
    fourier : float
        flops per second of a Fourier transform, at ``5 n log2 n`` flops each.
    overhead : float
        seconds per step.
    """

    name: str
    square: float
    half: float
    batched: float
    bandwidth: float
    transcendental: float
    fourier: float
    overhead: float


CPU = Rates("cpu", 1.9e11, 16.0, 4e10, 2e10, 7e-10, 8e9, 2.5e-6)
GPU = Rates("hopper", 5e13, 64.0, 2e13, 3e12, 5e-12, 2e12, 4e-6)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program costs at a token count."""

    flops: float
    bytes: float
    saved: float
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.saved + other.saved,
            self.seconds + other.seconds,
        )


NOTHING = Cost(0.0, 0.0, 0.0, 0.0)
BYTE_PRICE = 1.0e-11
"""Seconds that one byte saved for the backward pass is worth: time alone would save everything."""


def product_seconds(rates: Rates, batch: int, rows: int, inner: int, columns: int) -> float:
    """Seconds of a (stack of) product of matrices."""
    flops = 2.0 * batch * rows * inner * columns
    least = min(rows, inner, columns)
    rate = rates.square * least / (least + rates.half)
    if batch > 1 and least < 64:
        rate = min(rate, rates.batched)
    moved = 4.0 * batch * (rows * inner + inner * columns + rows * columns)
    return max(flops / rate, moved / rates.bandwidth) + rates.overhead


def step_cost(program: Program, step: Step, tokens: int, rates: Rates, training: bool) -> Cost:
    """What one step costs forward, and backward where it trains."""
    operands = [program.value(k) for k in step.operands]
    size = elements(step.shape, tokens)
    flops, seconds, moved = _forward(step, operands, size, tokens, rates)
    saved = 0.0
    if training and step.trains:
        trained = sum(operand.trains for operand in operands)
        flops, seconds = flops * (1 + trained), seconds * (1 + trained)
        saved = _saved(step, operands, size, tokens)
    return Cost(flops, moved, saved, seconds + saved * BYTE_PRICE)


def _forward(
    step: Step, operands: list[Input | Step], size: int, tokens: int, rates: Rates
) -> tuple[float, float, float]:
    width = 8 if step.is_complex else 4
    moved = float(width * (size + sum(elements(o.shape, tokens) for o in operands)))
    passing = moved / rates.bandwidth + rates.overhead
    if step.operation in VIEWS:
        return 0.0, 0.2 * rates.overhead, 0.0
    if step.operation in ("matmul", "addmm", "linear"):
        batch, rows, inner, columns = product_sizes(step, operands, tokens)
        factor = 4 if step.is_complex else 1
        seconds = factor * product_seconds(rates, batch, rows, inner, columns)
        return 2.0 * factor * batch * rows * inner * columns, seconds, moved
    if step.operation in ("rfft", "irfft"):
        n = step.settings[1]
        lines = max(elements(operands[0].shape, tokens), size) / max(n, 1)
        flops = 2.5 * lines * n * log2(max(n, 2))
        return flops, flops / rates.fourier + passing, moved
    if step.operation == "map" and step.settings[0].name in TRANSCENDENTAL:
        return float(size), size * rates.transcendental + passing, moved
    if step.operation in ("matrix_function", "pull_back"):
        n = step.shape[-1]
        flops = (2.0 if step.operation == "matrix_function" else 6.0) * size * n
        return flops, flops / rates.batched + passing, moved
    if step.operation in ("gather", "scatter"):
        return 0.0, 2 * passing, moved
    return float(size), passing, moved


def product_sizes(
    step: Step, operands: list[Input | Step], tokens: int
) -> tuple[int, int, int, int]:
    """Batch, rows, inner and column sizes of a product step."""
    first: Shape = operands[-2].shape if step.operation != "linear" else operands[0].shape
    inner = elements(first[-1:], tokens)
    rows, columns = elements(step.shape[-2:-1], tokens), elements(step.shape[-1:], tokens)
    return elements(step.shape[:-2], tokens), rows, inner, columns


def _saved(step: Step, operands: list[Input | Step], size: int, tokens: int) -> float:
    """Bytes that the backward pass keeps of a step's operands, beyond inputs themselves."""
    if step.operation not in ("matmul", "multiply", "addmm", "linear", "map", "norm"):
        return 0.0
    width = 8 if step.is_complex else 4
    first = 1 if step.operation == "addmm" else 0
    kept = 0.0
    for k, operand in enumerate(operands[first:], start=first):
        others_train = any(o.trains for j, o in enumerate(operands) if j != k and j >= first)
        wanted = others_train or step.operation in ("map", "norm")
        if wanted and isinstance(operand, Step):
            kept += width * elements(operand.shape, tokens)
    return kept


def program_cost(program: Program, tokens: int, rates: Rates, training: bool) -> Cost:
    """What a program costs at a token count."""
    total = NOTHING
    for step in program.steps:
        total = total + step_cost(program, step, tokens, rates, training)
    return total
