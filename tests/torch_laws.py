"""The laws of adapted torch models as plain functions; see ``laws``."""

from __future__ import annotations

import copy
import io
import pickle
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

import tensoradapt.nn as tnn
from tensoradapt.algebra.walk import parameters
from tensoradapt.nn.operator import Operator
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tests.laws import (
    Site,
    free_tensors,
    given_data,
    gradients,
    gradients_close,
    layer_by_definition,
    layer_of,
    seed_of,
    site_of,
    slopes_of,
)
from tests.rows import Row
from tests.tolerance import assert_close, tolerance


def operator_of(row: Row) -> Operator:
    return Operator(row.structure.update(row.shape), row.shape, has_bias=True)


def linear_of(site: Site, dtype: torch.dtype = torch.float64) -> nn.Linear:
    """An nn.Linear with the site's W0 and b0."""
    matrix = site.base.reshape(site.base.shape[0], -1)
    made = nn.Linear(matrix.shape[1], matrix.shape[0], dtype=dtype)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(matrix))
        made.bias.copy_(torch.tensor(site.bias))
    return made


def adapted(row: Row, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, Site]:
    """A model of one adapted layer of which every leaf, also a derived one, is random."""
    found = site_of(row)
    model = nn.Sequential(linear_of(found, dtype))
    tnn.adapt(model, row.structure, where="0", dtype=dtype, data=given_data(row))
    make_random(model, found)
    return model, found


def make_random(model: nn.Sequential, site: Site) -> None:
    layer = model[0]
    assert isinstance(layer, tnn.Adapted)
    stored = layer.leaf_tensors("default")
    with torch.no_grad():
        for name, value in site.values.items():
            stored[name].copy_(torch.tensor(value))


# --- law 1: merged = adapted --------------------------------------------------------------


def merged_is_adapted(row: Row) -> None:
    """The merged model gives the adapted model's output, both give the definition's."""
    model, site = adapted(row)
    x = torch.tensor(site.x).requires_grad_()
    before = model(x)
    want = site.x @ site.whole.T + site.bias + site.shift
    limit, scale = site.depth + 2, site.size
    assert_close(before, want, np.float64, limit, f"{row}: adapted", scale)
    kept = [t.clone() for t in (model[0].weight, model[0].bias)]
    tnn.merge(model)
    with torch.no_grad():
        assert_close(model(x), want, np.float64, limit, f"{row}: merged", scale)
    tnn.unmerge(model)
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (model[0].weight, model[0].bias), strict=True)
    )
    assert torch.equal(model(x), before), f"{row}: unmerged differs"


# --- law 2: zero at the start, with a gradient --------------------------------------------


def starts_as_said(row: Row) -> None:
    """ΔW = 0 at the start through evaluate and the layer (or not, as said); it has a gradient."""
    update, source = row.structure.update(row.shape), np.random.RandomState(7)
    assert update.weight is not None
    base = torch.tensor(source.standard_normal(row.shape))
    bias = torch.tensor(source.standard_normal(row.shape[0]))
    given = {"base": base, "bias": bias}
    operator = operator_of(row)
    parts = [part for part in (update.weight, update.bias) if part is not None]
    given_to_all = {"base": [base] * len(parts), "bias": [bias] * len(parts)}
    values = sample(parts, seed=3, like=base, data=given_data(row), **given_to_all)
    change = evaluate(update.weight, values, **given)
    planned, _ = operator.materialize(base, bias, [values[n] for n in operator.leaf_names])
    assert planned is not None
    if row.starts_at_zero is not False:
        eps = torch.finfo(base.dtype).eps
        exact, rounded = (0.0, 4 * eps) if row.starts_at_zero else (16 * eps, 16 * eps)
        for what, found, limit in (("ΔW", change, exact), ("the plan", planned, rounded)):
            moved = float(torch.linalg.vector_norm(found) / torch.linalg.vector_norm(base))
            assert moved <= limit, f"{row}: {what} is {moved} at the start, not zero"
    else:
        assert bool(change.any()), f"{row}: ΔW is zero at the start, though said not to be"
    trained = {leaf.name for part in parts for leaf in parameters(part)}
    for name in trained:
        values[name].requires_grad_()
    x = torch.tensor(source.standard_normal((4, change[0].numel())))
    y = operator.layer(x, base, bias, [values[n] for n in operator.leaf_names])
    slopes = torch.autograd.grad(
        y.sin().sum(), [values[n] for n in sorted(trained)], allow_unused=True
    )
    moving = [float(s.norm()) for s in slopes if s is not None]
    assert sum(moving) > 1e-6, f"{row}: no gradient at the start"


