"""Checkpoints: whole round trips, and a sentence for everything that is wrong with a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import nn

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import CheckpointError, StateError, TensorAdaptError
from tensoradapt.nn import documents
from tests import nn_models
from tests.nn_models import STRUCTURES, difference, inputs, make, shuffle

ROOT = Path(__file__).parents[1]
OWN = [nn_models.biased(), nn_models.shared(), nn_models.difference_to_start(),
       nn_models.oddly_named(), zoo.lora(rank=2).on((6, 6))]  # fmt: skip


def adapted(structure=None, where="*_proj", **options):
    structure = zoo.lora(rank=2, alpha=5.0) if structure is None else structure
    options = {"strength": 0.7, "seed": 3, **options}
    return shuffle(tnn.adapt(make(), structure, where=where, **options))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- round trips --------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [*STRUCTURES, *OWN], ids=str)
def test_round_trip_into_a_fresh_model(structure, tmp_path):
    model, x = adapted(structure, dropout=0.25), inputs(5, 6)
    tnn.save(model, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["adapter.json", "adapter.safetensors"]
    fresh = tnn.load(make(), tmp_path)
    assert same(state(fresh), state(model))
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert {n for n, p in fresh.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    layer = fresh.blocks[0].q_proj.adapters["default"]
    assert (layer.strength, layer.dropout) == (0.7, 0.25)
    assert layer.text == model.blocks[0].q_proj.adapters["default"].text
    tnn.save(fresh, tmp_path / "again")
    for name in ("adapter.json", "adapter.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_also_train_travels_with_the_adapter(tmp_path):
    model, x = adapted(where="*_proj", also_train="classifier | blocks.0.norm"), inputs(5, 6)
    tnn.save(model, tmp_path)
    other = make()
    nn.init.zeros_(other.classifier.weight)
    assert torch.equal(tnn.load(other, tmp_path)(x), model(x))
    assert other.classifier.weight.requires_grad and not other.blocks[1].norm.weight.requires_grad


def test_each_adapter_has_its_own_folder_and_name(tmp_path):
    model, x = adapted(), inputs(5, 6)
    tnn.adapt(model, zoo.hira(rank=2), where="q_proj", name="second")
    shuffle(model, 4, "second")
    for name in ("default", "second"):
        tnn.save(model, tmp_path / name, name)
    fresh = tnn.load(tnn.load(make(), tmp_path / "default"), tmp_path / "second")
    assert torch.equal(fresh(x), model(x))
    twice = tnn.load(tnn.load(make(), tmp_path / "default"), tmp_path / "default", name="other")
    assert list(twice.blocks[0].q_proj.adapters) == ["default", "other"]
    with pytest.raises(StateError, match=r"no adapter of that name; it has: default, second"):
        tnn.save(model, tmp_path / "third", "third")


def test_loading_over_the_same_adapter_gives_it_the_values(tmp_path):
    model, x = adapted(nn_models.shared(), also_train="classifier"), inputs(5, 6)
    tnn.save(model, tmp_path)
    other = shuffle(tnn.adapt(make(), nn_models.shared(), where="*_proj", also_train="classifier",
                              strength=0.7, seed=3), seed=9)  # fmt: skip
    kept = tnn.parameters(other)
    assert difference(other(x), model(x)) > 1e-3
    tnn.load(other, tmp_path)
    assert torch.equal(other(x), model(x))
    assert [id(p) for p in tnn.parameters(other)] == [id(p) for p in kept]
    for changed in (adapted(zoo.lora(rank=1)), adapted(where="q_proj")):
        before = state(changed)
        with pytest.raises(CheckpointError, match="with other expressions or at other layers"):
            tnn.load(changed, tmp_path)
        assert same(state(changed), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_round_trip(dtype, tmp_path):
    model = shuffle(tnn.adapt(make(dtype=dtype), zoo.vera(rank=2), where="q_proj", dtype=dtype))
    tnn.save(model, tmp_path)
    assert same(state(tnn.load(make(dtype=dtype), tmp_path)), state(model))


def test_a_structure_of_a_user_loads_where_his_code_is_not(tmp_path):
    model, x = adapted(nn_models.shared()), inputs(5, 6)
    tnn.save(model, tmp_path / "adapter")
    torch.save({"base": make().state_dict(), "x": x, "y": model(x)}, tmp_path / "rest.pt")
    code = f"""
        import sys, torch
        from torch import nn
        import tensoradapt.nn as tnn
        from tensoradapt.structure import methods

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.q_proj, self.v_proj = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
                self.norm = nn.LayerNorm(6)
            def forward(self, x):
                return self.norm(x + torch.tanh(self.q_proj(x)) * self.v_proj(x))

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList([Block(), Block()])
                self.classifier = nn.Linear(6, 3)
            def forward(self, x):
                return self.classifier(self.blocks[1](self.blocks[0](x)))

        rest = torch.load({str(tmp_path / "rest.pt")!r})
        model = Model()
        model.load_state_dict(rest["base"])
        tnn.load(model, {str(tmp_path / "adapter")!r})
        assert "shared" not in methods() and "tests" not in sys.modules
        assert torch.equal(model(rest["x"]), rest["y"])
        tnn.save(model, {str(tmp_path / "again")!r})
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert torch.equal(tnn.load(make(), tmp_path / "again")(x), model(x))


