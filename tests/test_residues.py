"""Integers modulo a prime: exact against rational arithmetic, and closed to what has no residue."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import flint
import numpy as np
import pytest

import tests.node_cases as node_cases
from tensoradapt.algebra import builders as ta
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.leaves import parameter
from tensoradapt.algebra.nodes import TRANSFORMS, MatrixFunction
from tensoradapt.analysis.contraction import contract
from tensoradapt.analysis.eliminate import pivots
from tensoradapt.analysis.minors import is_regular, largest_minor
from tensoradapt.analysis.modular import (
    UnluckyPoint,
    inverse,
    matmul,
    reciprocal,
    regular_inverse,
)
from tensoradapt.analysis.primes import (
    check_prime,
    draw_prime,
    is_prime,
    root_of_unity,
    square_root,
)
from tensoradapt.analysis.rationals import RationalArithmetic
from tensoradapt.analysis.residues import ResidueArithmetic, residues_of
from tensoradapt.analysis.spectral import order_of, transform_residues
from tensoradapt.analysis.transcendental import TRANSCENDENTAL, apply_transcendental
from tensoradapt.errors import StructureError, UnsupportedError
from tensoradapt.run.evaluate import evaluate

P = 2147483629
COMPOSITES = (2147483643, 1, 0, -7, 2**31, 2**61 - 1, 9, 2)
EXACT = [
    case
    for case in (*node_cases.MULTILINEAR, *node_cases.LAYOUT)
    if case.name != "scale by a float"
]


def random_residues(*shape: int, seed: int = 0, p: int = P) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, p, shape)


def fraction_of(value: float) -> Fraction:
    return Fraction(float(value))


def as_residue(value: Fraction, p: int) -> int:
    return value.numerator * pow(value.denominator, -1, p) % p


# --- primes ------------------------------------------------------------------------------


def test_primes_are_those_of_the_sieve() -> None:
    sieve = np.ones(5000, dtype=bool)
    sieve[:2] = False
    for n in range(2, 71):
        sieve[n * n :: n] = False
    assert [n for n in range(5000) if is_prime(n)] == np.flatnonzero(sieve).tolist()
    assert not any(map(is_prime, (3215031751, 2152302898747, 341550071728321)))  # pseudoprimes


@pytest.mark.parametrize("modulus", COMPOSITES)
def test_a_composite_modulus_is_refused_by_a_sentence(modulus: int) -> None:
    for ask in (check_prime, ResidueArithmetic, lambda p: is_regular(np.eye(2, dtype=int), p)):
        with pytest.raises(StructureError, match="must be an odd prime"):
            ask(modulus)


@pytest.mark.parametrize("modulus", [7.0, "7", None])
def test_a_modulus_that_is_no_integer_is_refused(modulus: object) -> None:
    with pytest.raises(StructureError, match="must be an odd prime"):
        check_prime(modulus)


def test_a_numpy_modulus_is_taken() -> None:
    assert check_prime(np.int64(P)) == P
    assert is_regular(np.array([[1, 2], [3, 4]]), np.int64(101))  # type: ignore[arg-type]


def test_primes_are_drawn_from_the_seed_with_the_roots_asked_for() -> None:
    drawn = [
        draw_prime(seed, trial, step) for seed, trial, step in product((0, 9), (0, 1), (1, 96))
    ]
    assert len(set(drawn)) == len(drawn)
    assert all(2**30 < p < 2**31 and is_prime(p) for p in drawn)
    assert all(draw_prime(5, 2, step) % step == 1 for step in (2, 3, 64, 1000, 8 * 768))
    with pytest.raises(UnsupportedError, match="too few to draw"):
        draw_prime(0, 0, 2**25)


def test_roots_have_their_order_and_squares_their_roots() -> None:
    p = draw_prime(0, 0, 24)
    assert [k for k in range(1, 25) if pow(root_of_unity(p, 24), k, p) == 1] == [24]
    for a in range(1, 50):
        root = square_root(a, p)
        assert (root is None) == (pow(a, (p - 1) // 2, p) != 1)
        assert root is None or root * root % p == a


# --- arrays ------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 127, 128, 129, 4096, 4097])
def test_products_are_exact_at_the_largest_residues(k: int) -> None:
    for fill in (P - 1, P // 2, P // 2 + 1):
        a, b = np.full((2, k), fill), np.full((k, 3), fill)
        wanted = k * fill * fill % P
        assert (matmul(a, b, P) == wanted).all()
    a, b = random_residues(3, k), random_residues(k, 4, seed=1)
    assert (matmul(a, b, P) == a.astype(object) @ b.astype(object) % P).all()


def test_inverses_invert_and_refuse_zero() -> None:
    a = random_residues(3, 37, 37)
    assert (matmul(a, inverse(a, P), P) == np.eye(37, dtype=int)).all()
    assert (reciprocal(a, P) * a % P == 1).all()
    with pytest.raises(UnluckyPoint):
        reciprocal(np.array([1, 0]), P)
    turned = np.array([[0, 1], [1, 0]])
    with pytest.raises(UnluckyPoint):
        inverse(turned, P)
    assert (regular_inverse(turned, P) == turned).all()
    with pytest.raises(UnluckyPoint):
        regular_inverse(np.array([[1, 1], [1, 1]]), P)


def test_contractions_equal_einsum_on_python_integers() -> None:
    a, b, c = (
        random_residues(3, 4, 5),
        random_residues(5, 4, 2, seed=1),
        random_residues(2, 6, seed=2),
    )
    ring = ResidueArithmetic(P)
    found = contract(ring, ["ijk", "kjl", "lm"], [a, b, c], "mji")
    exact = np.einsum("ijk,kjl,lm->mji", *(x.astype(object) for x in (a, b, c))) % P
    assert (found == exact).all()
    found = contract(ring, ["ii", "ij"], [a[:, :3, 0], b[:3, :3, 0]], "j")
    exact = np.einsum("ii,ij->j", a[:, :3, 0].astype(object), b[:3, :3, 0].astype(object)) % P
    assert (found == exact).all()


def test_pivots_agree_with_flint_and_show_a_regular_minor() -> None:
    source = np.random.default_rng(3)
    for _ in range(150):
        m, n = (int(x) for x in source.integers(1, 40, 2))
        r = int(source.integers(0, min(m, n) + 1))
        sparse = source.random((m, r)) < 0.5
        matrix = matmul(source.integers(0, P, (m, r)) * sparse, source.integers(0, P, (r, n)), P)
        found = pivots(matrix, P)
        assert found.rank == flint.nmod_mat(m, n, matrix.ravel().tolist(), P).rank()
        assert is_regular(matrix[np.ix_(found.rows, found.columns)], P)
        assert largest_minor(matrix, P, r).rank == found.rank


def test_a_dropped_factor_shows_in_the_minor() -> None:
    square = random_residues(6, 6)
    square[5] = (2 * square[0] + 3 * square[1]) % P
    assert not is_regular(square, P)
    assert largest_minor(square, P, 6).rank == 5


# --- the algebra -------------------------------------------------------------------------


def whole_values() -> dict[str, np.ndarray]:
    """The leaves of ``node_cases`` as small integers, on which its formulas are exact."""
    source = np.random.default_rng(1)
    return {
        name: source.integers(-4, 5, value.shape).astype(np.float64)
        for name, value in node_cases.drawn().items()
    }


def leaves_of(case: node_cases.Case, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shapes = {x.name: x.shape for x in node_cases.topological(case.expr) if hasattr(x, "name")}
    source = np.random.default_rng(2)
    more = {
        n: source.integers(-4, 5, s).astype(float) for n, s in shapes.items() if n not in values
    }
    return values | more


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_residues_are_those_of_the_exact_value(case: node_cases.Case) -> None:
    values = leaves_of(case, whole_values())
    residues = {name: residues_of(value, P) for name, value in values.items()}
    found = evaluate(
        case.expr, residues, residues["W"], residues["bias"], arithmetic=ResidueArithmetic(P)
    )
    wanted = np.asarray(case.formula(values))
    if "Fraction" in repr(case.expr) or case.name == "scale":
        wanted, three = np.rint(wanted * 3), pow(3, -1, P)
        assert (residues_of(wanted, P) * three % P == found).all()
    else:
        assert (residues_of(wanted, P) == found).all()


def rational_values(expr: Expr) -> dict[str, np.ndarray]:
    source = np.random.default_rng(4)
    shapes = {x.name: x.shape for x in node_cases.topological(expr) if hasattr(x, "name")}
    return {name: source.integers(-3, 4, shape) / 4 + 0.25 for name, shape in shapes.items()}


x, skew = parameter("x", 3, 4), parameter("v", 2, 6)
QUOTIENTS = [
    ta.polynomial(x, 0.5, -1, 0, 1 / 3),
    1 / (x + 7),
    (x + 0.1) / (x * x + 3),
    ta.cayley(parameter("q", 4, 4)),
    ta.cayley(parameter("q", 2, 3, 3), inverse=True),
    ta.neumann(parameter("q", 4, 4), 5),
    ta.householder(parameter("u", 5, 3)),
    MatrixFunction(parameter("u", 2, 4, 2), "householder"),
    ta.linear_transform(parameter("h", 4, 3), "walsh_hadamard"),
]


@pytest.mark.parametrize("expr", QUOTIENTS, ids=repr)
def test_residues_of_rational_functions_are_those_of_fractions(expr: Expr) -> None:
    values = rational_values(expr)
    residues = {name: residues_of(value, P) for name, value in values.items()}
    arithmetic = ResidueArithmetic(P, constants="dyadic")
    found = evaluate(expr, residues, arithmetic=arithmetic)
    exact = RationalArithmetic()
    if "walsh_hadamard" in repr(expr):
        sums = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        wanted = exact.array(sums @ values["h"])
    else:
        leaves = {name: exact.array(value) for name, value in values.items()}
        wanted = evaluate(expr, leaves, arithmetic=exact)
    fractions = [Fraction(int(y.p), int(y.q)) for y in wanted.reshape(-1)]
    assert [as_residue(y, P) for y in fractions] == found.reshape(-1).tolist()


def test_exact_rationals_are_pythons_fractions() -> None:
    """The judge above against plain Python: a Cayley rotation by Cramer's rule."""
    q = np.array([[0.5, 1.25], [-0.75, 0.1]])
    exact = RationalArithmetic()
    leaves = {"q": exact.array(q)}
    found = evaluate(ta.cayley(parameter("q", 2, 2)), leaves, arithmetic=exact)
    (a, b), (c, d) = [[fraction_of(y) for y in row] for row in q]
    determinant = (1 + a) * (1 + d) - b * c
    inverse_of = [
        [(1 + d) / determinant, -b / determinant],
        [-c / determinant, (1 + a) / determinant],
    ]
    first = [[1 - a, -b], [-c, 1 - d]]
    for i, j in product(range(2), range(2)):
        wanted = sum(first[i][k] * inverse_of[k][j] for k in range(2))
        assert Fraction(int(found[i, j].p), int(found[i, j].q)) == wanted


