"""Laws 1, 3, 4, 6 and 8 on random expressions that hypothesis draws from the whole algebra."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings

from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.snapshot import distribute_snapshots
from tensoradapt.algebra.walk import parameters, topological
from tensoradapt.documents import from_json, to_json
from tensoradapt.nn.operator import Operator
from tensoradapt.planning.rates import CPU
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.readings import apply, materialize
from tensoradapt.run.sample import sample
from tensoradapt.structure import Update
from tests.laws import FREE_TRANSFORMS, MODES, programs_agree, rank_is_within_bound, site
from tests.strategies import any_shapes, expressions
from tests.tolerance import as_float64, assert_close, depth


def examples(count: int):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


LIMIT = 200
"""Roundings that random values may magnify: by a small divisor, or a difference of large terms."""


def values_of(expr: Expr, seed: int = 1) -> dict[str, np.ndarray]:
    source = np.random.RandomState(seed)
    drawn = sample(expr, seed=seed, start="random")
    drawn["W0"] = source.standard_normal(expr.shape)
    drawn["b0"] = source.standard_normal(expr.shape[:1])
    return drawn


def read(reading, expr: Expr, values: dict, *more):
    return reading(expr, values, *more, base=values["W0"], bias=values["b0"])


def size_of(expr: Expr, values: dict) -> float:
    """The largest entry on the way to the result: what its rounding is relative to."""
    parts = topological(distribute_snapshots(expr))
    found = [np.asarray(read(evaluate, part, values)) for part in parts]
    return max(float(np.abs(part).max()) if part.size else 0.0 for part in found)


@examples(150)
@given(expressions(shape=any_shapes, smooth=False))
def test_materialize_equals_evaluate(expr: Expr) -> None:
    values = values_of(expr)
    want = read(evaluate, expr, values)
    got = read(materialize, expr, values)
    assert tuple(got.shape) == expr.shape
    assert_close(got, want, np.float64, LIMIT + depth(expr), repr(expr), size_of(expr, values))


@examples(100)
@given(expressions(smooth=False))
def test_apply_equals_the_product_with_evaluate(expr: Expr) -> None:
    values = values_of(expr)
    matrix = as_float64(read(evaluate, expr, values)).reshape(expr.shape[0], -1)
    inner = prod(expr.shape[1:])
    for x in (np.eye(inner), np.random.RandomState(3).standard_normal((2, 3, inner))):
        got = read(apply, expr, values, x)
        size = size_of(expr, values) * float(np.abs(x).max()) * inner
        assert_close(got, x @ matrix.T, np.float64, LIMIT + depth(expr), repr(expr), size)


@examples(150)
@given(expressions(shape=any_shapes, smooth=False))
def test_json_reads_back_equal(expr: Expr) -> None:
    again = from_json(to_json(expr))
    assert again == expr and repr(again) == repr(expr)


@examples(100)
@given(expressions(shape=any_shapes, smooth=False))
def test_numpy_equals_torch(expr: Expr) -> None:
    values = values_of(expr)
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    size = size_of(expr, values)
    for reading in (evaluate, materialize):
        got, want = read(reading, expr, tensors), read(reading, expr, values)
        assert got.dtype == torch.float64
        assert_close(got, want, np.float64, LIMIT + depth(expr), repr(expr), size)


@examples(60)
@given(expressions(max_depth=2, smooth=True))
def test_every_program_equals_the_definition(expr: Expr) -> None:
    size = size_of(expr, values_of(expr))
    laid = site(expr, magnified=LIMIT, floor=size)
    for mode in MODES:
        programs_agree(laid, mode, (CPU, FREE_TRANSFORMS))


@examples(80)
@given(expressions(max_depth=2, smooth=True))
def test_gradients_through_the_layer_equal_those_of_evaluate(expr: Expr) -> None:
    values = {name: torch.tensor(value) for name, value in values_of(expr).items()}
    base, bias = values.pop("W0"), values.pop("b0")
    operator = Operator(Update(expr), expr.shape, has_bias=True)
    trained = [leaf.name for leaf in parameters(expr)]
    x = torch.tensor(np.random.RandomState(4).standard_normal((3, expr.shape[1])))
    seed = torch.tensor(np.random.RandomState(5).standard_normal((3, expr.shape[0])))

    def slopes(run) -> list[torch.Tensor]:
        free = [x.clone().requires_grad_(), *(values[n].clone().requires_grad_() for n in trained)]
        here = values | dict(zip(trained, free[1:], strict=True))
        y = run(free[0], here)
        found = torch.autograd.grad(y, free, seed, allow_unused=True)
        return [y.detach()] + [
            torch.zeros_like(leaf) if slope is None else slope
            for leaf, slope in zip(free, found, strict=True)
        ]

    got = slopes(lambda x, v: operator.layer(x, base, bias, [v[n] for n in operator.leaf_names]))
    want = slopes(lambda x, v: x @ (base + evaluate(expr, v, base=base, bias=bias)).T + bias)
    scale = max(float(w.abs().max()) for w in want)
    for name, a, b in zip(["y", "x", *trained], got, want, strict=True):
        assert_close(a, b, np.float64, 100 * LIMIT, f"{name} of {expr!r}", scale)


@examples(100)
@given(expressions(smooth=False))
def test_the_rank_is_within_the_bound(expr: Expr) -> None:
    rank_is_within_bound(expr)
