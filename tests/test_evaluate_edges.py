"""evaluate at its edges: zeros, ties, tails, half precision, depth; its errors by text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tensoradapt.algebra import builders as ta
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.functions import Function
from tensoradapt.algebra.nodes import MatrixFunction
from tensoradapt.errors import ShapeError, UnsupportedError, ValueMissingError
from tensoradapt.run.evaluate import evaluate, rule
from tensoradapt.run.floats import FloatArithmetic
from tests.libraries import LIBRARIES, Library
from tests.node_cases import a, b, drawn, leaf, q, reflections, u, v, w

# --- edges --------------------------------------------------------------------------------


def test_reciprocal_of_zero_is_zero() -> None:
    got = evaluate(1 / v, {"v": np.array([0.0, -0.0, 2.0, 1.0, -4.0, 0.5])})
    assert got.tolist() == [0.0, 0.0, 0.5, 1.0, -0.25, 2.0]


def test_sigmoid_keeps_its_tails() -> None:
    x = np.array([-1000.0, -40.0, -1.0, 0.0, 1.0, 1000.0])
    with np.errstate(over="raise"):
        got = evaluate(ta.sigmoid(v), {"v": x})
    assert_allclose(
        got,
        [0.0, np.exp(-40) / (1 + np.exp(-40)), 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1.0],
        rtol=1e-15,
    )


def test_nan_is_not_hidden_by_relu_clip_or_sqrt() -> None:
    x = {"v": np.full(6, np.nan)}
    for expr in (ta.relu(v), ta.clip(v, -1, 1), ta.elementwise("sqrt", v), 1 / v):
        assert np.isnan(evaluate(expr, x)).all()


def test_softmax_keeps_the_first_of_ties_and_all_when_count_is_large() -> None:
    tied = {"v": np.array([1.0, 2.0, 2.0, 2.0, 0.0, 2.0])}
    kept = np.array([0.0, 0.5, 0.5, 0.0, 0.0, 0.0])
    assert_allclose(evaluate(ta.softmax_top(v, 2), tied), kept)
    large = {"v": np.array([1000.0, 999.0, 0.0, 0.0, 0.0, 0.0])}
    got = evaluate(ta.softmax_top(v, 9), large)
    assert_allclose(got.sum(), 1.0)
    assert_allclose(got[0] / got[1], np.e)


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_many_ties_are_kept_in_order(library: Library) -> None:
    x = np.random.default_rng(0).integers(0, 2, 5000).astype(np.float64)
    expr = ta.softmax_top(leaf("x", 5000), 1000)
    got = np.asarray(evaluate(expr, library.arrays({"x": x})))
    assert np.array_equal(np.flatnonzero(got), np.flatnonzero(x)[:1000])


def test_matrix_functions_of_zero_are_exactly_zero_and_keep_small_digits() -> None:
    for kind, settings in (("cayley", (1,)), ("neumann", (3,)), ("exponential", ())):
        expr = MatrixFunction(q, kind, settings)
        assert not evaluate(expr, {"q": np.zeros((4, 4))}).any()
        tiny = 1e-12 * drawn()["q"]
        sign = -2 if kind == "cayley" else 1 if kind == "exponential" else 2
        assert_allclose(evaluate(expr, {"q": tiny}), sign * tiny, rtol=1e-10)


def test_a_zero_householder_vector_reflects_nothing() -> None:
    x = drawn()["u"]
    x[:, 1] = 0
    expected = reflections({"u": x[:, [0, 2]]})
    assert_allclose(evaluate(ta.householder(u), {"u": x}), expected, atol=1e-14)


def test_half_precision_norms_do_not_overflow() -> None:
    x = torch.full((6,), 300.0, dtype=torch.float16)
    assert float(evaluate(ta.norm(v, 0), {"v": x})) == pytest.approx(300 * 6**0.5, rel=1e-3)


def test_mixed_dtypes_are_promoted() -> None:
    values = {"q": torch.ones(4, 4, dtype=torch.bfloat16)}
    got = evaluate(w @ q, values, base=torch.ones(3, 4, dtype=torch.float32))
    assert got.dtype == torch.float32
    half = {"q": torch.ones(4, 4, dtype=torch.float16)}
    got = evaluate(w @ q, half, base=torch.ones(3, 4, dtype=torch.bfloat16))
    assert got.dtype == torch.float32


def test_deep_expressions_are_no_recursion() -> None:
    expr: Expr = v
    for _ in range(3000):
        expr = ta.sin(expr)
    assert np.isfinite(evaluate(expr, {"v": np.ones(6)})).all()


def test_another_arithmetic_is_used_when_given() -> None:
    class Counting(FloatArithmetic):
        calls = 0

        def map(self, a: Any, function: Function) -> Any:
            Counting.calls += 1
            return FloatArithmetic.map(self, a, function)

    evaluate(ta.sin(ta.sin(v) + v), {"v": np.ones(6)}, arithmetic=Counting(np.zeros(1)))
    assert Counting.calls == 2


# --- errors -------------------------------------------------------------------------------


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ValueMissingError) as caught:
        evaluate(a @ b, {"a": np.ones((3, 4))})
    assert str(caught.value) == (
        "The value of the leaf 'b' of shape (4, 5) is needed.\n"
        "  It is not among the values; given and near: a.\n"
        "  Draw it with ta.sample(expr), or set values['b']."
    )


def test_a_missing_snapshot_is_named() -> None:
    with pytest.raises(ValueMissingError, match="leaf 'a@start' of shape"):
        evaluate(ta.at_start(a), {"a": np.ones((3, 4))})


def test_a_missing_base_or_bias_is_named() -> None:
    with pytest.raises(ValueMissingError, match=r"base weight W0 of shape .3, 4. is needed"):
        evaluate(w, {})
    with pytest.raises(ValueMissingError, match=r"base bias b0 of shape .3,. is needed"):
        evaluate(w.bias, {})


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ShapeError) as caught:
        evaluate(a, {"a": np.ones((4, 3))})
    assert str(caught.value) == (
        "A value of shape (4, 3) was given for the leaf 'a'.\n"
        "  The expression was written for the shape (3, 4).\n"
        "  Give an array of that shape, or write the expression for this one."
    )
    with pytest.raises(ShapeError, match="given for the base weight W0"):
        evaluate(w, {}, base=np.ones((4, 3)))


def test_foreign_mixed_and_integer_values_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"types builtins\.list were given"):
        evaluate(v, {"v": [1.0] * 6})
    with pytest.raises(UnsupportedError, match=r"numpy\.ndarray, torch\.Tensor"):
        evaluate(a + w, {"a": np.ones((3, 4))}, base=torch.ones(3, 4))
    with pytest.raises(UnsupportedError, match="dtype int64 were given"):
        evaluate(v, {"v": np.arange(6)})


def test_too_many_indices_are_refused() -> None:
    names = " ".join(f"n{k}" for k in range(53))
    expr = ta.einsum(f"{names} -> {names}", leaf("big", *[1] * 53))
    with pytest.raises(UnsupportedError, match="at most 52 indices"):
        evaluate(expr, {"big": torch.ones([1] * 53)})


def test_an_unknown_node_is_told_how_to_register() -> None:
    class Strange(Expr):
        __slots__ = ()

    with pytest.raises(UnsupportedError, match="no rule for that type"):
        rule(object.__new__(Strange), (), None)
