"""Dual numbers modulo a prime: values with their derivatives by every entry of every trained leaf.

A dual number is ``x + Σ_e ẋ_e ε_e`` with ``ε² = 0``; ``evaluate`` over them gives the Jacobian of a
family exactly. Derivatives are kept as one block per leaf, ``(entries of the leaf, *shape)``. Those
of a leaf itself are an identity that is never formed: an einsum that meets one contracts its other
operands once and lays the result on a diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ..algebra.expression import Factor, Shape
from ..algebra.functions import Function
from ..algebra.indexing import IndexMap
from ..algebra.leaves import exact
from ..algebra.notation import Pattern
from ..run.positions import positions
from .contraction import contract, on_diagonal
from .modular import inverse, matmul, reciprocal
from .residues import ResidueArithmetic, no_residue
from .transcendental import TRANSCENDENTAL, apply_transcendental

DIRECTION = "~direction"
"""The name of the axis of a block that counts the entries of its leaf."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The derivative of a leaf by its own entries: a number times the identity."""

    number: int = 1


Block = np.ndarray | Unit


@dataclass(frozen=True, slots=True)
class Dual:
    """Residues with their derivatives.

    Parameters
    ----------
    value : numpy.ndarray
        int64 residues.
    blocks : mapping of str to (numpy.ndarray or Unit)
        By leaf, ``(entries of the leaf, *value.shape)``.
    """

    value: np.ndarray
    blocks: Mapping[str, Block] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """The shape of the value."""
        return self.value.shape

    def block(self, name: str) -> np.ndarray:
        """A block written out."""
        found = self.blocks[name]
        if not isinstance(found, Unit):
            return found
        n = self.value.size
        identity = np.eye(n, dtype=np.int64) * found.number
        return identity.reshape(n, *self.value.shape)


def leaf_dual(name: str, value: np.ndarray) -> Dual:
    """A leaf, varied by each of its entries."""
    return Dual(value, {name: Unit()})


