"""Executing programs: one step after another, on any array namespace.

This is the plain reading of a plan; the torch layer emits the same steps as source.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from array_api_compat import is_torch_array

from ..algebra.indexing import IndexMap
from ..errors import ShapeError, UnsupportedError, ValueMissingError
from ..network.form import Selection, TransformMatrix
from ..planning.steps import Input, Program, Step
from .arrays import Array, array_like, index_like, is_half
from .elementwise import slope
from .floats import FloatArithmetic
from .positions import positions
from .transforms import transform_matrix

Kernel = Callable[[FloatArithmetic, Step, list[Array]], Array]


def execute(
    program: Program, values: Mapping[str, Array], like: Array, **given: Array | None
) -> Array:
    """Run a program.

    Parameters
    ----------
    program : Program
        Its inputs say what it reads.
    values : mapping of str to array
        The leaves by name.
    like : array
        Decides namespace, dtype and device of constants.
    **given : array
        ``x`` of shape ``(T, in)``, ``base``, ``bias``: whichever the program reads.

    Returns
    -------
    array
        The program's result.

    Raises
    ------
    ValueMissingError
        If an input that a step reads is not given.
    ShapeError
        If an input has another shape than the program was written for.
    """
    return execute_all(program, values, like, **given)[0]


def execute_all(
    program: Program, values: Mapping[str, Array], like: Array, **given: Array | None
) -> list[Array]:
    """Run a program; its result comes first, then the further values that it gives out."""
    arithmetic = FloatArithmetic(like)
    results = (program.result, *program.more)
    used = {k for step in program.steps for k in step.operands} | set(results)
    known: dict[int, Array] = {
        k: _read(entry, values, given) for k, entry in enumerate(program.inputs) if k in used
    }
    last = {k: number for number, step in program.numbered() for k in step.operands}
    for number, step in program.numbered():
        operands = [known[k] for k in step.operands]
        known[number] = run_step(arithmetic, step, operands)
        for k in step.operands:
            if last[k] == number and k not in results:
                known.pop(k, None)
    return [known[k] for k in results]


def _read(entry: Input, values: Mapping[str, Array], given: Mapping[str, Array | None]) -> Array:
    by_name = entry.kind in ("leaf", "saved")
    value = values.get(entry.name) if by_name else given.get(entry.kind)
    if value is None:
        raise ValueMissingError(
            f"A program reads {entry.name!r}.",
            f"No value of that name was given, and it has the shape {entry.shape}.",
            "Give it; ta.sample makes values for all leaves, and base= is the weight W0.",
        )
    fits = len(value.shape) == len(entry.shape) and all(
        want < 0 or want == have for want, have in zip(entry.shape, value.shape, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"A program was given {entry.name!r} of shape {tuple(value.shape)}.",
            f"It was written for {tuple('T' if n < 0 else n for n in entry.shape)}.",
            "Plan again for the new shape.",
        )
    return value


def run_step(a: FloatArithmetic, step: Step, operands: list[Array]) -> Array:
    """One step on arrays."""
    return KERNELS[step.operation](a, step, operands)


def _sizes(step: Step, *operands: Array) -> tuple[int, ...]:
    """The step's shape with -1 where tokens stand, as reshape understands it."""
    return tuple(-1 if n < 0 else n for n in step.shape)


