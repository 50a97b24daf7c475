"""Exact ranks at given values: by residues, by balls, and beside them what floats see."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg

import tensoradapt as ta
from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.analysis import ball_minors
from tensoradapt.analysis.balls import BallArithmetic, at_precision, is_surely_regular
from tensoradapt.analysis.observation import observe
from tensoradapt.analysis.point import PointRank, rank_at
from tensoradapt.analysis.support import support_bound
from tensoradapt.errors import ShapeError, StructureError, UnsupportedError, ValueMissingError
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tests.node_cases import CASES, drawn

leaf = ta.parameter


def product(m: int, n: int, r: int) -> Expr:
    return leaf("u", m, r) @ leaf("v", r, n)


def dyadic(m: int, n: int, bits: int = 30, seed: int = 0) -> np.ndarray:
    """Numbers in [-1, 1] with few bits."""
    source = np.random.default_rng(seed)
    return source.integers(-(2**bits), 2**bits + 1, (m, n)) / 2**bits


def low_rank_values(m: int, n: int, r: int, bits: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    return {"u": dyadic(m, r, bits, seed), "v": dyadic(r, n, bits, seed + 1)}


# --- rational updates --------------------------------------------------------------------


@pytest.mark.parametrize("structure", [zoo.lora(rank=3), zoo.loha(rank=2), zoo.lokr(rank=2)])
@pytest.mark.parametrize("shape", [(12, 12), (8, 18), (7, 13)])
def test_random_values_have_the_generic_rank(structure: object, shape: tuple) -> None:
    e = structure.on(shape)  # type: ignore[attr-defined]
    found = rank_at(e, sample(e, start="random"))
    assert found.certified and found.status == "certified"
    assert found.rank == ta.certify_rank(e).generic_rank == found.observed.numerical_rank


def test_an_update_at_its_start_is_zero() -> None:
    e = zoo.lora(rank=3).on((12, 9))
    found = rank_at(e, sample(e))
    assert found.rank == found.upper == 0 and found.status == "singular by structure"


def test_masked_ranks_are_not_counted() -> None:
    e = ta.einsum("o r, r, r i -> o i", leaf("B", 9, 4), leaf("E", 4), leaf("A", 4, 8))
    values = sample(e, start="random") | {"E": np.array([1.0, 0, 0.5, 0])}
    found = rank_at(e, values)
    assert found.rank == found.upper == 2 and "the structure alone allows 4" in found.why


def test_a_large_dependence_between_factors_is_bounded_with_a_probability() -> None:
    e = product(200, 200, 4)
    values = low_rank_values(200, 200, 4)
    values["u"][:, 3] = values["u"][:, 0] + values["u"][:, 1]
    found = rank_at(e, values)
    assert (found.lower, found.upper, found.status) == (3, 4, "bounded")
    assert found.failure_probability is not None and 0 < found.failure_probability < 1e-9
    small = {"u": values["u"][:20], "v": values["v"][:, :20]}
    found = rank_at(product(20, 20, 4), small)
    assert found.rank == found.upper == 3 and "rational numbers" in found.why


def test_the_last_bit_of_a_float_counts() -> None:
    """Rows that differ by one rounding: exactly of rank 2, numerically of rank 1."""
    values = {"x": np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-52]])}
    found = rank_at(leaf("x", 2, 2) + 0 * leaf("x", 2, 2), values)
    assert found.rank == 2 and found.observed.numerical_rank == 1


def test_exact_products_are_not_rounded_ones() -> None:
    """fl(u v) of full-precision floats has full numerical noise; the exact product has rank 1."""
    source = np.random.default_rng(0)
    values = {"u": source.standard_normal((6, 1)), "v": source.standard_normal((1, 6))}
    assert rank_at(product(6, 6, 1), values).rank == 1
    rounded = values["u"] @ values["v"]
    assert rank_at(leaf("x", 6, 6) * 1 + 0 * leaf("x", 6, 6), {"x": rounded}).rank > 1


def test_half_precision_and_torch_values_enter_exactly() -> None:
    torch = pytest.importorskip("torch")
    e = zoo.lora(rank=2).on((6, 5))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        values = {n: torch.tensor(v).to(dtype) for n, v in sample(e, start="random").items()}
        found = rank_at(e, values)
        assert found.rank == 2
        assert found.observed.tolerance == pytest.approx(6 * torch.finfo(dtype).eps)


def test_a_base_and_its_merge_are_exact() -> None:
    e = zoo.hira(rank=2).on((6, 7))
    base = np.ones((6, 7), dtype=np.float32)
    values = {n: v.astype(np.float32) for n, v in sample(e, start="random").items()}
    assert rank_at(e, values, base=base).rank == 2
    merged = rank_at(e, values, base=base, of="merged")
    assert merged.of == "merged" and merged.certified and merged.rank > 3  # rounding fills it up
    exact = base.astype(np.float64) * (1 + values["B"].astype(float) @ values["A"].astype(float))
    rounded = (base + base * (values["B"] @ values["A"])).astype(np.float32)
    assert merged.observed.stable_rank == pytest.approx(observe(rounded).stable_rank, rel=1e-5)
    assert merged.observed.numerical_rank == observe(rounded, eps=2.0**-23).numerical_rank
    assert np.linalg.matrix_rank(exact) == 3


def test_a_merge_rounds_to_the_bases_own_dtype() -> None:
    torch = pytest.importorskip("torch")
    e = zoo.lora(rank=1).on((4, 4))
    base = torch.ones(4, 4, dtype=torch.bfloat16)
    values = {"B": torch.full((4, 1), 1e-4), "A": torch.ones(1, 4)}
    found = rank_at(e, values, base=base, of="merged")
    assert found.rank == 1 and found.certified  # the update is lost: ones stay ones


def test_matrix_functions_and_quotients_at_values() -> None:
    u = dyadic(6, 2)
    found = rank_at(ta.householder(leaf("u", 6, 2)) - ta.eye(6), {"u": u})
    assert found.rank == 2
    q = dyadic(5, 5)
    turn = ta.cayley(leaf("q", 5, 5) - leaf("q", 5, 5).T) - ta.eye(5)
    assert rank_at(turn, {"q": q}).rank == 4
    x = np.array([[2.0, 0, 0], [0, 4, 0], [0, 0, 0]])
    assert rank_at(1 / leaf("x", 3, 3), {"x": x}).rank == 2  # 1/0 is 0
    singular = np.array([[-1.0, 0], [0, 3]])
    with pytest.raises(UnsupportedError, match="divides by is 0"):
        rank_at(ta.cayley(leaf("q", 2, 2)), {"q": singular})


def test_transforms_at_values_are_exact() -> None:
    x = leaf("x", 6, 6)
    turned = ta.linear_transform(ta.linear_transform(x, "dct"), "fourier_cos", axis=1)
    assert rank_at(turned, {"x": dyadic(6, 6)}).rank == 4  # cosines of n = 6: k and -k agree


# --- sines, norms and other functions by balls -------------------------------------------


@pytest.mark.parametrize(
    ("n", "r", "omega"), [(16, 1, 1.0), (16, 1, 50.0), (24, 2, 1.0), (40, 4, 0.01)]
)
def test_sines_of_low_rank_are_certified_full(n: int, r: int, omega: float) -> None:
    found = rank_at(ta.sin(omega * product(n, n, r)), low_rank_values(n, n, r))
    assert found.rank == n and found.status == "certified" and found.precision >= 64


def test_what_floats_see_of_a_small_sine_is_less_and_said_to_be() -> None:
    e = ta.sin(product(16, 16, 1))
    found = rank_at(e, low_rank_values(16, 16, 1))
    assert found.rank == 16 and found.observed.numerical_rank < 9
    assert "not proved" in str(found) and 1 <= found.observed.stable_rank < 2


def test_float_values_of_pi_integers_are_over_reported() -> None:
    """Claim 15: sin(π k) is 0; float64 sees noise of rank 12 of 40 there, and says so."""
    source = np.random.default_rng(0)
    matrix = np.sin(np.pi * source.integers(-9, 9, (40, 1)) * source.integers(-9, 9, (1, 40)))
    assert observe(matrix).numerical_rank > 1
    assert observe(np.zeros((4, 4))).numerical_rank == 0


@pytest.mark.parametrize("function", [ta.sin, ta.tanh])
def test_equal_and_opposite_rows_are_singular_by_structure(function: object) -> None:
    values = low_rank_values(12, 12, 2)
    values["u"][5], values["u"][7], values["u"][9] = values["u"][2], -values["u"][3], 0
    found = rank_at(function(product(12, 12, 2)), values)  # type: ignore[operator]
    assert found.rank == found.upper == 9 and found.status == "singular by structure"
    assert (found.row_classes, found.column_classes) == (9, 12)


def test_classes_follow_the_parity_of_the_function() -> None:
    values = low_rank_values(8, 8, 2)
    values["u"][1], values["u"][2], values["u"][3] = values["u"][0], -values["u"][0], 0
    ranks = {
        f: rank_at(ta.elementwise(f, product(8, 8, 2)), values).rank for f in ("sin", "cos", "exp")
    }
    assert ranks == {"sin": 5, "cos": 6, "exp": 7}


def test_ten_bit_factors_collide_and_are_told_from_undecided() -> None:
    """THEORY 4: with 10 bits two |u_i| coincide, and no precision makes the matrix regular."""
    values = low_rank_values(32, 32, 1, bits=10, seed=0)
    values["u"][3] = -values["u"][17]
    found = rank_at(ta.sin(50.0 * product(32, 32, 1)), values)
    assert found.status == "singular by structure"
    assert found.rank == len(np.unique(np.abs(values["u"][values["u"] != 0])))


def test_a_cap_that_is_too_low_is_undecided_not_singular() -> None:
    e = ta.sin(product(20, 20, 1))
    low = rank_at(e, low_rank_values(20, 20, 1), cap=128)
    assert low.status == "undecided at the precision cap" and not low.certified
    assert 1 <= low.lower < low.upper == 20 and low.failure_probability is None
    assert rank_at(e, low_rank_values(20, 20, 1)).rank == 20


def test_dora_is_certified_by_its_norms() -> None:
    e = zoo.dora(within=zoo.lora(rank=1)).on((12, 12))
    base = dyadic(12, 12, 20, 3)
    values = sample(e, start="random")
    found = rank_at(e, values, base=base)
    assert found.rank == 12 and found.status == "certified"
    thin = dyadic(12, 4, 10, 4) @ dyadic(4, 12, 10, 5)
    found = rank_at(e, values, base=thin)
    assert found.lower == 5 and found.status == "undecided at the precision cap"


def test_larger_sines_go_through_an_approximate_inverse() -> None:
    e = ta.sin(product(128, 128, 8))
    found = rank_at(e, low_rank_values(128, 128, 8), cap=64)
    assert found.rank == 128 and found.precision == 64


@pytest.mark.parametrize("n", [3, 120])
def test_regularity_by_balls_is_never_claimed_of_a_singular_matrix(n: int) -> None:
    with at_precision(64):
        balls = BallArithmetic()
        matrix = balls.array(dyadic(n, n, 20))
        assert is_surely_regular(matrix)
        matrix[n - 1] = matrix[0] + matrix[1]
        assert not is_surely_regular(matrix)
        assert not is_surely_regular(balls.array(np.zeros((n, n))))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_balls_contain_what_floats_compute(case: object) -> None:
    expr, values = case.expr, drawn()  # type: ignore[attr-defined]
    values |= {n: v for n, v in sample(expr, start="random").items() if n not in values}
    with at_precision(80):
        balls = BallArithmetic()
        held = {name: balls.array(np.asarray(value)) for name, value in values.items()}
        found = evaluate(expr, held, held["W"], held["bias"], arithmetic=balls)
    wanted = np.asarray(evaluate(expr, values, values["W"], values["bias"]))
    middle = np.array([float(x.mid()) for x in np.asarray(found).reshape(-1)])
    assert np.allclose(middle, wanted.reshape(-1), rtol=1e-10, atol=1e-12)
    assert all(float(x.rad()) < 1e-12 for x in np.asarray(found).reshape(-1))


def test_planted_fault_balls_without_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """A determinant rounded to a number calls a singular matrix regular; balls do not."""
    singular = dyadic(8, 8, 20)
    singular[7] = singular[0] / 3 + singular[1] / 7
    singular[7] = [float(Fraction(x)) for x in singular[7]]
    e = ta.sin(leaf("x", 8, 8)) * 0 + leaf("x", 8, 8)
    values = {"x": np.concatenate([singular[:7], singular[:1] * 2])}
    assert rank_at(e, values).rank == 7
    monkeypatch.setattr(
        ball_minors, "is_surely_regular", lambda m: bool(abs(float(scipy.linalg.det(
            np.array([[float(x.mid()) for x in row] for row in m]))) >= 0))
    )  # fmt: skip
    assert rank_at(e, values).rank == 8


# --- supports ----------------------------------------------------------------------------


def test_supports_bound_the_rank_at_values() -> None:
    e = ta.kron(leaf("a", 3, 3), leaf("b", 2, 2))
    values = {"a": np.diag([1.0, 0, 2]), "b": np.array([[1.0, 0], [3, 0]])}
    assert support_bound(e, values, None, None) == 2
    assert support_bound(e, values | {"a": np.zeros((3, 3))}, None, None) == 0
    hira = zoo.hira(rank=2).on((4, 4))
    rows = {"B": np.ones((4, 2)), "A": np.ones((2, 4))}
    assert support_bound(hira, rows, np.diag([1.0, 1, 0, 0]), None) == 2
    diagonal = ta.einsum("i j -> (i j) (i j)", leaf("d", 2, 3))
    one = {"d": np.array([[0, 5.0, 0], [0, 0, 0]])}
    assert 1 <= support_bound(diagonal, one, None, None) <= 4


# --- refusals ----------------------------------------------------------------------------


def test_bad_input_is_refused_with_a_sentence() -> None:
    e = zoo.lora(rank=2).on((6, 5))
    values = sample(e, start="random")
    with pytest.raises(StructureError, match="1 of the entries of the leaf 'A' are not finite"):
        rank_at(e, values | {"A": np.array([[1.0, np.nan, 1, 1, 1], [1] * 5])})
    with pytest.raises(ValueMissingError, match="'A'"):
        rank_at(e, {"B": values["B"]})
    with pytest.raises(ShapeError, match="the leaf 'A'"):
        rank_at(e, values | {"A": np.ones((3, 5))})
    with pytest.raises(StructureError, match="of='merged'"):
        rank_at(e, values, of="both")
    with pytest.raises(StructureError, match="No W0 was given"):
        rank_at(e, values, of="merged")
    with pytest.raises(ShapeError, match="without a shape"):
        rank_at(zoo.lora(rank=2), values)
    large = ta.sin(product(1100, 1100, 1))
    with pytest.raises(ShapeError, match=r"ta\.certify_rank, which need no values"):
        rank_at(large, low_rank_values(1100, 1100, 1))


def test_the_result_prints_proof_and_observation_apart() -> None:
    e = zoo.lora(rank=2).on((6, 5))
    found = rank_at(e, sample(e, start="random"))
    assert isinstance(found, PointRank)
    proof, *rest = str(found).split("\n")
    assert proof == "exact rank 2 (certified)" and rest[-1].startswith("observed in float64")
