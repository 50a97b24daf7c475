"""The methods written a second time, in plain numpy and from their papers, as the judge.

Nothing here reads the library: a structure's settings come in as a dictionary, its leaves as
arrays. Loops where an index formula is the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import numpy as np

Array = np.ndarray
Values = Mapping[str, Array]


def delta(name: str, settings: Mapping[str, Any], v: Values, W: Array) -> Array:
    """ΔW of the method of that name."""
    return CLOSED[name](settings, v, W)


def closed(
    name: str, settings: Mapping[str, Any], v: Values, W: Array, b: Array
) -> dict[str, Array]:
    """Every part of the update: ΔW, Δb, the penalty."""
    parts = {"weight": delta(name, settings, v, W)} if CLOSED[name] is not NOTHING else {}
    if name in BIASES:
        parts["bias"] = BIASES[name](settings, v, W, b)
    if name in PENALTIES:
        parts["penalty"] = PENALTIES[name](settings, v)
    return {part: value for part, value in parts.items() if value is not None}


def alpha_over_rank(s: Mapping[str, Any]) -> float:
    if s["alpha"] is None:
        return 1.0
    return s["alpha"] / (sqrt(s["rank"]) if s.get("use_rslora") else s["rank"])


def alpha_of(s: Mapping[str, Any]) -> float:
    return 1.0 if s["alpha"] is None else s["alpha"]


def within_of(structure: Any, v: Values, W: Array) -> Array:
    settings = dict(structure.method.defaults) | dict(structure.settings)
    prefix = "within."
    inner = {name.removeprefix(prefix): a for name, a in v.items() if name.startswith(prefix)}
    return delta(structure.method.name, settings, inner, W)


def lora(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    if "T" in v:
        core = v["T"].reshape(s["rank"], s["rank"], -1)
        return alpha_over_rank(s) * np.einsum("oa,abk,bi->oik", v["B"], core, v["A"]).reshape(
            W.shape
        )
    product = v["B"] @ v["A"]
    if s["start"] in ("pissa", "olora", "given"):
        product = product - v["B@start"] @ v["A@start"]
    return alpha_over_rank(s) * product.reshape(W.shape)


def dora(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    if not s["wd_on_out"]:
        turned = np.swapaxes(W + within_of(s["within"], v, W), 0, 1)
        new = [m * part / np.linalg.norm(part) for m, part in zip(v["m"], turned, strict=True)]
        return np.swapaxes(np.array(new), 0, 1) - W
    V = (W + within_of(s["within"], v, W)).reshape(len(W), -1)
    rows = [m * row / np.linalg.norm(row) for m, row in zip(v["m"], V, strict=True)]
    return np.array(rows).reshape(W.shape) - W


def vera(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    return (np.diag(v["b"]) @ v["B"] @ np.diag(v["d"]) @ v["A"]).reshape(W.shape)


def lora_xs(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    return (alpha_over_rank(s) * (v["B"] @ v["R"] @ v["A"])).reshape(W.shape)


def loha(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    if "T1" in v:
        parts = [
            np.einsum("abk,ao,bi->oik", v[f"T{k}"].reshape(s["rank"], s["rank"], -1), B, A)
            for k, B, A in ((1, v["B1"], v["A1"]), (2, v["B2"], v["A2"]))
        ]
    else:
        parts = [v["B1"] @ v["A1"], v["B2"] @ v["A2"]]
    if s["use_tanh"]:
        parts = [np.tanh(part) for part in parts]
    if s["personalized"]:
        parts[1] = parts[1] + 1
    return (alpha_over_rank(s) * parts[0] * parts[1]).reshape(W.shape)


def hira(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    return W * (v["B"] @ v["A"]).reshape(W.shape)


def hut(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    if s["reading"] == "multiply_one_plus":
        return W * (1 + (v["B"] @ v["A"]).reshape(W.shape)) - W
    product = v["b"] @ v["a"]
    if "B" in v:
        product = product + v["B"] @ v["A"]
    return W * product.reshape(W.shape) - W


def lokr(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    first = v["W1"] if "W1" in v else v["W1_a"] @ v["W1_b"]
    if "T2" in v:
        core = v["T2"].reshape(s["rank"], s["rank"], -1)
        second = np.einsum("uvk,ub,vd->bdk", core, v["W2_a"], v["W2_b"])
        second = second.reshape(len(second), -1)
    else:
        second = v["W2"] if "W2" in v else v["W2_a"] @ v["W2_b"]
    scale = alpha_over_rank(s)
    if s["convention"] == "lycoris" and "W1" in v and "W2" in v:
        scale = 1.0
    return scale * np.kron(first, second).reshape(W.shape)


def kronecker(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    return alpha_over_rank(s) * np.kron(v["B"], v["A"]).reshape(W.shape)


def sine_lora(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    g = sqrt(W[0].size) if s["gain"] is None else s["gain"]
    if s["within"] is not None:
        return alpha_of(s) * np.sin(s["frequency"] * within_of(s["within"], v, W)) / g
    rank = s["rank"] or 8
    product = (v["B"] @ v["A"]).reshape(W.shape)
    return alpha_over_rank({**s, "rank": rank}) * np.sin(s["frequency"] * product) / g


def _circulant(c: Array, rows: int, columns: int) -> Array:
    n = len(c)
    return np.array([[c[(i - j) % n] for j in range(columns)] for i in range(rows)])


def _skew_circulant(h: Array) -> Array:
    n = len(h)
    return np.array([[h[(i - j) % n] * (1 if i >= j else -1) for j in range(n)] for i in range(n)])


def _symmetric(t: Array, rows: int, columns: int) -> Array:
    return np.array([[t[abs(i - j)] for j in range(columns)] for i in range(rows)])


def _toeplitz(t: Array, rows: int, columns: int) -> Array:
    return np.array([[t[i - j + columns - 1] for j in range(columns)] for i in range(rows)])


def _surm(matrix: Callable[[Array, int, int], Array]) -> Callable[..., Array]:
    def form(s: Mapping[str, Any], v: Values, W: Array) -> Array:
        out, inp = len(W), W[0].size
        n = max(out, inp)
        if s["form"] == "elementwise":
            made = matrix(v["a"] * v["b"], out, inp)
        elif s["form"] == "product":
            made = matrix(v["b"], out, n) @ matrix(v["a"], n, inp)
        elif s["form"] == "single":
            made = matrix(v["a"], out, inp)
        else:
            made = v["gate"] * matrix(v["a"], out, inp)
        return alpha_of(s) * made.reshape(W.shape)

    return form


def ldr(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    n = len(v["G"])
    pairs = zip(v["G"].T, v["H"].T, strict=True)
    made = sum(_circulant(g, n, n) @ _skew_circulant(h) for g, h in pairs)
    return alpha_of(s) * made[: len(W), : W[0].size].reshape(W.shape)


def tt_lora(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    made = np.ones((1, 1))
    for k in range(1, len(v) + 1):
        core = v[f"G{k}"]
        core = core.reshape(made.shape[1], -1, 1 if k == len(v) else core.shape[-1])
        made = np.tensordot(made, core, axes=(1, 0)).reshape(-1, core.shape[-1])
    return alpha_of(s) * made.reshape(W.shape)


def tucker(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    made = v["C"]
    for m in range(made.ndim):
        made = np.moveaxis(np.tensordot(v[f"A{m + 1}"], made, axes=(1, m)), 0, m)
    return alpha_over_rank(s) * made.reshape(W.shape)


def cp(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    total: Any = 0
    for r in range(s["rank"]):
        term = np.ones(())
        for m in range(1, len(v) + 1):
            term = np.multiply.outer(term, v[f"A{m}"][:, r])
        total = total + term
    return alpha_over_rank(s) * total.reshape(W.shape)


CLOSED: dict[str, Callable[..., Array]] = {
    "lora": lora,
    "dora": dora,
    "vera": vera,
    "lora_xs": lora_xs,
    "loha": loha,
    "hira": hira,
    "hut": hut,
    "lokr": lokr,
    "kronecker": kronecker,
    "sine_lora": sine_lora,
    "circulant": _surm(_circulant),
    "symmetric_toeplitz": _surm(_symmetric),
    "toeplitz": _surm(_toeplitz),
    "ldr": ldr,
    "tt_lora": tt_lora,
    "tucker": tucker,
    "cp": cp,
}

BIASES: dict[str, Callable[..., Array | None]] = {}
"""Δb of the settings, the leaves, W0 and b0; None where the settings have no bias part."""

PENALTIES: dict[str, Callable[..., Any]] = {}
"""The penalty of the settings and the leaves; None where the settings have none."""


def NOTHING(s: Mapping[str, Any], v: Values, W: Array) -> Array:
    """The ΔW of a method that changes the bias alone."""
    return np.zeros_like(W)
