"""Plans: what is chosen, what is printed, and that every candidate computes the same thing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import tensoradapt as ta
import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.algebra.walk import parameters
from tensoradapt.errors import ShapeError, StructureError
from tensoradapt.nn.emit import emit, overwritable
from tensoradapt.nn.operator import Operator
from tensoradapt.planning.candidate import layer
from tensoradapt.planning.planner import MAX_THRESHOLDS, plan_expression, schedule
from tensoradapt.planning.rates import CPU, Rates, program_cost
from tensoradapt.planning.steps import TOKENS, elements
from tensoradapt.planning.training import FACTORED, FORMED, MIXED, training_program
from tensoradapt.run.execute import execute_all
from tensoradapt.structure import Update

FOURIER = Rates("cheap Fourier", 1e9, 16.0, 1e9, 1e9, 1e-9, 1e18, 0.0)
"""Rates at which every transform is free, so that convolutions run by them at any size."""

STRUCTURES = {
    "lora": zoo.lora(rank=3, alpha=5),
    "dora": zoo.dora(within=zoo.lora(rank=2, alpha=3)),
    "differentiated dora": zoo.dora(within=zoo.lora(rank=2, alpha=3), detach_norm=False),
    "loha": zoo.loha(rank=2, alpha=3),
    "lokr": zoo.lokr(rank=2, alpha=3, decompose_factor=2),
    "hira": zoo.hira(rank=2),
    "sine": zoo.sine_lora(rank=2, frequency=3.0),
    "vera": zoo.vera(rank=5),
    "circulant": zoo.circulant(alpha=2),
    "symmetric toeplitz": zoo.symmetric_toeplitz(alpha=2),
    "toeplitz": zoo.toeplitz(alpha=2),
    "ldr": zoo.ldr(rank=2, alpha=2),
    "tt": zoo.tt_lora(rank=2, alpha=2),
    "sum": zoo.lora(rank=2, alpha=3) + zoo.circulant(),
}
SHAPES = [(12, 12), (14, 10), (7, 11)]


def joint(name: str, shape: tuple[int, int]):
    """A random layer: expression, leaves, base, bias, x, and its judge's y and gradients."""
    expr = STRUCTURES[name].on(shape)
    values = ta.sample(expr, seed=3, start="random", like=torch.zeros(1, dtype=torch.float64))
    trained = {p.name for p in parameters(expr)}
    values = {k: v.requires_grad_(k in trained) for k, v in values.items()}
    torch.manual_seed(0)
    base, bias = torch.randn(shape, dtype=torch.float64), torch.randn(shape[0], dtype=torch.float64)
    x = torch.randn(5, shape[1], dtype=torch.float64, requires_grad=True)
    y = x @ (base + ta.evaluate(expr, values, base=base)).T + bias
    return expr, values, base, bias, x, y


@pytest.mark.parametrize("way", [FACTORED, FORMED, MIXED])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", STRUCTURES)
def test_forward_and_backward_programs_equal_the_definition(name, shape, way) -> None:
    expr, values, base, bias, x, y = joint(name, shape)
    g = torch.randn_like(y)
    names = ["x", *(p.name for p in parameters(expr))]
    wanted = dict(
        zip(names, torch.autograd.grad(y, [x, *(values[n] for n in names[1:])], g), strict=True)
    )
    plain = {k: v.detach() for k, v in values.items()}
    given = {"x": x.detach(), "base": base, "bias": bias}
    for rates in (CPU, FOURIER):
        for price in (0.0, 1.0):
            asked = layer(expr, "train", None, True)
            made = training_program(asked, shape, way, 5, rates, price=price)
            assert made.backward is not None
            out, *saved = execute_all(made.program, plain, base, **given)
            kept = {f"s{k}": value for k, value in enumerate(saved)}
            assert torch.allclose(out, y, rtol=1e-9, atol=1e-9)
            found = execute_all(made.backward, plain | kept, base, gradient=g, **given)
            assert [entry.name for entry in made.wanted] == [
                entry.name for entry in made.program.inputs if entry.trains
            ]
            for entry, gradient in zip(made.wanted, found, strict=True):
                assert gradient.shape == wanted[entry.name].shape
                assert torch.allclose(gradient, wanted[entry.name], rtol=1e-8, atol=1e-8)
            emitted = emit(made.program, in_place=True), emit(made.backward, in_place=True)
            assert all("def run(" in one.source for one in emitted)


