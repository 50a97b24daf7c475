"""LyCORIS' and kohya's methods, row by row. The tensors alone say which, and of which shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from .. import zoo
from ..algebra.expression import Shape
from ..structure import Structure
from ..zoo.kron import factor_pair
from .files import refused
from .methods import Config, Method, Place, fields

DORA, ALPHA = "dora_scale", "alpha"

LORA_KEYS = {"B": "lora_up.weight", "T": "lora_mid.weight", "A": "lora_down.weight"}
LOHA_KEYS = {
    **{"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"},
    **{"T1": "hada_t1", "T2": "hada_t2"},
}
LOKR_KEYS = {
    **{"W1": "lokr_w1", "W1_a": "lokr_w1_a", "W1_b": "lokr_w1_b"},
    **{"W2": "lokr_w2", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b", "T2": "lokr_t2"},
}
GLORA_KEYS = {name: f"{name.lower()}.weight" for name in ("A1", "A2", "B1", "B2")}
OFT_KEYS = {"R": "oft_blocks", "s": "rescale"}


def as_stored(shape: Shape, place: Place, key: str) -> Shape:
    """The stored shape where it has our number of elements: kernels of one element come and go."""
    stored = place.tensors.get(key)
    sizes = tuple(n for n in shape if n != 1)
    if stored is None or tuple(n for n in stored.shape if n != 1) == sizes:
        return shape if stored is None else tuple(stored.shape)
    kernel = place.shape[2:]
    flat = tuple(stored.reshape(shape[0], -1).shape) if kernel else ()
    return tuple(stored.shape) if flat == shape and stored.shape[2:] == kernel else shape


def _reshape(key: str) -> Callable[[Shape, Place], Shape]:
    def change(shape: Shape, place: Place) -> Shape:
        stored = place.tensors.get(key)
        if stored is None or stored.numel() != _size(shape) or not shape:
            return shape
        return as_stored(shape, place, key)

    return change


def _size(shape: Shape) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _alpha(config: Config, place: Place, rank: int) -> float:
    """What the file stores is α r / r_factor, so its scale is always that number over r."""
    stored = place.tensors.get(ALPHA)
    if stored is None:
        return rank
    if stored.numel() != 1:
        raise refused(config.folder, f"'{place.path}.{ALPHA}' has {stored.numel()} values")
    return float(stored.float()) or rank


def _side(config: Config, place: Place, key: str, axis: int) -> int:
    stored = place.tensors.get(key)
    if stored is None or stored.ndim <= axis:
        raise refused(config.folder, f"It has no tensor '{place.path}.{key}' of {axis + 1} axes")
    return int(stored.shape[axis])


def _with_norms(config: Config, place: Place, within: Structure) -> Structure:
    """The structure inside a DoRA where the file has norms; LyCORIS differentiates them."""
    stored = place.tensors.get(DORA)
    if stored is None:
        return within
    if stored.numel() != place.shape[0] or stored.shape[0] != place.shape[0]:
        raise refused(
            config.folder,
            f"'{place.path}.{DORA}' is {tuple(stored.shape)}: norms of {stored.numel()} inputs,"
            + " where those of outputs are known here",
            "Train it with wd_on_output=True.",
        )
    return zoo.dora(within=within, detach_norm=False)


def _lora(config: Config, place: Place) -> Structure:
    rank = _side(config, place, "lora_down.weight", 0)
    tucker = {"use_effective_conv2d": True} if "lora_mid.weight" in place.tensors else {}
    made = zoo.lora(rank=rank, alpha=_alpha(config, place, rank), **tucker)
    return _with_norms(config, place, made)


def _loha(config: Config, place: Place) -> Structure:
    rank = _side(config, place, "hada_w1_b", 0)
    tucker = {"use_effective_conv2d": True} if "hada_t1" in place.tensors else {}
    made = zoo.loha(rank=rank, alpha=_alpha(config, place, rank), **tucker)
    return _with_norms(config, place, made)


def _lokr(config: Config, place: Place) -> Structure:
    stored = place.tensors
    first, second = "lokr_w1_a" in stored, "lokr_w2_a" in stored
    if first:
        a, c = _side(config, place, "lokr_w1_a", 0), _side(config, place, "lokr_w1_b", 1)
    else:
        a, c = _side(config, place, "lokr_w1", 0), _side(config, place, "lokr_w1", 1)
    rank = 1
    if first or second:
        rank = _side(config, place, "lokr_w1_b" if first else "lokr_w2_b", 0)
    found = _factor(*place.shape[:2], a, c)
    if found is None:
        raise refused(
            config.folder,
            f"'{place.path}.lokr_w1' is {a} × {c}, which no factor gives on {place.shape}",
        )
    made = zoo.lokr(
        rank=rank,
        alpha=_alpha(config, place, rank),
        decompose_both=first,
        full_matrix=not first and not second,
        convention="lycoris",
        decompose_factor=found[0],
        unbalanced_factorization=found[1],
        use_effective_conv2d="lokr_t2" in stored,
    )
    return _with_norms(config, place, made)


@lru_cache(maxsize=1024)
def _factor(out: int, inp: int, a: int, c: int) -> tuple[int, bool] | None:
    """A setting of ``decompose_factor`` that splits the sizes as the file does."""
    for factor in (-1, a, c, *range(1, max(out, inp) + 1)):
        if factor_pair(inp, factor, "lycoris")[0] == c:
            pair = factor_pair(out, factor, "lycoris")
            if a in pair:
                return factor, a != pair[0]
    return None


def _oft(config: Config, place: Place) -> Structure:
    constraint = _constraint(config, place)
    rescaled = "rescale" in place.tensors
    if place.tensors["oft_blocks"].ndim == 4:
        return zoo.boft(
            boft_block_size=_side(config, place, "oft_blocks", 3),
            boft_n_butterfly_factor=_side(config, place, "oft_blocks", 0),
            convention="lycoris",
            rescaled=rescaled,
            constraint=constraint,
        )
    return zoo.oft(
        oft_block_size=_side(config, place, "oft_blocks", 2),
        side="output",
        stored="square",
        use_cayley_neumann=False,
        rescaled=rescaled,
        constraint=constraint,
    )


def _constraint(config: Config, place: Place) -> float | None:
    """The file stores what the norm of all blocks may be, over the number of outputs."""
    stored = place.tensors.get(ALPHA)
    value = 0.0 if stored is None or stored.numel() != 1 else float(stored.float())
    return value * place.shape[0] if value > 0 else None


def _glora(config: Config, place: Place) -> Structure:
    rank = _side(config, place, "b2.weight", 0)
    return zoo.glora_lycoris(rank=rank, alpha=_alpha(config, place, rank))


def _row(
    zoo_name: str,
    keys: Mapping[str, str],
    read: Callable[[Config, Place], Structure],
    marks: tuple[str, ...],
    normed: bool = True,
) -> tuple[tuple[str, ...], Method, Method | None]:
    """A method by the keys that mark it, and the same inside a DoRA."""

    def method(name: str, own: Mapping[str, str]) -> Method:
        shapes: dict[str, Any] = {leaf: _reshape(key) for leaf, key in own.items()}
        return Method(name, zoo_name, own, read, lambda s, p: None, fields(""), shapes=shapes)

    inside = {f"within.{leaf}": key for leaf, key in keys.items()} | {"m": DORA}
    return marks, method(zoo_name, keys), method(zoo_name, inside) if normed else None


ROWS = [
    _row("lora", LORA_KEYS, _lora, ("lora_up.weight", "lora_down.weight")),
    _row("loha", LOHA_KEYS, _loha, ("hada_w1_a", "hada_w1_b")),
    _row("lokr", LOKR_KEYS, _lokr, tuple(LOKR_KEYS.values())),
    _row("oft", OFT_KEYS, _oft, ("oft_blocks",), normed=False),
    _row("glora_lycoris", GLORA_KEYS, _glora, ("a1.weight", "b1.weight"), normed=False),
]
"""Each method with the keys of which one at least must be there."""

SUFFIXES = tuple(sorted({k for _, m, _ in ROWS for k in m.keys.values()} | {DORA, ALPHA}))
