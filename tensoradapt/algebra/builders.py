"""Builders: the words in which updates are written.

Everything here returns nodes. The operators of ``Expr`` get their meaning at the end of the
file. ``forms.py`` has the named tensor formats built from these words.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

from ..errors import PatternError, ShapeError, StructureError
from .expression import OPERATIONS, Expr, Factor, Number
from .functions import Function
from .indexing import IndexMap, permutation_map
from .leaves import exact, eye, integers, ones
from .nodes import (
    AtStart,
    Concatenate,
    Einsum,
    Hold,
    Map,
    MatrixFunction,
    Norm,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from .notation import Pattern, parse_pattern

# --- multilinear -------------------------------------------------------------------------


def einsum(pattern: str, /, *operands: Expr, **sizes: int) -> Expr:
    """A product of tensors over named indices.

    ``result[output] = Σ ∏ operand[axes]`` over every index that is not in the output. An index
    may occur in any number of operands and in the output (a hyperedge).

    Parameters
    ----------
    pattern : str
        ``"o r, r i -> o i"``; parentheses group indices into one axis, first slowest:
        ``"o1 i1, o2 i2 -> (o1 o2) (i1 i2)"``. Without spaces it is read letter by letter.
    *operands : Expr
        One per comma-separated part.
    **sizes : int
        Sizes of indices that the shapes leave open (inside groups on the left side).

    Raises
    ------
    PatternError
        If the pattern cannot be read.
    ShapeError
        If shapes and pattern do not fit.

    Examples
    --------
    >>> from tensoradapt.algebra import parameter
    >>> a, b = parameter("a", 2, 3), parameter("b", 4, 5)
    >>> einsum("o1 i1, o2 i2 -> (o1 o2) (i1 i2)", a, b).shape
    (8, 15)
    """
    parsed = parse_pattern(pattern)
    return Einsum(tuple(operands), parsed, _solve_sizes(parsed, operands, sizes))


def _solve_sizes(
    pattern: Pattern, operands: tuple[Expr, ...], given: dict[str, int]
) -> tuple[tuple[str, int], ...]:
    known = dict(given)
    if len(operands) != len(pattern.operands):
        raise ShapeError(
            f'einsum("{pattern}") was given {len(operands)} operands.',
            f"The pattern names {len(pattern.operands)}.",
            "Give one operand per comma-separated part.",
        )
    for axes, operand in zip(pattern.operands, operands, strict=True):
        if len(axes) != operand.ndim:
            raise ShapeError(
                f'einsum("{pattern}") was given an operand of shape {operand.shape}.',
                f"It has {operand.ndim} axes; the pattern names {len(axes)} there.",
                "Name every axis of every operand.",
            )
    groups = [
        (group, size)
        for axes, operand in zip(pattern.operands, operands, strict=True)
        for group, size in zip(axes, operand.shape, strict=True)
    ]
    for group, size in sorted(groups, key=lambda entry: len(entry[0])):
        unknown = [name for name in group if name not in known]
        rest = prod(known[name] for name in group if name in known)
        if len(unknown) == 1 and size % max(rest, 1) == 0:
            known[unknown[0]] = size // max(rest, 1)
    open_names = [name for name in pattern.names if name not in known]
    if open_names:
        raise PatternError(
            f'einsum("{pattern}") leaves the size of {open_names[0]!r} open.',
            "It stands in a group with another unknown size, or the group does not divide.",
            f'Give it, as in einsum("...", ..., {open_names[0]}=4).',
        )
    return tuple((name, known[name]) for name in pattern.names)


def add(left: Expr | Number, right: Expr | Number) -> Expr:
    """The sum; a number stands for a constant of that number everywhere."""
    shape = next(part.shape for part in (left, right) if isinstance(part, Expr))
    terms: list[Expr] = []
    for part in (left, right):
        term = part if isinstance(part, Expr) else multiply(ones(*shape), part)
        terms.extend(term.terms if isinstance(term, Sum) else (term,))
    return Sum(tuple(terms))


def multiply(left: Expr, right: Expr | Number) -> Expr:
    """The elementwise product with an equal shape, or with a number."""
    if isinstance(right, Expr):
        names = [f"i{k}" for k in range(left.ndim)]
        _equal_shapes("*", left, right)
        axes = " ".join(names)
        return einsum(f"{axes} , {axes} -> {axes} ", left, right)
    factor = exact(right)
    if isinstance(left, Scale):
        factor, left = _product(factor, left.factor), left.operand
    return left if factor == 1 and isinstance(factor, Fraction) else Scale(factor, left)


def _product(a: Factor, b: Factor) -> Factor:
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else float(a) * float(b)


def divide(left: Expr | Number, right: Expr | Number) -> Expr:
    """Elementwise division; 1/0 is 0."""
    if isinstance(right, Expr):
        inverse = elementwise("reciprocal", right)
        return multiply(inverse, left)
    if right == 0:
        raise StructureError(
            "An expression was divided by 0.", "The number is zero.", "Check where it comes from."
        )
    assert isinstance(left, Expr)
    number = exact(right)
    return multiply(left, 1 / number)


def matmul(left: Expr, right: object) -> Expr:
    """The matrix product of matrices and vectors, as numpy's ``@`` up to two axes."""
    if not (isinstance(right, Expr) and 1 <= left.ndim <= 2 and 1 <= right.ndim <= 2):
        shapes = f"{left.shape} @ {right.shape if isinstance(right, Expr) else right!r}"
        raise ShapeError(
            f"The product {shapes} was asked for.",
            "@ multiplies matrices and vectors only.",
            'Name the indices with einsum, as in einsum("b o k, b k i -> b o i", x, y).',
        )
    if left.shape[-1] != right.shape[0]:
        raise ShapeError(
            f"The product {left.shape} @ {right.shape} was asked for.",
            f"The inner sizes are {left.shape[-1]} and {right.shape[0]}.",
            "Make them equal; transpose with .T.",
        )
    rows, columns = "o" * (left.ndim - 1), "i" * (right.ndim - 1)
    return einsum(f"{rows} k , k {columns} -> {rows} {columns} ", left, right)


