"""The table of PEFT's methods that are the zoo's: configuration, tensors by our names, shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import peft
import torch
from peft.tuners.lora.config import BdLoraConfig

from tensoradapt import zoo
from tensoradapt.structure import Structure
from tests.foreign import tensors

TARGET = {"target_modules": ["site"]}
SHAPES = ((24, 16), (16, 24), (7, 13))
EVEN = ((24, 16), (16, 24), (12, 12))


@dataclass(frozen=True)
class Case:
    """A structure, the PEFT configuration that is the same method, and its tensors by our names."""

    structure: Structure
    config: Callable[[], Any]
    keys: Mapping[str, str]
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    factors: Mapping[str, float] = field(default_factory=dict)
    rtol: float = 1e-10
    check_input: bool = True

    def __str__(self) -> str:
        return str(self.structure)

    def tensors(self, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Its tensors by our names; ``factors`` are what ours carry and theirs do not."""
        found = tensors(layer, self.keys)
        return found | {name: found[name] * f for name, f in self.factors.items()}


LORA = {"B": "lora_B", "A": "lora_A"}

RANDLORA = {
    **{"B": "randlora_B", "A": "randlora_A"},
    **{"lambda": "randlora_lambda", "gamma": "randlora_gamma"},
}
PVERA = {"B": "pvera_B", "A": "pvera_A", "b": "pvera_lambda_b", "d": "pvera_lambda_d"}
PSOFT = {
    **{"R": "psoft_R", "beta": "psoft_R.default.vector_b", "alpha": "psoft_R.default.vector_a"},
    **{"B": "_psoft_B_cache", "A": "_psoft_A_cache"},
}
ADALORA = {"B": "lora_B", "E": "lora_E", "A": "lora_A"}

CASES = [
    Case(
        zoo.lora(rank=4, alpha=10, start="gaussian"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="gaussian", **TARGET),
        LORA,
    ),
    Case(
        zoo.lora(rank=4, alpha=10, start="orthogonal"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="orthogonal", **TARGET),
        LORA,
    ),
    Case(
        zoo.lora(rank=4, alpha=10, start="mica"),
        lambda: peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights="mica", **TARGET),
        LORA,
    ),
    Case(
        zoo.kasa(rank=3, alpha=7, truncate_base=False),
        lambda: peft.LoraConfig(r=3, lora_alpha=7, kasa_config=peft.KasaConfig(), **TARGET),
        LORA | {"d": "lora_diag"},
    ),
    Case(
        zoo.adalora(rank=4, alpha=10),
        lambda: peft.AdaLoraConfig(init_r=4, lora_alpha=10, total_step=10, **TARGET),
        ADALORA,
        (*SHAPES, (12, 10, 3, 2)),
    ),
    Case(zoo.pvera(rank=6), lambda: peft.PveraConfig(r=6, **TARGET), PVERA),
    Case(
        zoo.randlora(rank=3, alpha=7),
        lambda: peft.RandLoraConfig(r=3, randlora_alpha=7, **TARGET),
        RANDLORA,
        (*SHAPES, (12, 12)),
    ),
    Case(
        zoo.gralora(rank=4, alpha=10),
        lambda: peft.GraloraConfig(r=4, alpha=10, **TARGET),
        {"B": "gralora_B", "A": "gralora_A"},
        EVEN,
    ),
    Case(
        zoo.gralora(rank=6, alpha=10, gralora_k=3, hybrid_r=2),
        lambda: peft.GraloraConfig(r=6, alpha=10, gralora_k=3, hybrid_r=2, **TARGET),
        {
            **{"B": "gralora_B", "A": "gralora_A"},
            **{"B_general": "gralora_B_general", "A_general": "gralora_A_general"},
        },
        ((24, 15), (12, 18)),
    ),
    *(
        Case(
            zoo.bd_lora(rank=4, alpha=10, nblocks=2, block_diagonal=side),
            lambda side=side: peft.LoraConfig(
                r=4,
                lora_alpha=10,
                use_bdlora=BdLoraConfig(**{f"target_modules_bd_{side}": ["site"]}, nblocks=2),
                **TARGET,
            ),
            LORA,
            EVEN,
        )
        for side in ("a", "b")
    ),
    *(
        Case(
            zoo.miss(rank=r, **({} if kind is True else {"variant": kind, "mini_r": 4})),
            lambda r=r, kind=kind: peft.MissConfig(r=r, init_weights=kind, mini_r=4, **TARGET),
            {"M": "miss_block"},
            shapes,
        )
        for r, kind, shapes in ((5, True, SHAPES), (3, "mini", EVEN), (4, "bat", EVEN))
    ),
    Case(
        zoo.oft(oft_block_size=4),
        lambda: peft.OFTConfig(r=0, oft_block_size=4, **TARGET),
        {"R": "oft_R"},
        EVEN,
    ),
    Case(
        zoo.oft(oft_block_size=4, use_cayley_neumann=False),
        lambda: peft.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, **TARGET),
        {"R": "oft_R"},
        EVEN,
    ),
    *(
        Case(
            zoo.oft(oft_block_size=4, block_share=True, num_cayley_neumann_terms=terms),
            lambda terms=terms: peft.OFTConfig(
                r=0,
                oft_block_size=4,
                block_share=True,
                num_cayley_neumann_terms=terms,
                **TARGET,
            ),
            {"R": "oft_R"},
            EVEN,
        )
        for terms in (2, 3, 4, 7)
    ),
    Case(
        zoo.boft(boft_block_size=4),
        lambda: peft.BOFTConfig(boft_block_size=4, **TARGET),
        {"R": "boft_R", "s": "boft_s"},
        (*EVEN, (12, 10, 2, 2)),
    ),
    Case(
        zoo.hra(rank=4),
        lambda: peft.HRAConfig(r=4, **TARGET),
        {"u": "hra_u"},
        (*SHAPES, (6, 5, 3, 3)),
    ),
    Case(zoo.hra(rank=3), lambda: peft.HRAConfig(r=3, **TARGET), {"u": "hra_u"}),
    Case(
        zoo.hra(rank=3, apply_GS=True),
        lambda: peft.HRAConfig(r=3, apply_GS=True, **TARGET),
        {"u": "hra_u"},
    ),
    *(
        Case(
            zoo.psoft(rank=4, **settings),
            lambda settings=settings: peft.PsoftConfig(r=4, psoft_alpha=10, **settings, **TARGET),
            PSOFT,
            factors={"B": 10 / 4},
        )
        for settings in (
            {},
            {"psoft_orth": False, "psoft_mag_a": False},
            {"use_cayley_neumann": True, "cayley_neumann_eps": 0.9},
        )
    ),
    *(
        Case(
            zoo.road(variant=variant, group_size=4),
            lambda variant=variant: peft.RoadConfig(variant=variant, group_size=4, **TARGET),
            {"theta": "road_theta", "alpha": "road_alpha"},
            EVEN,
        )
        for variant in ("road_1", "road_2", "road_4")
    ),
    Case(
        zoo.fourierft(n_frequency=20),
        lambda: peft.FourierFTConfig(n_frequency=20, **TARGET),
        {"c": "fourierft_spectrum"},
        rtol=1e-5,  # its transform is in float32
    ),
    Case(
        zoo.waveft(n_frequency=40),
        lambda: peft.WaveFTConfig(n_frequency=40, wavelet_family="db1", **TARGET),
        {"c": "waveft_spectrum"},
    ),
    Case(
        zoo.waveft(n_frequency=40, use_idwt=False, start="normal"),
        lambda: peft.WaveFTConfig(
            n_frequency=40, use_idwt=False, wavelet_family="db1", init_weights=False, **TARGET
        ),
        {"c": "waveft_spectrum"},
    ),
    Case(
        zoo.c3a(block_size=4),
        lambda: peft.C3AConfig(block_size=4, **TARGET),
        {"w": "c3a_kernel"},
        EVEN,
        rtol=1e-5,  # its transform is in float32
        check_input=False,
    ),
    Case(
        zoo.ia3(),
        lambda: peft.IA3Config(feedforward_modules=[], **TARGET),
        {"l": "ia3_l"},
        (*SHAPES, (12, 10, 3, 2)),
    ),
    Case(
        zoo.ia3(is_feedforward=True),
        lambda: peft.IA3Config(feedforward_modules=["site"], **TARGET),
        {"l": "ia3_l"},
        (*SHAPES, (12, 10, 3, 2)),
    ),
    Case(
        zoo.delora(rank=4),
        lambda: peft.DeloraConfig(r=4, **TARGET),
        {"B": "delora_B", "A": "delora_A", "lambda": "delora_lambda", "w_norm": "delora_w_norm"},
    ),
]

