"""The laws of the library as plain functions, each of which raises where the law is broken.

``test_laws`` holds them over the tables; ``test_planted_faults`` breaks the library on purpose and
asserts that they notice. Leaves are always random, because at the start ΔW = 0 proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tensoradapt as ta
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.snapshot import distribute_snapshots
from tensoradapt.algebra.walk import leaves, parameters, snapshots, start_of
from tensoradapt.analysis.bound import rank_bound
from tensoradapt.documents import from_json, to_json
from tensoradapt.errors import UnsupportedError
from tensoradapt.nn.emit import emit
from tensoradapt.planning.candidate import Candidate, layer
from tensoradapt.planning.planner import candidates
from tensoradapt.planning.rates import CPU, Rates
from tensoradapt.planning.steps import Program
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.execute import execute_all
from tensoradapt.run.readings import apply, materialize
from tensoradapt.run.sample import sample
from tensoradapt.structure import Update
from tests.residues import Residues, random_residues, rank_modulo
from tests.rows import Row
from tests.tolerance import as_float64, assert_close, depth, tolerance

TOKENS = 5
FREE_TRANSFORMS = replace(CPU, name="free transforms", fourier=1e18, bandwidth=1e15, overhead=0.0)
FREE_PASSES = replace(CPU, name="free passes", square=1e3, batched=1e3, fourier=1e3, bandwidth=1e20)
RATES = (CPU, FREE_TRANSFORMS, FREE_PASSES)
"""Rates under which the planner prefers products, Fourier transforms, and elementwise passes."""


@dataclass(frozen=True)
class Site:
    """An update with random values for everything it reads, and what it is by the definition.

    ``delta`` is ΔW and ``shift`` is Δb, both by ``evaluate`` in numpy float64; ``magnified`` says
    how much more than usual its values may magnify a rounding, and ``floor`` how large its
    intermediate values are where they cancel.
    """

    name: str
    update: Update
    values: dict[str, np.ndarray]
    base: np.ndarray
    bias: np.ndarray
    x: np.ndarray
    delta: np.ndarray
    shift: np.ndarray
    magnified: float = 1.0
    floor: float = 0.0

    def __str__(self) -> str:
        return self.name

    @property
    def expr(self) -> Expr:
        assert self.update.weight is not None
        return self.update.weight

    @property
    def parts(self) -> list[Expr]:
        return [p for p in (self.update.weight, self.update.bias) if p is not None]

    @property
    def whole(self) -> np.ndarray:
        """W0 + ΔW as a matrix ``(out, in · kernel)``."""
        return (self.base + self.delta).reshape(len(self.delta), -1)

    @property
    def size(self) -> float:
        """The largest entry of the layer's output, had nothing cancelled."""
        return product_size(self.x, self.whole) + float(np.abs(self.bias + self.shift).max())

    @property
    def depth(self) -> float:
        return self.magnified * max(map(depth, self.parts))


def product_size(x: np.ndarray, matrix: np.ndarray) -> float:
    """The largest entry of ``|x| |matrix|ᵀ``: what the rounding of ``x matrixᵀ`` is measured by."""
    return float((np.abs(x) @ np.abs(matrix).T).max())


@lru_cache(maxsize=512)
def site(
    update: Update | Expr,
    name: str = "",
    seed: int = 11,
    magnified: float = 1.0,
    floor: float = 0.0,
) -> Site:
    """Lay an update, or an expression of one axis or more, on random values."""
    update = Update(update) if isinstance(update, Expr) else update
    parts = [part for part in (update.weight, update.bias) if part is not None]
    assert update.weight is not None
    shape, source = update.weight.shape, np.random.RandomState(seed)
    base, bias = source.standard_normal(shape), source.standard_normal(shape[0])
    x = source.standard_normal((TOKENS, prod(shape[1:])))
    values = sample(parts, seed=seed, start="random")
    given = {"base": base, "bias": bias}
    delta = np.asarray(evaluate(update.weight, values, **given))
    shift = np.zeros(shape[0])
    if update.bias is not None:
        shift = np.asarray(evaluate(update.bias, values, **given))
    assert np.isfinite(delta).all() and np.isfinite(shift).all()
    title = name or repr(update.weight)
    return Site(title, update, values, base, bias, x, delta, shift, magnified, floor)


