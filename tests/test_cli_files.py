"""The commands inspect and convert: what they say of files, and what they write."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.cli.app import app

peft = pytest.importorskip("peft", reason="the extra hf is not installed")

from tests.peft_adapters import Net, write  # noqa: E402

TENSORS = "adapter_model.safetensors"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], terminal_width=160)


@pytest.fixture
def base(tmp_path):
    save_file(Net().state_dict(), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def inputs() -> torch.Tensor:
    return torch.randn(7, 16, generator=torch.Generator().manual_seed(2))


def inspected(*arguments: object):
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["layers"]


def test_inspect_says_rank_scale_and_norms(tmp_path, base):
    write("rslora", tmp_path / "a")
    first, second = inspected(tmp_path / "a")
    assert first["relative"] is None and first["norm"] > 0
    assert [one["path"] for one in (first, second)] == ["inner.down", "up"]
    _, up = inspected(tmp_path / "a", "--base", base)
    assert up["path"] == "up" and up["rank"] == up["bound"] == 4 and up["scale"] == 5.0
    tensors = load_file(tmp_path / "a" / TENSORS)
    B, A = (tensors[f"base_model.model.up.lora_{x}.weight"].double() for x in "BA")
    S = torch.linalg.svdvals(5 * B @ A)
    assert up["parameters"] == B.numel() + A.numel()
    assert up["norm"] == pytest.approx(float(S.norm()), rel=1e-5)
    assert up["relative"] == pytest.approx(float(S.norm() / Net().up.weight.norm()), rel=1e-5)
    assert up["stable_rank"] == pytest.approx(float((S.norm() / S[0]) ** 2), rel=1e-5)
    text = run("inspect", tmp_path / "a", "--base", base)
    assert text.exit_code == 0 and "lora(" in text.stdout and "all values are finite" in text.stdout


def test_inspect_reads_our_own_checkpoints_embeddings_and_lycoris(tmp_path, base):
    model = tnn.adapt(Net(), zoo.hira(rank=2), where="up")
    tnn.save(model, tmp_path / "own")
    (one,) = inspected(tmp_path / "own")
    assert one["method"] == "hira(rank=2)" and one["norm"] is None and one["scale"] is None
    (one,) = inspected(tmp_path / "own", "--base", base)
    assert one["norm"] == 0.0
    write("lora", tmp_path / "pictures", pictures=True)
    table = {one["path"]: one for one in inspected(tmp_path / "pictures")}["table"]
    assert table["parameters"] == 4 * (10 + 6)
    save_file(
        {
            "lycoris_up.lora_up.weight": torch.ones(24, 2),
            "lycoris_up.lora_down.weight": torch.ones(2, 16),
            "lycoris_up.alpha": torch.tensor(1.0),
        },
        tmp_path / "k.safetensors",
    )
    assert inspected(tmp_path / "k.safetensors")[0]["scale"] == 0.5
    assert inspected(tmp_path / "k.safetensors", "--base", base)[0]["path"] == "up"


def test_inspect_counts_what_is_not_finite(tmp_path):
    write("lora", tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    tensors["base_model.model.up.lora_A.weight"][0, :3] = torch.nan
    save_file(tensors, tmp_path / TENSORS)
    result = run("inspect", tmp_path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["not_finite"]
    assert found == {"base_model.model.up.lora_A.weight": 3}
    assert run("inspect", tmp_path).exit_code == 1


@pytest.mark.parametrize("case", ["loha", "dora", "vera", "fourierft"])
def test_convert_writes_a_lora_that_peft_runs(case, tmp_path, base):
    theirs = write(case, tmp_path / "a")
    result = run(
        *("convert", tmp_path / "a", tmp_path / "b", "--base", base),
        *("--tolerance", "1e-7", "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["lora"]["error"] < 1e-6
    converted = peft.PeftModel.from_pretrained(Net(), tmp_path / "b").eval()
    torch.testing.assert_close(converted(inputs()), theirs(inputs()), rtol=1e-4, atol=1e-5)


def test_convert_prints_the_error_and_goes_between_our_files_and_peft(tmp_path, base):
    theirs = write("hira", tmp_path / "a")
    result = run("convert", tmp_path / "a", tmp_path / "b", "--base", base, "--rank", 1)
    assert result.exit_code == 0 and "error of all" in result.stdout
    for target, source, output in (("tensoradapt", "a", "own"), ("peft", "own", "c")):
        result = run(
            "convert", tmp_path / source, tmp_path / output, "--to", target, "--base", base
        )
        assert result.exit_code == 0 and "nothing lost" in result.stdout, result.output
    model = tnn.load(Net(), tmp_path / "own").eval()
    torch.testing.assert_close(model(inputs()), theirs(inputs()), rtol=1e-5, atol=1e-6)
    for name in (TENSORS, "adapter_config.json"):
        read = load_file if name == TENSORS else lambda path: json.loads(path.read_text())
        one, other = read(tmp_path / "a" / name), read(tmp_path / "c" / name)
        assert one.keys() == other.keys()
        assert all(
            torch.equal(v, other[k]) if name == TENSORS else v == other[k] for k, v in one.items()
        )


@pytest.mark.parametrize(
    ("case", "arguments", "words"),
    [
        ("hira", [], "reads W0"),
        ("fourierft", [], "do not say the shapes"),
        ("lora", ["--to", "gguf"], "The kinds are lora, peft, tensoradapt"),
        ("lora", ["--to", "tensoradapt"], "holds a digest of every W0"),
        ("lora", ["--tolerance", "2"], "below 1"),
    ],
)
def test_conversions_that_cannot_be_are_refused_in_sentences(case, arguments, words, tmp_path):
    write(case, tmp_path / "a")
    result = run("convert", tmp_path / "a", tmp_path / "b", *arguments)
    assert result.exit_code == 2 and words in result.stderr
    assert not (tmp_path / "b").exists() and len(result.stderr.strip().splitlines()) == 3


def test_files_that_are_not_there_are_refused(tmp_path):
    for arguments in (["inspect"], ["convert"]):
        paths = [tmp_path / "none"] + [tmp_path / "out"] * (arguments == ["convert"])
        result = run(*arguments, *paths)
        assert result.exit_code == 2 and "no such file" in result.stderr
