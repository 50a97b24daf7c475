"""PEFT's configurations that the zoo has too, and a small model to lay them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora.config import BdLoraConfig
from torch import Tensor, nn

TARGET = {"target_modules": ["up", "inner.down"]}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x)


class Net(nn.Module):
    """Two layers of different shapes that are adapted, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.up = nn.Linear(16, 24)
        self.inner = Inner()
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.up(x)))))


class Pictures(nn.Module):
    """An embedding, and convolutions of one and two axes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(10, 6)
        self.line = nn.Conv1d(6, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 8, (3, 2), stride=2)
        self.square = nn.Conv2d(8, 4, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.tanh(self.line(self.table(x).mT))
        return self.square(self.conv(rows.unsqueeze(-1) * rows.unsqueeze(-2)))


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 10} | settings, **TARGET)


def lokr(**settings: Any) -> Any:
    return peft.LoKrConfig(**{"alpha": 7} | settings, **TARGET)


PATTERNS = {"rank_pattern": {"down": 2}, "alpha_pattern": {"inner.down": 3}}
BLOCKS = {"target_modules_bd_a": ["up"], "target_modules_bd_b": ["down"], "nblocks": 2}

CASES: dict[str, Callable[[], Any]] = {
    "lora": lora,
    "lora_patterns": lambda: lora(**PATTERNS),
    "rslora": lambda: lora(use_rslora=True),
    "lora_gaussian": lambda: lora(init_lora_weights="gaussian"),
    "lora_orthogonal": lambda: lora(init_lora_weights="orthogonal"),
    "lora_mica": lambda: lora(init_lora_weights="mica"),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "olora": lambda: lora(init_lora_weights="olora"),
    "dora": lambda: lora(use_dora=True),
    "dora_patterns": lambda: lora(use_dora=True, use_rslora=True, **PATTERNS),
    "kasa": lambda: lora(kasa_config=peft.KasaConfig()),
    "bd_lora": lambda: lora(use_bdlora=BdLoraConfig(**BLOCKS)),
    "with_head": lambda: lora(modules_to_save=["head"]),
    "loha": lambda: peft.LoHaConfig(r=3, alpha=7, **TARGET),
    "loha_patterns": lambda: peft.LoHaConfig(r=3, alpha=7, **PATTERNS, **TARGET),
    "lokr": lambda: lokr(r=1),
    "lokr_dense": lambda: lokr(r=9),
    "lokr_both": lambda: lokr(r=1, decompose_both=True, decompose_factor=8),
    "hira": lambda: peft.HiraConfig(r=4, rank_pattern={"up": 2}, **TARGET),
    "adalora": lambda: peft.AdaLoraConfig(init_r=4, lora_alpha=10, total_step=10, **TARGET),
    "vera": lambda: peft.VeraConfig(r=6, **TARGET),
    "vera_seeded": lambda: peft.VeraConfig(
        r=6, save_projection=False, projection_prng_key=11, **TARGET
    ),
    "pvera": lambda: peft.PveraConfig(r=6, **TARGET),
    "pvera_seeded": lambda: peft.PveraConfig(
        r=6, save_projection=False, projection_prng_key=11, **TARGET
    ),
    "randlora": lambda: peft.RandLoraConfig(r=3, randlora_alpha=7, **TARGET),
    "randlora_seeded": lambda: peft.RandLoraConfig(
        r=3, randlora_alpha=7, save_projection=False, projection_prng_key=11, **TARGET
    ),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, **TARGET),
    "oft_count": lambda: peft.OFTConfig(r=4, oft_block_size=0, **TARGET),
    "oft_cayley": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=False, block_share=True, **TARGET
    ),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, **TARGET),
    "boft_count": lambda: peft.BOFTConfig(boft_block_num=4, boft_block_size=0, **TARGET),
    "hra": lambda: peft.HRAConfig(r=4, **TARGET),
    "hra_orthogonal": lambda: peft.HRAConfig(r=3, apply_GS=True, **TARGET),
    "psoft": lambda: peft.PsoftConfig(r=4, **TARGET),
    "psoft_free": lambda: peft.PsoftConfig(r=4, psoft_orth=False, psoft_mag_a=False, **TARGET),
    "road": lambda: peft.RoadConfig(variant="road_1", group_size=4, **TARGET),
    "road_4": lambda: peft.RoadConfig(variant="road_4", group_size=8, **TARGET),
    "ia3": lambda: peft.IA3Config(feedforward_modules=["inner.down"], **TARGET),
    "miss": lambda: peft.MissConfig(r=5, **TARGET),
    "miss_mini": lambda: peft.MissConfig(r=4, init_weights="mini", mini_r=4, **TARGET),
    "miss_bat": lambda: peft.MissConfig(r=4, init_weights="bat", **TARGET),
    "gralora": lambda: peft.GraloraConfig(r=4, alpha=10, **TARGET),
    "gralora_hybrid": lambda: peft.GraloraConfig(r=4, alpha=10, hybrid_r=2, **TARGET),
    "delora": lambda: peft.DeloraConfig(r=4, rank_pattern={"up": 2}, **TARGET),
    "fourierft": lambda: peft.FourierFTConfig(
        n_frequency=20, n_frequency_pattern={"up": 9}, scaling=30.0, **TARGET
    ),
    "waveft": lambda: peft.WaveFTConfig(n_frequency=20, wavelet_family="db1", **TARGET),
    "waveft_sparse": lambda: peft.WaveFTConfig(
        n_frequency=20, use_idwt=False, wavelet_family="db1", **TARGET
    ),
    "glora": lambda: peft.GloraConfig(r=4, **TARGET),
    "glora_vectors": lambda: peft.GloraConfig(
        r=4, config_A_B="vector", config_C="vector", config_D_E="vector", **TARGET
    ),
    "glora_numbers": lambda: peft.GloraConfig(
        r=4, config_A_B="constant", config_C="none", config_D_E="constant", **TARGET
    ),
    "deft": lambda: peft.DeftConfig(r=4, **TARGET),
    "deft_removing": lambda: peft.DeftConfig(r=4, para=True, **TARGET),
    "deft_alpha": lambda: peft.DeftConfig(r=4, alpha=7, **TARGET),
    "peanut": lambda: peft.PeanutConfig(r=4, scaling=0.5, **TARGET),
    "peanut_deep": lambda: peft.PeanutConfig(r=4, depth=2, act_fn="tanh", **TARGET),
    "supertuning": lambda: peft.SupertuningConfig(sparsity=0.9, **TARGET),
    "beft": lambda: peft.BeftConfig(**TARGET),
    "shira": lambda: peft.ShiraConfig(r=2, random_seed=3, **TARGET),
    "c3a": lambda: peft.C3AConfig(block_size=8, block_size_pattern={"up": 4}, **TARGET),
}


CONVOLUTION = {"target_modules": ["conv", "line"]}
EVERY = {"target_modules": ["table", "conv", "line"]}
PICTURES: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=10, **EVERY),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=10, use_dora=True, **CONVOLUTION),
    "hira": lambda: peft.HiraConfig(r=4, **EVERY),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=7, **CONVOLUTION),
    "loha_tucker": lambda: peft.LoHaConfig(
        r=2, alpha=7, use_effective_conv2d=True, target_modules=["conv"]
    ),
    "lokr": lambda: peft.LoKrConfig(r=1, alpha=7, target_modules=["conv"]),
    "lokr_tucker": lambda: peft.LoKrConfig(
        r=1, alpha=7, use_effective_conv2d=True, target_modules=["conv"]
    ),
    "lokr_dense": lambda: peft.LoKrConfig(r=9, alpha=7, target_modules=["conv"]),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=["square"]),
    "ia3": lambda: peft.IA3Config(feedforward_modules=[], target_modules=["conv"]),
    "ia3_inputs": lambda: peft.IA3Config(feedforward_modules=["conv"], target_modules=["conv"]),
}


def write(case: str, folder: Path, pictures: bool = False) -> Callable[[Tensor], Tensor]:
    """Save an adapter of PEFT with random values in every tensor; return PEFT's own outputs.

    The model is loaded again by PEFT, so that what it regenerates is what a user would get.
    """
    torch.manual_seed(7)
    make, config = (Pictures, PICTURES[case]) if pictures else (Net, CASES[case])
    model = peft.get_peft_model(make(), config())
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            trains = "base_layer" not in name and "original_module" not in name
            if trains and (leaf.requires_grad or "lora_" in name):
                leaf.copy_(0.3 * torch.randn(leaf.shape, generator=source))
        for buffers in {
            id(b): b
            for n, b in model.named_buffers()
            if n.rpartition(".")[0].endswith(("_A", "_B"))
        }.values():
            if not case.endswith("seeded") and "psoft" not in case:
                buffers.copy_(0.3 * torch.randn(buffers.shape, generator=source))
    model.save_pretrained(folder)
    again = peft.PeftModel.from_pretrained(make(), folder).eval()
    return lambda x: again(x)
