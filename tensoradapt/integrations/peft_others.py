"""PEFT's rotations, diagonals, blocks and transforms, row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from .. import zoo
from ..algebra.expression import Shape
from ..nn.laying import leaves_of
from ..structure import Structure, Update
from .files import refused
from .methods import Config, Method, Place, channels, column, fields
from .peft_decomposed import DECOMPOSED, flat_positions
from .peft_products import PRODUCTS, Settings, alpha_of


def _shape_of(config: Config, place: Place, suffix: str, ndim: int) -> Shape:
    """The shape of one tensor of a layer, from which a size is read that PEFT adjusts."""
    shape = tuple(place.tensors[suffix].shape) if suffix in place.tensors else ()
    if len(shape) != ndim:
        raise refused(
            config.folder, f"'{place.path}.{suffix}' has the shape {shape}, not {ndim} axes"
        )
    return shape


# --- rotations ---------------------------------------------------------------------------


def _oft(config: Config, place: Place) -> Structure:
    if len(place.shape) > 2:
        raise refused(
            config.folder,
            f"'{place.path}' is a convolution, on which PEFT's OFT adds overlapping patches and "
            "does not compute what it merges",
            "Merge it with PEFT and judge the result.",
        )
    free = _shape_of(config, place, "oft_R.weight", 2)[1]
    return zoo.oft(
        oft_block_size=(1 + isqrt(1 + 8 * free)) // 2,
        block_share=config.flag("block_share"),
        use_cayley_neumann=config.flag("use_cayley_neumann", True),
        num_cayley_neumann_terms=config.integer("num_cayley_neumann_terms", 5),
        coft=config.flag("coft"),
        eps=config.number("eps", 6e-5),
    )


def _oft_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    ours = (settings["side"], settings["stored"], settings["constraint"], settings["rescaled"])
    if ours != ("input", "triangle", None, False):
        return None
    names = fields(
        "oft_block_size block_share use_cayley_neumann num_cayley_neumann_terms coft eps"
    )
    return {"r": 0} | {name: settings[name] for name in names}


def _boft(config: Config, place: Place) -> Structure:
    factors, _, size, _ = _shape_of(config, place, "boft_R", 4)
    return zoo.boft(boft_block_size=size, boft_n_butterfly_factor=factors)


def _boft_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    ours = (settings["convention"], settings["rescaled"], settings["constraint"])
    if ours != ("peft", True, None):
        return None
    names = ("boft_block_size", "boft_n_butterfly_factor")
    return {"boft_block_num": 0} | {name: settings[name] for name in names}


PSOFT_NAMES = fields(
    "psoft_orth psoft_mag_a psoft_mag_b use_cayley_neumann num_cayley_neumann_terms "
    "cayley_neumann_eps"
)


def _psoft(config: Config, place: Place) -> Structure:
    eps = config.data.get("cayley_neumann_eps")
    return zoo.psoft(
        rank=config.integer("r", 32),
        psoft_orth=config.flag("psoft_orth", True),
        psoft_mag_a=config.flag("psoft_mag_a", True),
        psoft_mag_b=config.flag("psoft_mag_b", True),
        use_cayley_neumann=config.flag("use_cayley_neumann"),
        num_cayley_neumann_terms=config.integer("num_cayley_neumann_terms", 5),
        cayley_neumann_eps=None if eps is None else config.number("cayley_neumann_eps", 0.0),
    )


def _psoft_factors(config: Config, place: Place, weight: Tensor) -> dict[str, Tensor]:
    """The singular vectors with the signs that PEFT's own call of torch.linalg.svd gives them."""
    if config.text("psoft_svd", "full") != "full":
        raise refused(
            config.folder,
            "It was trained between singular vectors from a randomized decomposition "
            "(psoft_svd='lowrank'), which the file does not hold",
            "Merge it with PEFT, or train it with psoft_svd='full'.",
        )
    if config.text("ab_svd_init", "psoft_init") != "psoft_init":
        raise refused(config.folder, "Its ab_svd_init is not 'psoft_init'")
    U, S, V = torch.linalg.svd(weight.float(), full_matrices=False)
    rank = config.integer("r", 32)
    return {"B": U[:, :rank] * S[:rank], "A": V[:rank].contiguous()}