# --- transforms --------------------------------------------------------------------------

SIZES = (1, 2, 3, 4, 5, 6, 8, 9, 12, 15, 16, 21)


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("n", SIZES)
def test_transforms_keep_their_relations(kind: str, n: int) -> None:
    if kind in ("walsh_hadamard", "haar") and n & (n - 1):
        return
    order = order_of(kind, n)
    p = draw_prime(1, 0, order)
    matrix = transform_residues(kind, n, p, order)
    back = transform_residues(f"inverse_{kind}", n, p, order)
    gram = matmul(matrix, matrix.T.copy(), p)
    if kind.startswith("fourier"):
        other = transform_residues(
            {"fourier_cos": "fourier_sin"}.get(kind, "fourier_cos"), n, p, order
        )
        total = (gram + matmul(other, other.T.copy(), p)) % p
        assert (total == n * np.eye(n, dtype=int)).all()
        assert (back * n % p == matrix.T).all()
    else:
        assert (gram == np.eye(n, dtype=int)).all()
        assert (back == matrix.T).all()


def test_square_roots_belong_to_the_same_root_of_unity_as_cosines() -> None:
    """√5 = 1 + 4 cos(2π/5), √3 = 2 cos(2π/12), √7 by sines: the signs are those of real numbers."""
    order = 8 * 420
    p = draw_prime(2, 0, order)

    def scale(n: int) -> int:  # √n: the first entry of a DCT is √(1/n)
        return pow(int(transform_residues("dct", n, p, order)[0, 0]), -1, p)

    def cosine(k: int, n: int) -> int:
        return int(transform_residues("fourier_cos", n, p, order)[1, k])

    def sine(k: int, n: int) -> int:
        return int(transform_residues("fourier_sin", n, p, order)[1, k])

    assert scale(5) == (1 + 4 * cosine(1, 5)) % p
    assert scale(3) == 2 * cosine(1, 12) % p
    assert scale(2) == 2 * cosine(1, 8) % p
    assert scale(7) == 2 * (sine(1, 7) + sine(2, 7) - sine(3, 7)) % p
    assert scale(12) == 2 * scale(3) % p


