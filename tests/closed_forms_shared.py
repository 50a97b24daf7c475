"""The methods that share leaves among weights, in plain numpy: one weight of a group at a time.

A form takes the settings, the leaves of weight k, the shapes of all weights, and k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from scipy.linalg import hadamard

from tests.closed_forms import BIASES, CLOSED, Array, Values, alpha_of, alpha_over_rank

Settings = Mapping[str, Any]
Shapes = Sequence[tuple[int, ...]]
Form = Callable[[Settings, Values, Shapes, int, Array], Array]


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], int(np.prod(shape[1:]))


def lotr(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    return alpha_over_rank(s) * v["U"][:o] @ v["G"] @ v["V"][:, :i]


def _grid(slots: Array) -> Array:
    """A grid of slots, laid out by loops."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in slots])


def fact_tt(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    return alpha_of(s) * _grid([[v["V"] @ S @ v["U"] for S in row] for row in v["S"]])


def fact_tk(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    return alpha_of(s) * _grid([[v["V"] @ (v["C"] @ p) @ v["U"] for p in row] for row in v["P"]])


def lorta(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    layer, m = divmod(k, s["projections"])
    is_last = m == s["projections"] - 1
    heads_out = s["head_axis"] == "out" or (s["head_axis"] == "attention" and not is_last)
    headed, side, width = (o, i, v["B"].shape[1]) if heads_out else (i, o, v["B"].shape[1])
    new = np.zeros((side, headed))
    for r in range(s["rank"]):
        weight = v[f"M{m}"][r] * v[f"L{layer}"][r]
        tail = np.kron(v["H"][: headed // width, r], v["B"][r])
        new += weight * np.outer(v["A"][:side, r], tail)
    return alpha_over_rank(s) * (new.T if heads_out else new)


def cara(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    new = np.zeros((o, i))
    for r in range(s["rank"]):
        if s["part"] == "attention":
            heads = v["A3"][: o // len(v["A4"]), r]
            term = np.outer(np.kron(heads, v["A4"][:, r]), v["A2"][:i, r]) * v["A1"][r]
        else:
            term = np.outer(np.kron(v["A1"][:, r], v["A2"][:, r]), v["A3"][:, r])
            term = term.T if i > o else term
        new += v["lambda"][r] * term
    return alpha_of(s) * new


def cara_bias(s: Settings, v: Values, W: Array, b: Array) -> Array | None:
    if s["part"] == "attention":
        return None
    return alpha_of(s) * v["bias_{}x{}".format(*flat(W.shape))]


def _mixed(logits: Array, bank: Array, topk: int) -> Array:
    chosen = np.argsort(-logits)[:topk]
    weights = np.exp(logits[chosen]) / np.exp(logits[chosen]).sum()
    return weights @ bank[chosen]


def vblora(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    r, b, bank = s["rank"], s["vector_length"], v["V"]
    A, B = np.zeros((r, i)), np.zeros((o, r))
    for n in range(r):
        for g in range(i // b):
            A[n, g * b : (g + 1) * b] = _mixed(v["logits_A"][n, g], bank, s["topk"])
        for g in range(o // b):
            B[g * b : (g + 1) * b, n] = _mixed(v["logits_B"][g, n], bank, s["topk"])
    return B @ A


def permuted(values: Array, seed: int) -> Array:
    return values[np.random.RandomState(seed).permutation(len(values))]


def unilora(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    r, d = s["rank"], s["theta_d_length"]
    sizes = [r * sum(flat(shape)) for shape in shapes]
    dealt = np.arange(sum(sizes)) % d
    count = np.bincount(dealt, minlength=d)
    own = permuted(dealt[sum(sizes[:k]) : sum(sizes[: k + 1])], s["proj_seed"] + k)
    numbers = v["theta"][own] / np.sqrt(count[own])
    o, i = flat(shapes[k])
    return numbers[r * i :].reshape(o, r) @ numbers[: r * i].reshape(r, i)


def tinylora(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    (name,) = [name for name in v if name.startswith("v")]
    return v["B"] @ sum(c * P for c, P in zip(v[name], v["P"], strict=True)) @ v["A"]


def shared_vera(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    return np.diag(v["b"]) @ v["B"][:o] @ np.diag(v["d"]) @ v["A"][:, :i]


def shared_dvora(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    V = W.reshape(flat(W.shape)) + shared_vera(s, v, shapes, k, W)
    return v["m"][:, None] * V / np.linalg.norm(V, axis=1, keepdims=True) - W.reshape(V.shape)


def shared_randlora(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    small, large, r = min(o, i), max(o, i), s["rank"]
    N = -(-small // r)
    B, A = v["B"][:large, :N], v["A"][:, 0, :small]
    columns, rows = [], []
    for n in range(N):
        for p in range(r):
            columns.append(B[:, n, p])
    for p in range(r):
        for n in range(N):
            rows.append(v["lambda"][p, n] * A[p] * v["gamma"][n])
    if s["pairing"] == "paper":
        rows = [rows[p * N + n] for n in range(N) for p in range(r)]
    new = np.array(columns).T @ np.array(rows)
    return alpha_over_rank(s) * (new if o >= i else new.T)


# --- SuperLoRA -----------------------------------------------------------------------------


def _groups(s: Settings, shapes: Shapes, k: int) -> list[tuple[str, int, int, int]]:
    """The pieces of weight k: the group's prefix, its length, and the piece's range in it."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    if isinstance(s["groups"], int):
        total, G = sum(sizes), s["groups"]
        ends = [g * total // G for g in range(G + 1)]
        label = np.searchsorted(ends, np.arange(total), side="right") - 1
        mine = np.arange(sum(sizes[:k]), sum(sizes[: k + 1]))
        found = []
        for g in np.unique(label[mine]):
            part = mine[label[mine] == g] - ends[g]
            found.append((f"{g}.", ends[g + 1] - ends[g], part[0], part[-1] + 1))
        return found
    names = {
        "weight": [str(j) for j in range(len(shapes))],
        "shape": ["{}x{}.".format(*flat(shape)) for shape in shapes],
        "projection": [f"{j % s['projections']}." for j in range(len(shapes))],
    }[s["groups"]]
    mates = [j for j, name in enumerate(names) if name == names[k]]
    first = sum(sizes[j] for j in mates if j < k)
    prefix = "" if s["groups"] == "weight" else names[k]
    return [(prefix, sum(sizes[j] for j in mates), first, first + sizes[k])]


def _tensor(s: Settings, v: Values, prefix: str) -> Array:
    """The Kronecker product of the group's Tucker (or CP) tensors."""
    whole = np.ones((1,) * s["order"])
    for n in range(s["splits"]):
        start = prefix + (f"s{n}." if s["splits"] > 1 else "")
        arms = [v.get(f"{start}A{m + 1}") for m in range(s["order"])]
        if f"{start}C" in v:
            made = v[f"{start}C"]
            for m, arm in enumerate(arms):
                if arm is not None:
                    made = np.moveaxis(np.tensordot(arm, made, axes=(1, m)), 0, m)
        else:
            made = 0
            for r in range(arms[0].shape[1]):
                term = arms[0][:, r]
                for arm in arms[1:]:
                    term = np.multiply.outer(term, arm[:, r])
                made = made + term
        whole = np.kron(whole, made)
    return whole


def _projected(s: Settings, v: Values, piece: tuple[str, int, int, int]) -> Array:
    prefix, length, first, last = piece
    z = _tensor(s, v, prefix).ravel()
    inner = ceil(round(s["ratio"] * length, 9))
    if inner == length:
        return z[first:last]
    z, count = z[:inner], last - first
    if s["projection"] == "dense":
        return v[f"{prefix}P"] @ z
    if s["projection"] == "tile":
        return np.tile(permuted(z, s["seed"]), -(-length // inner))[first:last]
    d = 2 ** int(np.ceil(np.log2(inner)))
    H = hadamard(d) / np.sqrt(d)
    padded = np.zeros(d)
    padded[:inner] = z
    mixed = permuted(H @ np.diag(v[f"{prefix}B"]) @ padded, s["seed"])
    blocks = [
        np.diag(scale) @ H @ np.diag(gauss) @ mixed
        for gauss, scale in zip(v[f"{prefix}G"], v[f"{prefix}S"], strict=True)
    ]
    return np.concatenate(blocks)[:count] * np.sqrt(d / inner)


def superlora(s: Settings, v: Values, shapes: Shapes, k: int, W: Array) -> Array:
    o, i = flat(shapes[k])
    factor = alpha_of(s) / (s["rank"] or 1) if s["alpha"] is not None else 1.0
    if s["fold"] in ("concat", "stack"):
        new = _in_line(s, v, shapes, k)
    else:
        parts = []
        for prefix, length, first, last in _groups(s, shapes, k):
            if s["shuffle"] == "group":
                whole = _projected(s, v, (prefix, length, 0, length))
                parts.append(permuted(whole, s["seed"])[first:last])
            else:
                parts.append(_projected(s, v, (prefix, length, first, last)))
        new = np.concatenate(parts)
    if s["shuffle"] == "weight":
        new = permuted(new.ravel(), s["seed"])
    return factor * new.reshape(o, i)


def _in_line(s: Settings, v: Values, shapes: Shapes, k: int) -> Array:
    if isinstance(s["groups"], int):
        names = [f"{j * s['groups'] // len(shapes)}." for j in range(len(shapes))]
    else:
        names = [f"{j}:{_groups(s, shapes, j)[0][0]}" for j in range(len(shapes))]
        names = names if s["groups"] == "weight" else [name.split(":")[1] for name in names]
    prefix = "" if s["groups"] == "weight" else names[k]
    mates = [flat(shapes[j]) for j, name in enumerate(names) if name == names[k]]
    before = [flat(shapes[j]) for j, name in enumerate(names[:k]) if name == names[k]]
    whole, (o, i) = _tensor(s, v, prefix), flat(shapes[k])
    if s["fold"] == "stack":
        return whole[:, len(before), :]
    if len({out for out, _ in mates}) == 1:
        start = sum(inp for _, inp in before)
        return whole[:, start : start + i]
    start = sum(out for out, _ in before)
    return whole[start : start + o]


SHARED: dict[str, Form] = {
    "aurora": fact_tk,
    "cara": cara,
    "fact_tk": fact_tk,
    "fact_tt": fact_tt,
    "lorta": lorta,
    "lotr": lotr,
    "shared_dvora": shared_dvora,
    "shared_randlora": shared_randlora,
    "shared_vera": shared_vera,
    "superlora": superlora,
    "tinylora": tinylora,
    "unilora": unilora,
    "vblora": vblora,
}


def _alone(form: Form) -> Callable[[Settings, Values, Array], Array]:
    return lambda s, v, W: form(s, v, [W.shape], 0, W).reshape(W.shape)


CLOSED.update((name, _alone(form)) for name, form in SHARED.items())
BIASES["cara"] = cara_bias