def _road_fields(settings: Settings, path: str) -> dict[str, Any]:
    return {"variant": settings["variant"], "group_size": settings["group_size"]}


ROTATIONS = [
    Method(
        "OFT",
        "oft",
        {"R": "oft_R.weight"},
        _oft,
        _oft_fields,
        fields("r oft_block_size block_share use_cayley_neumann num_cayley_neumann_terms coft eps")
        | fields("module_dropout init_weights"),
    ),
    Method(
        "BOFT",
        "boft",
        {"R": "boft_R", "s": "boft_s"},
        _boft,
        _boft_fields,
        fields("boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout init_weights"),
        shapes={"s": column},
    ),
    Method(
        "HRA",
        "hra",
        {"u": "hra_u"},
        lambda config, place: zoo.hra(
            rank=config.integer("r", 8), apply_GS=config.flag("apply_GS")
        ),
        lambda settings, path: {"r": settings["rank"], "apply_GS": settings["apply_GS"]},
        fields("r apply_GS init_weights"),
    ),
    Method(
        "PSOFT",
        "psoft",
        {"R": "psoft_R.weight", "beta": "psoft_R.vector_b", "alpha": "psoft_R.vector_a"},
        _psoft,
        lambda settings, path: None,
        PSOFT_NAMES
        | fields("r psoft_alpha psoft_dropout psoft_svd psoft_svd_lowrank_niter")
        | fields("ab_svd_init random_seed init_weights"),
        derive=_psoft_factors,
    ),
    Method(
        "ROAD",
        "road",
        {"theta": "road_theta", "alpha": "road_alpha"},
        lambda config, place: zoo.road(
            variant=config.text("variant", "road_1"), group_size=config.integer("group_size", 64)
        ),
        _road_fields,
        fields("variant group_size init_weights"),
    ),
]


# --- diagonals ---------------------------------------------------------------------------


def _is_feedforward(config: Config, place: Place) -> bool:
    given = config.data.get("feedforward_modules")
    if isinstance(given, str):
        try:
            return re.fullmatch(given[:512], place.path) is not None
        except (re.error, RecursionError):
            raise refused(config.folder, "feedforward_modules cannot be read") from None
    return any(place.path.endswith(name) for name in config.names("feedforward_modules"))


def _ia3_shape(shape: Shape, place: Place) -> Shape:
    stored = place.tensors.get("ia3_l")
    if len(place.shape) > 2:
        return channels(shape, place)
    as_row = stored is not None and stored.ndim == 2 and stored.shape[0] == 1
    return (1, *shape) if as_row else (*shape, 1)


def _delora_fields(settings: Settings, path: str) -> dict[str, Any]:
    return {"r": settings["rank"], "delora_lambda": settings["delora_lambda"]}


DIAGONALS = [
    Method(
        "IA3",
        "ia3",
        {"l": "ia3_l"},
        lambda config, place: zoo.ia3(is_feedforward=_is_feedforward(config, place)),
        lambda settings, path: (
            {"feedforward_modules": [path] if settings["is_feedforward"] else []}
            if settings["parametrization"] == "multiplier"
            else None
        ),
        fields("feedforward_modules init_ia3_weights"),
        shapes={"l": _ia3_shape},
    ),
    Method(
        "DELORA",
        "delora",
        {"B": "delora_B", "A": "delora_A", "lambda": "delora_lambda", "w_norm": "delora_w_norm"},
        lambda config, place: zoo.delora(
            rank=config.at("r", "rank_pattern", 8, place.path),
            delora_lambda=config.number_at("delora_lambda", "lambda_pattern", 15, place.path),
        ),
        _delora_fields,
        fields("r delora_lambda rank_pattern lambda_pattern module_dropout init_weights"),
        per_layer={"r": "rank_pattern", "delora_lambda": "lambda_pattern"},
    ),
]


