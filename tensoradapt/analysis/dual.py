"""Dual numbers modulo a prime: values with their derivatives by every entry of every trained leaf.

A dual number is ``x + Σ_e ẋ_e ε_e`` with ``ε² = 0``; ``evaluate`` over them gives the Jacobian of a
family exactly. Derivatives are kept as one block per leaf. While every element depends on one entry
of a leaf at most, as in anything laid out or scaled, the block says which entry and how much
(``Single``); an einsum contracts its other operands once and lays the result where it belongs.
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
from .contraction import einsum as einsum_over
from .dual_rules import MATRIX_RULES
from .modular import reciprocal
from .residues import ResidueArithmetic, no_residue
from .transcendental import TRANSCENDENTAL, apply_transcendental

DIRECTION = "~direction"
"""The name of the axis of a block that counts the entries of its leaf."""
MOST_SCATTERED = 2**26
MOST_ON_ONE = 2**21
"""Numbers below 2³¹ that float64 adds exactly, with room."""


@dataclass(frozen=True, slots=True)
class Single:
    """The derivatives of elements that each depend on one entry of a leaf.

    Parameters
    ----------
    source : numpy.ndarray
        Which entry, by its flat position.
    number : numpy.ndarray
        The derivative by it, a residue.
    entries : int
        How many entries the leaf has.
    """

    source: np.ndarray
    number: np.ndarray
    entries: int

    def moved(self, change: Callable[[np.ndarray], np.ndarray], p: int) -> Single:
        """The same after a map of elements that may change signs or bring in zeros."""
        source, number = change(self.source), change(self.number)
        return Single(np.minimum(source, p - source) % p, number, self.entries)

    def written(self) -> np.ndarray:
        """The whole block, ``(entries, *shape)``."""
        size = self.source.size
        block = np.zeros((self.entries, size), dtype=np.int64)
        block[self.source.reshape(-1), np.arange(size)] = self.number.reshape(-1)
        return block.reshape(self.entries, *self.source.shape)


Block = np.ndarray | Single


@dataclass(frozen=True, slots=True)
class Dual:
    """Residues with their derivatives.

    Parameters
    ----------
    value : numpy.ndarray
        int64 residues.
    blocks : mapping of str to (numpy.ndarray or Single)
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
        return found.written() if isinstance(found, Single) else found


