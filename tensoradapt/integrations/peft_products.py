"""PEFT's products of factors, row by row: LoRA and its variants, LoHa, LoKr, AdaLoRA, VeRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.init import kaiming_uniform_

from .. import zoo
from ..algebra.expression import Shape
from ..structure import Structure
from .files import refused
from .methods import (
    Config,
    Method,
    Place,
    Shared,
    channels,
    column,
    fields,
    kernel_in,
    kernel_of_ones,
)

Settings = Mapping[str, Any]

TRAINING = "init_lora_weights lora_dropout eva_config qalora_group_size megatron_core"
PATTERNED = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
NAMED_STARTS = ("pissa", "olora", "mica")


# --- LoRA --------------------------------------------------------------------------------


def _lora(config: Config, place: Place) -> Structure:
    start = config.data.get("init_lora_weights", True)
    if start in NAMED_STARTS and place.is_table:
        raise refused(config.folder, f"'{place.path}' is an embedding with the start {start!r}")
    if start not in PLAIN_STARTS and start not in NAMED_STARTS:
        raise refused(
            config.folder,
            f"init_lora_weights={str(start)[:40]!r} takes a part out of the base weight that the "
            "file does not hold",
            "Convert it with PEFT first: save_pretrained(path_initial_model_for_weight_conversion"
            "=...).",
        )
    return zoo.lora(
        rank=config.at("r", "rank_pattern", 8, place.path),
        alpha=config.number_at("lora_alpha", "alpha_pattern", 8, place.path),
        use_rslora=config.flag("use_rslora"),
        **({"start": start} if start in NAMED_STARTS else {}),
    )


def _lora_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    start = settings["start"]
    if settings["use_effective_conv2d"] or start == "given":
        return None
    root = settings["use_rslora"] and settings["alpha"] is not None
    found = {
        "r": settings["rank"],
        "lora_alpha": alpha_of(settings),
        "use_rslora": root,
        "init_lora_weights": start if start in NAMED_STARTS else True,
    }
    return found


def alpha_of(settings: Settings) -> float:
    """α as PEFT stores it: r where we have none, as the scale is then 1."""
    alpha = settings["rank"] if settings["alpha"] is None else settings["alpha"]
    return int(alpha) if alpha == int(alpha) else alpha


def _dora_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    within = settings["within"]
    if not settings["detach_norm"] or within.method.name != "lora":
        return None
    inner = _lora_fields(dict(within.method.defaults) | dict(within.settings), path)
    return None if inner is None else inner | {"use_dora": True}


def _blocks(config: Config, place: Place) -> Structure:
    block = Config(config.folder, config.mapping("use_bdlora"))
    target = place.path.rpartition(".")[2]
    sides = [s for s in "ab" if any(n in target for n in block.names(f"target_modules_bd_{s}"))]
    rank, alpha = config.integer("r", 8), config.number("lora_alpha", 8)
    if not sides:
        return zoo.lora(rank=rank, alpha=alpha)
    count = block.integer("nblocks", 1)
    return zoo.bd_lora(rank=rank, alpha=alpha, nblocks=count, block_diagonal=sides[0])


def _kasa(config: Config, place: Place) -> Structure:
    kasa = Config(config.folder, config.mapping("kasa_config"))
    return zoo.kasa(
        rank=config.at("r", "rank_pattern", 8, place.path),
        alpha=config.number_at("lora_alpha", "alpha_pattern", 8, place.path),
        beta=kasa.number("beta", 1e-4),
        gamma=kasa.number("gamma", 1e-3),
    )


def _kasa_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    if not settings["truncate_base"]:
        return None
    weights = {"beta": settings["beta"], "gamma": settings["gamma"]}
    return {"r": settings["rank"], "lora_alpha": alpha_of(settings), "kasa_config": weights}


def _has(name: str) -> Callable[[Config], bool]:
    return lambda config: bool(config.data.get(name))


LORA_SHAPES = {"A": kernel_in, "B": kernel_of_ones}
LORA_TABLES = {"B": "lora_embedding_A", "A": "lora_embedding_B"}
LORA_KEYS = {"B": "lora_B.weight", "A": "lora_A.weight"}
LORA_FIELDS = fields(f"r lora_alpha rank_pattern alpha_pattern use_rslora {TRAINING}")

LORA = [
    Method(
        "LORA",
        "dora",
        {f"within.{leaf}": key for leaf, key in LORA_KEYS.items()} | {"m": "lora_magnitude_vector"},
        lambda config, place: zoo.dora(within=_lora(config, place)),
        _dora_fields,
        LORA_FIELDS | {"use_dora"},
        when=_has("use_dora"),
        shapes={f"within.{leaf}": change for leaf, change in LORA_SHAPES.items()} | {"m": channels},
        per_layer=PATTERNED,
    ),
    Method(
        "LORA",
        "kasa",
        LORA_KEYS | {"d": "lora_diag"},
        _kasa,
        _kasa_fields,
        LORA_FIELDS - {"use_rslora"} | {"kasa_config"},
        when=_has("kasa_config"),
        per_layer=PATTERNED,
        dropout="lora_dropout",
    ),
    Method(
        "LORA",
        "bd_lora",
        LORA_KEYS,
        _blocks,
        lambda settings, path: None,
        fields(f"r lora_alpha use_bdlora {TRAINING}"),
        when=_has("use_bdlora"),
        dropout="lora_dropout",
    ),
    Method(
        "LORA",
        "lora",
        LORA_KEYS,
        _lora,
        _lora_fields,
        LORA_FIELDS,
        shapes=LORA_SHAPES,
        per_layer=PATTERNED,
        tables=LORA_TABLES,
        dropout="lora_dropout",
    ),
]


# --- AdaLoRA -----------------------------------------------------------------------------


def _adalora(config: Config, place: Place) -> Structure:
    return zoo.adalora(
        rank=config.integer("init_r", 12),
        alpha=config.number("lora_alpha", 8),
        orth_reg_weight=config.number("orth_reg_weight", 0.5),
    )


ADALORA = Method(
    "ADALORA",
    "adalora",
    {"B": "lora_B", "E": "lora_E", "A": "lora_A"},
    _adalora,
    lambda settings, path: {
        "init_r": settings["rank"],
        "lora_alpha": settings["rank"] + 1e-5 if settings["alpha"] is None else settings["alpha"],
        "orth_reg_weight": settings["orth_reg_weight"],
        "total_step": 1,
    },
    fields(
        f"init_r lora_alpha orth_reg_weight r target_r tinit tfinal deltaT beta1 beta2 {TRAINING}"
    )
    | {"total_step", "use_rslora"},
    shapes={"E": column},
    dropout="lora_dropout",
)


# --- LoHa, LoKr, HiRA --------------------------------------------------------------------

PRODUCT_FIELDS = fields(
    "r alpha rank_pattern alpha_pattern init_weights rank_dropout module_dropout "
    "rank_dropout_scale use_effective_conv2d"
)
PRODUCT_PATTERNS = {"r": "rank_pattern", "alpha": "alpha_pattern"}


def _product(config: Config, place: Place) -> dict[str, Any]:
    return {
        "rank": config.at("r", "rank_pattern", 8, place.path),
        "alpha": config.number_at("alpha", "alpha_pattern", 8, place.path),
        "use_effective_conv2d": config.flag("use_effective_conv2d"),
    }


def _loha_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    if settings["use_tanh"] or settings["personalized"]:
        return None
    wide = settings["use_effective_conv2d"]
    return {"r": settings["rank"], "alpha": alpha_of(settings), "use_effective_conv2d": wide}


def _lokr_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    other = settings["full_matrix"] or settings["unbalanced_factorization"]
    if other or settings["convention"] != "peft":
        return None
    names = ("decompose_both", "decompose_factor", "use_effective_conv2d")
    found = {"r": settings["rank"], "alpha": alpha_of(settings)}
    return found | {name: settings[name] for name in names}


def _kernel_last(shape: Shape, place: Place) -> Shape:
    """``(b, d·kernel)``, stored with the axes of the kernel."""
    kernel = place.shape[2:]
    size = 1
    for n in kernel:
        size *= n
    return (shape[0], shape[1] // size, *kernel) if kernel else shape


LOHA = Method(
    "LOHA",
    "loha",
    {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}
    | {"T1": "hada_t1", "T2": "hada_t2"},
    lambda config, place: zoo.loha(**_product(config, place)),
    _loha_fields,
    PRODUCT_FIELDS,
    per_layer=PRODUCT_PATTERNS,
)

LOKR = Method(
    "LOKR",
    "lokr",
    {"W1": "lokr_w1", "W1_a": "lokr_w1_a", "W1_b": "lokr_w1_b"}
    | {"W2": "lokr_w2", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b", "T2": "lokr_t2"},
    lambda config, place: zoo.lokr(
        **_product(config, place),
        decompose_both=config.flag("decompose_both"),
        decompose_factor=config.integer("decompose_factor", -1),
    ),
    _lokr_fields,
    PRODUCT_FIELDS | fields("decompose_both decompose_factor"),
    shapes={"W2": _kernel_last},
    per_layer=PRODUCT_PATTERNS,
)


def _hira(config: Config, place: Place) -> Structure:
    """PEFT 0.21 writes rank_pattern and uses r at every layer, so the tensors decide."""
    stored = place.tensors.get("hira_embedding_A" if place.is_table else "hira_A")
    rank = config.integer("r", 32) if stored is None or not stored.ndim else stored.shape[0]
    return zoo.hira(rank=int(rank))


HIRA = Method(
    "HIRA",
    "hira",
    {"B": "hira_B", "A": "hira_A"},
    _hira,
    lambda settings, path: {"r": settings["rank"]},
    fields("r rank_pattern hira_dropout init_weights"),
    shapes=LORA_SHAPES,
    tables={"B": "hira_embedding_A", "A": "hira_embedding_B"},
    dropout="hira_dropout",
)


# --- between frozen random factors -------------------------------------------------------


def _largest(shapes: list[Shape]) -> tuple[int, int]:
    return max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)


def _drawn(config: Config, *sizes: tuple[int, ...]) -> list[Tensor]:
    """PEFT's tensors of these sizes, one after the other from torch's stream of its key."""
    stream = torch.Generator().manual_seed(config.integer("projection_prng_key", 0) % 2**63)
    return [kaiming_uniform_(torch.empty(size), generator=stream) for size in sizes]


def _vera_factor(number: int, factor: int = 1) -> Callable[[Config, list[Shape]], Tensor]:
    def again(config: Config, shapes: list[Shape]) -> Tensor:
        (out, inp), rank = _largest(shapes), config.integer("r", 256)
        return _drawn(config, (factor * rank, inp), (out, rank))[number]

    return again


VERA = Method(
    "VERA",
    "vera",
    {"b": "vera_lambda_b", "d": "vera_lambda_d"},
    lambda config, place: zoo.vera(
        rank=config.integer("r", 256), d_initial=config.number("d_initial", 0.1)
    ),
    lambda settings, path: {"r": settings["rank"], "d_initial": settings["d_initial"]},
    fields("r d_initial projection_prng_key save_projection vera_dropout init_weights"),
    shared={"A": Shared("vera_A", _vera_factor(0)), "B": Shared("vera_B", _vera_factor(1))},
    dropout="vera_dropout",
)

PVERA = Method(
    "PVERA",
    "pvera",
    {"b": "pvera_lambda_b", "d": "pvera_lambda_d"},
    lambda config, place: zoo.pvera(
        rank=config.integer("r", 256), d_initial=config.number("d_initial", 0.1)
    ),
    lambda settings, path: {"r": settings["rank"], "d_initial": settings["d_initial"]},
    fields("r d_initial projection_prng_key save_projection pvera_dropout init_weights")
    | {"generator_seed"},
    shared={
        "A": Shared("pvera_A", _vera_factor(0, 2)),
        "B": Shared("pvera_B", _vera_factor(1, 2)),
    },
    dropout="pvera_dropout",
)


def _randlora_factor(is_first: bool) -> Callable[[Config, list[Shape]], Tensor]:
    def again(config: Config, shapes: list[Shape]) -> Tensor:
        if config.flag("sparse") or config.flag("very_sparse"):
            raise refused(
                config.folder,
                "Its random factors are sparse and not in the file (save_projection=False)",
                "Save it with save_projection=True.",
            )
        small, large = sorted(_largest(shapes))
        rank = config.integer("r", 32)
        count = -(-small // rank)
        sizes = [(rank, 1, small), *[(large, 1, rank)] * count]
        stream = torch.Generator().manual_seed(config.integer("projection_prng_key", 0) % 2**63)
        # PEFT draws in bfloat16 wherever the machine has it, a CPU included.
        empty = [torch.empty(n, dtype=torch.bfloat16) for n in sizes]
        made = [kaiming_uniform_(one, a=sqrt(5), generator=stream) for one in empty]
        first, second = made[0], torch.cat(made[1:], dim=1)
        return first / first.std() if is_first else second / second.std()

    return again


RANDLORA = Method(
    "RANDLORA",
    "randlora",
    {"lambda": "randlora_lambda", "gamma": "randlora_gamma"},
    lambda config, place: zoo.randlora(
        rank=config.integer("r", 32), alpha=config.number("randlora_alpha", 640)
    ),
    lambda settings, path: (
        {"r": settings["rank"], "randlora_alpha": alpha_of(settings)}
        if settings["pairing"] == "peft"
        else None
    ),
    fields("r randlora_alpha projection_prng_key save_projection sparse very_sparse init_weights")
    | {"randlora_dropout"},
    shared={
        "A": Shared("randlora_A", _randlora_factor(True), "randlora_A"),
        "B": Shared("randlora_B", _randlora_factor(False), "randlora_B"),
    },
    dropout="randlora_dropout",
)

PRODUCTS = [*LORA, ADALORA, LOHA, LOKR, HIRA, VERA, PVERA, RANDLORA]
