"""The nodes of the algebra: few, frozen, closed.

An expression denotes a tensor of fixed shape built from named leaves; for an adapter it
denotes ΔW, never W0 + ΔW. Nodes hold no arrays. A node knows its shape and the operators
that build larger expressions, and nothing else: every reading (evaluate, lower, render, …)
is a function elsewhere.
"""

from __future__ import annotations

from math import prod

from ..errors import ShapeError, StructureError
from .expression import Expr, Factor, Shape, Start, is_scale, node
from .functions import Function
from .indexing import IndexMap
from .notation import Pattern

SCOPES = ("site", "group", "model")

# --- leaves ------------------------------------------------------------------------------


def _check_leaf(name: str, shape: Shape, scope: str) -> Shape:
    if not name or any(c in name for c in " ()|*,"):
        raise StructureError(
            f"A leaf named {name!r} was asked for.",
            "A leaf's name is not empty and has no space, comma, star, bar or parenthesis.",
            'Name it as in parameter("A", rank, inp).',
        )
    if scope not in SCOPES:
        raise StructureError(
            f"The scope {scope!r} was asked for the leaf {name!r}.",
            f"Known scopes: {', '.join(SCOPES)}.",
            "Use one of them.",
        )
    if any(type(n) is not int or n < 1 for n in shape):
        raise ShapeError(
            f"The leaf {name!r} was asked for with shape {shape}.",
            "Every size must be an integer of 1 or more.",
            "Check the rank and the sizes that the shape is computed from.",
        )
    return shape


@node
class Parameter(Expr):
    """A trained leaf. The same name is the same leaf, on purpose."""

    name: str
    shape: Shape
    initial: Start
    scope: str = "site"

    def infer_shape(self) -> Shape:
        return _check_leaf(self.name, self.shape, self.scope)


@node
class Frozen(Expr):
    """A leaf that does not train: seeded, derived from other expressions, or given as data."""

    name: str
    shape: Shape
    recipe: Start
    scope: str = "site"

    def infer_shape(self) -> Shape:
        return _check_leaf(self.name, self.shape, self.scope)


@node
class Base(Expr):
    """The frozen weight W0 of the site, ``(out, in, *kernel)``."""

    shape: Shape

    def infer_shape(self) -> Shape:
        return _check_leaf("W0", self.shape, "site")

    @property
    def matrix(self) -> tuple[int, int]:
        """``(out, in · kernel)``."""
        return self.shape[0], prod(self.shape[1:])

    @property
    def bias(self) -> BaseBias:
        """The bias b0 of the same site."""
        return BaseBias((self.shape[0],))


@node
class BaseBias(Expr):
    """The frozen bias b0 of the site, ``(out,)``."""

    shape: Shape

    def infer_shape(self) -> Shape:
        return _check_leaf("b0", self.shape, "site")


CONSTANTS = ("ones", "identity")


@node
class Constant(Expr):
    """A fixed tensor: all ones, or 1 where its two axes agree."""

    kind: str
    shape: Shape

    def infer_shape(self) -> Shape:
        if self.kind not in CONSTANTS or (self.kind == "identity" and len(set(self.shape)) > 1):
            raise StructureError(
                f"The constant {self.kind!r} of shape {self.shape} was asked for.",
                f"Known constants: {', '.join(CONSTANTS)}; an identity is square.",
                "Use one of them, or frozen(name, ...) for an array of your own.",
            )
        return _check_leaf(self.kind, self.shape, "site")


# --- multilinear -------------------------------------------------------------------------


@node
class Einsum(Expr):
    """A product of tensors over named indices; an index may occur anywhere, any number of times."""

    operands: tuple[Expr, ...]
    pattern: Pattern
    sizes: tuple[tuple[str, int], ...]

    def infer_shape(self) -> Shape:
        sizes = dict(self.sizes)
        if {*sizes} != {*self.pattern.names} or any(n < 1 for n in sizes.values()):
            raise ShapeError(
                f'einsum("{self.pattern}") was given {_sizes(self.sizes)}.',
                f"Its indices are {', '.join(self.pattern.names)}, each of size 1 or more.",
                "Give every index one size.",
            )
        if len(self.operands) != len(self.pattern.operands):
            raise ShapeError(
                f'einsum("{self.pattern}") was given {len(self.operands)} operands.',
                f"The pattern names {len(self.pattern.operands)}.",
                "Give one operand per comma-separated part.",
            )
        for operand, axes in zip(self.operands, self.pattern.operands, strict=True):
            named = tuple(prod(sizes[n] for n in group) for group in axes)
            if named != operand.shape:
                raise ShapeError(
                    f'einsum("{self.pattern}") was given an operand of shape {operand.shape}.',
                    f"With {_sizes(self.sizes)} the pattern asks for {named} there.",
                    "Give every index one size everywhere.",
                )
        return tuple(prod(sizes[n] for n in group) for group in self.pattern.output)