GLORA_D_E = {"D": "glora_D.default.X", "E": "glora_E.default.X"}
GLORA_VECTORS = {"A": "glora_A.default.X", "B": "glora_B.default.X"}
PEANUT = {
    **{"A": "peanut_A", "B": "peanut_B"},
    **{f"E{k + 1}": f"peanut_encoders.default.{k}.weight" for k in range(2)},
    **{f"D{k + 1}": f"peanut_decoders.default.{k}.weight" for k in range(2)},
}


def _paths(*names: str) -> dict[str, str]:
    return {f"{name}_{end}": f"glora_{name}.default.X{end}" for name in names for end in "du"}


def _glora(keys: Mapping[str, str], **settings: str) -> Case:
    return Case(
        zoo.glora(rank=3, **settings), lambda: peft.GloraConfig(r=3, **settings, **TARGET), keys
    )


AFFINE = [
    _glora(_paths("A", "B", "C") | GLORA_D_E),
    _glora(
        GLORA_VECTORS | {"C": "glora_C.default.X"} | GLORA_D_E,
        config_A_B="vector",
        config_C="vector",
        config_D_E="vector",
    ),
    _glora(GLORA_VECTORS, config_A_B="constant", config_C="none", config_D_E="none"),
    _glora(_paths("C") | GLORA_D_E, config_A_B="none", config_D_E="vector"),
    Case(zoo.beft(), lambda: peft.BeftConfig(**TARGET), {"v": "beft_bias"}),
    Case(
        zoo.deft(rank=4, alpha=10),
        lambda: peft.DeftConfig(r=4, alpha=10, **TARGET),
        {"P": "deft_P", "R": "deft_R"},
        rtol=1e-5,  # its projection is in float32
    ),
    Case(
        zoo.deft(rank=4, para=True),
        lambda: peft.DeftConfig(r=4, para=True, **TARGET),
        {"P": "deft_P"},
        rtol=1e-5,
    ),
    *(
        Case(
            zoo.peanut(rank=4, depth=depth, act_fn=act_fn, scaling=0.7),
            lambda depth=depth, act_fn=act_fn: peft.PeanutConfig(
                r=4, depth=depth, act_fn=act_fn, scaling=0.7, **TARGET
            ),
            {name: PEANUT[name] for name in PEANUT if depth or len(name) == 1},
        )
        for depth, act_fn in ((0, "relu"), (2, "tanh"), (2, "silu"))
    ),
]

CASES += AFFINE
