"""Layers that are all structure, and the report."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import StructureError
from tests import nn_models
from tests.nn_models import difference, inputs, make, shuffle

WHOLE = [
    zoo.lora(rank=4, alpha=2.0),
    zoo.loha(rank=3),
    zoo.lokr(),
    zoo.vera(rank=8),
    zoo.circulant(),
    zoo.toeplitz(),
    zoo.sine_lora(rank=4),
    zoo.lora(rank=2) + zoo.circulant(),
]
whole = pytest.mark.parametrize("structure", WHOLE, ids=str)


@whole
@pytest.mark.parametrize("sizes", [(48, 48), (48, 36), (36, 48)])
def test_output_variance_is_that_of_a_linear_layer(structure, sizes):
    inp, out = sizes
    layer = tnn.StructuredLinear(inp, out, structure, bias=False, seed=3)
    assert layer.weight.shape == (out, inp)
    assert float(layer.weight.detach().square().sum()) == pytest.approx(out / 3, rel=1e-5)
    y = layer(inputs(20000, inp))
    assert float(y.detach().square().mean()) == pytest.approx(1 / 3, rel=0.05)
    plain = nn.Linear(inp, out, bias=False)(inputs(20000, inp))
    assert float(plain.detach().square().mean()) == pytest.approx(1 / 3, rel=0.1)


@whole
def test_it_is_a_linear_layer_of_its_weight_and_trains(structure):
    layer, x = tnn.StructuredLinear(12, 12, structure), inputs(3, 5, 12)
    with torch.no_grad():
        for leaf in layer.leaves.parameters():
            leaf.normal_()
    wanted = nn.functional.linear(x, layer.weight, layer.bias)
    assert difference(layer(x), wanted) < 1e-5
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    fresh = tnn.StructuredLinear(12, 12, structure, seed=8)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))


def test_every_leaf_has_a_gradient_at_the_scaled_start():
    layer = tnn.StructuredLinear(12, 10, zoo.loha(rank=2))
    layer(inputs(5, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_types_autocast_and_odd_inputs():
    layer = tnn.StructuredLinear(6, 4, zoo.lora(rank=2), dtype=torch.float64)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert layer(inputs(5, 6, dtype=torch.float64)).dtype == torch.float64
    layer = tnn.StructuredLinear(6, 4, zoo.lora(rank=2))
    assert layer(inputs(6)).shape == (4,) and layer(inputs(0, 6)).shape == (0, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(inputs(5, 6)).dtype == torch.bfloat16
    half = layer.bfloat16()(inputs(5, 6, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_the_structures_own_start_and_the_seed():
    layer = tnn.StructuredLinear(6, 4, zoo.lora(rank=2), start="initial")
    assert not layer.weight.any() and float(layer.gain) == 1
    one, same, other = (tnn.StructuredLinear(6, 4, zoo.lora(rank=2), seed=s) for s in (1, 1, 2))
    assert torch.equal(one.weight, same.weight) and not torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, same.bias) and float(one.bias.detach().abs().max()) <= 6**-0.5


@pytest.mark.parametrize(
    ("structure", "options", "words"),
    [
        (zoo.hira(rank=2), {}, "It reads the base weight W0"),
        (zoo.dora(within=zoo.lora(rank=2)), {}, "It reads the base weight W0"),
        (zoo.lora_xs(rank=2), {}, "It reads the base weight W0"),
        (nn_models.biased(), {}, "It changes a bias"),
        (nn_models.difference_to_start(), {}, None),
        (zoo.lora(rank=2), {"start": "zero"}, "Its start is 'zero'; known: 'scaled', 'initial'"),
        (zoo.lora(rank=9), {}, "rank"),
    ],
)
def test_refusals(structure, options, words):
    with pytest.raises(StructureError, match=words or "zero whatever is drawn"):
        tnn.StructuredLinear(6, 6, structure, **options)


# --- report -------------------------------------------------------------------------------


def test_report_counts_every_leaf_once():
    model = tnn.adapt(make(), nn_models.shared(rank=2), where="*_proj", also_train="classifier")
    found = tnn.report(model)
    assert [site.path for site in found.sites] == [path for path, _ in tnn.sites(model)]
    assert found.trained == 6 * 2 + 4 * 2
    assert found.trained_whole == 6 * 3 + 3
    assert found.total == sum(p.numel() for p in model.parameters())
    first = found.sites[0]
    assert (first.trained, first.frozen, first.shared) == (2, 0, 24)
    assert first.shape == (6, 6) and first.rank_bound == 2 and first.n_bytes == 8


def test_report_reads_as_a_table_and_as_data():
    model = tnn.adapt(make(), zoo.vera(rank=3), where="q_proj", strength=0.5)
    tnn.adapt(model, nn_models.bias_only(), where="q_proj", name="second")
    found = tnn.report(model, tokens=64)
    text = str(found)
    for words in ("blocks.0.q_proj", "0.5 · vera(rank=3)", "second:", "plan at 64 tokens", "6×6"):
        assert words in text
    data = json.loads(json.dumps(found.to_data()))
    assert data["tokens"] == 64 and data["sites"][0]["structure"] == "vera(rank=3)"
    assert data["sites"][0]["rank_bound"] == 3 and data["sites"][1]["rank_bound"] is None
    assert data["sites"][0]["frozen"] == 36 and data["sites"][0]["plan"].startswith("plan of")


def test_report_of_a_merge_into_a_half_weight():
    model = shuffle(tnn.adapt(make(dtype=torch.bfloat16), zoo.lora(rank=2), where="q_proj"))
    assert tnn.report(model).sites[0].rounding_loss is None
    tnn.merge(model.eval())
    site = tnn.report(model).sites[0]
    assert site.is_merged and site.kept_bytes == (36 + 6) * 2 and 0 < site.rounding_loss < 1