def given_data(row: Row) -> dict[str, np.ndarray]:
    """Random arrays for the leaves that start as the user's own."""
    update, source = row.structure.update(row.shape), np.random.RandomState(4)
    parts = [part for part in (update.weight, update.bias, update.penalty) if part is not None]
    every = dict.fromkeys(leaf for part in parts for leaf in (*leaves(part), *snapshots(part)))
    wanted = [leaf for leaf in every if start_of(leaf).kind == "given"]
    return {leaf.name: source.standard_normal(leaf.shape) for leaf in wanted}


def site_of(row: Row) -> Site:
    return site(row.structure.update(row.shape), str(row))


# --- law 1: evaluate = materialize = apply, through every program -------------------------


Make = Callable[[np.ndarray], Any]
KINDS: dict[str, tuple[Make, Any]] = {
    "numpy float64": (lambda a: a, np.float64),
    "numpy float32": (lambda a: a.astype(np.float32), np.float32),
    "torch float64": (torch.tensor, torch.float64),
    "torch float32": (lambda a: torch.tensor(a).float(), torch.float32),
    "torch bfloat16": (lambda a: torch.tensor(a).bfloat16(), torch.bfloat16),
    "torch float16": (lambda a: torch.tensor(a).half(), torch.float16),
}
WIDE_KINDS = tuple(KINDS)[:4]


def readings_agree(site: Site, kind: str) -> None:
    """evaluate = materialize = apply(x) = apply(identity)ᵀ, in the dtype of the values."""
    make, dtype = KINDS[kind]
    values = {name: make(value) for name, value in site.values.items()}
    base, bias, x = make(site.base), make(site.bias), make(site.x)
    rounded = {name: as_float64(value) for name, value in values.items()}
    exact = np.asarray(evaluate(site.expr, rounded, base=as_float64(base), bias=as_float64(bias)))
    matrix = exact.reshape(exact.shape[0], -1)
    limit = site.depth
    if tolerance(dtype, limit) > 0.5:
        return  # such a function of half numbers has no digit to compare
    given = {"base": base, "bias": bias}
    size = product_size(as_float64(x), matrix)
    results = {
        "evaluate": (evaluate(site.expr, values, **given), exact, None),
        "materialize": (materialize(site.expr, values, **given), exact, None),
        "apply": (apply(site.expr, values, x, **given), as_float64(x) @ matrix.T, size),
        "apply to the identity": (
            apply(site.expr, values, make(np.eye(matrix.shape[1])), **given),
            matrix.T,
            None,
        ),
    }
    for what, (got, want, scale) in results.items():
        assert got.dtype == dtype, f"{what}: {got.dtype} came out of {dtype}"
        assert_close(got, want, dtype, limit + 2, f"{site}: {what} in {kind}", scale)


MODES = ("materialize", "apply", "forward", "train")
Sources = dict[tuple[str, str], Any]
"""Values by the kind and name of the program inputs that they are given for."""


def programs(site: Site, mode: str, rates: Iterable[Rates] = RATES) -> Iterator[Candidate]:
    """Every distinct program that the planner weighs for a site."""
    whole = mode in ("forward", "train")
    asked = layer(site.expr, mode, site.update.bias if whole else None, has_bias=whole)
    shape = site.expr.shape
    seen: set[tuple[Program, Program | None]] = set()
    for rate in rates:
        for made in candidates(asked, shape, mode, rate, True, (1, 4096), mode == "train"):
            if (made.program, made.backward) not in seen:
                seen.add((made.program, made.backward))
                yield made