@node
class Sum(Expr):
    """The sum of terms of equal shape."""

    terms: tuple[Expr, ...]

    def infer_shape(self) -> Shape:
        shapes = {term.shape for term in self.terms}
        if len(shapes) != 1:
            raise ShapeError(
                f"A sum of {len(self.terms)} terms was asked for.",
                f"Their shapes are {', '.join(str(term.shape) for term in self.terms)}.",
                "Give terms of one shape; nothing is broadcast in the algebra.",
            )
        return self.terms[0].shape


@node
class Scale(Expr):
    """A number times an expression."""

    factor: Factor
    operand: Expr

    def infer_shape(self) -> Shape:
        if not is_scale(self.factor):
            shown = self.factor if isinstance(self.factor, float) else "too large a number"
            raise StructureError(
                f"An expression was scaled by {shown}.",
                "A scale must be a finite number: a Fraction of up to 1000 bits, or a float.",
                "Check alpha and the rank it is divided by.",
            )
        return self.operand.shape


# --- layout ------------------------------------------------------------------------------


@node
class Reshape(Expr):
    """The same elements in row-major order under another shape."""

    operand: Expr
    target: Shape

    def infer_shape(self) -> Shape:
        if prod(self.target) != self.operand.size or any(n < 1 for n in self.target):
            raise ShapeError(
                f"reshape to {self.target} was asked for.",
                f"That has {prod(self.target)} elements; the operand of shape "
                f"{self.operand.shape} has {self.operand.size}.",
                "Choose a shape with the same number of elements, or window the operand first.",
            )
        return self.target


@node
class Window(Expr):
    """Crop or zero-pad: ``result[j] = operand[j + offset]``, zero outside the operand."""

    operand: Expr
    target: Shape
    offset: Shape

    def infer_shape(self) -> Shape:
        if len(self.target) != self.operand.ndim or len(self.offset) != self.operand.ndim:
            raise ShapeError(
                f"window to {self.target} at {self.offset} was asked for.",
                f"The operand of shape {self.operand.shape} has {self.operand.ndim} axes.",
                "Give one size and one offset per axis.",
            )
        return self.target


@node
class Concatenate(Expr):
    """Pieces laid one after another along an axis."""

    operands: tuple[Expr, ...]
    axis: int

    def infer_shape(self) -> Shape:
        shapes = [operand.shape for operand in self.operands]
        rests = {s[: self.axis] + s[self.axis + 1 :] for s in shapes}
        if len(rests) != 1 or any(not 0 <= self.axis < len(s) for s in shapes):
            raise ShapeError(
                f"concatenate along axis {self.axis} was asked for.",
                f"The pieces have the shapes {', '.join(map(str, shapes))}.",
                "Give pieces that differ along that axis only.",
            )
        first = shapes[0]
        total = sum(s[self.axis] for s in shapes)
        return (*first[: self.axis], total, *first[self.axis + 1 :])


# --- fixed linear maps -------------------------------------------------------------------

TRANSFORMS = ("fourier_cos", "fourier_sin", "dct", "walsh_hadamard", "haar")
"""Real fixed transforms of one axis; each name with ``inverse_`` in front is its inverse."""


@node
class Transform(Expr):
    """A fixed real linear transform along one axis."""

    operand: Expr
    axis: int
    kind: str

    def infer_shape(self) -> Shape:
        if self.kind.removeprefix("inverse_") not in TRANSFORMS:
            raise StructureError(
                f"The transform {self.kind!r} was asked for.",
                f"Known transforms: {', '.join(TRANSFORMS)}, each also with 'inverse_' in front.",
                "Use one of them.",
            )
        _check_axis(self.operand, self.axis, "transform")
        n = self.operand.shape[self.axis]
        if self.kind.removeprefix("inverse_") in ("walsh_hadamard", "haar") and n & (n - 1):
            raise ShapeError(
                f"The transform {self.kind!r} was asked for along an axis of {n} elements.",
                f"It needs a power of two, and {n} is none.",
                f"Window the axis to {1 << n.bit_length()} first.",
            )
        return self.operand.shape


@node
class Take(Expr):
    """Read an axis through an index map; one axis may become several, entries may change sign."""

    operand: Expr
    axis: int
    index: IndexMap

    def infer_shape(self) -> Shape:
        _check_axis(self.operand, self.axis, "take")
        shape = self.operand.shape
        if shape[self.axis] != self.index.size:
            raise ShapeError(
                f"take({self.index.kind}) along axis {self.axis} was asked for.",
                f"The axis has {shape[self.axis]} elements; the map reads {self.index.size}.",
                "Build the map for the axis it reads.",
            )
        return shape[: self.axis] + self.index.shape + shape[self.axis + 1 :]