def test_seeded_frozen_leaves_are_drawn_again_and_others_stored(tmp_path):
    tnn.save(adapted(zoo.vera(rank=3) + zoo.lora_xs(rank=2)), tmp_path)
    stored = load((tmp_path / "adapter.safetensors").read_bytes())
    redrawn = json.loads((tmp_path / "adapter.json").read_text())["redrawn"]
    at = "blocks.0.q_proj:"
    assert {key for key in stored if key.startswith(at)} == {
        f"{at}{leaf}" for leaf in ("0.b", "0.d", "1.A", "1.B", "1.R")
    }
    assert {key for key in redrawn if key.startswith(at)} == {f"{at}0.A", f"{at}0.B"}


def test_frozen_leaves_that_were_changed_are_stored(tmp_path):
    model, x = adapted(zoo.vera(rank=3)), inputs(5, 6)
    with torch.no_grad():
        model.blocks[0].q_proj.leaf_tensors("default")["A"].mul_(2)
    tnn.save(model, tmp_path)
    assert torch.equal(tnn.load(make(), tmp_path)(x), model(x))


# --- the base -----------------------------------------------------------------------------


def test_another_base_is_refused_unless_asked_for(tmp_path):
    tnn.save(adapted(), tmp_path)
    other = make(1)
    before = state(other)
    with pytest.raises(CheckpointError, match=r"'blocks.0.q_proj' has another weight(.|\n)*strict"):
        tnn.load(other, tmp_path)
    assert same(state(other), before)
    tnn.load(other, tmp_path, strict=False)
    half = make(dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"torch.float32 there and torch.bfloat16 here"):
        tnn.load(half, tmp_path)
    assert tnn.load(half, tmp_path, strict=False)(inputs(5, 6, dtype=torch.bfloat16)).shape
    changed = make()
    with torch.no_grad():
        changed.blocks[1].q_proj.bias += 1
    with pytest.raises(CheckpointError, match=r"'blocks.1.q_proj' has another weight or bias"):
        tnn.load(changed, tmp_path)


def test_models_that_do_not_fit_are_refused(tmp_path):
    tnn.save(adapted(), tmp_path)
    with pytest.raises(CheckpointError, match=r"'blocks.0.q_proj', which this model does not have"):
        tnn.load(nn.Sequential(nn.Linear(6, 6)), tmp_path)
    with pytest.raises(CheckpointError, match=r"it was \(6, 6\) when saved and is \(8, 8\) here"):
        tnn.load(nn_models.Model(width=8), tmp_path)
    model = make()
    model.blocks[0].q_proj = nn.ConvTranspose1d(6, 6, 1)
    with pytest.raises(CheckpointError, match=r"is a ConvTranspose1d, which cannot be adapted"):
        tnn.load(model, tmp_path)
    model = make()
    model.blocks[0].q_proj = nn.Linear(6, 6, bias=False)
    with pytest.raises(CheckpointError, match="a bias in one of the two"):
        tnn.load(model, tmp_path)
    with torch.device("meta"):
        meta = nn_models.Model()
    with pytest.raises(StateError, match="meta device"):
        tnn.load(meta, tmp_path)


# --- writing ------------------------------------------------------------------------------


def test_values_that_are_not_finite_are_not_saved_and_the_old_checkpoint_survives(tmp_path):
    model = adapted()
    tnn.save(model, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with torch.no_grad():
        model.blocks[0].q_proj.leaf_tensors("default")["B"][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"1 of 12 values of 'blocks.0.q_proj:B'"):
        tnn.save(model, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_while_renaming_keeps_the_old_checkpoint(tmp_path, monkeypatch, failing):
    tnn.save(adapted(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    genuine, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        genuine(source, target)

    monkeypatch.setattr(documents.os, "replace", replace)
    with pytest.raises(CheckpointError, match=r"No space left(.|\n)*What was there is unchanged"):
        tnn.save(shuffle(adapted(), 9), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_process_that_dies_between_the_renames_loses_nothing(tmp_path):
    model, x = adapted(), inputs(5, 6)
    tnn.save(model, tmp_path / "a")
    tnn.save(shuffle(adapted(), 9), tmp_path / "b")
    os.replace(tmp_path / "a" / "adapter.safetensors", tmp_path / "a" / documents.PREVIOUS)
    shutil.copy(tmp_path / "b" / "adapter.safetensors", tmp_path / "a")
    assert torch.equal(tnn.load(make(), tmp_path / "a")(x), model(x))
    tnn.save(model, tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == ["adapter.json", "adapter.safetensors"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="The system refused"):
        tnn.save(adapted(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_adapter_belongs_to_the_module_it_was_laid_on(tmp_path):
    model = make()
    tnn.adapt(model.blocks, zoo.lora(rank=2), where="*q_proj")
    with pytest.raises(StateError, match=r"laid on the submodule 'blocks'(.|\n)*model.blocks"):
        tnn.save(model, tmp_path)
    tnn.save(model.blocks, tmp_path)
    fresh = make()
    tnn.load(fresh.blocks, tmp_path)
    assert isinstance(fresh.blocks[0].q_proj, tnn.Adapted)


def test_every_error_of_a_checkpoint_is_one_of_ours():
    assert issubclass(CheckpointError, TensorAdaptError)