# --- blocks ------------------------------------------------------------------------------


def _miss(config: Config, place: Place) -> Structure:
    kind = config.data.get("init_weights", True)
    return zoo.miss(
        rank=config.integer("r", 64),
        variant=kind if kind in ("mini", "bat") else "miss",
        mini_r=config.integer("mini_r", 1),
    )


def _miss_fields(settings: Settings, path: str) -> dict[str, Any]:
    kind = True if settings["variant"] == "miss" else settings["variant"]
    return {"r": settings["rank"], "init_weights": kind, "mini_r": settings["mini_r"]}


def _gralora(config: Config, place: Place) -> Structure:
    return zoo.gralora(
        rank=config.integer("r", 32),
        alpha=config.number("alpha", 64),
        gralora_k=config.integer("gralora_k", 2),
        hybrid_r=config.integer("hybrid_r", 0),
    )


def _gralora_fields(settings: Settings, path: str) -> dict[str, Any]:
    rank = settings["rank"] + settings["hybrid_r"]
    alpha = alpha_of(dict(settings) | {"rank": rank})
    names = ("gralora_k", "hybrid_r")
    return {"r": settings["rank"], "alpha": alpha} | {name: settings[name] for name in names}


BLOCKS = [
    Method(
        "MISS",
        "miss",
        {"M": "miss_block"},
        _miss,
        _miss_fields,
        fields("r init_weights mini_r miss_dropout"),
        dropout="miss_dropout",
    ),
    Method(
        "GRALORA",
        "gralora",
        {"B": "gralora_B", "A": "gralora_A"}
        | {"B_general": "gralora_B_general.weight", "A_general": "gralora_A_general.weight"},
        _gralora,
        _gralora_fields,
        fields("r alpha gralora_k hybrid_r gralora_dropout init_weights"),
        dropout="gralora_dropout",
    ),
]


# --- transforms --------------------------------------------------------------------------


def _frequencies(config: Config, place: Place, scaling: float, count: int) -> dict[str, Any]:
    return {
        "n_frequency": config.at("n_frequency", "n_frequency_pattern", count, place.path),
        "scaling": config.number("scaling", scaling),
        "random_loc_seed": config.integer("random_loc_seed", 777),
    }


def _frequency_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    names = ("n_frequency", "scaling", "random_loc_seed")
    return None if settings["indices"] is not None else {name: settings[name] for name in names}


def _waveft(config: Config, place: Place) -> Structure:
    if config.flag("proportional_parameters"):
        raise refused(
            config.folder, "Its n_frequency grows with the layer (proportional_parameters)"
        )
    return zoo.waveft(
        **_frequencies(config, place, 25.0, 2592),
        wavelet_family=config.text("wavelet_family", "db1"),
        use_idwt=config.flag("use_idwt", True),
    )


def _waveft_fields(settings: Settings, path: str) -> dict[str, Any] | None:
    found = _frequency_fields(settings, path)
    names = ("wavelet_family", "use_idwt")
    return None if found is None else found | {name: settings[name] for name in names}


FREQUENCY_FIELDS = fields("n_frequency scaling random_loc_seed n_frequency_pattern init_weights")
FREQUENCY_PATTERNS: Mapping[str, str] = {"n_frequency": "n_frequency_pattern"}

TRANSFORMS = [
    Method(
        "FOURIERFT",
        "fourierft",
        {"c": "fourierft_spectrum"},
        lambda config, place: zoo.fourierft(**_frequencies(config, place, 150.0, 1000)),
        _frequency_fields,
        FREQUENCY_FIELDS,
        per_layer=FREQUENCY_PATTERNS,
    ),
    Method(
        "WAVEFT",
        "waveft",
        {"c": "waveft_spectrum"},
        _waveft,
        _waveft_fields,
        FREQUENCY_FIELDS | fields("wavelet_family use_idwt proportional_parameters"),
        per_layer=FREQUENCY_PATTERNS,
    ),
    Method(
        "C3A",
        "c3a",
        {"w": "c3a_kernel"},
        lambda config, place: zoo.c3a(
            block_size=config.at("block_size", "block_size_pattern", 256, place.path)
        ),
        lambda settings, path: {"block_size": settings["block_size"]},
        fields("block_size block_size_pattern init_weights"),
        per_layer={"block_size": "block_size_pattern"},
    ),
]