@pytest.mark.parametrize("name", ["circulant", "symmetric toeplitz", "toeplitz"])
def test_convolutions_run_by_fourier_transforms_where_those_are_cheap(name) -> None:
    expr = STRUCTURES[name].on((96, 96))
    program = plan_expression(expr, 32, "train", FOURIER, has_bias=True).program
    used = {step.operation for step in program.steps}
    assert {"rfft", "irfft"} <= used and "windows" not in used


def test_a_product_of_convolutions_never_forms_a_matrix() -> None:
    expr = zoo.ldr(rank=2).on((768, 768))
    chosen = ta.plan(expr, tokens=16).chosen
    assert chosen.backward is not None
    for program in (chosen.program, chosen.backward):
        largest = max(elements(step.shape, 16) for step in program.steps)
        assert largest < 768 * 768


def test_loha_is_contracted_without_ever_forming_the_update() -> None:
    chosen = ta.plan(zoo.loha(rank=4), (768, 768), tokens=256).chosen
    assert chosen.name == "factored" and chosen.backward is not None
    for program in (chosen.program, chosen.backward):
        assert all(768 * 768 > elements(s.shape, 1) for s in program.steps if TOKENS not in s.shape)


def test_flops_are_those_that_torch_counts() -> None:
    for structure in (zoo.lora(rank=16, alpha=32), zoo.loha(rank=4)):
        model = torch.nn.Sequential(torch.nn.Linear(96, 64))
        tnn.adapt(model, structure, where="0")
        x = torch.randn(32, 96)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        plan = ta.plan(structure, (64, 96), tokens=32, mode="forward")
        products = sum(program_cost(plan.program, 32, CPU, False).flops for _ in (0,)) - sum(
            elements(s.shape, 32)
            for s in plan.program.steps
            if s.operation in ("multiply", "add", "scale")
        )
        assert counter.get_total_flops() == pytest.approx(products, rel=0.01)


# --- thresholds ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
def test_programs_by_token_count_are_few_and_in_order(name) -> None:
    made = schedule(STRUCTURES[name].on((96, 64)), "train", has_bias=True)
    assert len(made.thresholds) <= MAX_THRESHOLDS
    assert list(made.thresholds) == sorted(set(made.thresholds))
    assert len(made.candidates) == len(made.thresholds) + 1
    for k, threshold in enumerate(made.thresholds):
        assert made.at(threshold) is made.candidates[k]
        assert made.at(threshold + 1) is made.candidates[k + 1]


def test_a_half_precision_weight_is_never_formed() -> None:
    expr = zoo.lora(rank=64).on((128, 128))
    names = {c.name for c in schedule(expr, "train", merge_allowed=False).candidates}
    assert names == {"factored"}
    assert any(c.name != "factored" for c in schedule(expr, "train").candidates)


def test_modelled_time_grows_with_tokens() -> None:
    program = ta.plan(zoo.dora(), (96, 64), tokens=16).program
    costs = [program_cost(program, t, CPU, False).seconds for t in (1, 2, 8, 64, 512, 4096)]
    assert costs == sorted(costs)


# --- the printed plan ---------------------------------------------------------------------


def test_a_plan_prints_its_steps_its_rivals_and_its_reasons() -> None:
    text = str(ta.plan(zoo.dora(within=zoo.lora(rank=4)), (96, 64), tokens=16))
    for part in (
        "weight 96×64, mode train, 16 tokens",
        "chosen:",
        "not ",
        "times the chosen",
        "materialized: norm (a norm is not multilinear)",
        "saved for the backward",
        "gradients x:",
        "T×96",
        "flop",
    ):
        assert part in text
    assert "opt_einsum" in text or "exhaustive search" in text


def test_a_plan_tells_from_how_many_tokens_another_wins() -> None:
    plan = ta.plan(zoo.lora(rank=64), (128, 128), tokens=4)
    assert plan.crossovers and f"from {plan.crossovers[0][0]} tokens: " in str(plan)