# --- law 4: gradients through the layer ---------------------------------------------------


def layer_gradients_agree(row: Row) -> None:
    """Output and gradients of the layer, planned, equal those of the definition."""
    site, operator = site_of(row), operator_of(row)
    x, values = free_tensors(site)
    base, bias = torch.tensor(site.base), torch.tensor(site.bias)
    y = operator.layer(x, base, bias, [values[n] for n in operator.leaf_names])
    want = layer_by_definition(site, *free_tensors(site)).detach()
    assert_close(y, want, np.float64, site.depth + 2, f"{row}: the layer", site.size)
    gradients_close(slopes_of(site, x, values, y), gradients(site), site, f"{row}: the layer")


def second_derivatives_agree(row: Row) -> None:
    """``∇⟨∇y, ∇y⟩`` through the layer equals that of the definition."""
    site, operator = site_of(row), operator_of(row)
    base, bias = torch.tensor(site.base), torch.tensor(site.bias)

    def planned(x: Tensor, values: dict[str, Tensor]) -> Tensor:
        return operator.layer(x, base, bias, [values[n] for n in operator.leaf_names])

    def second(run) -> list[Tensor]:
        x, values = free_tensors(site)
        free = [x, *(v for v in values.values() if v.requires_grad)]
        y = run(x, values)
        seed = torch.tensor(seed_of(site))
        first = torch.autograd.grad(y.sin(), free, seed, create_graph=True, allow_unused=True)
        total = sum((s * s).sum() for s in first if s is not None)
        again = torch.autograd.grad(total, free, allow_unused=True)  # type: ignore[arg-type]
        return [torch.zeros_like(f) if s is None else s for f, s in zip(free, again, strict=True)]

    got, want = second(planned), second(lambda x, values: layer_by_definition(site, x, values))
    scale = max(float(s.abs().max()) for s in want)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, np.float64, 64 * (site.depth + 2), f"{row}: second", scale)


def gradcheck(row: Row) -> None:
    """Finite differences, once and twice, through the layer."""
    site, operator = site_of(row), operator_of(row)
    base, bias = torch.tensor(site.base), torch.tensor(site.bias)
    x, values = free_tensors(site)
    names = [n for n in operator.leaf_names if values[n].requires_grad]

    def run(x: Tensor, *free: Tensor) -> Tensor:
        here = values | dict(zip(names, free, strict=True))
        return operator.layer(x, base, bias, [here[n] for n in operator.leaf_names])

    free = (x, *(values[n] for n in names))
    assert torch.autograd.gradcheck(run, free)
    assert torch.autograd.gradgradcheck(run, free)


# --- law 5: dtype and device in = out -----------------------------------------------------


def layer_keeps_type(row: Row, dtype: torch.dtype) -> None:
    """A layer of one type gives that type, close to the definition in float64."""
    site, operator = site_of(row), operator_of(row)
    typed = {name: torch.tensor(v).to(dtype).requires_grad_() for name, v in site.values.items()}
    x, base, bias = (torch.tensor(v).to(dtype) for v in (site.x, site.base, site.bias))
    with torch.no_grad():
        evaluated = operator.layer(x, base, bias, [typed[n] for n in operator.leaf_names])
    trained = operator.layer(x, base, bias, [typed[n] for n in operator.leaf_names])
    wide = {name: value.detach().double() for name, value in typed.items()}
    want = layer_of(site.update, x.double(), base.double(), bias.double(), wide)
    for y in (evaluated, trained):
        assert y.dtype == dtype, f"{row}: {y.dtype} came out of {dtype}"
        if tolerance(dtype, site.depth + 2) < 0.5:
            assert_close(y, want, dtype, site.depth + 2, f"{row}: {dtype}", site.size)


