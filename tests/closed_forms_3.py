"""More methods in plain numpy: rotations, spectra, sparse updates, factors of the base weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, sin, sqrt
from typing import Any

import numpy as np

from tests.closed_forms import BIASES, CLOSED, Array, Values

Settings = Mapping[str, Any]


def _filled(triangle: Array, n: int) -> Array:
    """The skew-symmetric matrix of its strict upper triangle, row by row."""
    Q = np.zeros((n, n))
    Q[np.triu_indices(n, 1)] = triangle
    return Q - Q.T


def _cayley(Q: Array) -> Array:
    one = np.eye(len(Q))
    return (one - Q) @ np.linalg.inv(one + Q)


def _series(Q: Array, terms: int) -> Array:
    """As PEFT writes it, with its quirk that three terms give four."""
    R, power = np.eye(len(Q)) + 2 * Q, Q
    if terms > 2:
        power = Q @ Q
        R = R + 2 * power
        for _ in range(3, terms - 1):
            power = power @ Q
            R = R + 2 * power
        R = R + power @ Q
    return R


def _down_to(Q: Array, most: float) -> Array:
    return Q if np.linalg.norm(Q) <= most else Q * most / np.linalg.norm(Q)


def _diagonal(blocks: Any) -> Array:
    size = sum(len(b) for b in blocks)
    new, at = np.zeros((size, size)), 0
    for b in blocks:
        new[at : at + len(b), at : at + len(b)] = b
        at += len(b)
    return new


def oft(s: Settings, v: Values, W: Array) -> Array:
    flat, b = W.reshape(len(W), -1), s["oft_block_size"]
    n = (flat.shape[1] if s["side"] == "input" else len(flat)) // b
    skews = [_filled(r, b) if s["stored"] == "triangle" else r - r.T for r in v["R"]]
    if s["coft"]:
        skews = [_down_to(Q, s["eps"] / sqrt(len(skews))) for Q in skews]
    if s["constraint"] is not None:
        whole = sqrt(sum(np.linalg.norm(Q) ** 2 for Q in skews))
        skews = [Q * min(1, s["constraint"] / whole) for Q in skews]
    terms = s["num_cayley_neumann_terms"]
    turns = [_series(Q, terms) if s["use_cayley_neumann"] else _cayley(Q) for Q in skews]
    R = _diagonal(turns * n if s["block_share"] else turns)
    new = flat @ R.T if s["side"] == "input" else R @ flat
    if s["rescaled"]:
        new = np.diag(v["s"]) @ new
    return new.reshape(W.shape) - W


def boft(s: Settings, v: Values, W: Array) -> Array:
    peft, b = s["convention"] == "peft", s["boft_block_size"]
    new, skews = W.reshape(len(W), -1), v["R"] - np.swapaxes(v["R"], -1, -2)
    if s["constraint"] is not None:
        skews = _down_to(skews, s["constraint"])
    for k, blocks in enumerate(skews):
        turns = [_cayley(Q / 2) if peft else _cayley(-Q) for Q in blocks]
        n, D = len(turns) * b, _diagonal(turns)
        # Row i of P is one where the butterfly reads: first the even half blocks, then the odd.
        order: list[int] = []
        stretch = b * 2**k
        for first in range(0, n, stretch):
            if peft and k:
                halves = np.arange(first, first + stretch).reshape(-1, b // 2)
                order += [*halves[0::2].reshape(-1), *halves[1::2].reshape(-1)]
            elif peft:
                order += range(first, first + stretch)
            else:
                pairs = np.arange(first, first + stretch).reshape(-1, 2)
                order += [*pairs[:, 0], *pairs[:, 1]]
        P = np.eye(n)[order]
        M = P @ D @ P.T
        new = new @ M.T if peft else M @ new
    if s["rescaled"]:
        new = np.diag(v["s"]) @ new
    return new.reshape(W.shape) - W


def hra(s: Settings, v: Values, W: Array) -> Array:
    flat, u = W.reshape(len(W), -1), v["u"]
    H = np.eye(len(u))
    if s["apply_GS"]:
        basis: list[Array] = []
        for column in u.T:
            for known in basis:
                column = column - (known @ column) * known
            basis.append(column / np.linalg.norm(column))
        H = H - 2 * sum(np.outer(q, q) for q in basis)
    else:
        for column in u.T:
            H = H @ (np.eye(len(u)) - 2 * np.outer(column, column) / (column @ column))
    return (flat @ H).reshape(W.shape) - W


def psoft(s: Settings, v: Values, W: Array) -> Array:
    r, R = s["rank"], v["R"]
    if s["psoft_orth"]:
        Q = _filled(R, r)
        if s["use_cayley_neumann"]:
            most = s["cayley_neumann_eps"]
            R = _series(Q if most is None else _down_to(Q, most), s["num_cayley_neumann_terms"])
        else:
            R = _cayley(-Q)
    if s["psoft_mag_b"]:
        R = np.diag(v["beta"]) @ R
    if s["psoft_mag_a"]:
        R = R @ np.diag(v["alpha"])
    return (v["B"] @ (R - np.eye(r)) @ v["A"]).reshape(W.shape)


def _road(s: Settings, v: Values, out: int) -> Array:
    """The matrix R, one pair of rows at a time."""
    R, g = np.zeros((out, out)), s["group_size"]
    theta, alpha = v["theta"], v["alpha"]
    for first in range(0, out, g):
        for j in range(g // 2):
            a, b = first + j, first + j + g // 2
            if s["variant"] == "road_1":
                k = first // 2 + j
                numbers = [(alpha[k], theta[k])] * 4
            elif s["variant"] == "road_2":
                numbers = [(alpha[a], theta[a])] * 2 + [(alpha[b], theta[b])] * 2
            else:
                # Each group has its g cosine entries first, then its g sine entries.
                at = [2 * first + j, 2 * first + g + j]
                at += [2 * first + j + g // 2, 2 * first + g + j + g // 2]
                numbers = [(alpha[k], theta[k]) for k in at]
            R[a, a] = numbers[0][0] * cos(numbers[0][1])
            R[a, b] = -numbers[1][0] * sin(numbers[1][1])
            R[b, b] = numbers[2][0] * cos(numbers[2][1])
            R[b, a] = numbers[3][0] * sin(numbers[3][1])
    return R


def road(s: Settings, v: Values, W: Array) -> Array:
    return np.tensordot(_road(s, v, len(W)), W, 1) - W


def road_bias(s: Settings, v: Values, W: Array, b: Array) -> Array:
    return _road(s, v, len(W)) @ b - b


def _positions(s: Settings, W: Array) -> list[tuple[int, int]]:
    import torch

    columns = W[0].size
    if s["indices"] is not None:
        return [divmod(k, columns) for k in s["indices"]]
    generator = torch.Generator().manual_seed(s["random_loc_seed"])
    order = torch.randperm(W.size, generator=generator)[: s["n_frequency"]]
    return [divmod(int(k), columns) for k in order]


def fourierft(s: Settings, v: Values, W: Array) -> Array:
    rows, columns, new = len(W), W[0].size, 0
    for (p, q), c in zip(_positions(s, W), v["c"], strict=True):
        phase = np.add.outer(np.arange(rows) * p / rows, np.arange(columns) * q / columns)
        new = new + c * np.cos(2 * np.pi * phase)
    return (s["scaling"] * new / W.size).reshape(W.shape)


def waveft(s: Settings, v: Values, W: Array) -> Array:
    rows, columns = len(W), W[0].size
    S = np.zeros((rows + rows % 2, columns + columns % 2))
    for at, c in zip(_positions(s, W), v["c"], strict=True):
        S[at] = c
    if not s["use_idwt"]:
        return s["scaling"] * S[:rows, :columns].reshape(W.shape)
    a, b = len(S) // 2, S.shape[1] // 2
    A, H, V, D = S[:a, :b], S[:a, b:], S[a:, :b], S[a:, b:]
    new = np.zeros_like(S)
    for p in (0, 1):
        for q in (0, 1):
            signs = (-1) ** p * H + (-1) ** q * V + (-1) ** (p + q) * D
            new[p::2, q::2] = s["scaling"] / 2 * (A + signs)
    return new[:rows, :columns].reshape(W.shape)


def c3a(s: Settings, v: Values, W: Array) -> Array:
    rows, columns, b = len(W), W[0].size, s["block_size"]
    new = np.zeros((rows, columns))
    for o, i in np.ndindex(rows, columns):
        new[o, i] = v["w"][o // b, i // b, (i % b - o % b) % b] / columns
    return new.reshape(W.shape)


CLOSED.update(
    oft=oft,
    boft=boft,
    hra=hra,
    psoft=psoft,
    road=road,
    fourierft=fourierft,
    waveft=waveft,
    c3a=c3a,
)
BIASES.update(road=road_bias)
