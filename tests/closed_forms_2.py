"""More methods in plain numpy: scalings, blocks, rotations, spectra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.closed_forms import (
    BIASES,
    CLOSED,
    PENALTIES,
    Array,
    Values,
    alpha_of,
    alpha_over_rank,
)

Settings = Mapping[str, Any]


def abba(s: Settings, v: Values, W: Array) -> Array:
    product = (v["B1"] @ v["A1"]) * (v["B2"] @ v["A2"])
    return alpha_of(s) * product.reshape(W.shape)


def _multiplier(s: Settings, v: Values) -> Array:
    return v["l"] + 1 if s["parametrization"] == "offset" else v["l"]


def ia3(s: Settings, v: Values, W: Array) -> Array:
    l = _multiplier(s, v)  # noqa: E741
    new = np.zeros_like(W)
    for at in np.ndindex(*W.shape):
        new[at] = l[at[1] if s["is_feedforward"] else at[0]] * W[at]
    return new - W


def ia3_bias(s: Settings, v: Values, W: Array, b: Array) -> Array | None:
    return None if s["is_feedforward"] else (_multiplier(s, v) - 1) * b


def hadamard_adapter(s: Settings, v: Values, W: Array) -> Array:
    flat = W.reshape(len(W), -1)
    if s["side"] == "output":
        return (np.diag(v["m"]) @ flat - flat).reshape(W.shape)
    return W * (v["m"] - 1).reshape(1, -1, *[1] * (W.ndim - 2))


def hadamard_adapter_bias(s: Settings, v: Values, W: Array, b: Array) -> Array:
    if s["side"] == "output":
        return v["m"] * b + v["c"] - b
    return W.reshape(*W.shape[:2], -1).sum(-1) @ v["c"]


def delora(s: Settings, v: Values, W: Array) -> Array:
    total = 0
    for j in range(s["rank"]):
        b, a = v["B"][:, j], v["A"][j]
        lengths = max(np.linalg.norm(b), 1e-4) * max(np.linalg.norm(a), 1e-4)
        total = total + np.outer(b, a) / lengths
    return (v["lambda"][0] / s["rank"] * total * v["w_norm"]).reshape(W.shape)


def kasa(s: Settings, v: Values, W: Array) -> Array:
    new = alpha_over_rank(s) * v["B"] @ np.diag(v["d"]) @ v["A"]
    if s["truncate_base"]:
        new = new - v["tail_B"] @ v["tail_A"]
    return new.reshape(W.shape)


def kasa_penalty(s: Settings, v: Values) -> float | None:
    if not s["beta"] and not s["gamma"]:
        return None
    return s["beta"] * (v["d"] ** 2).sum() + s["gamma"] * (_skewness(v["B"].T) + _skewness(v["A"]))


def _skewness(rows: Array) -> float:
    """How far rows are from orthonormal."""
    return float(np.sqrt(((rows @ rows.T - np.eye(len(rows))) ** 2).sum()))


def dvora(s: Settings, v: Values, W: Array) -> Array:
    V = W + (np.diag(v["b"]) @ v["B"] @ np.diag(v["d"]) @ v["A"]).reshape(W.shape)
    rows = [m * row / np.linalg.norm(row) for m, row in zip(v["m"], V, strict=True)]
    return np.array(rows) - W


def _softened(s: Settings) -> float:
    return 1.0 if s["alpha"] is None else s["alpha"] / (s["rank"] + 1e-5)


def adalora(s: Settings, v: Values, W: Array) -> Array:
    return (_softened(s) * v["B"] @ np.diag(v["E"]) @ v["A"]).reshape(W.shape)


def adalora_penalty(s: Settings, v: Values) -> float | None:
    weight = s["orth_reg_weight"]
    return weight * (_skewness(v["A"]) + _skewness(v["B"].T)) if weight else None


def lora_squared(s: Settings, v: Values, W: Array) -> Array:
    product = v["D"] @ v["C"] @ np.diag(v["E"]) @ v["B"] @ v["A"]
    return (_softened(s) * product).reshape(W.shape)


def lora_squared_penalty(s: Settings, v: Values) -> float | None:
    rows = (v["A"], v["B"].T, v["C"], v["D"].T)
    return s["orth_reg_weight"] * sum(map(_skewness, rows)) if s["orth_reg_weight"] else None


def dora_dynamic(s: Settings, v: Values, W: Array) -> Array:
    terms = (v["c"][j] * np.outer(v["B"][:, j], v["A"][j]) for j in range(s["rank"]))
    return alpha_over_rank(s) * sum(terms).reshape(W.shape)


def dora_dynamic_penalty(s: Settings, v: Values) -> float | None:
    variances = np.mean([np.var(a) for a in v["A"]]) + np.mean([np.var(b) for b in v["B"].T])
    return s["variance_weight"] * variances if s["variance_weight"] else None


def tlora(s: Settings, v: Values, W: Array) -> Array:
    now = v["P"] @ np.diag(v["lambda"] * v["mask"]) @ v["Q"]
    then = v["P@start"] @ np.diag(v["lambda@start"] * v["mask"]) @ v["Q@start"]
    return alpha_over_rank(s) * (now - then).reshape(W.shape)


def dylora(s: Settings, v: Values, W: Array) -> Array:
    return (alpha_over_rank(s) * v["B"] @ np.diag(v["mask"]) @ v["A"]).reshape(W.shape)


def lora_mini(s: Settings, v: Values, W: Array) -> Array:
    return (alpha_over_rank(s) * v["L"] @ v["B"] @ v["A"] @ v["R"]).reshape(W.shape)


def pvera(s: Settings, v: Values, W: Array) -> Array:
    r = s["rank"]
    return (np.diag(v["b"]) @ v["B"] @ np.diag(v["d"][:r]) @ v["A"][:r]).reshape(W.shape)


def randlora(s: Settings, v: Values, W: Array) -> Array:
    B, A, lambdas, gammas = v["B"], v["A"][:, 0], v["lambda"], v["gamma"]
    N, r, total = len(gammas), s["rank"], 0
    if s["pairing"] == "paper":
        for n in range(N):
            total = total + B[:, n] @ np.diag(lambdas[:, n]) @ A @ np.diag(gammas[n])
    else:
        for k in range(N * r):
            n, rho = divmod(k, r)
            other_rho, other_n = divmod(k, N)
            row = lambdas[other_rho, other_n] * A[other_rho] * gammas[other_n]
            total = total + np.outer(B[:, n, rho], row)
    made = total if len(W) >= W[0].size else total.T
    return alpha_over_rank(s) * made.reshape(W.shape)


def qa_lora(s: Settings, v: Values, W: Array) -> Array:
    g, columns = s["qalora_group_size"], W[0].size
    pool = np.array(
        [[columns / g / g * (i // g == j) for i in range(columns)] for j in range(columns // g)]
    )
    return (alpha_over_rank(s) * v["B"] @ v["A"] @ pool).reshape(W.shape)


def melora(s: Settings, v: Values, W: Array) -> Array:
    new = _block_diagonal([b @ a for b, a in zip(v["B"], v["A"], strict=True)])
    return (alpha_over_rank(s) * new).reshape(W.shape)


def _block_diagonal(blocks: Any) -> Array:
    rows, columns = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    new, at = np.zeros((rows, columns)), [0, 0]
    for b in blocks:
        new[at[0] : at[0] + b.shape[0], at[1] : at[1] + b.shape[1]] = b
        at = [at[0] + b.shape[0], at[1] + b.shape[1]]
    return new


def gralora(s: Settings, v: Values, W: Array) -> Array:
    k, r = s["gralora_k"], s["rank"]
    part = r // k
    blocks = [[0] * k for _ in range(k)]
    for m in range(k):
        for n in range(k):
            left = v["B"][m, n * part : (n + 1) * part].T
            blocks[m][n] = left @ v["A"][n, :, m * part : (m + 1) * part].T
    new = np.block(blocks)
    if s["hybrid_r"]:
        new = new + v["B_general"] @ v["A_general"]
    scale = 1.0 if s["alpha"] is None else s["alpha"] / (r + s["hybrid_r"])
    return scale * new.reshape(W.shape)


def bd_lora(s: Settings, v: Values, W: Array) -> Array:
    B, A = v["B"], v["A"]
    if s["block_diagonal"] == "a":
        A = _block_diagonal(np.split(A, s["nblocks"]))
    else:
        B = _block_diagonal(np.split(B, s["nblocks"]))
    return alpha_over_rank(s) * (B @ A).reshape(W.shape)


def monarch(s: Settings, v: Values, W: Array) -> Array:
    """As the reference applies it, column by column."""
    N, r, columns = s["blocks"], s["rank"], []
    for x in np.eye(W[0].size):
        inner = np.einsum("nki,ni->nk", v["L1"], x.reshape(N, -1))
        turned = inner.reshape(r, N).T
        columns.append(np.einsum("mok,mk->mo", v["L2"], turned).T.reshape(-1))
    return np.array(columns).T.reshape(W.shape)


def btt(s: Settings, v: Values, W: Array) -> Array:
    letters, c = iter("abcdefghijklmnopqrstuvwxyz"), s["cores"]
    m, n, r = ([next(letters) for _ in range(c)] for _ in range(3))
    parts = []
    for j in range(1, c + 1):
        ranks = [r[k] for k in (j, j - 1) if 0 < k < c]
        parts.append("".join([*ranks, *m[:j], *n[j - 1 :]]))
    cores = [v[f"M{j}"] for j in range(1, c + 1)]
    new = np.einsum(f"{','.join(parts)}->{''.join(m + n)}", *cores)
    return alpha_over_rank(s) * new.reshape(W.shape)


def miss(s: Settings, v: Values, W: Array) -> Array:
    flat, M, r = W.reshape(len(W), -1), v["M"], s["rank"]
    new = np.zeros_like(flat)
    for o, i in np.ndindex(*flat.shape):
        if s["variant"] == "bat":
            g, a = divmod(o, r)
            j, c = divmod(i, r)
            new[o, i] = flat[o, j * r : (j + 1) * r] @ M[g, :, c] + M[g, a, c]
        else:
            new[o, i] = M[i % r, o % M.shape[1]]
    return new.reshape(W.shape)


def krona(s: Settings, v: Values, W: Array) -> Array:
    return alpha_of(s) * np.kron(v["A"], v["B"]).reshape(W.shape)


CLOSED.update(
    abba=abba,
    ia3=ia3,
    hadamard_adapter=hadamard_adapter,
    delora=delora,
    kasa=kasa,
    dvora=dvora,
    adalora=adalora,
    lora_squared=lora_squared,
    dora_dynamic=dora_dynamic,
    tlora=tlora,
    dylora=dylora,
    lora_mini=lora_mini,
    pvera=pvera,
    randlora=randlora,
    qa_lora=qa_lora,
    melora=melora,
    gralora=gralora,
    bd_lora=bd_lora,
    monarch=monarch,
    btt=btt,
    miss=miss,
    krona=krona,
)
BIASES.update(ia3=ia3_bias, hadamard_adapter=hadamard_adapter_bias)
PENALTIES.update(
    kasa=kasa_penalty,
    adalora=adalora_penalty,
    lora_squared=lora_squared_penalty,
    dora_dynamic=dora_dynamic_penalty,
)