def _reshape(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    return a.reshape(v[0], _sizes(step))


def _diagonal(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    first, second = step.settings
    n = v[0].shape[first]
    lead = (slice(None),)
    pieces = []
    for k in range(n):
        piece = v[0][lead * second + (k,)]
        pieces.append(piece[lead * first + (k,)])
    return a.xp.stack(pieces, axis=-1)


def _matmul(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    product = a.xp.matmul(v[0], v[1])
    return float(step.settings[0]) * product if step.settings else product


def _linear(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    product = a.xp.matmul(v[0], a.xp.permute_dims(v[1], (1, 0)))
    return product if len(v) == 2 else product + v[2]


def _dense(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    return array_like(dense_constant(step.settings), a.like)


def dense_constant(settings: tuple[Any, ...]) -> np.ndarray:
    """A constant of a ``dense`` step, written out in float64."""
    match settings:
        case ("identity", int(n)):
            return np.eye(n)
        case (Selection(index),):
            found, signs = positions(index)
            dense = np.zeros((found.size, index.size))
            dense[np.arange(found.size), found.reshape(-1)] = (
                1 if signs is None else signs.reshape(-1)
            )
            return dense.reshape(*index.shape, index.size)
        case (TransformMatrix(kind, n),):
            return transform_matrix(kind, n)
        case _:
            raise ValueError(f"no dense constant for {settings}")


def _gather(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    return a.take(v[0], step.settings[0], step.settings[1])


def _windows(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    axis, columns = step.settings
    size = v[0].shape[axis]
    return a.take(v[0], axis, IndexMap("toeplitz", (size - columns + 1, columns), size, (columns,)))


def _diagonal_sums(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    """Rows laid one element further each, then summed: a reshape of the padded matrix."""
    axis, columns = step.settings
    matrix = a.xp.flip(v[0], axis=axis + 1)
    shape = matrix.shape
    rows, rest = shape[axis], shape[axis + 2 :]
    padded = a.window(
        matrix,
        (*shape[: axis + 1], columns + rows, *rest),
        (0,) * len(shape),
    )
    flat = a.xp.reshape(padded, (*shape[:axis], rows * (columns + rows), *rest))
    cut = flat[_along(axis, slice(0, rows * (columns + rows - 1)))]
    skewed = a.xp.reshape(cut, (*shape[:axis], rows, columns + rows - 1, *rest))
    return a.xp.sum(skewed, axis=axis)


def _expand(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    sizes = tuple(
        have if want < 0 else want for have, want in zip(v[0].shape, step.shape, strict=True)
    )
    if any(want < 0 and have == 1 for have, want in zip(v[0].shape, step.shape, strict=True)):
        raise AssertionError("an axis of tokens cannot be made by expanding")
    return a.xp.broadcast_to(v[0], sizes)


def _slope(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    return slope(a.xp, v[0], step.settings[0])


def _pull_back(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    """The gradient through a whole operation; only torch differentiates for us here."""
    if not is_torch_array(v[0]):
        raise UnsupportedError(
            f"A backward program was run on {type(v[0]).__name__}.",
            f"It differentiates {step.settings[0]} whole, which needs torch tensors.",
            "Run backward programs on torch tensors.",
        )
    operation, *settings = step.settings
    inner = Step(operation, (), tuple(settings), step.shape)
    torch = sys.modules["torch"]
    with torch.enable_grad():
        x = v[0].detach().requires_grad_()
        return torch.autograd.grad(KERNELS[operation](a, inner, [x]), x, v[1])[0]


def _scatter(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    axis, index = step.settings
    found, signs = positions(index)
    moved = a.xp.moveaxis(v[0], axis, -1)
    if signs is not None:
        moved = moved * array_like(signs.reshape(-1), a.like)
    flat = a.xp.reshape(moved, (-1, found.size)) if moved.shape[0] != 0 else moved
    summed = _scatter_lines(a, flat, found.reshape(-1), index.size)
    return a.xp.moveaxis(a.xp.reshape(summed, (*moved.shape[:-1], index.size)), -1, axis)


def _scatter_lines(a: FloatArithmetic, lines: Array, found: np.ndarray, size: int) -> Array:
    """Sum the columns of ``(lines, n)`` into ``size`` positions."""
    lines = a.xp.reshape(lines, (int(np.prod(lines.shape[:-1])), found.size))
    if is_torch_array(lines):
        zeros = a.xp.zeros((lines.shape[0], size), dtype=lines.dtype, device=a.device)
        return zeros.index_add(1, index_like(found, a.like), lines)
    dense = np.zeros((found.size, size))
    dense[np.arange(found.size), found] = 1
    return a.xp.matmul(lines, array_like(dense, a.like))


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (part,)


def _slice(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    axis, start, stop = step.settings
    return v[0][_along(axis, slice(start, stop))]


def _pad(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    axis, before, _ = step.settings
    shape = list(v[0].shape)
    offset = [0] * len(shape)
    shape[axis], offset[axis] = abs(step.shape[axis]), -before
    return a.window(v[0], tuple(shape), tuple(offset))


def _fold(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    (axis,) = step.settings
    half = v[0].shape[axis] // 2
    return v[0][_along(axis, slice(0, half))] - v[0][_along(axis, slice(half, None))]


def _unfold(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    return a.xp.concat([v[0], -v[0]], axis=step.settings[0])


def _rfft(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    axis, n = step.settings
    wide = a.xp.astype(v[0], a.xp.float32) if is_half(v[0]) else v[0]
    return a.xp.fft.rfft(wide, n=n, axis=axis)


def _irfft(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    axis, n = step.settings
    return a.xp.astype(a.xp.fft.irfft(v[0], n=n, axis=axis), a.dtype, copy=False)


def _map(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    return a.map(v[0], step.settings[0])


def _matrix_function(a: FloatArithmetic, step: Step, v: list[Array]) -> Array:
    kind, *settings = step.settings
    return a.matrix_function(v[0], kind, tuple(settings))


KERNELS: dict[str, Kernel] = {
    "reshape": _reshape,
    "permute": lambda a, s, v: a.xp.permute_dims(v[0], s.settings),
    "diagonal": _diagonal,
    "sum": lambda a, s, v: a.xp.sum(v[0], axis=s.settings),
    "multiply": lambda a, s, v: v[0] * v[1],
    "matmul": _matmul,
    "add": lambda a, s, v: v[0] + (v[1] if s.settings[0] == 1 else float(s.settings[0]) * v[1]),
    "addmm": lambda a, s, v: v[0] + float(s.settings[0]) * a.xp.matmul(v[1], v[2]),
    "linear": _linear,
    "scale": lambda a, s, v: float(s.settings[0]) * v[0],
    "ones": lambda a, s, v: a.constant("ones", s.shape),
    "dense": _dense,
    "gather": _gather,
    "windows": _windows,
    "diagonal_sums": _diagonal_sums,
    "expand": _expand,
    "slope": _slope,
    "pull_back": _pull_back,
    "scatter": _scatter,
    "slice": _slice,
    "pad": _pad,
    "fold": _fold,
    "unfold": _unfold,
    "rfft": _rfft,
    "irfft": _irfft,
    "conj": lambda a, s, v: a.xp.conj(v[0]),
    "map": _map,
    "norm": lambda a, s, v: a.norm(v[0], s.settings),
    "matrix_function": _matrix_function,
    "hold": lambda a, s, v: a.hold(v[0]),
}
"""What each operation of ``plan.steps`` does."""
