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

from tests.peft_cases import CASES, Net, write  # noqa: E402

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
