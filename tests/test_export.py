"""Any update as a LoRA: the least rank for a tolerance, the error as it is, files PEFT reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import TensorAdaptError
from tensoradapt.integrations import exporting
from tensoradapt.integrations.exporting import to_lora

peft = pytest.importorskip("peft", reason="the extra hf is not installed")

from tests.peft_adapters import Net, Pictures  # noqa: E402


def trained(structure, model=None, where="up | inner.down", **options) -> nn.Module:
    """An adapted model with every trained leaf random."""
    model = tnn.adapt(Net() if model is None else model, structure, where=where, **options)
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for leaf in tnn.parameters(model):
            leaf.copy_(0.3 * torch.randn(leaf.shape, generator=source))
    return model.eval()


def inputs() -> torch.Tensor:
    return torch.randn(7, 16, generator=torch.Generator().manual_seed(2))


STRUCTURES = [
    zoo.lora(rank=3, alpha=5.0),
    zoo.loha(rank=2, alpha=5.0),
    zoo.dora(within=zoo.lora(rank=3)),
    zoo.hira(rank=3),
    zoo.fourierft(n_frequency=5),
    zoo.ia3(),
    zoo.road(group_size=4),
    zoo.circulant(),
    zoo.lora(rank=1) + zoo.loha(rank=1),
    zoo.beft(),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_peft_runs_what_was_exported(structure, tmp_path):
    model = trained(structure)
    exported = to_lora(model, tolerance=1e-7)
    exported.save(tmp_path)
    assert exported.error < 1e-6
    theirs = peft.PeftModel.from_pretrained(Net(), tmp_path).eval()
    torch.testing.assert_close(theirs(inputs()), model(inputs()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 1e-2])
@pytest.mark.parametrize("structure", STRUCTURES[1:5], ids=str)
def test_the_rank_is_the_least_for_the_tolerance_and_the_error_is_true(structure, tolerance):
    model = trained(structure)
    for (_, module), site in zip(
        tnn.sites(model), to_lora(model, tolerance=tolerance).sites, strict=True
    ):
        change = tnn.delta_weight(module).detach().double()
        error = float((change - site.B.double() @ site.A.double()).norm() / change.norm())
        assert error == pytest.approx(site.error, rel=1e-3, abs=1e-7)
        assert error <= tolerance * (1 + 1e-6)
        S = torch.linalg.svdvals(change)
        assert float(S[site.rank - 1 :].norm() / S.norm()) > tolerance or site.rank == 1


def test_a_known_low_rank_is_exported_without_forming_it(monkeypatch):
    layer = nn.Sequential(nn.Linear(96, 80))
    model = trained(zoo.loha(rank=2, alpha=3.0), layer, "0", strength=0.7)
    (_, module), *_ = tnn.sites(model)
    change = tnn.delta_weight(module).detach()
    monkeypatch.setattr(type(module), "changes", lambda *_: pytest.fail("ΔW was formed"))
    (site,) = to_lora(model, tolerance=0.0).sites
    assert site.rank == 4
    torch.testing.assert_close(site.B @ site.A, change, rtol=1e-4, atol=1e-5)


def test_a_bound_on_the_rank_is_kept_and_its_cost_said():
    exported = to_lora(trained(zoo.hira(rank=3)), rank=2)
    assert {site.rank for site in exported.sites} == {2}
    assert exported.error > 0.1
    assert "rank     2" in str(exported) and f"{exported.error:.2e}" in str(exported)
    assert exported.data()["sites"][0]["rank"] == 2


def test_convolutions_and_embeddings_are_exported(tmp_path):
    model = trained(zoo.lora(rank=2, alpha=3.0), Pictures(), "table | line | conv")
    to_lora(model, tolerance=1e-7).save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(Pictures(), tmp_path).eval()
    tokens = torch.arange(8).reshape(2, 4)
    torch.testing.assert_close(theirs(tokens), model(tokens), rtol=1e-4, atol=1e-5)


def test_one_layer_an_update_of_zero_and_trained_heads(tmp_path):
    model = tnn.adapt(Net(), zoo.lora(rank=2), where="up", also_train="head")
    (_, module), *_ = tnn.sites(model)
    assert to_lora(module).sites[0].rank == 1 and to_lora(module).error == 0.0
    with torch.no_grad():
        model.head.weight.fill_(0.5)
    to_lora(model).save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(Net(), tmp_path).eval()
    torch.testing.assert_close(theirs(inputs()), model.eval()(inputs()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": -1.0}, "below 1"),
        ({"tolerance": 1.0}, "below 1"),
        ({"tolerance": float("nan")}, "below 1"),
        ({"rank": 0}, "integer of 1 or more"),
        ({"name": "other"}, "no adapter of that name"),
    ],
    ids=str,
)
def test_wrong_wishes_are_refused(options, words):
    with pytest.raises(TensorAdaptError, match=words):
        to_lora(trained(zoo.lora(rank=2)), **options)
    with pytest.raises(TensorAdaptError, match="no adapted layers"):
        to_lora(Net())


def test_values_that_are_not_finite_are_refused():
    model = trained(zoo.lora(rank=2))
    with torch.no_grad():
        tnn.parameters(model)[0].fill_(torch.nan)
    with pytest.raises(TensorAdaptError, match="not finite"):
        exporting.to_lora(model)