def programs_agree(site: Site, mode: str, rates: Iterable[Rates] = RATES) -> int:
    """Every candidate, executed on numpy and as emitted torch, equals the definition."""
    matrix = site.delta.reshape(len(site.delta), -1)
    want = {
        "materialize": site.delta,
        "apply": site.x @ matrix.T,
    }.get(mode, site.x @ site.whole.T + site.bias + site.shift)
    sizes = {"materialize": float(np.abs(want).max()), "apply": product_size(site.x, matrix)}
    scale = max(sizes.get(mode, site.size), site.floor)
    slopes = gradients(site) if mode == "train" else {}
    count = 0
    for made in programs(site, mode, rates):
        count += 1
        for run in (executed, emitted):
            what = f"{site}: {made.name} in mode {mode}, {run.__name__}"
            given = sources(site)
            y, *kept = run(made.program, given)
            assert y.dtype in (np.float64, torch.float64), what
            assert_close(y, want, np.float64, site.depth + 2, what, scale)
            if made.backward is not None:
                entries = [e for e in made.backward.inputs if e.kind == "saved"]
                given |= {(e.kind, e.name): v for e, v in zip(entries, kept, strict=True)}
                given["gradient", "gradient"] = seed_of(site)
                found = run(made.backward, given)
                keys = [(entry.kind, entry.name) for entry in made.wanted]
                gradients_close(dict(zip(keys, found, strict=True)), slopes, site, what)
    assert count, f"{site}: no program in mode {mode}"
    return count


def sources(site: Site) -> Sources:
    leaf_values = {("leaf", name): value for name, value in site.values.items()}
    return {
        ("x", "x"): site.x,
        ("base", "base"): site.base,
        ("bias", "bias"): site.bias,
    } | leaf_values


def executed(program: Program, given: Sources) -> list[Any]:
    """Run a program step by step on numpy; on torch where it differentiates a barrier whole."""
    if any(step.operation == "pull_back" for step in program.steps):
        given = {key: torch.tensor(value) for key, value in given.items()}
    named = {name: v for (kind, name), v in given.items() if kind in ("leaf", "saved")}
    others = {kind: v for (kind, _), v in given.items() if kind not in ("leaf", "saved")}
    return execute_all(program, named, given["base", "base"], **others)


def emitted(program: Program, given: Sources) -> list[Any]:
    """Run a program as emitted torch source, overwriting where it may."""
    made = emit(program, in_place=True)
    values = [given.get((entry.kind, entry.name)) for entry in program.inputs]
    tensors = [v if v is None or isinstance(v, Tensor) else torch.tensor(v) for v in values]
    constants = [torch.from_numpy(constant.array().copy()) for constant in made.constants]
    results = made.function(*tensors, *constants)
    return [results] if isinstance(results, Tensor) else list(results)


# --- law 4: gradients ---------------------------------------------------------------------


def seed_of(site: Site) -> np.ndarray:
    """The gradient of y that the gradients of the layer are taken with."""
    shape = (len(site.x), site.expr.shape[0])
    return np.random.RandomState(9).standard_normal(shape)


