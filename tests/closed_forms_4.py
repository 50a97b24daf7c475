"""More methods in plain numpy: sparse, affine and decomposed updates, tensors, other beginnings."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np

from tests.closed_forms import (
    BIASES,
    CLOSED,
    NOTHING,
    PENALTIES,
    Array,
    Values,
    alpha_of,
    alpha_over_rank,
    within_of,
)

Settings = Mapping[str, Any]


def shira(s: Settings, v: Values, W: Array) -> Array:
    import torch

    at = s["indices"]
    if at is None:
        generator = torch.Generator().manual_seed(s["random_seed"])
        count = s["rank"] * (len(W) + W[0].size)
        at = [int(k) for k in torch.randperm(W.size, generator=generator)[:count]]
    new = np.zeros(W.size)
    for position, value in zip(at, v["values"], strict=True):
        new[position] = value
    return new.reshape(W.shape)


def supertuning(s: Settings, v: Values, W: Array) -> Array:
    new = shira(s, v, W)
    if s["rank"] is not None:
        new = new + alpha_over_rank(s) * (v["B"] @ v["A"]).reshape(W.shape)
    return new


def glora(s: Settings, v: Values, W: Array) -> Array | None:
    flat = W.reshape(len(W), -1)
    if s["config_A_B"] == "lora":
        new = flat * (v["A_d"] @ v["A_u"]) + v["B_d"] @ v["B_u"]
    elif s["config_A_B"] == "vector":
        new = flat * v["A"][:, None] + v["B"][:, None]
    elif s["config_A_B"] == "constant":
        new = flat * v["A"] + v["B"]
    else:
        return None
    return new.reshape(W.shape)


def glora_bias(s: Settings, v: Values, W: Array, b: Array) -> Array | None:
    flat, new = W.reshape(len(W), -1), np.zeros_like(b)
    if s["config_C"] == "none" and s["config_D_E"] == "none":
        return None
    if s["config_C"] != "none":
        new = new + flat @ (v["C"] if "C" in v else (v["C_d"] @ v["C_u"])[:, 0])
    if s["config_D_E"] != "none":
        new = new + b * v["D"] + v["E"]
    return new


def glora_lycoris(s: Settings, v: Values, W: Array) -> Array:
    mixed = np.moveaxis(np.tensordot(W, v["A1"] @ v["A2"], (1, 0)), -1, 1)
    return alpha_over_rank(s) * (mixed + (v["B1"] @ v["B2"]).reshape(W.shape))


def beft_bias(s: Settings, v: Values, W: Array, b: Array) -> Array:
    return v["v"]


def deft(s: Settings, v: Values, W: Array) -> Array:
    P = v["P"]
    if s["decomposition_method"] == "relu":
        Q, right = P, np.maximum(P, 0)
    else:
        Q, R = np.linalg.qr(P)
        Q = Q * np.sign(np.diag(R))
        right = Q
    flat = W.reshape(len(W), -1)
    new = (np.eye(len(W)) - Q @ right.T) @ flat
    if not s["para"]:
        new = new + alpha_over_rank(s) * Q @ v["R"]
    return (new - flat).reshape(W.shape)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def peanut(s: Settings, v: Values, W: Array) -> Array:
    """As the reference writes it, transposed."""
    f = ACTIVATIONS[s["act_fn"]]
    h = f(W.reshape(len(W), -1).T @ v["A"].T)
    kept = []
    for k in range(s["depth"]):
        kept.append(h)
        h = f(h @ v[f"E{k + 1}"].T)
    for k in range(s["depth"]):
        h = f(h @ v[f"D{k + 1}"].T) + kept[s["depth"] - 1 - k]
    return (s["scaling"] * h @ v["B"].T).T.reshape(W.shape)


def osf(s: Settings, v: Values, W: Array) -> Array:
    now = v["U"] @ np.diag(v["s"]) @ v["V"]
    then = v["U@start"] @ np.diag(v["s@start"]) @ v["V@start"]
    return (now - then).reshape(W.shape)


def frod(s: Settings, v: Values, W: Array) -> Array:
    import torch

    n = W[0].size
    S = np.diag(v["l"])
    off = [(a, b) for a in range(n) for b in range(n) if a != b]
    at = [divmod(k, n) for k in s["indices"]] if s["indices"] is not None else []
    if not at and "S" in v:
        generator = torch.Generator().manual_seed(s["projection_prng_key"])
        at = [off[int(k)] for k in torch.randperm(len(off), generator=generator)[: len(v["S"])]]
    for position, value in zip(at, v.get("S", []), strict=True):
        S[position] += value
    return (v["U"] @ S @ v["V"]).reshape(W.shape) - W


def _labels(s: Settings, out: int) -> list[int]:
    if s["clusters"] is not None:
        return list(s["clusters"])
    source = Random(s["random_seed"])
    keys = [source.random() for _ in range(out)]
    labels = [0] * out
    for at, row in enumerate(np.argsort(keys)):
        labels[row] = at * min(s["num_subspaces"], out) // out
    return labels


def _adamss_rows(s: Settings, v: Values, out: int) -> Array:
    labels, new = _labels(s, out), np.zeros((out, len(v["N"])))
    for c in range(max(labels) + 1):
        members = [row for row in range(out) if labels[row] == c]
        new[members] = v[f"B{c}"] @ v[f"A{c}"]
    return new


def adamss(s: Settings, v: Values, W: Array) -> Array:
    return (_adamss_rows(s, v, len(W)) @ v["N"][:, : W[0].size]).reshape(W.shape)


def adamss_bias(s: Settings, v: Values, W: Array, b: Array) -> Array | None:
    return _adamss_rows(s, v, len(W)) @ v["N"][:, -1] if s["with_bias"] else None


def flora(s: Settings, v: Values, W: Array) -> Array:
    new, names = v["G"], ["in", "out", *(f"k{axis}" for axis in range(W.ndim - 2))]
    for name in names:
        new = np.tensordot(new, v[f"A_{name}"], (0, 1))  # the axes go round once
    return alpha_of(s) * np.swapaxes(new, 0, 1)


def loretta(s: Settings, v: Values, W: Array) -> Array:
    def train(name: str, rows: int, columns: int) -> Array:
        made, k = v[f"{name}1"], 2
        while f"{name}{k}" in v:
            made = np.tensordot(made, v[f"{name}{k}"], 1)
            k += 1
        return made.reshape(rows, columns)

    down = train("A", W[0].size, s["rank"])
    up = train("B", s["rank"], len(W))
    return alpha_over_rank(s) * (down @ up).T.reshape(W.shape)


def quanta(s: Settings, v: Values, W: Array) -> Array:
    """The gates one after another on every column of the identity, two axes at a time."""
    live = [name for name in v if "@" not in name]
    sizes = [0] * (max(int(name.split("_")[1]) for name in live) + 1)
    for name in live:
        m, k = map(int, name[1:].split("_"))
        sizes[m], sizes[k] = v[name].shape[:2]

    def whole(suffix: str) -> Array:
        n = int(np.prod(sizes))
        x = np.eye(n).reshape(*sizes, n)
        for later in range(len(sizes) - 1, 0, -1):
            for earlier in range(later - 1, -1, -1):
                gate = v[f"G{earlier}_{later}{suffix}"]
                x = np.tensordot(gate, x, ((2, 3), (earlier, later)))
                x = np.moveaxis(x, (0, 1), (earlier, later))
        return x.reshape(n, n)

    made = whole("") - whole("@start")
    return made[: len(W), : W[0].size].reshape(W.shape)


def since_start(s: Settings, v: Values, W: Array) -> Array:
    """A leaf whose start is one number has no value at the start among the values."""
    begun = {name: np.zeros_like(v[name]) for name in v if "@" not in name}
    begun |= {name.removesuffix("@start"): a for name, a in v.items() if name.endswith("@start")}
    if s["within"].method.name == "ia3":
        begun = {"within.l": np.ones(len(W))}
    return within_of(s["within"], v, W) - within_of(s["within"], begun, W)


def since_start_bias(s: Settings, v: Values, W: Array, b: Array) -> Array | None:
    return (v["within.l"] - 1) * b if s["within"].method.name == "ia3" else None


def since_start_penalty(s: Settings, v: Values) -> Any:
    inner, name = s["within"], s["within"].method.name
    if name not in PENALTIES:
        return None
    values = {key.removeprefix("within."): a for key, a in v.items()}
    return PENALTIES[name](dict(inner.method.defaults) | dict(inner.settings), values)


CLOSED.update(
    shira=shira,
    supertuning=supertuning,
    glora=glora,
    glora_lycoris=glora_lycoris,
    beft=NOTHING,
    deft=deft,
    peanut=peanut,
    osf=osf,
    frod=frod,
    adamss=adamss,
    flora=flora,
    loretta=loretta,
    quanta=quanta,
    since_start=since_start,
)
BIASES.update(glora=glora_bias, beft=beft_bias, adamss=adamss_bias, since_start=since_start_bias)
PENALTIES.update(since_start=since_start_penalty)
