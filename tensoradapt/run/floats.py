"""Floating-point arithmetic: what each operation of the algebra means on arrays.

These definitions are the judge of every plan and kernel, so they are slow and obvious. They
run on any array namespace; dtype and device come from a sample array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from string import ascii_letters
from typing import Any

import numpy as np
from array_api_compat import device, is_numpy_array

from ..algebra.expression import Factor, Shape
from ..algebra.functions import Function
from ..algebra.indexing import IndexMap
from ..algebra.notation import Pattern
from ..errors import UnsupportedError
from .arrays import Array, array_like, hold, index_like, is_half, namespace
from .elementwise import apply_function, euclidean
from .matrix_functions import apply_matrix_function
from .positions import positions
from .transforms import transform_matrix


class FloatArithmetic:
    """The operations of the algebra on arrays of one library.

    Parameters
    ----------
    like : array
        Decides the namespace, dtype and device of every array that is made.

    Examples
    --------
    >>> FloatArithmetic(np.zeros(1)).constant("identity", (2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    __slots__ = ("device", "dtype", "like", "xp")

    def __init__(self, like: Array) -> None:
        self.like = like
        self.xp: Any = namespace(like)
        self.dtype = like.dtype
        self.device = device(like)

    # --- multilinear ---------------------------------------------------------------------

    def einsum(
        self,
        pattern: Pattern,
        sizes: Mapping[str, int] | Sequence[tuple[str, int]],
        operands: Sequence[Array],
    ) -> Array:
        """``Σ ∏ operand[axes]`` over the indices that are not in the output.

        Every group of indices is reshaped into single axes before and back after. An index
        that occurs again in the output gets a name of its own, tied to the first by an identity.
        """
        size = dict(sizes)
        inputs = [[n for group in axes for n in group] for axes in pattern.operands]
        arrays = [
            self.xp.reshape(a, tuple(size[n] for n in names))
            for a, names in zip(operands, inputs, strict=True)
        ]
        output: list[str] = []
        for name in (n for group in pattern.output for n in group):
            own = name
            while own in output:
                own += "'"
            if own != name:
                inputs.append([name, own])
                arrays.append(self.constant("identity", (size[name], size[name])))
            output.append(own)
        result = self._contract(inputs, output, arrays)
        return self.reshape(result, tuple(prod(size[n] for n in g) for g in pattern.output))

    def _contract(self, inputs: list[list[str]], output: list[str], arrays: list[Array]) -> Array:
        names = list(dict.fromkeys(n for axes in (*inputs, output) for n in axes))
        contract = getattr(self.xp, "einsum", None)
        if len(names) > len(ascii_letters) or contract is None:
            raise UnsupportedError(
                f"An einsum over {len(names)} indices was evaluated with {self.xp.__name__}.",
                f"The definition needs the library's own einsum, which names at most "
                f"{len(ascii_letters)} indices.",
                "Write the product as several einsums of fewer indices.",
            )
        letter = dict(zip(names, ascii_letters, strict=False))
        left = ",".join("".join(letter[n] for n in axes) for axes in inputs)
        text = f"{left}->{''.join(letter[n] for n in output)}"
        if is_numpy_array(arrays[0]) and len(arrays) > 2:
            # Plain numpy.einsum loops over all indices of all operands at once.
            return contract(text, *arrays, optimize="greedy")
        if len(arrays) > 2:
            return self._fold(inputs, output, arrays)
        return contract(text, *arrays)

    def _fold(self, inputs: list[list[str]], output: list[str], arrays: list[Array]) -> Array:
        """Two operands at a time, from the left: a library's own order may be far larger."""
        first, second, *rest = inputs
        needed = {n for axes in (*rest, output) for n in axes}
        kept = [n for n in dict.fromkeys((*first, *second)) if n in needed]
        pair = self._contract([first, second], kept, arrays[:2])
        return self._contract([kept, *rest], output, [pair, *arrays[2:]])

    def add(self, terms: Sequence[Array]) -> Array:
        """The sum of one or more arrays of equal shape, from the left."""
        result = terms[0]
        for term in terms[1:]:
            result = result + term
        return result

    def scale(self, factor: Factor, a: Array) -> Array:
        """A number times an array."""
        return a * self.xp.asarray(float(factor), dtype=a.dtype, device=device(a))

    def constant(self, kind: str, shape: Shape) -> Array:
        """``ones``, or ``identity``: 1 where all axes agree, else 0."""
        values = np.ones(shape)
        if kind == "identity" and len(shape) > 1:
            at = np.indices(shape)
            values = np.all(at == at[0], axis=0).astype(np.float64)
        return array_like(values, self.like)

    # --- layout --------------------------------------------------------------------------

    def reshape(self, a: Array, target: Shape) -> Array:
        """The same elements in row-major order; numpy's scalars become arrays again."""
        result = self.xp.reshape(a, target)
        return np.asarray(result) if isinstance(result, np.generic) else result

    def window(self, a: Array, target: Shape, offset: Shape) -> Array:
        """``result[j] = a[j + offset]`` where that exists, else 0."""
        for axis, (size, first) in enumerate(zip(target, offset, strict=True)):
            low = min(max(first, 0), a.shape[axis])
            high = max(min(first + size, a.shape[axis]), low)
            before = min(max(-first, 0), size)
            middle = a[(slice(None),) * axis + (slice(low, high),)]
            after = size - before - (high - low)
            pieces = [self._zeros(a, axis, before), middle, self._zeros(a, axis, after)]
            a = self.xp.concat(pieces, axis=axis)
        return a

    def _zeros(self, a: Array, axis: int, count: int) -> Array:
        shape = (*a.shape[:axis], count, *a.shape[axis + 1 :])
        return self.xp.zeros(shape, dtype=a.dtype, device=device(a))

    def concatenate(self, operands: Sequence[Array], axis: int) -> Array:
        """Pieces one after another along an axis."""
        return self.xp.concat(list(operands), axis=axis)

    # --- fixed linear maps ---------------------------------------------------------------

    def transform(self, a: Array, axis: int, kind: str) -> Array:
        """``result[k] = Σ_j matrix[k, j] a[j]`` along an axis; its matrix is in transforms.py."""
        n = a.shape[axis]
        matrix = array_like(transform_matrix(kind, n), a)
        flat = self.xp.reshape(a, (prod(a.shape[:axis]), n, prod(a.shape[axis + 1 :])))
        return self.xp.reshape(matrix @ flat, a.shape)

    def take(self, a: Array, axis: int, index: IndexMap) -> Array:
        """``result[.., j, ..] = sign[j] a[.., position[j], ..]``; axis j has ``index.shape``."""
        found, signs = positions(index)
        shape = (*a.shape[:axis], *index.shape, *a.shape[axis + 1 :])
        flat = self.xp.take(a, index_like(found.reshape(-1), a), axis=axis)
        result = self.xp.reshape(flat, shape)
        if signs is None:
            return result
        return result * array_like(signs.reshape(index.shape + (1,) * (a.ndim - axis - 1)), a)

    def place(self, a: Array, target: Shape, index: IndexMap) -> Array:
        """``result[position[j]] = sign[j] a[j]``, else 0: a gather from ``a`` and one zero slot."""
        found, signs = positions(index)
        if signs is not None:
            a = a * array_like(signs, a)
        source = np.full(index.size, found.size, dtype=np.int64)
        source[found.reshape(-1)] = np.arange(found.size)
        flat = self.xp.reshape(a, (found.size,))
        padded = self.xp.concat([flat, self._zeros(flat, 0, 1)], axis=0)
        return self.xp.reshape(self.xp.take(padded, index_like(source, a), axis=0), target)

    # --- barriers ------------------------------------------------------------------------

    def map(self, a: Array, function: Function) -> Array:
        """An elementwise function; see elementwise.py."""
        return apply_function(self.xp, a, function)

    def divide(self, a: Array, b: Array) -> Array:
        """``a / b`` elementwise, 0 where b is 0, in one rounding."""
        zero = b == 0
        safe = self.xp.where(zero, self.xp.ones_like(b), b)
        return self.xp.where(zero, self.xp.zeros_like(b), a / safe)

    def norm(self, a: Array, axes: tuple[int, ...]) -> Array:
        """``√Σ a²`` over the axes, with gradient 0 at a zero; half precision sums in float32."""
        length = euclidean(self.xp, self._wide(a), axes)
        return self.xp.astype(length, a.dtype, copy=False)

    def matrix_function(self, a: Array, kind: str, settings: tuple[int, ...]) -> Array:
        """A function of the last two axes; see matrix_functions.py. Half precision in float32."""
        result = apply_matrix_function(self.xp, self._wide(a), kind, settings)
        return self.xp.astype(result, a.dtype, copy=False)

    def _wide(self, a: Array) -> Array:
        return self.xp.astype(a, self.xp.float32) if is_half(a) else a

    # --- training ------------------------------------------------------------------------

    def hold(self, a: Array) -> Array:
        """The same values, without a gradient."""
        return hold(a)