class DualArithmetic:
    """The operations of the algebra on dual numbers.

    Parameters
    ----------
    numbers : ResidueArithmetic
        What values and derivatives are computed with.

    Examples
    --------
    >>> from tensoradapt.algebra.leaves import parameter
    >>> from tensoradapt.run.evaluate import evaluate
    >>> x = parameter("x", 2)
    >>> dual = leaf_dual("x", np.array([2, 3]))
    >>> result = evaluate(x * x, {"x": dual}, arithmetic=DualArithmetic(ResidueArithmetic(101)))
    >>> result.value.tolist(), result.block("x").tolist()
    ([4, 9], [[4, 0], [0, 6]])
    """

    __slots__ = ("numbers", "p")

    def __init__(self, numbers: ResidueArithmetic) -> None:
        self.numbers = numbers
        self.p = numbers.p

    def _linear(
        self, a: Dual, change: Callable[[np.ndarray], np.ndarray], inner: Callable[..., np.ndarray]
    ) -> Dual:
        """A linear map of the value, and of every block along its later axes."""
        return Dual(change(a.value), {name: inner(a.block(name)) for name in a.blocks})

    def _times(self, a: Dual, value: np.ndarray, derivative: np.ndarray) -> Dual:
        """An elementwise function, from its value and derivative."""
        return Dual(value, {name: a.block(name) * derivative % self.p for name in a.blocks})

    # --- multilinear ---------------------------------------------------------------------

    def einsum(self, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[Dual]) -> Dual:
        """The product rule: each operand in turn by its derivative."""
        names = [[n for group in axes for n in group] for axes in pattern.operands]
        values = [
            a.value.reshape([sizes[n] for n in own]) for a, own in zip(operands, names, strict=True)
        ]
        output = [n for group in pattern.output for n in group]
        shape = [prod(sizes[n] for n in group) for group in pattern.output]
        blocks: dict[str, np.ndarray] = {}
        for k, operand in enumerate(operands):
            others = (names[:k] + names[k + 1 :], values[:k] + values[k + 1 :])
            for name, block in operand.blocks.items():
                if isinstance(block, Unit) and len(set(names[k])) == len(names[k]):
                    made = self._environment(names[k], others, output, sizes, block.number)
                else:
                    made = self._varied(operand.block(name), names[k], others, output, sizes)
                made = made.reshape(-1, *shape)
                blocks[name] = (blocks[name] + made) % self.p if name in blocks else made
        return Dual(self.numbers.einsum(pattern, sizes, [a.value for a in operands]), blocks)

    def _environment(
        self,
        own: list[str],
        others: tuple[list[list[str]], list[np.ndarray]],
        output: list[str],
        sizes: Mapping[str, int],
        number: int,
    ) -> np.ndarray:
        """The network without one leaf, for every entry of the leaf and of the result."""
        every = list(dict.fromkeys((*own, *output)))
        known = {n for names in others[0] for n in names}
        kept = [n for n in every if n in known]
        found = np.full((), number, dtype=np.int64)
        if others[1]:
            found = contract(self.numbers, *others, kept) * number % self.p
        spread = found.reshape([sizes[n] if n in known else 1 for n in every])
        whole = np.broadcast_to(spread, [sizes[n] for n in every])
        return on_diagonal(whole, [every.index(n) for n in (*own, *output)], self.numbers)

    def _varied(
        self,
        block: np.ndarray,
        own: list[str],
        others: tuple[list[list[str]], list[np.ndarray]],
        output: list[str],
        sizes: Mapping[str, int],
    ) -> np.ndarray:
        """The network with one operand replaced by its derivatives."""
        varied = block.reshape([len(block), *(sizes[n] for n in own)])
        distinct = [DIRECTION, *dict.fromkeys(output)]
        names = [[DIRECTION, *own], *others[0]]
        made = contract(self.numbers, names, [varied, *others[1]], distinct)
        if len(distinct) <= len(output):
            axes = [distinct.index(n) for n in (DIRECTION, *output)]
            made = on_diagonal(made, axes, self.numbers)
        return made

    def add(self, terms: Sequence[Dual]) -> Dual:
        """The sum of one or more terms."""
        blocks: dict[str, Block] = {}
        for term in terms:
            for name in term.blocks:
                made = term.block(name)
                before = blocks.get(name)
                blocks[name] = made if before is None else (before + made) % self.p  # type: ignore[operator]
        return Dual(self.numbers.add([term.value for term in terms]), blocks)

    def scale(self, factor: Factor, a: Dual) -> Dual:
        """A number times an array."""
        number = self.numbers.number(factor)
        blocks = {
            name: Unit(b.number * number % self.p) if isinstance(b, Unit) else b * number % self.p
            for name, b in a.blocks.items()
        }
        return Dual(a.value * number % self.p, blocks)

    def constant(self, kind: str, shape: Shape) -> Dual:
        """A constant of ``nodes.CONSTANTS``, without derivatives."""
        return Dual(self.numbers.constant(kind, shape))

    # --- layout and fixed linear maps ----------------------------------------------------

    def reshape(self, a: Dual, target: Shape) -> Dual:
        """The same elements in row-major order."""
        blocks = {
            name: b if isinstance(b, Unit) else b.reshape(len(b), *target)
            for name, b in a.blocks.items()
        }
        return Dual(a.value.reshape(target), blocks)

    def window(self, a: Dual, target: Shape, offset: Shape) -> Dual:
        """Crop or zero-pad."""
        cut = self.numbers.window
        return self._linear(
            a,
            lambda x: cut(x, target, offset),
            lambda b: cut(b, (len(b), *target), (0, *offset)),
        )

    def concatenate(self, operands: Sequence[Dual], axis: int) -> Dual:
        """Pieces along an axis; a piece without a leaf has zeros in its block."""
        blocks: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(name for a in operands for name in a.blocks):
            entries = next(len(a.block(name)) for a in operands if name in a.blocks)
            pieces = [
                a.block(name) if name in a.blocks else self.numbers.zeros((entries, *a.shape))
                for a in operands
            ]
            blocks[name] = np.concatenate(pieces, axis=axis + 1)
        return Dual(np.concatenate([a.value for a in operands], axis=axis), blocks)

    def transform(self, a: Dual, axis: int, kind: str) -> Dual:
        """A fixed real transform along an axis."""
        turn = self.numbers.transform
        return self._linear(a, lambda x: turn(x, axis, kind), lambda b: turn(b, axis + 1, kind))

    def take(self, a: Dual, axis: int, index: IndexMap) -> Dual:
        """Read an axis through an index map."""
        read = self.numbers.take
        return self._linear(a, lambda x: read(x, axis, index), lambda b: read(b, axis + 1, index))

    def place(self, a: Dual, target: Shape, index: IndexMap) -> Dual:
        """Scatter to distinct flat positions of zeros."""
        found, signs = positions(index)

        def each(block: np.ndarray) -> np.ndarray:
            result = self.numbers.zeros((len(block), prod(target)))
            signed = block if signs is None else block * signs % self.p
            result[:, found.reshape(-1)] = signed.reshape(len(block), -1)
            return result.reshape(len(block), *target)

        return self._linear(a, lambda x: self.numbers.place(x, target, index), each)

    # --- barriers ------------------------------------------------------------------------

    def map(self, a: Dual, function: Function) -> Dual:
        """An elementwise function and its derivative."""
        p, x = self.p, a.value
        value = self.numbers.map(x, function)
        if function.name == "polynomial":
            slope = np.zeros_like(x)
            for k in range(len(function.settings) - 1, 0, -1):
                slope = (slope * x + k * self.numbers.number(exact(function.settings[k]))) % p
        elif function.name == "reciprocal":
            slope = -value * value % p
        elif function.name in TRANSCENDENTAL:
            slope = apply_transcendental(function.name, x, p, self.numbers.seed)[1]
        else:
            raise no_residue(f"the derivative of {function}")
        return self._times(a, value, slope)

    def divide(self, a: Dual, b: Dual) -> Dual:
        """``a / b`` elementwise."""
        inverted = reciprocal(b.value, self.p)
        value = a.value * inverted % self.p
        above = self._times(a, value, inverted)
        below = self._times(b, value, -value * inverted % self.p)
        return Dual(value, self.add([above, below]).blocks)

    def norm(self, a: Dual, axes: tuple[int, ...]) -> Dual:
        """``‖x‖' = Σ x x' / ‖x‖``."""
        value = self.numbers.norm(a.value, axes)
        over = reciprocal(value, self.p)
        later = tuple(axis + 1 for axis in axes)
        blocks = {
            name: (a.block(name) * a.value % self.p).sum(axis=later) % self.p * over % self.p
            for name in a.blocks
        }
        return Dual(value, blocks)

    def matrix_function(self, a: Dual, kind: str, settings: tuple[int, ...]) -> Dual:
        """Cayley, Neumann and Householder with their derivatives."""
        value = self.numbers.matrix_function(a.value, kind, settings)
        rule = {"cayley": _cayley, "neumann": _neumann, "householder": _householder}[kind]
        blocks = {name: rule(a.value, a.block(name), settings, self.p) for name in a.blocks}
        return Dual(value, blocks)

    # --- training ------------------------------------------------------------------------

    def hold(self, a: Dual) -> Dual:
        """The operand: what is held for a gradient still varies in the family."""
        return a


