"""evaluate: every node against a formula in plain numpy, on every importable library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tensoradapt.algebra import nodes as algebra_nodes
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.functions import FUNCTIONS
from tensoradapt.algebra.nodes import (
    MATRIX_FUNCTIONS,
    TRANSFORMS,
    Base,
    BaseBias,
    MatrixFunction,
    Parameter,
)
from tensoradapt.algebra.walk import topological
from tensoradapt.run.evaluate import evaluate
from tests.libraries import LIBRARIES, Library
from tests.node_cases import CASES, DENSE, FORMULAS, Case, values_for


def run(case: Case, library: Library) -> tuple[Any, np.ndarray]:
    values = values_for(case.expr)
    arrays = library.arrays(values)
    got = evaluate(case.expr, arrays, base=arrays["W"], bias=arrays["bias"])
    return got, case.formula(values)


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_evaluate_equals_the_formula(case: Case, library: Library) -> None:
    got, expected = run(case, library)
    assert tuple(got.shape) == case.expr.shape == expected.shape
    assert type(got) is type(library.array(np.zeros(2)))
    assert got.dtype == library.dtypes.float64
    assert_allclose(np.asarray(got), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_single_precision_stays_single(case: Case, library: Library) -> None:
    values = {k: x.astype(np.float32) for k, x in values_for(case.expr).items()}
    arrays = library.arrays(values)
    got = evaluate(case.expr, arrays, base=arrays["W"], bias=arrays["bias"])
    assert got.dtype == library.dtypes.float32
    expected = case.formula({k: x.astype(np.float64) for k, x in values.items()})
    assert_allclose(np.asarray(got), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision_stays_half(case: Case, dtype: torch.dtype) -> None:
    values = {k: torch.as_tensor(x).to(dtype) for k, x in values_for(case.expr).items()}
    got = evaluate(case.expr, values, base=values["W"], bias=values["bias"])
    expected = torch.tensor(case.formula({k: x.double().numpy() for k, x in values.items()}))
    assert got.dtype == dtype
    scale = max(float(expected.abs().max()), 1.0)
    depth = 40 if "cayley" in case.name else 8
    assert float((got.double() - expected).abs().max()) <= depth * torch.finfo(dtype).eps * scale


def test_the_cases_cover_every_node_function_transform_and_kind() -> None:
    used = {type(sub).__name__ for case in CASES for sub in topological(case.expr)}
    every = {
        n
        for n, kind in vars(algebra_nodes).items()
        if getattr(kind, "__module__", "") == algebra_nodes.__name__
        and isinstance(kind, type)
        and issubclass(kind, Expr)
    }
    assert every - used == {"Frozen"}  # read by the same rule as Parameter
    assert set(FORMULAS) == set(FUNCTIONS)
    assert {k.removeprefix("inverse_") for k in DENSE} == set(TRANSFORMS)
    assert len(DENSE) == 2 * len(TRANSFORMS)
    kinds = {
        sub.kind
        for case in CASES
        for sub in topological(case.expr)
        if isinstance(sub, MatrixFunction)
    }
    assert kinds == set(MATRIX_FUNCTIONS)


@pytest.mark.parametrize("case", [c for c in CASES if "exponential" not in c.name], ids=str)
def test_every_array_is_made_on_the_device_of_the_values(case: Case) -> None:
    """Torch's meta device refuses to meet arrays of the CPU; the exponential reads its norm."""
    if not any(isinstance(sub, Parameter | Base | BaseBias) for sub in topological(case.expr)):
        return
    values = {k: torch.tensor(x, device="meta") for k, x in values_for(case.expr).items()}
    got = evaluate(case.expr, values, base=values["W"], bias=values["bias"])
    assert got.device.type == "meta" and tuple(got.shape) == case.expr.shape
