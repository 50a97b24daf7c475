"""sample: the same numbers everywhere, every start by its convention, errors by their text."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tensoradapt.algebra import builders as ta
from tensoradapt.algebra import starts as begin
from tensoradapt.algebra.expression import Expr, Start
from tensoradapt.algebra.forms import low_rank
from tensoradapt.algebra.leaves import base, base_bias, frozen, parameter
from tensoradapt.algebra.starts import DERIVED, STARTS
from tensoradapt.algebra.walk import leaves
from tensoradapt.errors import ShapeError, StructureError, ValueMissingError
from tensoradapt.run.draw import DRAWS, fans
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tests.libraries import LIBRARIES, Library

W = np.random.default_rng(7).standard_normal((6, 5))
w = base(6, 5)


def first(start: Start, *shape: int, **settings: Any) -> Any:
    return sample(parameter("leaf", *shape, start=start), **settings)["leaf"]


# --- determinism --------------------------------------------------------------------------


def test_numbers_are_fixed() -> None:
    got = first(begin.normal(), 2, 2, seed=3)
    assert_allclose(got, FIXED, rtol=1e-15)


FIXED = np.array(
    [[1.9193994861744943, -0.4317610583633019], [-0.15285136771612132, 1.4022973493625788]]
)


def test_numbers_depend_on_seed_path_and_name_only() -> None:
    x = parameter("x", 4, start=begin.normal())
    y = parameter("y", 4, start=begin.normal())
    alone = sample(x, seed=1)["x"]
    assert np.array_equal(alone, sample(y * x, seed=1)["x"])
    assert not np.array_equal(alone, sample(x, seed=2)["x"])
    assert not np.array_equal(alone, sample(x, seed=1, path="layer.0")["x"])
    assert not np.array_equal(alone, sample(y, seed=1)["y"])


def test_shared_leaves_do_not_read_the_path() -> None:
    for scope in ("group", "model"):
        x = parameter("x", 4, start=begin.normal(), scope=scope)
        assert np.array_equal(sample(x, path="a")["x"], sample(x, path="b")["x"])


def every_start() -> list[tuple[str, Start, tuple[int, ...]]]:
    settings = {"mean": 0.5, "std": 2.0, "low": -1.0, "high": 3.0, "a": 1.0, "gain": 2.0}
    settings |= {"value": 1.5, "rank": 2, "first": 1, "power": 0.5}
    shapes = {"left_singular": (6, 2), "right_singular": (2, 5), "singular_values": (2,)}
    shapes |= {"qr_q": (6, 2), "qr_r": (2, 5)}
    found: list[tuple[str, Start, tuple[int, ...]]] = []
    for kind, names in STARTS.items():
        chosen: dict[str, Any] = {name: settings[name] for name in names}
        made = begin.start(kind, w if kind in DERIVED else None, **chosen)
        found.append((kind, made, shapes.get(kind, (6, 5))))
    return found


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
@pytest.mark.parametrize(
    ("kind", "start", "shape"), every_start(), ids=lambda x: x if isinstance(x, str) else ""
)
@pytest.mark.parametrize("mode", ["initial", "random"])
def test_every_library_starts_from_the_same_numbers(
    library: Library, kind: str, start: Start, shape: tuple[int, ...], mode: str
) -> None:
    leaf = parameter("leaf", *shape, start=start)
    data = {"leaf": W}
    reference = sample(leaf, base=W, start=mode, data=data)["leaf"]
    like = library.array(np.zeros(1, dtype=np.float32))
    got = sample(leaf, base=library.array(W), like=like, start=mode, data=library.arrays(data))
    assert type(got["leaf"]) is type(like) and got["leaf"].dtype == like.dtype
    assert tuple(got["leaf"].shape) == shape
    assert np.array_equal(np.asarray(got["leaf"]), reference.astype(np.float32))
    assert kind in ("zeros", "given") or reference.any()


def test_half_precision_bases_are_read() -> None:
    half = torch.tensor(W).to(torch.bfloat16)
    got = first(begin.value_of(w), 6, 5, base=half, like=half)
    assert torch.equal(got, half)


# --- each start by its convention ---------------------------------------------------------


def test_the_table_of_draws_and_the_derived_kinds_cover_all_starts() -> None:
    assert {*DRAWS, *DERIVED, "given"} == set(STARTS)


def test_constant_starts() -> None:
    assert not first(begin.zeros(), 3, 4).any()
    assert (first(begin.ones(), 3, 4) == 1).all()
    assert (first(begin.constant(0.1), 3, 4) == 0.1).all()
    assert np.array_equal(first(begin.identity(), 3, 4), np.eye(3, 4))
    kernel = first(begin.identity(), 3, 4, 2)
    assert np.array_equal(kernel, np.eye(3, 4)[:, :, None].repeat(2, axis=2))


def test_normal_and_uniform_have_their_moments() -> None:
    x = first(begin.normal(std=0.5, mean=2.0), 300, 300)
    assert abs(x.mean() - 2) < 0.01 and abs(x.std() - 0.5) < 0.01
    y = first(begin.uniform(-1.0, 3.0), 300, 300)
    assert y.min() >= -1 and y.max() <= 3 and abs(y.mean() - 1) < 0.02
    assert abs(y.std() - 4 / sqrt(12)) < 0.02


SHAPES = [(40, 30), (200, 7), (7, 200), (16, 8, 3, 3), (9, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fans_are_those_of_torch(shape: tuple[int, ...]) -> None:
    expected = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert fans(shape) == expected


def test_fans_of_a_vector_are_its_length_and_of_a_scalar_one() -> None:
    assert fans((7,)) == (7, 7) and fans(()) == (1, 1)


INITS = [
    (begin.kaiming_uniform(), lambda x: torch.nn.init.kaiming_uniform_(x, a=sqrt(5))),
    (begin.kaiming_uniform(0.0), lambda x: torch.nn.init.kaiming_uniform_(x, a=0)),
    (begin.kaiming_normal(0.3), lambda x: torch.nn.init.kaiming_normal_(x, a=0.3)),
    (begin.xavier_uniform(2.0), lambda x: torch.nn.init.xavier_uniform_(x, gain=2.0)),
    (begin.xavier_normal(0.7), lambda x: torch.nn.init.xavier_normal_(x, gain=0.7)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("start", "init"), INITS, ids=lambda x: getattr(x, "kind", ""))
def test_scaled_starts_have_the_bounds_of_torch(
    start: Start, init: Any, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    theirs = init(torch.empty(shape, dtype=torch.float64)).numpy()
    ours = first(start, *shape)
    assert_allclose(ours.std(), theirs.std(), rtol=0.08)
    assert abs(ours.mean()) < 4 * ours.std() / sqrt(ours.size)
    if "uniform" in start.kind:
        assert_allclose(abs(ours).max(), abs(theirs).max(), rtol=0.01)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5), (6, 2, 2), (4,), (1, 1), ()], ids=str)
def test_orthogonal_is_orthonormal_times_gain(shape: tuple[int, ...]) -> None:
    x = first(begin.orthogonal(3.0), *shape).reshape(shape[0] if shape else 1, -1)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    assert_allclose(gram, 9 * np.eye(len(gram)), atol=1e-12)


def test_starts_of_no_elements_are_empty() -> None:
    source = np.random.RandomState(0)
    for kind, start, _ in every_start():
        if kind in DRAWS:
            for shape in ((0, 3), (3, 0), (0,), (0, 0), (2, 0, 3)):
                assert DRAWS[kind](start, shape, source).shape == shape


def test_paired_columns_are_a_householder_identity() -> None:
    x = first(begin.paired_columns(), 12, 6)
    assert np.array_equal(x[:, ::2], x[:, 1::2])
    assert abs(x).max() <= 1 / sqrt(3) and abs(x).max() > 0.9 / sqrt(3)
    u = parameter("u", 12, 6, start=begin.paired_columns())
    assert_allclose(evaluate(ta.householder(u), {"u": x}), np.eye(12), atol=1e-14)
    assert not np.array_equal(*first(begin.paired_columns(), 12, 3).T[:2])


def test_a_value_is_computed_from_the_first_values_and_the_base() -> None:
    inner = low_rank(w, 2, starts=(begin.normal(), begin.normal()))
    m = parameter("m", 6, start=begin.value_of(ta.row_norm(w + inner)))
    values = sample(ta.scale_rows(m, inner), base=W, seed=4)
    expected = np.linalg.norm(W + values["B"] @ values["A"], axis=1)
    assert_allclose(values["m"], expected, rtol=1e-14)


def test_singular_starts_reassemble_the_operand() -> None:
    u = first(begin.left_singular(w, 5, power=0.5), 6, 5, base=W)
    v = first(begin.right_singular(w, 5, power=0.5), 5, 5, base=W)
    assert_allclose(u @ v, W, atol=1e-12)
    s = first(begin.singular_values(w, 2, first=1), 2, base=W)
    assert_allclose(s, np.linalg.svd(W)[1][1:3])
    middle = first(begin.left_singular(w, 2, first=1), 6, 2, base=W)
    peaks = np.take_along_axis(middle, abs(middle).argmax(0)[None], 0)
    assert (peaks > 0).all()
    assert_allclose(middle.T @ middle, np.eye(2), atol=1e-12)
    assert_allclose(abs(middle), abs(np.linalg.svd(W)[0][:, 1:3]), atol=1e-12)


def test_a_singular_value_of_zero_has_the_inverse_zero() -> None:
    low = np.outer(np.ones(6), np.ones(5))
    low[:, 1:] = 0
    s = first(begin.singular_values(w, 3, power=-1.0), 3, base=low)
    assert_allclose(s, [1 / sqrt(6), 0, 0])


def test_qr_starts_reassemble_the_operand() -> None:
    q = first(begin.qr_q(w, 5), 6, 5, base=W)
    r = first(begin.qr_r(w, 5), 5, 5, base=W)
    assert_allclose(q @ r, W, atol=1e-12)
    assert (np.diag(r) > 0).all() and not np.tril(r, -1).any()
    assert np.array_equal(first(begin.qr_q(w, 2), 6, 2, base=W), q[:, :2])


def test_a_kernel_is_decomposed_as_a_matrix() -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 3, 2))
    conv = base(4, 3, 2)
    u = first(begin.left_singular(conv, 4, power=1.0), 4, 4, base=kernel)
    v = first(begin.right_singular(conv, 4), 4, 6, base=kernel)
    assert_allclose(u @ v, kernel.reshape(4, 6), atol=1e-12)


def test_starts_may_read_the_bias() -> None:
    bias = np.arange(6.0)
    assert np.array_equal(first(begin.value_of(base_bias(6)), 6, bias=bias), bias)


def test_chains_of_starts_are_no_recursion() -> None:
    leaf: Expr = parameter("l0", 2, start=begin.normal())
    for k in range(1, 1500):
        leaf = parameter(f"l{k}", 2, start=begin.value_of(leaf))
    assert np.array_equal(
        sample(leaf)["l1499"], sample(parameter("l0", 2, start=begin.normal()))["l0"]
    )


# --- snapshots and random values ----------------------------------------------------------


def test_snapshots_equal_their_leaves_at_the_start_and_are_copies() -> None:
    b = parameter("B", 3, 2, start=begin.normal())
    e = b - ta.at_start(b)
    values = sample(e)
    assert list(values) == ["B", "B@start"]
    assert np.array_equal(values["B"], values["B@start"])
    assert not evaluate(e, values).any()
    values["B"] += 1
    assert_allclose(evaluate(e, values), 1)


def test_torch_snapshots_are_copies() -> None:
    b = parameter("B", 3, 2, start=begin.normal())
    values = sample(b - ta.at_start(b), like=torch.zeros(1, dtype=torch.float64))
    values["B"].add_(1)
    assert not torch.equal(values["B"], values["B@start"])


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_a_leaf_that_starts_as_another_leaf_is_a_copy(library: Library) -> None:
    b = parameter("B", 3, 2, start=begin.normal())
    c = parameter("C", 3, 2, start=begin.value_of(b))
    values = sample(b + c - ta.at_start(c), like=library.array(np.zeros(1)))
    before = np.asarray(values["B"]).copy()
    values["C"] += 1
    assert np.array_equal(np.asarray(values["B"]), before)
    assert np.array_equal(np.asarray(values["C@start"]), before)
    assert_allclose(np.asarray(values["C"]), before + 1)


def test_random_values_are_independent_and_need_no_base() -> None:
    b = parameter("B", 30, 20)
    s = frozen("S", 30, 20, recipe=begin.value_of(base(30, 20)))
    n = parameter("N", 30, 20, start=begin.normal())
    values = sample(b + s + n - ta.at_start(n), start="random")
    assert list(values) == ["B", "S", "N", "N@start"]
    flat = np.stack([x.reshape(-1) for x in values.values()])
    assert_allclose(np.corrcoef(flat), np.eye(4), atol=0.2)
    assert_allclose(flat.std(1), 1, atol=0.1)


def test_a_snapshot_of_a_constant_start_is_that_constant_also_at_random() -> None:
    b = parameter("B", 3, 2)
    values = sample(b - ta.at_start(b), start="random")
    assert values["B"].all() and not values["B@start"].any()


def test_a_leaf_read_only_at_start_is_only_a_snapshot() -> None:
    b = parameter("B", 3, 2, start=begin.normal())
    assert list(sample(ta.at_start(b))) == ["B@start"]


def test_names_are_those_of_the_leaves_in_order() -> None:
    e = low_rank((4, 3), 2) + parameter("C", 4, 3)
    assert list(sample(e)) == [leaf.name for leaf in leaves(e)] == ["B", "A", "C"]


def test_a_group_is_sampled_together_with_a_base_each() -> None:
    shared = parameter("C", 4, 4, start=begin.normal(), scope="group")
    sites = [base(4, 4), base(4, 5)]
    own = [parameter(f"m{k}", 4, start=begin.value_of(ta.row_norm(s))) for k, s in enumerate(sites)]
    bases = [np.ones((4, 4)), np.ones((4, 5))]
    exprs = [ta.scale_rows(m, shared) for m in own]
    values = sample(exprs, base=bases)
    assert list(values) == ["m0", "C", "m1"]
    assert_allclose(values["m0"], 2)
    assert_allclose(values["m1"], sqrt(5))


# --- errors -------------------------------------------------------------------------------


def test_a_missing_base_is_told_with_the_leaf() -> None:
    with pytest.raises(ValueMissingError) as caught:
        first(begin.value_of(ta.row_norm(w)), 6)
    assert str(caught.value) == (
        "The leaf 'leaf' of shape (6,) starts by value_of, which reads the base weight W0.\n"
        "  No base was given.\n"
        "  Pass base=..., or start='random', which needs none."
    )
    with pytest.raises(ValueMissingError, match="which reads the base bias b0"):
        first(begin.value_of(base_bias(6)), 6)


def test_missing_misshapen_and_infinite_data_are_told() -> None:
    with pytest.raises(ValueMissingError, match="data has no 'leaf'; given and near: lead"):
        first(begin.given(), 2, data={"lead": np.zeros(2)})
    with pytest.raises(ShapeError, match=r"data\['leaf'\] of shape \(3,\) was given"):
        first(begin.given(), 2, data={"leaf": np.zeros(3)})
    with pytest.raises(StructureError, match="1 of its entries are not finite"):
        first(begin.given(), 2, data={"leaf": np.array([1.0, np.nan])})


def test_a_derived_value_of_another_shape_is_told() -> None:
    with pytest.raises(ShapeError, match=r"of shape \(5,\) starts by value_of"):
        first(begin.value_of(ta.row_norm(w)), 5, base=W)


def test_a_rank_beyond_the_operand_is_told() -> None:
    with pytest.raises(ShapeError) as caught:
        first(begin.left_singular(w, 4, first=3), 6, 4, base=W)
    assert str(caught.value) == (
        "The leaf 'leaf' starts by left_singular, numbers 3 to 6.\n"
        "  Its operand as a matrix (6, 5) has 5 of them.\n"
        "  Use a rank of at most 2."
    )


def test_an_unknown_mode_is_told() -> None:
    with pytest.raises(StructureError, match="Known: 'initial', 'random'"):
        sample(parameter("leaf", 2), start="zero")


def test_two_leaves_of_one_name_are_told() -> None:
    both = parameter("x", 2) + parameter("x", 2, start=begin.ones())
    with pytest.raises(StructureError, match="two different leaves named 'x'"):
        sample(both)


def test_a_group_with_too_few_bases_is_told() -> None:
    with pytest.raises(ShapeError, match="sample of 2 expressions was asked for with 1 for base"):
        sample([w, w], base=[W])