@node
class Place(Expr):
    """Put each element of a vector at its own position of a result, zero elsewhere."""

    operand: Expr
    target: Shape
    index: IndexMap

    def infer_shape(self) -> Shape:
        if self.operand.shape != self.index.shape or self.index.size != prod(self.target):
            raise ShapeError(
                f"place into {self.target} was asked for an operand of {self.operand.shape}.",
                f"The map has shape {self.index.shape} and reaches {self.index.size} positions.",
                "Give one position of the target per element of the operand.",
            )
        if not self.index.is_injective:
            raise StructureError(
                f"place with the map {self.index.kind!r} was asked for.",
                "Two elements would fall on one position, so the result is not defined.",
                "Use a map that gives each element a position of its own.",
            )
        return self.target


# --- barriers ----------------------------------------------------------------------------


@node
class Map(Expr):
    """An elementwise function, evaluated on the whole operand."""

    operand: Expr
    function: Function

    def infer_shape(self) -> Shape:
        return self.operand.shape


@node
class Norm(Expr):
    """The Euclidean norm over some axes, which disappear."""

    operand: Expr
    axes: tuple[int, ...]

    def infer_shape(self) -> Shape:
        for axis in self.axes:
            _check_axis(self.operand, axis, "norm")
        if list(self.axes) != sorted(set(self.axes)):
            raise ShapeError(
                f"norm over the axes {self.axes} was asked for.",
                "They are not in ascending order, or one is named twice.",
                f"Name them as {tuple(sorted(set(self.axes)))}.",
            )
        return tuple(n for i, n in enumerate(self.operand.shape) if i not in self.axes)


MATRIX_FUNCTIONS = ("cayley", "neumann", "householder", "orthonormal", "exponential")
_MATRIX_SETTINGS = {"cayley": ((), (1,), (-1,)), "neumann": tuple((k,) for k in range(1, 65))}


@node
class MatrixFunction(Expr):
    """A function of small square matrices (the last two axes), or of a set of vectors.

    ``cayley``: ``(I - Q)(I + Q)⁻¹ - I``; with settings ``(-1,)`` the inverse rotation minus I.
    ``neumann``: ``2Q + 2Q² + … + Qᵏ`` up to degree ``k`` (settings ``(k,)``), the series of the
    inverse rotation minus I as PEFT truncates it. ``householder``: ``∏(I - 2 u uᵀ/‖u‖²) - I``
    of the columns ``(n, r)``. ``orthonormal``: the Q of a QR with a positive diagonal of R.
    ``exponential``: ``exp(Q) - I``.
    """

    operand: Expr
    kind: str
    settings: tuple[int, ...] = ()

    def infer_shape(self) -> Shape:
        if self.kind not in MATRIX_FUNCTIONS:
            raise StructureError(
                f"The matrix function {self.kind!r} was asked for.",
                f"Known: {', '.join(MATRIX_FUNCTIONS)}.",
                "Use one of them.",
            )
        allowed = _MATRIX_SETTINGS.get(self.kind, ((),))
        if self.settings not in allowed:
            raise StructureError(
                f"The matrix function {self.kind!r} was asked for with settings {self.settings}.",
                f"It takes {' or '.join(map(str, allowed[:3]))}{', …' * (len(allowed) > 3)}.",
                "A cayley takes its sign 1 or -1, a neumann its degree up to 64.",
            )
        shape = self.operand.shape
        if len(shape) < 2 or (
            self.kind not in ("householder", "orthonormal") and shape[-1] != shape[-2]
        ):
            raise ShapeError(
                f"{self.kind} of an expression of shape {shape} was asked for.",
                "It needs square matrices in the last two axes.",
                "Reshape the operand to (..., n, n).",
            )
        if self.kind == "orthonormal" and shape[-1] > shape[-2]:
            raise ShapeError(
                f"orthonormal of an expression of shape {shape} was asked for.",
                f"{shape[-1]} columns of {shape[-2]} elements cannot be orthonormal.",
                "Transpose the operand, or give it at most as many columns as rows.",
            )
        return (*shape[:-1], shape[-2]) if self.kind == "householder" else shape


# --- training ----------------------------------------------------------------------------


@node
class AtStart(Expr):
    """The operand's value at initialization, frozen."""

    operand: Expr

    def infer_shape(self) -> Shape:
        return self.operand.shape


@node
class Hold(Expr):
    """The operand's value, without a gradient."""

    operand: Expr

    def infer_shape(self) -> Shape:
        return self.operand.shape


Leaf = Parameter | Frozen


def _check_axis(operand: Expr, axis: int, what: str) -> None:
    if not 0 <= axis < operand.ndim:
        raise ShapeError(
            f"{what} along axis {axis} was asked for.",
            f"The operand of shape {operand.shape} has the axes 0 to {operand.ndim - 1}.",
            "Choose one of them.",
        )


def _sizes(sizes: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes) or "no sizes"