def transpose(operand: Expr) -> Expr:
    """The axes in reversed order."""
    names = [f"i{k}" for k in range(operand.ndim)]
    if operand.ndim < 2:
        return operand
    return einsum(f"{' '.join(names)} -> {' '.join(reversed(names))}", operand)


def _equal_shapes(what: str, left: Expr, right: Expr) -> None:
    if left.shape != right.shape:
        raise ShapeError(
            f"{left.shape} {what} {right.shape} was asked for.",
            "Nothing is broadcast in the algebra, because every implicit axis hides a rank.",
            'Write the axes out, as in einsum("o, o i -> o i", m, v).',
        )


def scale_rows(scale: Expr, operand: Expr) -> Expr:
    """``diag(scale) · operand``: axis 0 times a vector."""
    rest = " ".join(f"i{k}" for k in range(1, operand.ndim))
    return einsum(f"o , o {rest} -> o {rest}", scale, operand)


def scale_columns(operand: Expr, scale: Expr) -> Expr:
    """``operand · diag(scale)``: axis 1 times a vector."""
    rest = " ".join(f"k{k}" for k in range(2, operand.ndim))
    return einsum(f"o i {rest}, i -> o i {rest}", operand, scale)


# --- layout ------------------------------------------------------------------------------


def reshape(operand: Expr, *shape: int) -> Expr:
    """The same elements under another shape, row-major; one size may be -1."""
    target = integers(shape)
    if target.count(-1) == 1:
        rest = prod(n for n in target if n != -1)
        target = tuple(operand.size // max(rest, 1) if n == -1 else n for n in target)
    return operand if target == operand.shape else Reshape(operand, target)


def window(operand: Expr, *shape: int, offset: Sequence[int] | None = None) -> Expr:
    """Crop or zero-pad every axis: ``result[j] = operand[j + offset]``, zero outside."""
    offset = tuple(offset or (0,) * len(shape))
    if tuple(shape) == operand.shape and not any(offset):
        return operand
    return Window(operand, integers(shape), offset)


def concatenate(operands: Sequence[Expr], axis: int = 0) -> Expr:
    """Pieces one after another along an axis."""
    return operands[0] if len(operands) == 1 else Concatenate(tuple(operands), axis)


def take(operand: Expr, index: IndexMap | Sequence[int], axis: int = 0) -> Expr:
    """Read an axis through an index map, or at a list of positions."""
    if not isinstance(index, IndexMap):
        positions = tuple(int(i) for i in index)
        size = operand.shape[axis] if 0 <= axis < operand.ndim else 0
        index = IndexMap("table", (len(positions),), size, positions)
    return Take(operand, axis, index)


def place(operand: Expr, *shape: int, index: IndexMap | Sequence[int]) -> Expr:
    """Put the elements of a vector at flat positions of a result of zeros."""
    if not isinstance(index, IndexMap):
        positions = tuple(int(i) for i in index)
        index = IndexMap("table", operand.shape, prod(shape), positions)
    return Place(operand, integers(shape), index)


def shuffle(operand: Expr, seed: int, axis: int = 0) -> Expr:
    """Permute an axis by a seeded permutation."""
    return Take(operand, axis, permutation_map(operand.shape[axis], seed))


def linear_transform(operand: Expr, kind: str, axis: int = 0) -> Expr:
    """A fixed real transform along one axis (a name of ``nodes.TRANSFORMS``)."""
    return Transform(operand, axis, kind)


# --- barriers ----------------------------------------------------------------------------


def elementwise(name: str, operand: Expr, *settings: float) -> Expr:
    """An elementwise function of the table ``functions.FUNCTIONS``."""
    return Map(operand, Function(name, tuple(float(s) for s in settings)))


def sin(operand: Expr) -> Expr:
    """Elementwise sine."""
    return elementwise("sin", operand)


def cos(operand: Expr) -> Expr:
    """Elementwise cosine."""
    return elementwise("cos", operand)


def tanh(operand: Expr) -> Expr:
    """Elementwise hyperbolic tangent."""
    return elementwise("tanh", operand)


def exp(operand: Expr) -> Expr:
    """Elementwise exponential."""
    return elementwise("exp", operand)


def relu(operand: Expr) -> Expr:
    """Elementwise max(x, 0)."""
    return elementwise("relu", operand)


def sigmoid(operand: Expr) -> Expr:
    """Elementwise logistic function."""
    return elementwise("sigmoid", operand)


def clip(operand: Expr, low: float, high: float) -> Expr:
    """Elementwise restriction to [low, high]."""
    return elementwise("clip", operand, low, high)


def softmax_top(operand: Expr, count: int) -> Expr:
    """Softmax over the largest ``count`` entries of the last axis, zero elsewhere."""
    return elementwise("softmax_top", operand, count)


def polynomial(operand: Expr, *coefficients: float) -> Expr:
    """Elementwise ``Σ_k coefficients[k] x^k``."""
    return elementwise("polynomial", operand, *coefficients)


def norm(operand: Expr, *axes: int) -> Expr:
    """The Euclidean norm over the given axes."""
    return Norm(operand, tuple(sorted(axes)))


def row_norm(operand: Expr) -> Expr:
    """The norm of every row: over all axes but the first."""
    return Norm(operand, tuple(range(1, operand.ndim)))


def column_norm(operand: Expr) -> Expr:
    """The norm of every column: over all axes but the second."""
    return Norm(operand, tuple(k for k in range(operand.ndim) if k != 1))


def _plus_identity(function: Expr) -> Expr:
    batch, n = function.shape[:-2], function.shape[-1]
    if not batch:
        return function + eye(n)
    names = " ".join(f"b{k}" for k in range(len(batch)))
    return function + einsum(f"{names} , i j -> {names} i j", ones(*batch), eye(n))


def cayley(skew: Expr, inverse: bool = False, minus_identity: bool = False) -> Expr:
    """The rotation ``(I - Q)(I + Q)⁻¹`` of skew-symmetric Q, ``(..., n, n)``, or its inverse.

    With ``minus_identity`` less I, which keeps all digits of a small Q.
    """
    function = MatrixFunction(skew, "cayley", (-1,) if inverse else (1,))
    return function if minus_identity else _plus_identity(function)


def neumann(skew: Expr, degree: int = 4, minus_identity: bool = False) -> Expr:
    """The truncated series of the inverse Cayley rotation: ``I + 2Q + … + Q^degree``."""
    function = MatrixFunction(skew, "neumann", (degree,))
    return function if minus_identity else _plus_identity(function)


def householder(vectors: Expr) -> Expr:
    """The product of the reflections in the columns of ``(n, r)``."""
    return _plus_identity(MatrixFunction(vectors, "householder"))


def orthonormal(operand: Expr) -> Expr:
    """An orthonormal basis of the columns (Q of a QR)."""
    return MatrixFunction(operand, "orthonormal")


def exponential(operand: Expr) -> Expr:
    """The matrix exponential."""
    return _plus_identity(MatrixFunction(operand, "exponential"))


# --- training ----------------------------------------------------------------------------


def hold(operand: Expr) -> Expr:
    """The same value, without a gradient."""
    return Hold(operand)


def at_start(operand: Expr) -> Expr:
    """The value at initialization, frozen."""
    return AtStart(operand)


OPERATIONS.update(transpose=transpose, add=add, multiply=multiply, divide=divide, matmul=matmul)