def layer_by_definition(site: Site, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """``x (W0 + ΔW)ᵀ + b0`` with ΔW by evaluate."""
    base, bias = torch.tensor(site.base), torch.tensor(site.bias)
    return layer_of(site.update, x, base, bias, values)


def layer_of(
    update: Update, x: Tensor, base: Tensor, bias: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """``x (W0 + ΔW)ᵀ + b0 + Δb`` by evaluate."""
    assert update.weight is not None
    whole = base + evaluate(update.weight, values, base=base, bias=bias)
    y = x @ whole.reshape(whole.shape[0], -1).T + bias
    if update.bias is None:
        return y
    return y + evaluate(update.bias, values, base=base, bias=bias)


def free_tensors(site: Site) -> tuple[Tensor, dict[str, Tensor]]:
    """x and the leaves in float64; x and the trained leaves record gradients."""
    trained = {leaf.name for part in site.parts for leaf in parameters(part)}
    values = {name: torch.tensor(value) for name, value in site.values.items()}
    for name in trained:
        values[name].requires_grad_()
    return torch.tensor(site.x).requires_grad_(), values


def gradients(site: Site) -> dict[tuple[str, str], np.ndarray]:
    """The gradients of ``⟨G, y⟩`` for x and the trained leaves, by the definition."""
    x, values = free_tensors(site)
    return slopes_of(site, x, values, layer_by_definition(site, x, values))


def slopes_of(
    site: Site, x: Tensor, values: Mapping[str, Tensor], y: Tensor
) -> dict[tuple[str, str], np.ndarray]:
    """The gradients of ``⟨G, y⟩``, zero where none flows."""
    free = {("x", "x"): x} | {("leaf", n): v for n, v in values.items() if v.requires_grad}
    found = torch.autograd.grad(
        y, list(free.values()), torch.tensor(seed_of(site)), allow_unused=True
    )
    return {
        key: np.zeros(tuple(free[key].shape)) if slope is None else as_float64(slope)
        for key, slope in zip(free, found, strict=True)
    }


def gradients_close(
    got: Mapping[tuple[str, str], Any],
    want: Mapping[tuple[str, str], np.ndarray],
    site: Site,
    what: str,
) -> None:
    """Gradients agree relative to the largest of all; one that is not given counts as zero."""
    assert set(got) <= set(want), f"{what}: gradients of {set(got) - set(want)}"
    scale = max(site.floor, *(float(np.abs(slope).max()) for slope in want.values()))
    for key, slope in want.items():
        found = got.get(key, np.zeros_like(slope))
        limit = 4 * (site.depth + 2)
        assert_close(found, slope, np.float64, limit, f"{what}: the gradient of {key[1]}", scale)


# --- law 3: rank and count ----------------------------------------------------------------


def rank_is_within_bound(expr: Expr, seed: int = 0) -> tuple[int, int]:
    """The rank at random residues, or numerically, is at most the bound; both are returned."""
    bound = int(rank_bound(expr))
    assert bound <= min(expr.shape[0], prod(expr.shape[1:])), "the bound exceeds the shape's"
    try:
        shapes = {leaf.name: leaf.shape for leaf in leaves(distribute_snapshots(expr))}
        drawn = random_residues(shapes | {"": expr.shape, " ": expr.shape[:1]}, seed)
        base, bias = drawn.pop(""), drawn.pop(" ")
        value = evaluate(expr, drawn, base=base, bias=bias, arithmetic=Residues())
        rank = rank_modulo(value.reshape(value.shape[0], -1))
    except UnsupportedError:
        found = site(expr)
        matrix = found.delta.reshape(len(found.delta), -1)
        singular = np.linalg.svd(matrix, compute_uv=False)
        limit = tolerance(np.float64, found.depth) * max(matrix.shape)
        rank = int((singular > limit * singular[0]).sum())
    assert rank <= bound, f"{expr}: rank {rank} above the bound {bound}"
    return rank, bound


def counted_as_the_paper(row: Row) -> None:
    update = row.structure.update(row.shape)
    parts = [part for part in (update.weight, update.bias) if part is not None]
    trained = {leaf.name: leaf.size for part in parts for leaf in parameters(part)}
    assert sum(trained.values()) == row.count, str(row)
    if len(parts) == 1:
        assert int(ta.count(parts[0])) == row.count, str(row)


# --- laws 6 and 8 -------------------------------------------------------------------------


def reads_back_equal(row: Row) -> None:
    """Structure → JSON → Structure, and the same for its expressions, which print alike."""
    assert from_json(to_json(row.structure)) == row.structure, f"{row}: the structure"
    update = row.structure.update(row.shape)
    for part in (update.weight, update.bias):
        if part is not None:
            again = from_json(to_json(part))
            assert again == part and repr(again) == repr(part), f"{row}: the expression"


def libraries_agree(row: Row) -> None:
    """numpy and torch draw the same random leaves, and evaluate them alike."""
    found = site_of(row)
    like = torch.empty((), dtype=torch.float64)
    drawn = sample(found.parts, seed=11, start="random", like=like)
    assert drawn.keys() == found.values.keys()
    for name, value in drawn.items():
        assert np.array_equal(value.numpy(), found.values[name]), f"{row}: {name} is drawn apart"
    given = {"base": torch.tensor(found.base), "bias": torch.tensor(found.bias)}
    for read in (evaluate, materialize):
        got = read(found.expr, drawn, **given)
        assert isinstance(got, Tensor)
        assert_close(got, found.delta, np.float64, found.depth, f"{row}: {read.__name__}")