def test_bad_requests_are_refused_with_a_sentence() -> None:
    with pytest.raises(StructureError, match="Known modes: forward, train, apply, materialize"):
        ta.plan(zoo.lora(), (64, 64), mode="fast")
    with pytest.raises(ShapeError, match="A token count is zero or more"):
        ta.plan(zoo.lora(), (64, 64), tokens=-1)
    with pytest.raises(ShapeError, match="A structure has no shape of its own"):
        ta.plan(zoo.lora())


# --- running ------------------------------------------------------------------------------


class Recorder(TorchDispatchMode):
    """The tensor operations that run, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in ("t", "view", "detach", "transpose"):
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


def test_lora_makes_the_calls_of_a_layer_written_by_hand() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(128, 128))
    tnn.adapt(model, zoo.lora(rank=8, alpha=16), where="0")
    (_, site), *_ = tnn.sites(model)
    leaves = {name: t.data.normal_() for name, t in site.leaf_tensors("default").items()}
    x = torch.randn(1, 128)

    def by_hand() -> torch.Tensor:
        y = torch.nn.functional.linear(x, site.weight, site.bias)
        return torch.addmm(y, x @ leaves["A"].t(), leaves["B"].t(), alpha=2.0)

    with torch.no_grad():
        model(x)  # whatever happens at the first call only
        with Recorder() as ours:
            y = model(x)
        with Recorder() as theirs:
            expected = by_hand()
    assert ours.calls == theirs.calls == ["addmm", "mm", "addmm"]
    assert torch.equal(y, expected)


def test_no_call_meets_the_planner(monkeypatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(12, 10))
    tnn.adapt(model, zoo.loha(rank=2), where="0")

    def refuse(*args, **kwargs):
        raise AssertionError("a call planned")

    monkeypatch.setattr(sys.modules["opt_einsum"], "contract_path", refuse)
    monkeypatch.setattr("tensoradapt.nn.operator.schedule", refuse)
    for tokens in (0, 1, 7, 300):
        model(torch.randn(tokens, 12, requires_grad=True)).sum().backward()
        with torch.no_grad():
            model(torch.randn(tokens, 12))


def test_a_second_derivative_is_that_of_the_definition() -> None:
    expr = zoo.loha(rank=2, alpha=3).on((5, 4))
    operator = Operator(Update(expr), expr.shape, has_bias=False)
    torch.manual_seed(0)
    like = torch.zeros(1, dtype=torch.float64)
    values = ta.sample(expr, seed=1, start="random", like=like)
    leaves = [values[name].requires_grad_() for name in operator.leaf_names]
    weight = torch.randn(5, 4, dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    run = lambda x, *leaves: operator.layer(x, weight, None, leaves, 0.5)  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, *leaves))
    assert torch.autograd.gradgradcheck(run, (x, *leaves))


def test_only_values_of_a_programs_own_are_overwritten() -> None:
    chosen = ta.plan(zoo.dora(within=zoo.loha(rank=2)), (24, 18), tokens=7).chosen
    assert chosen.backward is not None
    for program in (chosen.program, chosen.backward):
        free = overwritable(program)
        kept = {program.result, *program.more}
        for number, step in program.numbered():
            if number in free:
                first = step.operands[0]
                assert first >= len(program.inputs) and first not in kept
                later = [s for n, s in program.numbered() if n > number]
                assert all(first not in s.operands for s in later)
    assert any(overwritable(p) for p in (chosen.program, chosen.backward))


def test_numpy_runs_a_backward_program_too() -> None:
    expr = zoo.lora(rank=2, alpha=4).on((4, 3))
    values = ta.sample(expr, seed=1, start="random")
    made = training_program(layer(expr, "train"), (4, 3), FACTORED, 2, CPU)
    rng = np.random.RandomState(0)
    x, base, g = rng.randn(2, 3), rng.randn(4, 3), rng.randn(2, 4)
    assert made.backward is not None
    _, *saved = execute_all(made.program, values, x, x=x, base=base)
    kept = {f"s{k}": value for k, value in enumerate(saved)}
    found = execute_all(made.backward, values | kept, x, x=x, base=base, gradient=g)
    names = [entry.name for entry in made.wanted]
    expected = 2 * g.T @ (x @ values["A"].T)
    assert np.allclose(found[names.index("B")], expected)
