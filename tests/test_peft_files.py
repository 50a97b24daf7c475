"""Folders that PEFT wrote: the same outputs here, and the same bytes when written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import CheckpointError, TensorAdaptError
from tensoradapt.integrations import peft as folders

peft = pytest.importorskip("peft", reason="the extra hf is not installed")

from tests.peft_adapters import CASES, PICTURES, Net, Pictures, write  # noqa: E402

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def inputs() -> torch.Tensor:
    return torch.randn(7, 16, generator=torch.Generator().manual_seed(2))


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def contents(folder: Path) -> tuple[dict[str, object], dict[str, tuple[object, ...]]]:
    tensors = load_file(folder / TENSORS)
    return json.loads((folder / CONFIG).read_text()), {
        name: (t.dtype, tuple(t.shape), t.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_and_the_round_trip_keeps_every_byte(case, tmp_path):
    theirs = write(case, tmp_path / "theirs")
    model = Net()
    plain = model(inputs()).detach()
    folders.load(model, tmp_path / "theirs")
    model.eval()
    with torch.no_grad():
        got, expected = model(inputs()), theirs(inputs())
    assert (expected - plain).abs().max() > 1e-3, "the update is zero"
    close(got, expected)
    folders.save(model, tmp_path / "ours")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


@pytest.mark.parametrize("case", PICTURES)
def test_convolutions_and_embeddings_equal_peft(case, tmp_path):
    theirs = write(case, tmp_path / "theirs", pictures=True)
    model, tokens = Pictures().eval(), torch.arange(8).reshape(2, 4)
    plain = model(tokens).detach()
    folders.load(model, tmp_path / "theirs")
    with torch.no_grad():
        got, expected = model(tokens), theirs(tokens)
    assert (expected - plain).abs().max() > 1e-3, "the update is zero"
    close(got, expected)
    folders.save(model, tmp_path / "ours")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


# --- through the door of tensoradapt.nn, and out again ------------------------------------


def test_nn_load_finds_the_reader_and_its_own_checkpoint_keeps_the_configuration(tmp_path):
    theirs = write("dora_patterns", tmp_path / "theirs")
    model = tnn.load(Net(), tmp_path / "theirs")
    tnn.save(model, tmp_path / "native")
    again = tnn.load(Net(), tmp_path / "native").eval()
    close(again(inputs()).detach(), theirs(inputs()).detach())
    folders.save(again, tmp_path / "ours")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


def test_frozen_factors_of_all_layers_are_stored_once(tmp_path):
    write("vera", tmp_path)
    model = folders.load(Net(), tmp_path)
    first, second = (module.leaf_tensors("default")["A"] for _, module in tnn.sites(model))
    assert first is second and first.shape == (6, 24)
    assert all(p.shape != first.shape for p in tnn.parameters(model))


def test_half_precision_files_keep_their_type(tmp_path):
    write("lora", tmp_path / "theirs")
    path = tmp_path / "theirs" / TENSORS
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path)
    model = folders.load(Net(), tmp_path / "theirs")
    assert {p.dtype for p in tnn.parameters(model)} == {torch.bfloat16}
    folders.save(model, tmp_path / "ours")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


NATIVE = [
    zoo.lora(rank=3, alpha=5.0),
    zoo.lora(rank=4),
    zoo.lora(rank=4, alpha=6.0, use_rslora=True),
    zoo.lora(rank=4, alpha=6.0, start="pissa"),
    zoo.dora(within=zoo.lora(rank=3, alpha=5.0)),
    zoo.kasa(rank=3, alpha=5.0),
    zoo.loha(rank=3, alpha=5.0),
    zoo.lokr(rank=1, alpha=5.0, decompose_both=True, decompose_factor=8),
    zoo.hira(rank=3),
    zoo.adalora(rank=3, alpha=5.0),
    zoo.adalora(rank=3),
    zoo.oft(oft_block_size=4),
    zoo.boft(boft_block_size=4),
    zoo.hra(rank=4),
    zoo.road(group_size=4),
    zoo.ia3(),
    zoo.ia3(is_feedforward=True),
    zoo.miss(rank=4, variant="bat"),
    zoo.gralora(rank=4, hybrid_r=2),
    zoo.delora(rank=3),
    zoo.c3a(block_size=8),
    zoo.fourierft(n_frequency=12),
    zoo.waveft(n_frequency=12),
    zoo.glora(rank=3),
    zoo.beft(),
    zoo.deft(rank=4),
    zoo.deft(rank=4, alpha=3.0),
    zoo.peanut(rank=3, depth=1),
    zoo.shira(rank=2),
]


@pytest.mark.parametrize("structure", NATIVE, ids=str)
def test_peft_reads_what_was_made_here(structure, tmp_path):
    model = tnn.adapt(Net(), structure, where="up | inner.down").eval()
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for leaf in tnn.parameters(model):
            leaf.copy_(0.3 * torch.randn(leaf.shape, generator=source))
    folders.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(Net(), tmp_path).eval()
    close(theirs(inputs()).detach(), model(inputs()).detach())


def test_peft_reads_ranks_that_differ_between_layers(tmp_path):
    settings = {"inner.down": {"rank": 2, "alpha": 3.0}}
    structure = zoo.lora(rank=4, alpha=6.0)
    model = tnn.adapt(Net(), structure, where="up | inner.down", settings=settings).eval()
    with torch.no_grad():
        for leaf in tnn.parameters(model):
            leaf.normal_()
    folders.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(Net(), tmp_path).eval()
    close(theirs(inputs()).detach(), model(inputs()).detach())


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (zoo.circulant(), "no counterpart of circulant()"),
        (zoo.lora(rank=2) + zoo.lora(rank=1), "no counterpart of lora(rank=2) + lora(rank=1)"),
        (zoo.loha(rank=2, use_tanh=True), "no counterpart of loha"),
        (zoo.vera(rank=3), "different frozen"),
    ],
    ids=str,
)
def test_what_peft_has_not_is_refused_and_nothing_is_written(structure, reason, tmp_path):
    model = tnn.adapt(Net(), structure, where="up | inner.down")
    with pytest.raises(CheckpointError) as caught:
        folders.save(model, tmp_path / "new")
    assert reason in str(caught.value)
    assert not (tmp_path / "new").exists()


# --- hostile files ------------------------------------------------------------------------


def refuse(folder: Path, words: str) -> None:
    """Loading is refused in three sentences, and nothing has changed."""
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TensorAdaptError) as caught:
        folders.load(model, folder)
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    write("lora", folder)
    return json.loads((folder / CONFIG).read_text()), load_file(folder / TENSORS)


@pytest.fixture
def folder(tmp_path, saved):
    config, tensors = saved
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file(tensors, tmp_path / TENSORS)
    return tmp_path


KEY = "base_model.model.up.lora_A.weight"

WRONG_TENSORS = {
    "missing": ({KEY: None}, "no tensor 'up.lora_A.weight'"),
    "shape": ({KEY: torch.zeros(4, 15)}, "'up.lora_A.weight' is torch.float32 and (4, 15)"),
    "rank": ({KEY: torch.zeros(3, 16)}, "has floating values and (4, 16)"),
    "integers": ({KEY: torch.zeros(4, 16, dtype=torch.int64)}, "torch.int64"),
    "nan": ({KEY: torch.full((4, 16), torch.nan)}, "64 of 64 values"),
    "infinite": ({KEY: torch.full((4, 16), torch.inf)}, "are not finite"),
    "extra": ({"base_model.model.up.lora_C.weight": torch.zeros(1)}, "is none of LORA's"),
    "foreign": ({"lora_A.weight": torch.zeros(1)}, "is none of LORA's"),
    "layer": (
        {"base_model.model.upp.lora_A.weight": torch.zeros(4, 16)},
        "'upp', which this model does not have; nearest: up",
    ),
    "biases": ({"base_model.model.up.base_layer.bias": torch.zeros(24)}, "is none of LORA's"),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_wrong_tensors_are_refused(case, folder, saved):
    changes, words = WRONG_TENSORS[case]
    tensors = {k: v for k, v in (saved[1] | changes).items() if v is not None}
    save_file(tensors, folder / TENSORS)
    refuse(folder, words)


WRONG_CONFIGS = {
    "type": ({"peft_type": "PREFIX_TUNING"}, "Its peft_type is 'PREFIX_TUNING'; known here are"),
    "no type": ({"peft_type": None}, "The field 'peft_type' is 'None'"),
    "rank text": ({"r": "8"}, "The field 'r' is '8'"),
    "rank huge": ({"r": 10**9}, "largest rank"),
    "rank zero": ({"r": 0}, "rank=0 was asked for"),
    "alpha": ({"lora_alpha": float("nan")}, "The field 'lora_alpha' is 'nan'"),
    "biases": ({"bias": "all"}, "trains biases of the base model too"),
    "setting": ({"lora_bias": True}, "lora_bias=True of LORA has no counterpart here"),
    "future": ({"new_trick": {"x": 1}}, "has no counterpart here"),
    "start": ({"init_lora_weights": "loftq"}, "takes a part out of the base weight"),
    "pattern": ({"rank_pattern": {"(": 3}}, "cannot be read"),
    "pattern kind": ({"rank_pattern": [1]}, "The field 'rank_pattern'"),
    "whole": ({"modules_to_save": ["heads"]}, "'heads' whole, which this model does not have"),
    "whole missing": ({"modules_to_save": ["head"]}, "the file has no 'bias' of 'head'"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_wrong_configurations_are_refused(case, folder, saved):
    changes, words = WRONG_CONFIGS[case]
    (folder / CONFIG).write_text(json.dumps(saved[0] | changes))
    refuse(folder, words)


@pytest.mark.parametrize(("row", "column"), [(0, 16), (24, 0), (-1, 0), (0, -1)])
def test_positions_outside_of_the_weight_are_refused(row, column, tmp_path):
    write("shira", tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    tensors["base_model.model.up.shira_indices"][:, 3] = torch.tensor([row, column])
    save_file(tensors, tmp_path / TENSORS)
    refuse(tmp_path, "has 1 positions outside of the weight 24 × 16")


def test_damaged_files_are_refused(folder):
    whole = (folder / TENSORS).read_bytes()
    for length in (0, 7, 40, len(whole) - 1):
        (folder / TENSORS).write_bytes(whole[:length])
        refuse(folder, "cannot be read")
    (folder / TENSORS).unlink()
    refuse(folder, "There is no file adapter_model.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    refuse(folder, "reading that runs code")
    for text, words in {
        "{": "is not JSON",
        "[]": "is a list and no object",
        '{"r": 1, "r": 2}': "a key stands twice",
        "[" * 10**5: "adapter_config.json",
    }.items():
        (folder / CONFIG).write_text(text)
        refuse(folder, words)
    (folder / CONFIG).unlink()
    refuse(folder, "cannot be opened")


def test_values_are_given_to_an_adapter_that_is_there(folder, saved):
    model = folders.load(Net(), folder)
    tensors = {key: value + 1 for key, value in saved[1].items()}
    save_file(tensors, folder / TENSORS)
    folders.load(model, folder)
    fresh = folders.load(Net(), folder)
    assert torch.equal(model(inputs()), fresh(inputs()))
    with pytest.raises(TensorAdaptError):
        tnn.load(tnn.adapt(Net(), zoo.hira(rank=2), where="up"), folder)


class Turned(torch.nn.Module):
    """A layer whose weight is stored as ``(in, out)``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.c_fc = pytest.importorskip("transformers.pytorch_utils").Conv1D(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_fc(x)


@pytest.mark.parametrize("structure", [zoo.lora(rank=3, alpha=5.0), zoo.hira(rank=3)], ids=str)
def test_layers_of_gpt2_go_both_ways(structure, tmp_path):
    model = tnn.adapt(Turned(), structure, where="c_fc").eval()
    with torch.no_grad():
        for leaf in tnn.parameters(model):
            leaf.normal_(0, 0.3)
    folders.save(model, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["fan_in_fan_out"] is True
    theirs = peft.PeftModel.from_pretrained(Turned(), tmp_path).eval()
    close(theirs(inputs()).detach(), model(inputs()).detach())
    again = folders.load(Turned(), tmp_path).eval()
    close(again(inputs()).detach(), model(inputs()).detach())


class Tied(torch.nn.Module):
    """Layers of the names whose weights PEFT saves with an adapter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed_tokens = torch.nn.Embedding(10, 16)
        self.lm_head = torch.nn.Linear(16, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.embed_tokens(x))

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed_tokens

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head


def test_base_weights_in_the_file_must_be_the_models_and_are_written_again(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"])
    theirs = peft.get_peft_model(Tied(), config).eval()
    with torch.no_grad():
        for name, leaf in theirs.named_parameters():
            if "lora_" in name:
                leaf.normal_()
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=True)
    assert any("base_layer" in key for key in load_file(tmp_path / "theirs" / TENSORS))
    model, tokens = folders.load(Tied(), tmp_path / "theirs").eval(), torch.arange(10)
    close(model(tokens).detach(), theirs(tokens).detach())
    folders.save(model, tmp_path / "ours")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")
    other = Tied()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    with pytest.raises(CheckpointError, match="holds the base weight of 'lm_head'"):
        folders.load(other, tmp_path / "theirs")