def leaf_dual(name: str, value: np.ndarray) -> Dual:
    """A leaf, varied by each of its entries."""
    value = np.asarray(value)
    source = np.arange(value.size).reshape(value.shape)
    return Dual(value, {name: Single(source, np.ones_like(source), value.size)})


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
        """A layout of the value, and of every block along its later axes."""
        blocks: dict[str, Block] = {
            name: b.moved(change, self.p) if isinstance(b, Single) else inner(b)
            for name, b in a.blocks.items()
        }
        return Dual(change(a.value), blocks)

    def _times(self, a: Dual, value: np.ndarray, derivative: np.ndarray) -> Dual:
        """An elementwise function, from its value and derivative."""
        blocks: dict[str, Block] = {
            name: Single(b.source, b.number * derivative % self.p, b.entries)
            if isinstance(b, Single)
            else b * derivative % self.p
            for name, b in a.blocks.items()
        }
        return Dual(value, blocks)

    # --- multilinear ---------------------------------------------------------------------

    def einsum(self, pattern: Pattern, sizes: Mapping[str, int], operands: Sequence[Dual]) -> Dual:
        """The product rule: each operand in turn by its derivative."""
        names = [[n for group in axes for n in group] for axes in pattern.operands]
        values = [
            a.value.reshape([sizes[n] for n in own]) for a, own in zip(operands, names, strict=True)
        ]
        value = self.numbers.einsum(pattern, sizes, [a.value for a in operands])
        output = [n for group in pattern.output for n in group]
        if len(operands) == 1 and set(output) == set(names[0]):
            return Dual(value, self._laid_out(pattern, sizes, operands[0]))
        blocks: dict[str, np.ndarray] = {}
        for k, operand in enumerate(operands):
            others = (names[:k] + names[k + 1 :], values[:k] + values[k + 1 :])
            for name, block in operand.blocks.items():
                made = self._scattered(block, names[k], others, output, sizes)
                if made is None:
                    made = self._varied(operand.block(name), names[k], others, output, sizes)
                made = made.reshape(-1, *value.shape)
                blocks[name] = (blocks[name] + made) % self.p if name in blocks else made
        return Dual(value, blocks)

    def _laid_out(
        self, pattern: Pattern, sizes: Mapping[str, int], operand: Dual
    ) -> dict[str, Block]:
        """Axes exchanged, joined, or laid on a diagonal: every element still has its one entry."""

        def change(a: np.ndarray) -> np.ndarray:
            return einsum_over(self.numbers, pattern, sizes, [a])

        blocks: dict[str, Block] = {}
        for name, block in operand.blocks.items():
            if isinstance(block, Single):
                blocks[name] = Single(change(block.source), change(block.number), block.entries)
            else:
                own = [n for group in pattern.operands[0] for n in group]
                output = [n for group in pattern.output for n in group]
                made = self._varied(block, own, ([], []), output, sizes)
                shape = [prod(sizes[n] for n in group) for group in pattern.output]
                blocks[name] = made.reshape(len(made), *shape)
        return blocks

    def _scattered(
        self,
        block: Block,
        own: list[str],
        others: tuple[list[list[str]], list[np.ndarray]],
        output: list[str],
        sizes: Mapping[str, int],
    ) -> np.ndarray | None:
        """The network without one operand, added up by entry of its leaf and element of the result.

        None where that would be more numbers than the contraction has, or too many on one place.
        """
        every = list(dict.fromkeys((*own, *output)))
        shape = [sizes[n] for n in every]
        summed = prod(sizes[n] for n in every if n not in output)
        single = isinstance(block, Single) and len(set(own)) == len(own)
        if not single or prod(shape) > MOST_SCATTERED or summed > MOST_ON_ONE:
            return None
        assert isinstance(block, Single)
        known = {n for names in others[0] for n in names}
        kept = [n for n in every if n in known]
        around = np.ones((), dtype=np.int64)
        if others[1]:
            around = contract(self.numbers, *others, kept)
        around = around.reshape([sizes[n] if n in known else 1 for n in every])
        inside = [sizes[n] if n in own else 1 for n in every]  # own comes first in every
        amounts = np.broadcast_to(around * block.number.reshape(inside) % self.p, shape)
        step, columns = 1, np.zeros([1] * len(every), dtype=np.int64)
        for n in reversed(output):
            at = [-1 if m == n else 1 for m in every]
            columns = columns + step * np.arange(sizes[n]).reshape(at)
            step *= sizes[n]
        places = np.broadcast_to(block.source.reshape(inside) * step + columns, shape)
        found = np.bincount(places.reshape(-1), amounts.reshape(-1), block.entries * step)
        return found.astype(np.int64).reshape(block.entries, step) % self.p

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
            for name, block in term.blocks.items():
                before = blocks.get(name)
                blocks[name] = block if before is None else self._added(before, block)
        return Dual(self.numbers.add([term.value for term in terms]), blocks)

    def _added(self, a: Block, b: Block) -> Block:
        if isinstance(a, Single) and isinstance(b, Single) and np.array_equal(a.source, b.source):
            return Single(a.source, (a.number + b.number) % self.p, a.entries)
        left, right = (x.written() if isinstance(x, Single) else x for x in (a, b))
        return (left + right) % self.p

    def scale(self, factor: Factor, a: Dual) -> Dual:
        """A number times an array."""
        number = np.asarray(self.numbers.number(factor))
        return self._times(a, a.value * number % self.p, number)

    def constant(self, kind: str, shape: Shape) -> Dual:
        """A constant of ``nodes.CONSTANTS``, without derivatives."""
        return Dual(self.numbers.constant(kind, shape))

    # --- layout and fixed linear maps ----------------------------------------------------

    def reshape(self, a: Dual, target: Shape) -> Dual:
        """The same elements in row-major order."""
        return self._linear(
            a, lambda x: np.reshape(x, target), lambda b: b.reshape(len(b), *target)
        )

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
        blocks: dict[str, Block] = {}
        for name in dict.fromkeys(name for a in operands for name in a.blocks):
            found = [a.blocks.get(name) for a in operands]
            known = [b for b in found if b is not None]
            if all(isinstance(b, Single) for b in known):
                blocks[name] = _joined(found, [a.shape for a in operands], axis)
                continue
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
        blocks: dict[str, Block] = {n: turn(a.block(n), axis + 1, kind) for n in a.blocks}
        return Dual(turn(a.value, axis, kind), blocks)

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
        blocks: dict[str, Block] = {
            name: (a.block(name) * a.value % self.p).sum(axis=later) % self.p * over % self.p
            for name in a.blocks
        }
        return Dual(value, blocks)

    def matrix_function(self, a: Dual, kind: str, settings: tuple[int, ...]) -> Dual:
        """Cayley, Neumann and Householder with their derivatives."""
        value = self.numbers.matrix_function(a.value, kind, settings)
        rule = MATRIX_RULES[kind]
        blocks: dict[str, Block] = {
            name: rule(a.value, a.block(name), settings, self.p) for name in a.blocks
        }
        return Dual(value, blocks)

    # --- training ------------------------------------------------------------------------

    def hold(self, a: Dual) -> Dual:
        """The operand: what is held for a gradient still varies in the family."""
        return a


def _joined(found: Sequence[Block | None], shapes: Sequence[Shape], axis: int) -> Single:
    """Pieces of which each element depends on one entry; those without the leaf on none."""
    sources, numbers, entries = [], [], 0
    for block, shape in zip(found, shapes, strict=True):
        if isinstance(block, Single):
            sources.append(block.source)
            numbers.append(block.number)
            entries = block.entries
        else:
            sources.append(np.zeros(shape, dtype=np.int64))
            numbers.append(np.zeros(shape, dtype=np.int64))
    return Single(np.concatenate(sources, axis=axis), np.concatenate(numbers, axis=axis), entries)
