"""Chosen elements of an expression, by which large families are measured."""

from __future__ import annotations

import numpy as np
import pytest

from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.snapshot import distribute_snapshots
from tensoradapt.analysis.elements import elements_of
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tests.node_cases import CASES, Case, drawn
from tests.test_dimension import dimension, low_rank, product


@pytest.mark.parametrize("case", CASES, ids=str)
def test_chosen_elements_are_those_of_the_whole(case: Case) -> None:
    expr = distribute_snapshots(case.expr)
    values = drawn()
    values |= {n: v for n, v in sample(expr, start="random").items() if n not in values}
    whole = np.asarray(evaluate(expr, values, values["W"], values["bias"])).reshape(-1)
    at = np.random.default_rng(0).integers(0, whole.size, min(whole.size, 11))
    found = np.asarray(evaluate(elements_of(expr, at), values, values["W"], values["bias"]))
    assert np.allclose(found, whole[at], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        (product(120, 130, 1), 249),
        (zoo.circulant(form="single").on((300, 300)), 300),
        (zoo.lokr(rank=4, decompose_factor=8).on((96, 96)), 64 + low_rank(12, 12, 4) - 1),
    ],
    ids=repr,
)
def test_large_families_are_read_off_telling_elements(
    expr: Expr, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensoradapt.analysis.dimension.MOST_DERIVATIVES", 2**22)
    found = dimension(expr)
    assert found.value == found.expected == wanted and found.proved
