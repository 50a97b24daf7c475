"""Every node of the algebra beside a formula in plain numpy: the rows that judge evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import scipy.linalg

from tensoradapt.algebra import builders as ta
from tensoradapt.algebra import forms, indexing
from tensoradapt.algebra import nodes as algebra_nodes
from tensoradapt.algebra import starts as begin
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.leaves import base, base_bias, eye, ones, parameter
from tensoradapt.algebra.nodes import (
    Constant,
    MatrixFunction,
    Norm,
    Place,
    Scale,
    Take,
)
from tensoradapt.algebra.walk import topological

Values = dict[str, np.ndarray]


def leaf(name: str, *shape: int) -> Expr:
    return parameter(name, *shape, start=begin.normal())


@dataclass(frozen=True)
class Case:
    """An expression over the leaves of ``drawn`` and the formula that it must equal."""

    name: str
    expr: Expr
    formula: Callable[[Values], Any]

    def __str__(self) -> str:
        return self.name


def drawn(seed: int = 0) -> Values:
    source = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (4, 5), "q": (4, 4), "s": (3, 4, 4), "v": (6,), "z": ()}
    shapes |= {"t": (2, 3, 4), "m": (8, 3), "p": (2, 6), "u": (5, 3), "W": (3, 4), "bias": (3,)}
    return {name: source.standard_normal(shape) for name, shape in shapes.items()}


a, b, q, s, v, z = (leaf(n, *drawn()[n].shape) for n in ("a", "b", "q", "s", "v", "z"))
t, m, p, u = (leaf(n, *drawn()[n].shape) for n in ("t", "m", "p", "u"))
w = base(3, 4)


def block_diagonal(x: Values) -> Any:
    return scipy.linalg.block_diag(*x["t"])


def hyperedge(x: Values) -> np.ndarray:
    return np.array(
        [
            [sum(x["a"][o, k] ** 2 * x["q"][k, i] for k in range(4)) for i in range(4)]
            for o in range(3)
        ]
    )


def padded(x: Values) -> np.ndarray:
    result = np.zeros((4, 7))
    for i, j in product(range(4), range(7)):
        row, column = i + 1, j - 2
        if 0 <= row < 3 and 0 <= column < 4:
            result[i, j] = x["a"][row, column]
    return result


def placed(x: Values) -> np.ndarray:
    result = np.zeros(20)
    result[[3, 17, 0, 9, 12, 4]] = x["v"] * np.array([1, -1, 1, 1, -1, 1])
    return result.reshape(4, 5)


def reflections(x: Values) -> np.ndarray:
    result = np.eye(5)
    for column in x["u"].T:
        result = result @ (np.eye(5) - 2 * np.outer(column, column) / (column @ column))
    return result


def gathered(x: Values) -> np.ndarray:
    return np.array([[x["t"][:, (i - j) % 3] for j in range(3)] for i in range(3)])


I4 = np.eye(4)
MULTILINEAR = [
    Case("parameter", a, lambda x: x["a"]),
    Case("base", w, lambda x: x["W"]),
    Case("base bias", base_bias(3), lambda x: x["bias"]),
    Case("ones", ones(2, 3), lambda x: np.ones((2, 3))),
    Case("identity", eye(3), lambda x: np.eye(3)),
    Case("scalar of ones", ones(), lambda x: np.ones(())),
    Case(
        "cube identity",
        Constant("identity", (2, 2, 2)),
        lambda x: np.eye(8)[[0, 7]].sum(0).reshape(2, 2, 2),
    ),
    Case("product", a @ b, lambda x: x["a"] @ x["b"]),
    Case("inner product", v @ v, lambda x: x["v"] @ x["v"]),
    Case("elementwise product", a * w, lambda x: x["a"] * x["W"]),
    Case("transpose", a.T, lambda x: x["a"].T),
    Case("trace", ta.einsum("i i -> ", q), lambda x: np.trace(x["q"])),
    Case("diagonal", ta.einsum("i i -> i", q), lambda x: np.diag(x["q"])),
    Case("embedded diagonal", ta.einsum("i -> i i", v), lambda x: np.diag(x["v"])),
    Case(
        "three of one",
        ta.einsum("i -> i (i i)", v @ leaf("p", 2, 6).T),
        lambda x: np.einsum("i,ij,ik->ijk", x["p"] @ x["v"], np.eye(2), np.eye(2)).reshape(2, 4),
    ),
    Case("hyperedge", ta.einsum("o k, o k, k i -> o i", a, a, q), hyperedge),
    Case("kron", forms.kron(a, b), lambda x: np.kron(x["a"], x["b"])),
    Case(
        "grouped inputs",
        ta.einsum("(o p) i -> p i o", m, p=2),
        lambda x: x["m"].reshape(4, 2, 3).transpose(1, 2, 0),
    ),
    Case("empty group", ta.einsum("o i -> () i o", a), lambda x: x["a"].T[None]),
    Case("block diagonal", forms.block_diag(t), block_diagonal),
    Case(
        "tensor train",
        forms.tensor_train([a, leaf("r", 4, 2, 5), leaf("e", 5, 3)]),
        lambda x: np.tensordot(np.tensordot(x["a"], x["r"], 1), x["e"], 1),
    ),
    Case(
        "five factors",
        ta.einsum("a b, b c, c d, d e, e f -> a f", a, q, q, q, b),
        lambda x: x["a"] @ x["q"] @ x["q"] @ x["q"] @ x["b"],
    ),
    Case("scalar times", ta.einsum(" , i j -> i j", z, a), lambda x: x["z"] * x["a"]),
    Case("sum", a + w - 2 * a, lambda x: x["W"] - x["a"]),
    Case("sum with a number", a + 0.5, lambda x: x["a"] + 0.5),
    Case("scale", Scale(Fraction(2, 3), a), lambda x: x["a"] * 2 / 3),
    Case("scale by a float", a * 2**0.5, lambda x: x["a"] * 2**0.5),
]
LAYOUT = [
    Case("reshape", ta.reshape(t, 6, 4), lambda x: x["t"].reshape(6, 4)),
    Case("window", ta.window(a, 4, 7, offset=(1, -2)), padded),
    Case("window beyond", ta.window(a, 2, 2, offset=(5, 0)), lambda x: np.zeros((2, 2))),
    Case("window before", ta.window(a, 2, 3, offset=(0, -9)), lambda x: np.zeros((2, 3))),
    Case("crop", ta.window(a, 2, 3), lambda x: x["a"][:2, :3]),
    Case(
        "concatenate",
        ta.concatenate([a, w, a], axis=1),
        lambda x: np.hstack([x["a"], x["W"], x["a"]]),
    ),
    Case("take", ta.take(t, [2, 0, 0, 1], axis=1), lambda x: x["t"][:, [2, 0, 0, 1]]),
    Case(
        "take into two axes",
        Take(t, 1, indexing.circulant_map(3)),
        lambda x: np.moveaxis(gathered(x), 2, 0),
    ),
    Case(
        "take with signs",
        Take(t, 1, IndexMap("table", (2,), 3, (1, 0, -1, 1))),
        lambda x: x["t"][:, [1, 0]] * np.array([-1, 1])[:, None],
    ),
    Case("circulant", forms.circulant(v), lambda x: scipy.linalg.circulant(x["v"])),
    Case(
        "toeplitz",
        forms.toeplitz(v, 4, 3),
        lambda x: scipy.linalg.toeplitz(x["v"][2:], x["v"][2::-1]),
    ),
    Case(
        "symmetric toeplitz", forms.symmetric_toeplitz(v), lambda x: scipy.linalg.toeplitz(x["v"])
    ),
    Case(
        "skew circulant",
        forms.skew_circulant(v),
        lambda x: scipy.linalg.toeplitz(x["v"], -np.roll(x["v"][::-1], 1)),
    ),
    Case(
        "place",
        Place(v, (4, 5), IndexMap("table", (6,), 20, (3, 17, 0, 9, 12, 4, 1, -1, 1, 1, -1, 1))),
        placed,
    ),
]
BARRIERS = [
    Case("norm", ta.norm(t, 0, 2), lambda x: np.sqrt((x["t"] ** 2).sum((0, 2)))),
    Case("norm over no axis", Norm(t, ()), lambda x: abs(x["t"])),
    Case("norm over all", ta.norm(a, 0, 1), lambda x: np.linalg.norm(x["a"])),
    Case(
        "cayley",
        ta.cayley(q - q.T),
        lambda x: (I4 - x["q"] + x["q"].T) @ np.linalg.inv(I4 + x["q"] - x["q"].T),
    ),
    Case(
        "cayley inverse",
        ta.cayley(q - q.T, inverse=True),
        lambda x: (I4 + x["q"] - x["q"].T) @ np.linalg.inv(I4 - x["q"] + x["q"].T),
    ),
    Case(
        "cayley of a batch",
        MatrixFunction(s, "cayley", (1,)),
        lambda x: np.stack([(I4 - y) @ np.linalg.inv(I4 + y) - I4 for y in x["s"]]),
    ),
    Case(
        "neumann",
        ta.neumann(q, 4),
        lambda x: (
            I4
            + 2 * x["q"]
            + 2 * x["q"] @ x["q"]
            + 2 * np.linalg.matrix_power(x["q"], 3)
            + np.linalg.matrix_power(x["q"], 4)
        ),
    ),
    Case("neumann of one", ta.neumann(q, 1), lambda x: I4 + 2 * x["q"]),
    Case("householder", ta.householder(u), reflections),
    Case(
        "orthonormal",
        ta.orthonormal(u),
        lambda x: x["u"] @ np.linalg.inv(np.linalg.cholesky(x["u"].T @ x["u"]).T),
    ),
    Case("exponential", ta.exponential(3 * q), lambda x: scipy.linalg.expm(3 * x["q"])),
    Case(
        "exponential of a batch",
        ta.exponential(s),
        lambda x: np.stack([scipy.linalg.expm(y) for y in x["s"]]),
    ),
    Case("hold", ta.hold(a), lambda x: x["a"]),
    Case("at start", a - ta.at_start(a @ q), lambda x: x["a"] - x["a@start"] @ x["q@start"]),
    Case("at start of base", ta.at_start(w * a), lambda x: x["W"] * x["a@start"]),
    Case("nested at start", ta.at_start(a - ta.at_start(a)), lambda x: np.zeros((3, 4))),
    Case(
        "at start of a constant",
        ta.at_start(parameter("o", 2, 2, start=begin.constant(3.0))),
        lambda x: np.full((2, 2), 3.0),
    ),
]


def softmax_of_two(x: np.ndarray) -> np.ndarray:
    result = np.zeros_like(x)
    for row, out in zip(x, result, strict=True):
        best = sorted(range(len(row)), key=lambda k: -row[k])[:2]
        total = sum(np.exp(row[k]) for k in best)
        for k in best:
            out[k] = np.exp(row[k]) / total
    return result


FORMULAS: dict[str, tuple[tuple[float, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "sin": ((), np.sin),
    "cos": ((), np.cos),
    "tanh": ((), np.tanh),
    "exp": ((), np.exp),
    "sigmoid": ((), lambda x: 1 / (1 + np.exp(-x))),
    "relu": ((), lambda x: (abs(x) + x) / 2),
    "abs": ((), np.abs),
    "sqrt": ((), lambda x: x**0.5),
    "reciprocal": ((), lambda x: 1 / x),
    "clip": ((-0.5, 0.8), lambda x: np.clip(x, -0.5, 0.8)),
    "polynomial": ((1.0, 0.0, -2.0, 0.5), lambda x: 1 - 2 * x**2 + x**3 / 2),
    "softmax_top": ((2.0,), softmax_of_two),
}


def map_case(name: str) -> Case:
    settings, formula = FORMULAS[name]
    operand = a * a if name == "sqrt" else a
    return Case(
        name,
        ta.elementwise(name, operand, *settings),
        lambda x: formula(x["a"] ** 2 if name == "sqrt" else x["a"]),
    )


def transform_case(kind: str, n: int) -> Case:
    operand = leaf("n", 3, n, 2)
    expr = ta.linear_transform(operand, kind, axis=1)
    return Case(f"{kind} of {n}", expr, lambda x: np.stack([DENSE[kind](n) @ y for y in x["n"]]))


def haar(n: int) -> np.ndarray:
    rows = [np.full(n, n**-0.5)]
    width = n
    while width > 1:
        for first in range(0, n, width):
            row = np.zeros(n)
            row[first : first + width // 2] = width**-0.5
            row[first + width // 2 : first + width] = -(width**-0.5)
            rows.append(row)
        width //= 2
    return np.array(rows)


DENSE: dict[str, Callable[[int], np.ndarray]] = {
    "fourier_cos": lambda n: np.fft.fft(np.eye(n)).real,
    "fourier_sin": lambda n: -np.fft.fft(np.eye(n)).imag,
    "dct": lambda n: scipy.fft.dct(np.eye(n), norm="ortho", axis=0),
    "walsh_hadamard": lambda n: scipy.linalg.hadamard(n) / np.sqrt(n),
    "haar": haar,
    "inverse_fourier_cos": lambda n: np.fft.ifft(np.eye(n)).real,
    "inverse_fourier_sin": lambda n: np.fft.ifft(np.eye(n)).imag,
    "inverse_dct": lambda n: scipy.fft.idct(np.eye(n), norm="ortho", axis=0),
    "inverse_walsh_hadamard": lambda n: np.linalg.inv(scipy.linalg.hadamard(n) / np.sqrt(n)),
    "inverse_haar": lambda n: np.linalg.inv(haar(n)),
}

MAPS = [map_case(name) for name in FORMULAS]
FIXED = [transform_case(kind, n) for kind in DENSE for n in ((8,) if "a" in kind else (7, 8, 1))]
CASES = [*MULTILINEAR, *LAYOUT, *BARRIERS, *MAPS, *FIXED]


def values_for(expr: Expr, seed: int = 1) -> Values:
    values = drawn()
    source = np.random.default_rng(seed)
    for sub in topological(expr):
        if isinstance(sub, algebra_nodes.Parameter):
            values.setdefault(sub.name, source.standard_normal(sub.shape))
            values.setdefault(f"{sub.name}@start", source.standard_normal(sub.shape))
    return values
