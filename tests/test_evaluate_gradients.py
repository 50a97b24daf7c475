"""Gradients of evaluate in torch: against finite differences, finite at zeros, none by hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensoradapt.algebra import builders as ta
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.nodes import Hold, Norm
from tensoradapt.algebra.walk import parameters, topological
from tensoradapt.run.evaluate import evaluate
from tests.node_cases import CASES, Case, a, drawn, leaf, q, u, v, values_for

Tensor = torch.Tensor


def is_differentiable(case: Case) -> bool:
    return bool(parameters(case.expr)) and not any(
        isinstance(s, Hold) for s in topological(case.expr)
    )


@pytest.mark.parametrize("case", [c for c in CASES if is_differentiable(c)], ids=str)
def test_gradients_equal_finite_differences(case: Case) -> None:
    values = {name: torch.tensor(x) for name, x in values_for(case.expr).items()}
    names = [p.name for p in parameters(case.expr)]

    def run(*free: Tensor) -> Tensor:
        here = values | dict(zip(names, free, strict=True))
        return evaluate(case.expr, here, base=values["W"], bias=values["bias"])

    free = [values[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, free)


SMOOTH = ["norm", "cayley", "householder", "orthonormal", "exponential", "reciprocal", "sqrt"]


@pytest.mark.parametrize("case", [c for c in CASES if c.name in SMOOTH], ids=str)
def test_second_gradients_equal_finite_differences(case: Case) -> None:
    (name,) = [p.name for p in parameters(case.expr)]
    values = {k: torch.tensor(x) for k, x in values_for(case.expr).items()}
    free = values[name].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: evaluate(case.expr, values | {name: x}, base=values["W"]), [free]
    )


def gradient(expr: Expr, **values: Tensor) -> dict[str, Tensor]:
    free = {name: x.clone().requires_grad_() for name, x in values.items()}
    evaluate(expr, free).sum().backward()
    return {name: x.grad for name, x in free.items() if x.grad is not None}


def zero_row() -> Tensor:
    x = torch.tensor(drawn()["a"])
    x[1] = 0
    return x


def test_a_zero_row_has_the_gradient_zero_of_its_norm() -> None:
    x = zero_row()
    got = gradient(ta.row_norm(a), a=x)["a"]
    assert torch.equal(got[1], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(got[0], x[0] / x[0].norm())


ZEROS = [
    ta.scale_rows(1 / ta.row_norm(a), a),
    ta.scale_rows(ta.elementwise("sqrt", ta.einsum("o i, o i -> o", a, a)), a),
    ta.scale_rows(1 / ta.elementwise("sqrt", ta.einsum("o i, o i -> o", a, a)), a),
    Norm(a, ()),
    ta.elementwise("abs", a),
    ta.relu(a),
]


@pytest.mark.parametrize("expr", ZEROS, ids=range(len(ZEROS)))
def test_gradients_at_a_zero_row_are_finite(expr: Expr) -> None:
    assert torch.isfinite(gradient(expr, a=zero_row())["a"]).all()
    at_zero = gradient(expr, a=torch.zeros(3, 4, dtype=torch.float64))["a"]
    assert torch.isfinite(at_zero).all()


def test_the_documented_gradients_at_zero_are_zero() -> None:
    nothing = torch.zeros(6, dtype=torch.float64)
    for name in ("sqrt", "reciprocal", "relu", "abs"):
        assert torch.equal(gradient(ta.elementwise(name, v), v=nothing)["v"], nothing), name
    assert torch.equal(gradient(ta.clip(v, 0.0, 1.0), v=nothing)["v"], nothing)


@pytest.mark.parametrize("x", [0.0, -800.0, 800.0])
def test_gradients_of_sigmoid_and_tanh_are_finite_in_the_tails(x: float) -> None:
    at = torch.full((6,), x, dtype=torch.float64)
    for expr in (ta.sigmoid(v), ta.tanh(v), ta.softmax_top(v, 3)):
        assert torch.isfinite(gradient(expr, v=at)["v"]).all()


def test_a_zero_householder_vector_has_a_finite_gradient() -> None:
    x = torch.tensor(drawn()["u"])
    x[:, 1] = 0
    assert torch.isfinite(gradient(ta.householder(u), u=x)["u"]).all()


def test_matrix_functions_at_zero_have_finite_gradients() -> None:
    nothing = torch.zeros(4, 4, dtype=torch.float64)
    for expr in (ta.cayley(q - q.T), ta.neumann(q), ta.exponential(q)):
        assert torch.isfinite(gradient(expr, q=nothing)["q"]).all()


def test_hold_gives_no_gradient() -> None:
    x = torch.tensor(drawn()["a"])
    assert not evaluate(ta.sin(ta.hold(a)), {"a": x.clone().requires_grad_()}).requires_grad
    torch.testing.assert_close(gradient(ta.hold(a) * a, a=x)["a"], x)


def test_what_is_read_at_start_gives_no_gradient_to_the_leaf() -> None:
    x = torch.tensor(drawn()["a"])
    y = torch.tensor(drawn(1)["a"])
    free = x.clone().requires_grad_()
    evaluate(a - ta.at_start(ta.sin(a)), {"a": free, "a@start": y}).sum().backward()
    assert free.grad is not None
    torch.testing.assert_close(free.grad, torch.ones_like(x))


def test_a_norm_of_tiny_rows_keeps_its_direction() -> None:
    x = 1e-100 * torch.tensor(drawn()["a"])
    got = gradient(ta.row_norm(a), a=x)["a"]
    torch.testing.assert_close(got, x / x.norm(dim=1, keepdim=True))


def test_gradients_reach_a_parameter_used_twice() -> None:
    tied = leaf("tied", 3, 3)
    x = np.random.default_rng(0).standard_normal((3, 3))
    got = gradient(tied @ tied, tied=torch.tensor(x))["tied"]
    expected = torch.tensor(np.ones((3, 3)) @ x.T + x.T @ np.ones((3, 3)))
    torch.testing.assert_close(got, expected)