# --- weight and bias, sparse positions ---------------------------------------------------


def _glora(config: Config, place: Place) -> Structure:
    for key in EMPTY:
        if key in place.tensors and bool(place.tensors[key].any()):
            raise refused(config.folder, f"'{place.path}.{key}' is not zero")
    return zoo.glora(
        rank=config.integer("r", 4),
        config_A_B=config.text("config_A_B", "lora"),
        config_C=config.text("config_C", "lora"),
        config_D_E=config.text("config_D_E", "constant"),
    )


EMPTY = tuple(f"glora_{x}.zeros" for x in "ABCDE")
"""What PEFT stores of a path that is not there."""


def _glora_zeros(update: Update, shape: Shape) -> dict[str, Tensor]:
    (out, inp), names = shape[:2], "".join(leaves_of(update))
    sizes = {"A": (out, inp), "B": (out, inp), "C": (inp, 1), "D": (out,), "E": (out,)}
    return {f"glora_{x}.zeros": torch.zeros(n) for x, n in sizes.items() if x not in names}


def _glora_fields(settings: Settings, path: str) -> dict[str, Any]:
    names = ("config_A_B", "config_C", "config_D_E")
    return {"r": settings["rank"]} | {name: settings[name] for name in names}


def _column_unless_one(shape: Shape, place: Place) -> Shape:
    """A column where it is a vector; one number is stored as it is."""
    return shape if shape == (1,) else (*shape, 1)


def _shira(config: Config, place: Place) -> Structure:
    stored = place.tensors.get("shira_indices")
    if stored is None or stored.ndim != 2 or stored.shape[0] != 2:
        raise refused(config.folder, f"It has no '{place.path}.shira_indices' of two rows")
    rows, columns = stored.long()
    out, inp = place.shape
    inside = (rows >= 0) & (rows < out) & (columns >= 0) & (columns < inp)
    if not bool(inside.all()):
        raise refused(
            config.folder,
            f"'{place.path}.shira_indices' has {int((~inside).sum())} positions outside of the "
            f"weight {out} × {inp}",
        )
    return zoo.shira(rank=config.integer("r", 32), indices=tuple((rows * inp + columns).tolist()))


def _shira_positions(update: Update, shape: Shape) -> dict[str, Tensor]:
    flat, inp = flat_positions(update).to(torch.int32), shape[1]
    return {"shira_indices": torch.stack([flat // inp, flat % inp])}


AFFINE = [
    Method(
        "GLORA",
        "glora",
        {f"{x}_{side}": f"glora_{x}.X{side}" for x in "ABC" for side in "du"}
        | {x: f"glora_{x}.X" for x in "ABCDE"},
        _glora,
        _glora_fields,
        fields("r config_A_B config_C config_D_E init_weights"),
        shapes=dict.fromkeys("ABC", _column_unless_one),
        extra=_glora_zeros,
        extra_keys=EMPTY,
    ),
    Method(
        "BEFT",
        "beft",
        {"v": "beft_bias"},
        lambda config, place: zoo.beft(),
        lambda settings, path: {},
        fields("init_weights"),
        shapes={"v": lambda shape, place: (1, *shape)},
    ),
    Method(
        "SHIRA",
        "shira",
        {"values": "shira_weight"},
        _shira,
        lambda settings, path: None if settings["indices"] else {"r": settings["rank"]},
        fields("r mask_type random_seed init_weights"),
        extra=_shira_positions,
        extra_keys=("shira_indices",),
    ),
]

METHODS = (*PRODUCTS, *ROTATIONS, *DIAGONALS, *BLOCKS, *TRANSFORMS, *AFFINE, *DECOMPOSED)
"""Every method that PEFT and the zoo both have; the first row that fits is taken."""
