"""Nodes, operators and walks: shapes, identity, refusals."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings

import tensoradapt.algebra as ta
from tensoradapt.algebra import starts
from tensoradapt.algebra.builders import divide, elementwise
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.functions import FUNCTIONS, Function
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.nodes import (
    Concatenate,
    Constant,
    Einsum,
    MatrixFunction,
    Norm,
    Parameter,
    Place,
    Reshape,
    Scale,
    Sum,
    Take,
    Transform,
    Window,
)
from tensoradapt.algebra.notation import parse_pattern
from tensoradapt.algebra.walk import (
    children,
    leaves,
    parameters,
    rebuild,
    rename_leaves,
    rewrite,
    snapshots,
    topological,
    uses_base,
)
from tensoradapt.errors import PatternError, ShapeError, StructureError
from tests.strategies import any_shapes, expressions

B, A, W = ta.parameter("B", 6, 2), ta.parameter("A", 2, 5), ta.base(6, 5)
v, Q, G = ta.parameter("v", 6), ta.parameter("Q", 3, 3), ta.parameter("G", 2, 3, 4)


# --- shapes ------------------------------------------------------------------------------

SHAPES = [
    (lambda: B @ A, (6, 5)),
    (lambda: B @ ta.parameter("x", 2), (6,)),
    (lambda: v @ B, (2,)),
    (lambda: v @ v, ()),
    (lambda: G.T, (4, 3, 2)),
    (lambda: v.T, (6,)),
    (lambda: 2 * B + 1, (6, 2)),
    (lambda: 1 - B / 3, (6, 2)),
    (lambda: 1 / v, (6,)),
    (lambda: ta.scale_rows(v, W), (6, 5)),
    (lambda: ta.scale_columns(W, ta.parameter("d", 5)), (6, 5)),
    (lambda: ta.scale_columns(G, ta.parameter("d", 3)), (2, 3, 4)),
    (lambda: ta.kron(G, G), (4, 9, 16)),
    (lambda: ta.khatri_rao(B, A.T), (30, 2)),
    (lambda: ta.reshape(G, -1, 4), (6, 4)),
    (lambda: ta.window(W, 7, 3, offset=(-1, 2)), (7, 3)),
    (lambda: ta.concatenate([B, A.T]), (11, 2)),
    (lambda: ta.concatenate([B, B], axis=1), (6, 4)),
    (lambda: ta.circulant(v), (6, 6)),
    (lambda: ta.circulant(v, 4, 9), (4, 9)),
    (lambda: ta.circulant(B), (6, 6, 2)),
    (lambda: ta.toeplitz(v, 2, 5), (2, 5)),
    (lambda: ta.symmetric_toeplitz(v, 3, 6), (3, 6)),
    (lambda: ta.low_displacement_rank(B, B), (6, 6)),
    (lambda: ta.take(G, [2, 2, 0, 1], axis=1), (2, 4, 4)),
    (lambda: ta.place(v, 4, 5, index=[0, 3, 5, 7, 11, 19]), (4, 5)),
    (lambda: ta.shuffle(W, 1, axis=1), (6, 5)),
    (lambda: ta.row_norm(G), (2,)),
    (lambda: ta.column_norm(G), (3,)),
    (lambda: ta.norm(G, 2, 0), (3,)),
    (lambda: ta.householder(B), (6, 6)),
    (lambda: ta.orthonormal(B), (6, 2)),
    (lambda: ta.cayley(ta.parameter("S", 4, 3, 3)), (4, 3, 3)),
    (lambda: ta.cayley(ta.parameter("S", 4, 3, 3), minus_identity=True), (4, 3, 3)),
    (lambda: ta.neumann(ta.parameter("S", 3, 3), 3, minus_identity=True), (3, 3)),
    (lambda: ta.block_diag(G), (6, 8)),
    (lambda: ta.block_diag(B, A), (8, 7)),
    (lambda: ta.monarch(G, ta.parameter("H", 2, 5, 4)), (6, 20)),
    (lambda: ta.cp([B, A.T, B], ta.parameter("s", 2)), (6, 5, 6)),
    (lambda: ta.tucker(ta.parameter("T", 2, 2), [B, A.T]), (6, 5)),
    (lambda: ta.tensor_train([B, ta.parameter("C", 2, 3, 2), A]), (6, 3, 5)),
    (lambda: ta.tensor_ring([ta.parameter(f"R{k}", 2, k + 1, 2) for k in range(3)]), (1, 2, 3)),
    (lambda: ta.einsum("(a b) c -> a (b c)", B, a=2), (2, 6)),
    (lambda: ta.at_start(ta.hold(W)), (6, 5)),
    (lambda: W.bias, (6,)),
    (lambda: ta.low_rank((6, 4, 3, 3), 2), (6, 4, 3, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), SHAPES, ids=range(len(SHAPES)))
def test_an_expression_has_its_shape(make, shape):
    expr = make()
    assert expr.shape == shape
    assert expr.ndim == len(shape)
    assert expr.size == math.prod(shape)


REFUSED = [
    (lambda: B @ B, ShapeError, "The inner sizes are 2 and 6."),
    (lambda: B @ G, ShapeError, "@ multiplies matrices and vectors only."),
    (lambda: B @ 3, ShapeError, "The product (6, 2) @ 3 was asked for."),
    (lambda: B + A, ShapeError, "Their shapes are (6, 2), (2, 5)."),
    (lambda: B * v, ShapeError, "Nothing is broadcast in the algebra"),
    (lambda: B / A, ShapeError, "Nothing is broadcast in the algebra"),
    (lambda: B / 0, StructureError, "An expression was divided by 0."),
    (lambda: B * math.nan, StructureError, "An expression was scaled by nan."),
    (lambda: B * math.inf, StructureError, "An expression was scaled by inf."),
    (lambda: B * 10**5000, StructureError, "scaled by too large a number"),
    (lambda: Scale(2, B), StructureError, "a Fraction of up to 1000 bits, or a float"),
    (lambda: B + "x", StructureError, "An expression was combined with 'x'."),
    (lambda: B * np.ones((6, 2)), StructureError, "combined with a ndarray"),
    (lambda: B * 1j, StructureError, "That is a complex, not an expression or a number."),
    (lambda: ta.parameter("", 2), StructureError, "A leaf named '' was asked for."),
    (lambda: ta.parameter("a b", 2), StructureError, "has no space"),
    (lambda: ta.parameter("a", 2, 0), ShapeError, "Every size must be an integer of 1 or more."),
    (lambda: ta.parameter("a", 2.5), ShapeError, "Every size must be an integer of 1 or more."),
    (lambda: ta.parameter("a", (2, 3)), ShapeError, "Pass the sizes one by one"),
    (lambda: ta.parameter("a", math.inf), ShapeError, "Every size must be an integer."),
    (lambda: ta.parameter("a", 2**20, 2**21), ShapeError, "more than 1099511627776 elements"),
    (lambda: ta.parameter("a", 10**5000), ShapeError, "more than 1099511627776 elements"),
    (lambda: ta.parameter("a", 2, scope="world"), StructureError, "Known scopes: site, group"),
    (lambda: Constant("pi", (2,)), StructureError, "Known constants: ones, identity"),
    (lambda: Constant("identity", (2, 3)), StructureError, "an identity is square"),
    (lambda: ta.einsum("o k, k i -> o i", B), ShapeError, "The pattern names 2."),
    (lambda: ta.einsum("o, k i -> o i", B, A), ShapeError, "the pattern names 1 there"),
    (lambda: ta.einsum("o i -> o j", B), PatternError, "asks for the index 'j' in its result"),
    (lambda: ta.einsum("(a b) c -> a b c", B), PatternError, "leaves the size of 'a' open"),
    (lambda: ta.einsum("(a b) c -> a b c", B, a=4), PatternError, "leaves the size of 'b' open"),
    (lambda: ta.einsum("o k, k -> o", B, v), ShapeError, "the pattern asks for (2,) there"),
    (lambda: Einsum((B,), parse_pattern("a b -> a b"), ()), ShapeError, "was given no sizes"),
    (lambda: Sum(()), ShapeError, "A sum of 0 terms was asked for."),
    (lambda: ta.reshape(B, 5, 2), ShapeError, "That has 10 elements; the operand of shape (6, 2)"),
    (lambda: ta.reshape(B, -1, 5), ShapeError, "Choose a shape with the same number of elements"),
    (lambda: Reshape(B, (-3, -4)), ShapeError, "Choose a shape with the same number of elements"),
    (lambda: ta.window(B, 6), ShapeError, "Give one size and one offset per axis."),
    (lambda: Window(B, (6, -1), (0, 0)), ShapeError, "A size cannot be negative."),
    (lambda: ta.concatenate([B, A]), ShapeError, "The pieces have the shapes (6, 2), (2, 5)."),
    (lambda: ta.concatenate([B, B], axis=2), ShapeError, "concatenate along axis 2"),
    (lambda: Concatenate((), 0), ShapeError, "Give pieces that differ along that axis only."),
    (lambda: ta.linear_transform(B, "laplace"), StructureError, "Known transforms: fourier_cos"),
    (lambda: ta.linear_transform(B, "haar"), ShapeError, "It needs a power of two, and 6 is none."),
    (lambda: ta.linear_transform(B, "dct", 2), ShapeError, "has the axes 0 to 1"),
    (lambda: Transform(B, -1, "dct"), ShapeError, "transform along axis -1"),
    (lambda: ta.take(v, [0, 6]), ShapeError, "A table points at 0 to 6."),
    (lambda: ta.take(v, [0], axis=1), ShapeError, "A table points at 0 to 0."),
    (lambda: Take(v, 0, IndexMap("circulant", (5, 5), 5, (5,))), ShapeError, "The axis has 6"),
    (lambda: ta.toeplitz(v, 3, 5), ShapeError, "The axis has 6 elements; the map reads 7."),
    (lambda: ta.symmetric_toeplitz(v, 7, 2), ShapeError, "no side longer than the axis"),
    (lambda: ta.place(v, 3, 3, index=[0, 1, 2, 3, 4, 4]), StructureError, "fall on one position"),
    (lambda: ta.place(v, 2, 2, index=range(6)), ShapeError, "A table points at 0 to 5."),
    (lambda: Place(B, (30,), IndexMap("slice", (6,), 30, (0, 1))), ShapeError, "one position of"),
    (lambda: elementwise("sinh", B), StructureError, "Known functions near it: sin, tanh"),
    (lambda: elementwise("sin", B, 1.0), StructureError, "It takes 0."),
    (lambda: elementwise("clip", B, 1.0), StructureError, "It takes 2."),
    (lambda: elementwise("polynomial", B), StructureError, "It takes one or more."),
    (lambda: elementwise("polynomial", B, math.nan), StructureError, "not a number (NaN)"),
    (lambda: ta.softmax_top(B, 0), StructureError, "Give a count of 1 or more."),
    (lambda: ta.softmax_top(B, 1.5), StructureError, "whole number of entries, and 1.5 is none"),
    (lambda: ta.norm(B, 2), ShapeError, "norm along axis 2 was asked for."),
    (lambda: Norm(B, (1, 0)), ShapeError, "Name them as (0, 1)."),
    (lambda: Norm(B, (0, 0)), ShapeError, "Name them as (0,)."),
    (lambda: ta.cayley(B), ShapeError, "It needs square matrices in the last two axes."),
    (lambda: ta.cayley(v), ShapeError, "It needs square matrices in the last two axes."),
    (lambda: MatrixFunction(Q, "logarithm"), StructureError, "Known: cayley, neumann"),
    (lambda: MatrixFunction(Q, "cayley", (2,)), StructureError, "It takes () or (1,) or (-1,)."),
    (lambda: ta.neumann(Q, 0), StructureError, "a neumann its degree up to 64"),
    (lambda: ta.kron(B, v), ShapeError, "Give factors with equally many axes."),
    (lambda: ta.block_diag(B, v), ShapeError, "Give matrices, or one stack"),
    (lambda: starts.start("zeross"), StructureError, "Known starts near it: zeros"),
    (lambda: starts.start("normal", std=1.0), StructureError, "It takes ['mean', 'std']."),
    (lambda: starts.start("value_of"), StructureError, "and an operand"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_does_not_fit_is_refused_with_three_sentences(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    assert "!" not in str(caught.value)
    assert "please" not in str(caught.value).lower()


# --- identity ----------------------------------------------------------------------------


def test_expressions_written_alike_are_equal():
    again = ta.parameter("B", 6, 2) @ ta.parameter("A", 2, 5)
    assert B @ A == again
    assert hash(B @ A) == hash(again)
    assert {B @ A: 1}[again] == 1


DIFFERENT = [
    B,
    ta.parameter("B", 2, 6),
    ta.parameter("C", 6, 2),
    ta.parameter("B", 6, 2, start=starts.ones()),
    ta.parameter("B", 6, 2, scope="group"),
    ta.frozen("B", 6, 2, recipe=starts.zeros()),
    2 * B,
    2.5 * B,
    Scale(2.0, B),
    B + B,
    B - B,
    B * B,
    ta.sin(B),
    ta.hold(B),
    ta.at_start(B),
    ta.polynomial(B, 1, 2),
    ta.polynomial(B, 2, 1),
    ta.norm(B, 0),
    ta.norm(B, 1),
    ta.base(6, 2),
    ta.ones(6, 2),
    ta.parameter("B", 6, 2, start=ta.value_of(ta.ones(6, 2))),
    ta.parameter("B", 6, 2, start=ta.value_of(ta.base(6, 2))),
]


def test_expressions_written_differently_differ():
    assert len(set(DIFFERENT)) == len(DIFFERENT)
    assert B != "B"
    assert B != 2


def test_an_expression_cannot_be_changed():
    with pytest.raises(AttributeError):
        B.name = "C"
    assert copy.copy(B @ A) == B @ A
    assert not hasattr(B, "__dict__")


def test_numbers_are_kept_exact_where_they_are_fractions():
    assert (B / 3).factor == Fraction(1, 3)
    assert (0.5 * B).factor == Fraction(1, 2)
    assert 2 * (B / 2) == B
    assert isinstance((math.sqrt(2) * B).factor, float)
    assert ta.scaling(16, 8) == 2
    assert ta.scaling(None, 8) == 1
    assert ta.scaling(16, 8, root=True) == pytest.approx(16 / math.sqrt(8))


def test_arrays_do_not_mix_with_expressions_from_either_side():
    for mix in (lambda: B + np.ones((6, 2)), lambda: np.ones((6, 2)) + B, lambda: np.ones(6) / v):
        with pytest.raises(StructureError, match="not an expression or a number"):
            mix()
    assert np.float64(2) * B == 2 * B == B * np.int64(2)


def test_a_sum_is_flat_and_keeps_its_order():
    assert [ta.formula(term) for term in (B + 2 * B + B).terms] == ["B", "2 B", "B"]


def test_a_number_divided_by_an_expression_is_its_reciprocal():
    assert 1 / v == elementwise("reciprocal", v)
    assert 2 / v == 2 * (1 / v) == divide(2, v)


def test_settings_of_einsum_may_be_called_pattern():
    assert ta.einsum("(pattern k) i -> pattern k i", B, pattern=2).shape == (2, 3, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_states_how_many_numbers_it_takes(name):
    count = FUNCTIONS[name].numbers
    assert Function(name, (1.0,) * (1 if count is None else count)).facts is FUNCTIONS[name]


# --- sharing and depth -------------------------------------------------------------------


def _doubled(step) -> Expr:
    expr = ta.parameter("e", 2, 2)
    for _ in range(200):
        expr = step(expr)
    return expr


DOUBLINGS = {
    "sum of products": lambda e: e @ e + e,
    "product": lambda e: e @ e,
    "elementwise": lambda e: e * e,
    "sum of scaled": lambda e: Scale(Fraction(2), e) + Scale(Fraction(3), e),
    "function": lambda e: ta.sin(e) * ta.hold(e),
    "kept as one": lambda e: Sum((ta.hold(e), e)),
}


@pytest.mark.parametrize("name", DOUBLINGS)
def test_an_expression_doubled_200_times_is_cheap(name):
    begin = perf_counter()
    expr, again = _doubled(DOUBLINGS[name]), _doubled(DOUBLINGS[name])
    assert expr == again and hash(expr) == hash(again)
    assert len(topological(expr)) <= 1001
    assert [leaf.name for leaf in leaves(expr)] == ["e"]
    assert rename_leaves(expr, lambda name: f"x.{name}") != expr
    assert ta.formula(expr) and ta.tree(expr) and ta.latex(expr)
    assert ta.loads(ta.dumps(expr)) == expr
    assert perf_counter() - begin < 10


def test_equality_and_hash_do_not_walk():
    expr, other = _doubled(DOUBLINGS["product"]), _doubled(DOUBLINGS["elementwise"])
    begin = perf_counter()
    for _ in range(10_000):
        assert expr != other
        hash(expr)
    assert perf_counter() - begin < 1


def test_a_chain_of_ten_thousand_is_walked_without_recursion():
    expr = B
    for _ in range(10_000):
        expr = ta.sin(expr)
    assert len(topological(expr)) == 10_001
    assert rename_leaves(expr, str.lower).shape == (6, 2)
    assert parameters(expr) == (B,)


def test_starts_that_nest_and_share_are_renamed_in_linear_time():
    left = right = ta.parameter("x", 2)
    for k in range(60):
        both = ta.value_of(left + right)
        left, right = ta.parameter(f"l{k}", 2, start=both), ta.parameter(f"r{k}", 2, start=both)
    begin = perf_counter()
    renamed = rename_leaves(left * right, lambda name: f"p.{name}")
    assert not uses_base(renamed, with_starts=True)
    assert perf_counter() - begin < 2
    nodes = topological(renamed, with_starts=True)
    names = {node.name for node in nodes if isinstance(node, Parameter)}
    assert names == {"p.x", *(f"p.{side}{k}" for side in "lr" for k in range(60))}


# --- walks -------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(expressions(max_depth=4, shape=any_shapes, smooth=False))
def test_laws_of_walks_hold_for_every_expression(expr):
    order = topological(expr)
    assert len(set(order)) == len(order)
    assert order[-1] == expr
    place = {node: k for k, node in enumerate(order)}
    for node in order:
        assert all(place[child] < place[node] for child in children(node))
        assert rebuild(node, children(node)) == node
    assert rewrite(expr, lambda node: node) == expr
    there = rename_leaves(expr, lambda name: f"x.{name}")
    assert rename_leaves(there, lambda name: name.removeprefix("x.")) == expr
    assert there.shape == expr.shape
    assert len(leaves(there)) == len(leaves(expr))


def test_leaves_are_listed_in_order_of_first_use():
    assert leaves(B @ A + ta.scale_rows(v, W)) == (B, A, v)
    assert parameters(ta.scale_rows(v, B @ A) + ta.frozen("f", 6, 5)) == (v, B, A)


def test_a_rename_reaches_into_starts():
    inner = ta.parameter("inner", 6)
    outer = ta.frozen("outer", 6, recipe=ta.value_of(inner))
    renamed = rename_leaves(outer, lambda name: f"k.{name}")
    assert renamed.name == "k.outer"
    assert renamed.recipe.operand == ta.parameter("k.inner", 6)


def test_leaves_read_only_at_the_start_are_snapshots_and_not_leaves():
    expr = ta.at_start(B) @ A
    assert leaves(expr) == (A,)
    assert snapshots(expr) == (B,)
    assert set(leaves(expr + B @ A)) == {A, B}


def test_uses_base_sees_starts_only_when_asked():
    leaf = ta.parameter("m", 6, start=ta.value_of(ta.row_norm(W)))
    nested = ta.parameter("n", 6, start=ta.value_of(leaf))
    assert not uses_base(nested)
    assert uses_base(nested, with_starts=True)
    assert uses_base(B @ A + W)
