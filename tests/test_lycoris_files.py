"""Files that LyCORIS wrote: the same outputs here, whatever the method, the alpha and the form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tensoradapt.nn as tnn
from tensoradapt.errors import TensorAdaptError
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


def write(settings: dict[str, Any], file: Path, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A file of LyCORIS with random values in every tensor, and its own live outputs."""
    model.eval()
    torch.manual_seed(7)
    preset = {"target_module": ["Linear", "Conv2d"], "enable_conv": True}
    lycoris.LycorisNetwork.apply_preset(preset)
    sizes = {"linear_dim": 4, "linear_alpha": 7.0, "conv_dim": 3, "conv_alpha": 7.0}
    network = lycoris.create_lycoris(model, 1.0, **sizes | settings)
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
    theirs = write(CASES[case], tmp_path / "a.safetensors", Net())
    model = Net().eval()
    plain = model(inputs()).detach()
    files.load(model, tmp_path / "a.safetensors")
    with torch.no_grad():
        got, expected = model(inputs()), theirs(inputs())
    assert (expected - plain).abs().max() > 1e-3, "the update is zero"
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


KERNELS: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora"},
    "lora_tucker": {"algo": "lora", "use_tucker": True},
    "lora_dora": {"algo": "lora", "dora_wd": True},
    "loha": {"algo": "loha"},
    "loha_tucker": {"algo": "loha", "use_tucker": True},
    "loha_tucker_dora": {"algo": "loha", "use_tucker": True, "dora_wd": True},
    "lokr": {"algo": "lokr", "conv_dim": 1},
    "lokr_dense": {"algo": "lokr", "conv_dim": 9},
    "lokr_tucker": {"algo": "lokr", "conv_dim": 1, "use_tucker": True},
    "lokr_tucker_dora": {"algo": "lokr", "conv_dim": 1, "use_tucker": True, "dora_wd": True},
    "oft": {"algo": "diag-oft", "rescaled": True},
    "boft": {"algo": "boft", "conv_dim": 8},
    "glora": {"algo": "glora"},
}


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(10, 24, (3, 2), stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("case", KERNELS)
def test_convolutions_equal_the_live_ones(case, tmp_path):
    theirs = write(KERNELS[case], tmp_path / "a.safetensors", Pictures())
    model = files.load(Pictures().eval(), tmp_path / "a.safetensors")
    x = torch.randn(2, 10, 7, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got, expected = model(x), theirs(x)
        plain = Pictures()(x)
    assert (expected - plain).abs().max() > 1e-3, "the update is zero"
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5 * float(expected.abs().max()))


def test_norms_carry_a_gradient_as_in_lycoris(tmp_path):
    """PEFT holds them; an output does not tell the two apart."""
    write(CASES["lora_dora"], tmp_path / "a.safetensors", Net())
    model = files.load(Net(), tmp_path / "a.safetensors")
    for _, module in tnn.sites(model):
        assert "detach_norm=False" in module.adapters["default"].text


def test_the_cases_have_the_forms_they_are_named_for(tmp_path):
    marks = {"dora": "dora_scale", "tucker": "_t2|_mid|_t1", "rescaled": "rescale"}
    for cases, model in ((CASES, Net), (KERNELS, Pictures)):
        for case, settings in cases.items():
            write(settings, tmp_path / "a.safetensors", model())
            names = list(load_file(tmp_path / "a.safetensors"))
            for word, keys in marks.items():
                if word in case:
                    assert any(key in name for name in names for key in keys.split("|")), case


# --- names, prefixes, alphas --------------------------------------------------------------


def tensors(head: str, rank: int = 2, shape: tuple[int, int] = (24, 16)) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    return {
        f"{head}.lora_up.weight": torch.randn(shape[0], rank, generator=source),
        f"{head}.lora_down.weight": torch.randn(rank, shape[1], generator=source),
        f"{head}.alpha": torch.tensor(5.0),
    }


@pytest.mark.parametrize(
    "head", ["lycoris_up_proj", "lora_unet_up_proj", "up_proj", "lora_up_proj"]
)
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_usual_prefixes_and_kernels_of_one_are_read(head, kernel, tmp_path):
    saved = tensors(head)
    B, A = saved[f"{head}.lora_up.weight"], saved[f"{head}.lora_down.weight"]
    file = tmp_path / "a.safetensors"
    save_file({k: v.reshape(*v.shape, *kernel) if v.ndim else v for k, v in saved.items()}, file)
    model = tnn.load(Net(), file)
    (_, module), *_ = tnn.sites(model)
    torch.testing.assert_close(tnn.delta_weight(module).detach(), 2.5 * B @ A)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (0.0, 1.0), (1.0, 0.5), (0.1, 0.05)])
