"""What torch does to models: autocast, checkpointing, compile, copies, func, odd inputs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tests import nn_models
from tests.nn_models import STRUCTURES, difference, inputs, judge, make, shuffle

FEW = [STRUCTURES[0], STRUCTURES[1], STRUCTURES[2], STRUCTURES[-1], nn_models.biased()]
each = pytest.mark.parametrize("structure", FEW, ids=str)


def adapted(structure, dtype=torch.float32, strength=0.7, **options):
    model = make(dtype=dtype)
    tnn.adapt(model, structure, where="*_proj", strength=strength, **options)
    return shuffle(model)


@each
@pytest.mark.parametrize("shape", [(6,), (1, 6), (0, 6), (2, 0, 6), (2, 3, 4, 6)])
def test_inputs_of_every_shape(structure, shape):
    layer, x = adapted(structure).blocks[0].q_proj, inputs(*shape)
    y = layer(x)
    assert y.shape == x.shape
    if x.numel():
        assert difference(y, judge(layer, x)) < 1e-5
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


@each
def test_inputs_that_are_not_contiguous(structure):
    layer, wide = adapted(structure).blocks[0].q_proj, inputs(6, 8, 12)
    for x in (wide.permute(2, 1, 0), wide[..., ::2], wide[:, :1, :6].expand(6, 5, 6)):
        assert difference(layer(x), judge(layer, x)) < 1e-5


@each
def test_gradients(structure):
    layer = adapted(structure).double().blocks[0].q_proj
    x = inputs(4, 6, dtype=torch.float64).requires_grad_()
    leaves = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()
              if p.requires_grad}  # fmt: skip

    def run(x, *values):
        return functional_call(layer, dict(zip(leaves, values, strict=True)), (x,))

    if "dora" not in str(structure):
        assert torch.autograd.gradcheck(run, (x, *leaves.values()))
        assert torch.autograd.gradgradcheck(run, (x, *leaves.values()))
    wanted = torch.autograd.grad(judge(layer, x).sin().sum(), _trained(layer))
    found = torch.autograd.grad(layer(x).sin().sum(), _trained(layer))
    assert all(difference(a, b) < 1e-8 for a, b in zip(found, wanted, strict=True))


def _trained(layer):
    return [p for p in layer.parameters() if p.requires_grad]


@each
def test_double_backward_reaches_the_leaves(structure):
    layer = adapted(structure).double().blocks[0].q_proj
    x = inputs(4, 6, dtype=torch.float64).requires_grad_()

    def second(run):
        (slope,) = torch.autograd.grad(run(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), _trained(layer), allow_unused=True)

    for a, b in zip(second(layer), second(lambda x: judge(layer, x)), strict=True):
        a, b = (torch.zeros(1) if g is None else g for g in (a, b))
        assert difference(a, b) < 1e-7 or float(b.abs().max()) < 1e-9


@each
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_computes_as_a_linear_layer_would(structure, kind):
    model, x = adapted(structure), inputs(5, 6)
    layer = model.blocks[0].q_proj
    with torch.autocast("cpu", dtype=kind):
        y = layer(x)
        assert layer.base_layer(x).dtype == y.dtype == kind
        model(x).float().sum().backward()
    assert difference(y, judge(layer, x)) < 0.05
    assert all(leaf.grad.dtype == torch.float32 for leaf in tnn.parameters(model))


def test_autocast_leaves_float64_alone():
    layer = adapted(zoo.lora(rank=2)).double().blocks[0].q_proj
    x = inputs(5, 6, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer.kind.branch(layer, "default", x, None)
    assert y.dtype == torch.float64


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_base_has_float32_leaves_and_computes_the_branch_in_float32(structure, dtype):
    model = adapted(structure, dtype=dtype)
    layer, x = model.blocks[0].q_proj, inputs(5, 6, dtype=dtype)
    assert {leaf.dtype for leaf in tnn.parameters(model)} == {torch.float32}
    y = layer(x)
    assert y.dtype == dtype and difference(y, judge(layer, x)) < 4 * torch.finfo(dtype).eps
    model(x).float().sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in tnn.parameters(model))


@pytest.mark.parametrize(
    ("base", "asked", "leaf"),
    [
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_the_type_of_the_leaves_is_selectable(base, asked, leaf):
    model = shuffle(tnn.adapt(make(dtype=base), zoo.lora(rank=2), where="q_proj", dtype=asked))
    assert {p.dtype for p in tnn.parameters(model)} == {leaf}
    layer, x = model.blocks[0].q_proj, inputs(5, 6, dtype=base)
    assert layer(x).dtype == base
    assert difference(layer(x), judge(layer, x)) < 8 * max(
        torch.finfo(base).eps, torch.finfo(torch.float32).eps
    )


@each
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(structure, use_reentrant):
    model, x = adapted(structure, dropout=0.3), inputs(5, 6).requires_grad_()

    def gradients(run):
        torch.manual_seed(0)
        model.zero_grad()
        run().sin().sum().backward()
        return [leaf.grad.clone() for leaf in tnn.parameters(model)]

    plain = gradients(lambda: model(x))
    checked = gradients(lambda: checkpoint(model, x, use_reentrant=use_reentrant))
    assert all(difference(a, b) < 1e-4 for a, b in zip(checked, plain, strict=True))


@each
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")
def test_compile_without_a_graph_break(structure, backend):
    torch._dynamo.reset()
    model, x = adapted(structure), inputs(5, 6)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    assert difference(compiled(x), model(x)) < 1e-5
    compiled(x).sin().sum().backward()
    model(x).sin().sum().backward()
    inner = compiled._orig_mod
    for a, b in zip(tnn.parameters(inner), tnn.parameters(model), strict=True):
        assert difference(a.grad, b.grad) < 1e-4
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert difference(compiled(x), model(x)) < 0.05


@pytest.mark.filterwarnings("ignore")
def test_compile_of_shared_leaves_several_adapters_and_half_bases():
    torch._dynamo.reset()
    model = adapted(nn_models.shared(), dtype=torch.bfloat16)
    tnn.adapt(model, zoo.lora(rank=2), where="q_proj", name="second")
    shuffle(model, name="second")
    x = inputs(5, 6, dtype=torch.bfloat16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert difference(compiled(x), model(x)) < 0.05


@pytest.mark.filterwarnings("ignore")
def test_the_door_looks_through_torch_compile(tmp_path):
    torch._dynamo.reset()
    model = adapted(zoo.lora(rank=2))
    compiled, x = torch.compile(model, fullgraph=True, backend="eager"), inputs(5, 6)
    y = compiled(x)
    assert len(tnn.parameters(compiled)) == 8
    assert [path for path, _ in tnn.sites(compiled)] == [path for path, _ in tnn.sites(model)]
    tnn.save(compiled, tmp_path)
    assert torch.equal(tnn.load(make(), tmp_path)(x), model(x))
    compiled.eval()
    tnn.merge(compiled)
    assert difference(compiled(x), y) < 1e-5
    tnn.unmerge(compiled)
    with tnn.disabled(compiled):
        assert difference(compiled(x), make()(x)) < 1e-6
    assert difference(compiled(x), y) < 1e-6


@each
def test_deepcopy_and_pickle(structure):
    model, x = adapted(structure), inputs(5, 6)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        shuffle(other, seed=9)
        assert difference(other(x), model(x)) > 1e-3
        tnn.detach(other)
        assert torch.equal(other(x), make()(x))


def test_a_merged_model_can_be_copied():
    model, x = adapted(zoo.dora(within=zoo.lora(rank=2))).eval(), inputs(5, 6)
    y = model(x)
    tnn.merge(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert difference(other(x), y) < 1e-5
        tnn.unmerge(other)
        assert torch.equal(other.blocks[0].q_proj.weight, make().blocks[0].q_proj.weight)


@each
def test_state_dict_round_trip(structure):
    model, x = adapted(structure), inputs(5, 6)
    other = shuffle(tnn.adapt(make(4), structure, where="*_proj", strength=0.7, seed=5), seed=9)
    assert difference(other(x), model(x)) > 1e-3
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


@each
def test_functional_call_grad_and_vmap(structure):
    model, x = adapted(structure).double(), inputs(5, 6, dtype=torch.float64)
    leaves = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def loss(values, row):
        return functional_call(model, values, (row[None],)).sin().sum()

    each_row = vmap(grad(loss), in_dims=(None, 0))(leaves, x)
    for k, row in enumerate(x):
        model.zero_grad()
        model(row[None]).sin().sum().backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert torch.allclose(each_row[name][k], p.grad, atol=1e-10)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in leaves.items()}
    both = vmap(lambda values: functional_call(model, values, (x,)))(stacked)
    assert torch.allclose(both[0], model(x))


def test_an_optimizer_step_changes_only_what_trains():
    model = tnn.adapt(make(), zoo.lora(rank=2), where="*_proj", also_train="classifier")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(tnn.parameters(model), lr=0.1)
    model(inputs(5, 6)).square().sum().backward()
    optimizer.step()
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    lefts = {f"{path}.leaves.default.B" for path, _ in tnn.sites(model)}
    assert changed == lefts | {"classifier.weight", "classifier.bias"}


def test_training_a_fresh_adapter_lowers_the_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6))
    tnn.adapt(model, zoo.lora(rank=2, alpha=4.0), where="0")
    x, target = inputs(64, 6), inputs(64, 6, seed=11)
    optimizer = torch.optim.Adam(tnn.parameters(model), lr=0.05)
    losses = []
    for _ in range(60):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