def half_layers_form_no_weight(row: Row, dtype: torch.dtype) -> None:
    """W0 + ΔW is never formed in a half type, in which most of a small ΔW would be lost."""
    site, operator = site_of(row), operator_of(row)
    values = [torch.tensor(site.values[n]).to(dtype) for n in operator.leaf_names]
    x, base, bias = (torch.tensor(v).to(dtype) for v in (site.x, site.base, site.bias))
    for training in (False, True):
        with torch.set_grad_enabled(training):
            operator.layer(x, base, bias, values)
    for key, runner in operator._runners.items():
        names = {candidate.name for candidate in runner.schedule.candidates}
        assert not any("merged" in name for name in names), f"{row}: {key} may use {names}"


def layer_stays_on_device(row: Row) -> None:
    """On another device nothing of the layer stays behind.

    Torch's fake tensors refuse to mix devices, also where no accelerator exists; they cannot
    record gradients there, so the backward runs on the meta device.
    """
    site, operator = site_of(row), operator_of(row)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        given = _elsewhere(site, operator, "cuda")
        try:
            made = (
                operator.layer(*given),
                operator.delta(*given),
                *operator.materialize(*given[1:]),
            )
            assert all(y.device.type == "cuda" for y in made if y is not None)
        except RuntimeError as error:
            if "not linked with support" not in str(error):  # some indexing asks the real device
                raise
    x, base, bias, values = _elsewhere(site, operator, "meta")
    y = operator.layer(x, base, bias, [v.requires_grad_() for v in values])
    assert y.device.type == "meta" and tuple(y.shape) == (len(x), row.shape[0])
    y.sum().backward()


def _elsewhere(
    site: Site, operator: Operator, device: str
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    arrays = (site.x, site.base, site.bias, *(site.values[n] for n in operator.leaf_names))
    made = [torch.empty(a.shape, dtype=torch.float64, device=device) for a in arrays]
    return made[0], made[1], made[2], made[3:]


# --- law 6: round trips --------------------------------------------------------------------


def model_round_trips(row: Row, folder: Path) -> None:
    """State dict, checkpoint, deepcopy and pickle each give the same outputs."""
    model, site = adapted(row)
    x = torch.tensor(site.x).requires_grad_()
    want = model(x)
    other, _ = adapted(row)
    with torch.no_grad():
        for leaf in tnn.parameters(other):
            leaf.zero_()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer))
    tnn.save(model, folder)
    loaded = tnn.load(nn.Sequential(linear_of(site)), folder)
    copies = {
        "the state dict": other,
        "the checkpoint": loaded,
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
    }
    for name, twin in copies.items():
        assert torch.equal(twin(x), want), f"{row}: {name} changes the output"


# --- law 7: compile ------------------------------------------------------------------------


def compiled_graphs(model: nn.Module, width: int, counts: tuple[int, ...]) -> int:
    """Compile a model whole and run it at some token counts; return how many graphs that took."""
    torch._dynamo.reset()
    counter = CompileCounter()
    run = torch.compile(model, backend=counter, fullgraph=True)
    for tokens in counts:
        x = torch.linspace(-1, 1, tokens * width, dtype=torch.float64).reshape(tokens, width)
        got = run(x)
        assert_close(got, model(x), np.float64, 100, f"compiled at {tokens} tokens")
        got.sum().backward()
    torch._dynamo.reset()
    return counter.frame_count


@lru_cache
def _frozen_graphs(out: int, inp: int, counts: tuple[int, ...]) -> int:
    return compiled_graphs(nn.Linear(inp, out, dtype=torch.float64), inp, counts)


def compiles_whole(row: Row, counts: tuple[int, ...] = (4, 6, 9, 12)) -> None:
    """No more graphs than the frozen model's, plus one for each threshold crossed."""
    model, site = adapted(row)
    width = site.x.shape[1]
    frozen = _frozen_graphs(*site.whole.shape, counts)
    layer = model[0]
    assert isinstance(layer, tnn.Adapted)
    found = compiled_graphs(model, width, counts)
    operator = layer.adapters["default"].operator
    crossed = max(len(crossings(operator, counts)) - 1, 0)
    assert found <= frozen + crossed, f"{row}: {found} graphs, frozen {frozen}, crossed {crossed}"


def crossings(operator: Operator, counts: tuple[int, ...]) -> set[int]:
    """The programs of a training layer that some token counts use."""
    runners = list(operator._runners.values())
    return {runner.pick(tokens) for runner in runners for tokens in counts}