def _cayley(q: np.ndarray, dq: np.ndarray, settings: tuple[int, ...], p: int) -> np.ndarray:
    """``(I - Q)(I + Q)⁻¹ = 2 M - I`` with ``M = (I + Q)⁻¹`` and ``M' = -M Q' M``."""
    sign = -1 if settings == (-1,) else 1
    m = inverse((np.eye(q.shape[-1], dtype=np.int64) + sign * q) % p, p)
    return -2 * sign * matmul(matmul(m, dq, p), m, p) % p


def _neumann(q: np.ndarray, dq: np.ndarray, settings: tuple[int, ...], p: int) -> np.ndarray:
    result, term, varied = 2 * dq % p, q, dq
    for k in range(2, settings[0] + 1):
        varied = (matmul(varied, q, p) + matmul(term, dq, p)) % p
        term = matmul(term, q, p)
        result = (result + (2 if k < settings[0] else 1) * varied) % p
    return result


def _householder(u: np.ndarray, du: np.ndarray, settings: tuple[int, ...], p: int) -> np.ndarray:
    """The derivative of ``P ← P - 2 (P + I) u uᵀ / ‖u‖²`` column by column."""
    turned = np.zeros((*u.shape[:-1], u.shape[-2]), dtype=np.int64)
    varied = np.zeros((len(du), *turned.shape), dtype=np.int64)
    for j in range(u.shape[-1]):
        v, dv = u[..., j : j + 1], du[..., j : j + 1]
        over = reciprocal((v * v % p).sum(axis=-2, keepdims=True) % p, p)
        d_over = -2 * (v * dv % p).sum(axis=-2, keepdims=True) % p * (over * over % p) % p
        along = (matmul(turned, v, p) + v) % p
        d_along = (matmul(varied, v, p) + matmul(turned, dv, p) + dv) % p
        moved = 2 * along * over % p
        d_moved = 2 * ((d_along * over + along * d_over % p) % p) % p
        row, d_row = np.swapaxes(v, -1, -2), np.swapaxes(dv, -1, -2)
        varied = (varied - d_moved * row % p - moved * d_row) % p
        turned = (turned - moved * row) % p
    return varied