def test_the_scale_is_the_stored_alpha_over_the_rank(alpha, scale, tmp_path):
    saved = tensors("lycoris_up_proj")
    del saved["lycoris_up_proj.alpha"]
    if alpha is not None:
        saved["lycoris_up_proj.alpha"] = torch.tensor(alpha)
    save_file(saved, tmp_path / "a.safetensors")
    (_, module), *_ = tnn.sites(files.load(Net(), tmp_path / "a.safetensors"))
    B, A = (saved[f"lycoris_up_proj.lora_{x}.weight"] for x in ("up", "down"))
    torch.testing.assert_close(tnn.delta_weight(module).detach(), scale * B @ A)


def test_a_prefix_chooses_among_the_models_of_one_file(tmp_path):
    save_file(tensors("lora_unet_up_proj") | tensors("lora_te_other"), tmp_path / "a.safetensors")
    refuse(tmp_path / "a.safetensors", "'lora_te_other', which no path of this model gives")
    model = files.load(Net(), tmp_path / "a.safetensors", prefix="lora_unet")
    assert [path for path, _ in tnn.sites(model)] == ["up_proj"]
    refuse(tmp_path / "a.safetensors", "no tensor of the prefix", prefix="lora_x")


class Twins(nn.Module):
    """Two paths that are one with underscores for dots."""

    def __init__(self) -> None:
        super().__init__()
        self.a_b = nn.Linear(16, 24)
        self.a = nn.ModuleDict({"b": nn.Linear(16, 24)})


def test_a_name_that_may_be_two_layers_is_refused(tmp_path):
    save_file(tensors("lycoris_a_b"), tmp_path / "a.safetensors")
    refuse(tmp_path / "a.safetensors", "may be any of a_b, a.b", model=Twins())


def refuse(file: Path, words: str, model: nn.Module | None = None, **options: Any) -> None:
    model = Net() if model is None else model
    before = str(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(TensorAdaptError) as caught:
        files.load(model, file, **options)
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    assert (str(model), [p.requires_grad for p in model.parameters()]) == before


WRONG = {
    "missing": ({"lycoris_up_proj.lora_down.weight": None}, "no tensor 'up_proj.lora_down.weight'"),
    "shape": ({"lycoris_up_proj.lora_up.weight": torch.zeros(23, 2)}, "(23, 2)"),
    "shape of equal size": (
        {"lycoris_up_proj.lora_down.weight": torch.zeros(2, 4, 4)},
        "(2, 4, 4)",
    ),
    "nan": ({"lycoris_up_proj.lora_up.weight": torch.full((24, 2), torch.nan)}, "not finite"),
    "alphas": ({"lycoris_up_proj.alpha": torch.ones(2)}, "has 2 values"),
    "only alpha": ({"lycoris_inner_down_proj.alpha": torch.ones(())}, "has only alpha, no method"),
    "other": ({"lycoris_up_proj.hada_w1_a": torch.ones(24, 2)}, "has 'hada_w1_a' beside"),
    "unknown": ({"lycoris_up_proj.magic": torch.ones(1)}, "none of LyCORIS'"),
    "norms of inputs": ({"lycoris_up_proj.dora_scale": torch.ones(1, 16)}, "norms of 16 inputs"),
    "integers": (
        {"lycoris_up_proj.lora_up.weight": torch.ones(24, 2, dtype=torch.int32)},
        "torch.int32",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_and_nothing_changes(case, tmp_path):
    changes, words = WRONG[case]
    saved = {k: v for k, v in (tensors("lycoris_up_proj") | changes).items() if v is not None}
    save_file(saved, tmp_path / "a.safetensors")
    refuse(tmp_path / "a.safetensors", words)


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(tensors("lycoris_up_proj"), file)
    whole = file.read_bytes()
    for length in (0, 20, len(whole) - 3):
        file.write_bytes(whole[:length])
        refuse(file, "cannot be read")
    file.unlink()
    refuse(file, "There is no file")