def test_a_prime_without_the_roots_is_refused() -> None:
    with pytest.raises(StructureError, match="does not divide"):
        ResidueArithmetic(P, order=5)


# --- what has no residue -----------------------------------------------------------------

CLOSED = [
    *(ta.elementwise(name, x) for name in ("sin", "cos", "tanh", "exp", "sigmoid", "relu", "sqrt")),
    ta.clip(x, -1, 1),
    ta.softmax_top(x, 2),
    ta.row_norm(x),
    ta.orthonormal(x.T),
    ta.exponential(x @ x.T),
]


@pytest.mark.parametrize("expr", CLOSED, ids=repr)
def test_what_has_no_residue_says_what_has(expr: Expr) -> None:
    with pytest.raises(UnsupportedError, match="no rational functions") as caught:
        evaluate(expr, {"x": random_residues(3, 4)}, arithmetic=ResidueArithmetic(P))
    assert "ta.rank_at" in str(caught.value)


def test_transcendental_functions_keep_parity_and_identities() -> None:
    arguments = np.array([0, 5, 17, P - 5, 5, P - 17])
    pairs = {name: apply_transcendental(name, arguments, P, 3) for name in TRANSCENDENTAL}
    value = {name: pair[0] for name, pair in pairs.items()}
    assert ((value["sin"] ** 2 + value["cos"] ** 2) % P == 1).all()
    assert value["sin"][0] == value["tanh"][0] == 0 and value["exp"][0] == value["cos"][0] == 1
    assert value["exp"][1] * value["exp"][3] % P == 1
    assert value["sin"][1] == value["sin"][4] == P - value["sin"][3] != value["sin"][2]
    assert value["cos"][1] == value["cos"][3]
    assert ((2 * value["sigmoid"] - 1) * (value["exp"] + 1) % P == (value["exp"] - 1) % P).all()
    assert (pairs["sin"][1] == value["cos"]).all() and (pairs["exp"][1] == value["exp"]).all()
    square = value["tanh"] * value["tanh"] % P
    assert (pairs["tanh"][1] == (1 - square) % P).all()


# --- floats ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_their_dyadic_rationals(dtype: type) -> None:
    source = np.random.default_rng(0)
    values = (source.standard_normal(300) * 10.0 ** source.integers(-4, 4, 300)).astype(dtype)
    values = np.concatenate([values, np.array([0.0, -0.0, 1.0, np.finfo(dtype).tiny], dtype=dtype)])
    wanted = [as_residue(Fraction(float(y)), P) for y in values]
    assert residues_of(values, P).tolist() == wanted


def test_half_precision_of_torch_is_exact() -> None:
    import torch

    values = torch.tensor([0.1, -2.5, 1e-3], dtype=torch.bfloat16)
    wanted = [as_residue(Fraction(float(y)), P) for y in values]
    assert residues_of(values, P).tolist() == wanted


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(StructureError, match="1 of its entries are not finite"):
        residues_of(np.array([1.0, bad]), P)
