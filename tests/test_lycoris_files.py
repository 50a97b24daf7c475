"""Files that LyCORIS wrote: the same outputs here, whatever the method, the alpha and the form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tensoradapt.integrations import lycoris as files

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lycoris = pytest.importorskip("lycoris", reason="the extra dev is not installed")


class Inner(nn.Module):
    """A path with a dot and names with underscores."""

    def __init__(self) -> None:
        super().__init__()
        self.down_proj = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.up_proj = nn.Linear(16, 24)
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(self.up_proj(x)))


CASES: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora"},
    "lora_root": {"algo": "lora", "rs_lora": True},
    "lora_dora": {"algo": "lora", "dora_wd": True},
    "loha": {"algo": "loha"},
    "loha_root": {"algo": "loha", "rs_lora": True},
    "loha_dora": {"algo": "loha", "dora_wd": True},
    "lokr": {"algo": "lokr", "linear_dim": 1},
    "lokr_dense": {"algo": "lokr", "linear_dim": 9},
    "lokr_full": {"algo": "lokr", "full_matrix": True},
    "lokr_factor": {"algo": "lokr", "factor": 4, "linear_dim": 1},
    "lokr_both": {"algo": "lokr", "linear_dim": 1, "decompose_both": True, "factor": 8},
    "lokr_swapped": {"algo": "lokr", "linear_dim": 1, "unbalanced_factorization": True},
    "lokr_dora": {"algo": "lokr", "linear_dim": 1, "dora_wd": True},
    "oft": {"algo": "diag-oft"},
    "oft_rescaled": {"algo": "diag-oft", "rescaled": True},
    "oft_constrained": {"algo": "diag-oft", "constraint": 0.05},
    "boft": {"algo": "boft", "linear_dim": 8},
    "boft_rescaled": {"algo": "boft", "linear_dim": 8, "rescaled": True},
    "glora": {"algo": "glora"},
}


def write(case: str, file: Path) -> Callable[[Tensor], Tensor]:
    """A file of LyCORIS with random values in every tensor, and its own live outputs."""
    model = Net().eval()
    torch.manual_seed(7)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear"]})
    settings = {"linear_dim": 4, "linear_alpha": 7.0} | CASES[case]
    network = lycoris.create_lycoris(model, 1.0, **settings)
    network.apply_to()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in network.parameters():
            leaf.copy_(0.3 * torch.randn(leaf.shape, generator=source))
    network.eval()
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    return lambda x: model(x)


def inputs() -> Tensor:
    return torch.randn(7, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_live_ones(case, tmp_path):
    theirs = write(case, tmp_path / "a.safetensors")
    model = Net().eval()
    plain = model(inputs()).detach()
    files.load(model, tmp_path / "a.safetensors")
    with torch.no_grad():
        got, expected = model(inputs()), theirs(inputs())
    assert (expected - plain).abs().max() > 1e-3, "the update is zero"
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
