"""Dimensions of families: the formulas of the literature, exactly, on small sizes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as pairs

import numpy as np
import pytest

import tensoradapt as ta
from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.starts import left_singular
from tensoradapt.algebra.walk import topological
from tensoradapt.analysis.dimension import Dimension, family_dimension
from tensoradapt.analysis.dual import Dual, DualArithmetic, leaf_dual
from tensoradapt.analysis.residues import ResidueArithmetic
from tensoradapt.errors import ShapeError, UnsupportedError
from tensoradapt.run.evaluate import evaluate

leaf = ta.parameter
P = 2147483629


def dimension(expr: Expr, **options: object) -> Dimension:
    found = family_dimension(expr, **options)  # type: ignore[arg-type]
    assert found.value <= found.expected <= min(found.n_parameters, expr.size)
    assert found.redundant == found.n_parameters - found.value >= 0
    return found


def product(m: int, n: int, r: int, tag: str = "") -> Expr:
    return leaf(f"u{tag}", m, r) @ leaf(f"v{tag}", r, n)


def low_rank(m: int, n: int, r: int) -> int:
    rho = min(m, n, r)
    return rho * (m + n - rho)


# --- low rank, Hadamard, elementwise (claims 2, 7, 12) -----------------------------------


@pytest.mark.parametrize(("m", "n", "r"), [(2, 2, 1), (3, 6, 2), (5, 4, 5), (7, 6, 3), (2, 4, 5)])
def test_lora_is_the_determinantal_variety(m: int, n: int, r: int) -> None:
    found = dimension(product(m, n, r))
    assert found.value == found.expected == low_rank(m, n, r) and found.proved
    assert found.fills_space == (r >= min(m, n))


@pytest.mark.parametrize(
    ("m", "n", "r", "s"), [(9, 8, 2, 3), (5, 6, 1, 2), (9, 8, 3, 3), (6, 6, 1, 1)]
)
def test_loha_wastes_the_scales_of_rows_and_columns(m: int, n: int, r: int, s: int) -> None:
    found = dimension(product(m, n, r, "1") * product(m, n, s, "2"))
    assert found.value == min(m * n, low_rank(m, n, r) + low_rank(m, n, s) - (m + n - 1))
    assert found.proved and found.defect == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ta.polynomial(x, 1, 2, 0, 3),
        lambda x: ta.polynomial(x, 0, 0, 1),
        ta.sin,
        ta.tanh,
        ta.exp,
        lambda x: ta.sin(ta.polynomial(x, 0, 1, 5)),
    ],
)
def test_elementwise_functions_keep_the_dimension(function: Callable) -> None:
    found = dimension(function(product(5, 6, 2)))
    assert found.value == low_rank(5, 6, 2) and found.status == "proved"


# --- Kronecker products and tensors (claims 19, 20, 26 to 29) ----------------------------


@pytest.mark.parametrize("factors", [2, 3])
def test_kronecker_products_lose_a_scale_for_each_pair(factors: int) -> None:
    parts = [leaf(f"k{i}", 2, 3) for i in range(factors)]
    assert dimension(ta.kron(*parts)).value == 6 * factors - (factors - 1)


@pytest.mark.parametrize(
    ("k", "ab", "cd"), [(1, (2, 3), (2, 2)), (2, (3, 5), (5, 3)), (3, (2, 2), (3, 2))]
)
def test_sums_of_kroneckers_are_rank_k_matrices(k: int, ab: tuple, cd: tuple) -> None:
    terms = ta.einsum("w a b, w c d -> (a c) (b d)", leaf("a", k, *ab), leaf("c", k, *cd))
    first, second = np.prod(ab), np.prod(cd)
    assert dimension(terms).value == k * (first + second - k)


CP = {
    ((3, 3, 3), 4): 26,
    ((2, 2, 4), 3): 15,
    ((3, 4, 4), 5): 44,
    ((2, 2, 2, 2), 3): 14,
    ((2, 2, 3, 3), 5): 34,
    ((3, 3, 3), 3): 21,
    ((2, 3, 4), 2): 14,
    ((2, 2, 2, 2), 4): 16,
}


@pytest.mark.parametrize(("sizes", "rank"), CP)
def test_cp_tensors_have_their_dimension_and_their_defects(sizes: tuple, rank: int) -> None:
    found = dimension(ta.cp([leaf(f"f{k}", n, rank) for k, n in enumerate(sizes)]))
    expected = min(int(np.prod(sizes)), rank * (sum(sizes) - len(sizes) + 1))
    assert found.value == CP[sizes, rank] and found.expected == expected
    assert found.defect == expected - found.value


@pytest.mark.parametrize(
    ("sizes", "ranks"), [((4, 5, 6), (3, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((5, 5, 6), (4, 2, 1))]
)
def test_tucker_tensors(sizes: tuple, ranks: tuple) -> None:
    core = leaf("c", *ranks)
    factors = [leaf(f"f{k}", n, r) for k, (n, r) in enumerate(zip(sizes, ranks, strict=True))]
    real = list(ranks)
    while True:
        new = [min(r, n, int(np.prod(real)) // r) for r, n in zip(real, sizes, strict=True)]
        if new == real:
            break
        real = new
    wanted = int(np.prod(real)) + sum(r * (n - r) for r, n in zip(real, sizes, strict=True))
    assert dimension(ta.tucker(core, factors)).value == wanted


def test_trains_and_rings() -> None:
    cores = [leaf("t0", 3, 2), leaf("t1", 2, 4, 3), leaf("t2", 3, 3, 2), leaf("t3", 2, 4)]
    assert dimension(ta.tensor_train(cores)).value == 6 + 24 + 18 + 8 - 4 - 9 - 4
    ring = [leaf(f"r{k}", 2, 5, 2) for k in range(4)]
    assert dimension(ta.tensor_ring(ring)).value == 80 - 4 * 4 + 1


def test_lotr_stacks() -> None:
    stack = ta.einsum(
        "o r, l r s, s i -> l o i", leaf("a", 6, 2), leaf("g", 3, 2, 2), leaf("b", 2, 5)
    )
    assert dimension(stack).value == 2 * (6 + 5) + 3 * 4 - 2 * 4 == 26


# --- circulant and Toeplitz (claims 32 to 39, 42, 43) ------------------------------------


def test_circulants_and_their_products_gain_nothing() -> None:
    c, d = ta.circulant(leaf("c", 6)), ta.circulant(leaf("d", 6))
    assert dimension(c).value == dimension(c @ d).value == 6
    assert dimension(c + ta.skew_circulant(leaf("s", 6))).value == 11
    assert dimension(ta.toeplitz(leaf("t", 9), 4, 6)).value == 9


def test_block_circulants_use_every_parameter() -> None:
    made = ta.take(leaf("c", 4, 2, 3), IndexMap("circulant", (4, 4), 4, (4,)))
    assert dimension(ta.einsum("i j a b -> (i a) (j b)", made)).value == 24


@pytest.mark.parametrize(("n", "r"), list(pairs((3, 5, 6), (1, 2, 3))))
def test_displacement_structures_are_low_rank_in_disguise(n: int, r: int) -> None:
    found = dimension(ta.low_displacement_rank(leaf("g", n, r), leaf("h", n, r)))
    assert found.value == r * (2 * n - r) and found.proved


@pytest.mark.parametrize("n", [3, 4, 5])
def test_products_of_toeplitz_matrices(n: int) -> None:
    for q in range(1, n // 2 + 2):
        made = ta.toeplitz(leaf("t0", 2 * n - 1), n)
        for k in range(1, q):
            made = made @ ta.toeplitz(leaf(f"t{k}", 2 * n - 1), n)
        assert dimension(made).value == min(n * n, q * (2 * n - 1) - (q - 1))


@pytest.mark.parametrize("n", [3, 4, 5])
def test_products_of_circulants_and_diagonals_fill_the_space(n: int) -> None:
    made: Expr = ta.circulant(leaf("c0", n))
    for q in range(1, n + 2):
        assert dimension(made).value == min(n * n, q * (n - 1) + 1)
        name = f"c{q}"
        if q % 2:
            made = ta.scale_columns(made, leaf(name, n))
        else:
            made = made @ ta.circulant(leaf(name, n))


@pytest.mark.parametrize("b", [2, 3])
def test_monarch_and_butterfly(b: int) -> None:
    made = ta.monarch(leaf("l", b, b, b), leaf("r", b, b, b))
    assert dimension(made).value == b * b * (2 * b - 1)
    first = ta.einsum("j a b, a b c k -> (a j) (c k)", leaf("x", 2, 2, 2), leaf("y", 2, 2, 2, 2))
    assert dimension(first).value <= 16


def test_butterflies() -> None:
    """n = 4: two factors of 2 × 2 blocks, 16 parameters, dimension n (log₂ n + 1) = 12."""
    made = ta.einsum("b i a, i a j -> (b i) (a j)", leaf("x", 2, 2, 2), leaf("y", 2, 2, 2))
    assert dimension(made).value == 12


# --- base weights, frozen leaves, rotations (claims 46 to 57) ----------------------------


def test_hira_has_the_dimension_of_low_rank_without_zeros() -> None:
    source = np.random.default_rng(0)
    assert dimension(zoo.hira(rank=2).on((5, 6))).value == low_rank(5, 6, 2)
    base = source.standard_normal((5, 6))
    assert dimension(zoo.hira(rank=2).on((5, 6)), base=base).value == low_rank(5, 6, 2)


def test_hira_with_zeros_has_the_components_of_its_support() -> None:
    base = np.zeros((5, 6))
    base[[0, 0, 1, 2, 2, 3, 4], [0, 1, 1, 3, 4, 3, 5]] = 1 + np.arange(7)
    # Components of the bipartite graph: {0,1 | 0,1}, {2,3 | 3,4}, {4 | 5}, and column 2 alone.
    assert dimension(zoo.hira(rank=1).on((5, 6)), base=base).value == 11 - 4


def test_dora_adds_its_magnitudes() -> None:
    for r in (1, 2):
        found = dimension(zoo.dora(within=zoo.lora(rank=r)).on((5, 7)))
        assert found.value == min(35, low_rank(5, 7, r) + 5) and found.proved


def test_vera_lora_xs_and_randlora() -> None:
    assert dimension(zoo.vera(rank=4).on((6, 7))).value == 6 + 4 - 1
    assert dimension(zoo.lora_xs(rank=3).on((6, 7))).value == 9
    n, r, terms = 6, 2, 3
    b, a = ta.frozen("B", terms, 6, r), ta.frozen("A", r, n)
    made = ta.einsum("j o r, j r, r i, j i -> o i", b, leaf("l", terms, r), a, leaf("g", terms, n))
    assert dimension(made).value == terms * (r + n - 1)


def test_melora_adds_dimensions() -> None:
    blocks = (product(3, 4, 2, "a"), product(4, 3, 1, "b"), product(2, 2, 1, "c"))
    wanted = low_rank(3, 4, 2) + low_rank(4, 3, 1) + low_rank(2, 2, 1)
    assert dimension(ta.block_diag(*blocks)).value == wanted


def skew(n: int, name: str = "s") -> Expr:
    return ta.take(leaf(name, n * (n - 1) // 2), IndexMap("skew", (n, n), n * (n - 1) // 2, (n,)))


@pytest.mark.parametrize(("b", "columns"), [(3, 2), (4, 7), (5, 3), (5, 1)])
def test_rotations_have_the_dimension_of_the_frames_they_turn(b: int, columns: int) -> None:
    turned = (ta.cayley(skew(b)) - ta.eye(b)) @ ta.base(b, columns)
    k = min(b, columns)
    assert dimension(turned).value == b * k - k * (k + 1) // 2


def test_exponentials_and_bases_have_the_dimension_of_their_groups() -> None:
    assert dimension(ta.exponential(skew(4))).value == 6
    q = ta.orthonormal(leaf("x", 5, 2))
    assert dimension(q).value == 5 * 2 - 3
    assert dimension(q @ q.T).value == 2 * 3
    assert dimension(ta.neumann(skew(4), 3)).value == 6
    assert dimension(ta.householder(leaf("u", 5, 1))).value == 4


def test_symmetric_and_skew_products() -> None:
    n, r = 7, 3
    a, b = leaf("a", n, r), leaf("b", n, r)
    assert dimension(a @ a.T).value == n * r - r * (r - 1) // 2
    assert (
        dimension(leaf("a", n, 2) @ leaf("b", n, 2).T - leaf("b", n, 2) @ leaf("a", n, 2).T).value
        == 18
    )
    assert dimension(a @ leaf("m", r, r) @ a.T).value == n * r
    assert dimension(a @ b.T).value == low_rank(n, n, r)


def test_norms_of_bare_leaves_take_a_dimension_each() -> None:
    b = leaf("b", 5, 3)
    assert dimension(ta.einsum("o r, r -> o r", b, 1 / ta.column_norm(b))).value == 12


# --- what is not the dimension's ---------------------------------------------------------


def test_held_and_frozen_numbers_are_read_as_what_they_are() -> None:
    x = leaf("x", 3, 3)
    assert dimension(ta.hold(x)).value == 9  # a family is a set, whatever trains
    assert dimension(ta.frozen("f", 3, 3) + 0 * x).value == 0
    assert dimension(ta.frozen("f", 3, 3) * leaf("y", 3, 3)).value == 9


def test_shared_leaves_count_once() -> None:
    x = leaf("x", 3, 3)
    found = dimension(ta.concatenate([x, x]))
    assert found.n_parameters == found.value == 9
    assert dimension(x - ta.reshape(x, 3, 3)).value == 0


def test_a_gauge_of_factors_that_occur_twice_is_not_claimed() -> None:
    u, v = leaf("u", 5, 2), leaf("v", 2, 5)
    found = dimension(u @ v + ta.take(u, [0, 1, 2, 3, 4]) @ ta.eye(2) @ ta.frozen("f", 2, 5))
    assert found.gauge_dimension == 0 and found.value <= found.n_parameters


def test_the_dimension_prints_what_is_redundant() -> None:
    text = str(dimension(product(6, 5, 2)))
    assert "dimension 18 (proved) of 22 parameters in 30 elements; 4 redundant" in text
    assert "gauge GL(2) between u and v: 4" in text


def test_generic_constants_are_said() -> None:
    x = leaf("x", 3, 3)
    found = dimension(x @ (x + 2**0.5 * ta.eye(3)))
    assert found.value == 9 and found.status == "proved for generic constants"


# --- derivatives -------------------------------------------------------------------------


def finite_quotient(expr: Expr, values: dict, name: str, ring: ResidueArithmetic) -> np.ndarray:
    """Derivatives by exact interpolation: along each entry a quotient of polynomials."""
    before = evaluate(expr, values, arithmetic=ring)
    blocks = []
    for position in range(values[name].size):
        step = np.zeros(values[name].size, dtype=np.int64)
        step[position] = 1
        total = np.zeros_like(before)
        # Five-point rule, exact for polynomials of degree up to 4 in one entry.
        for k, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            moved = (values[name] + k * step.reshape(values[name].shape)) % ring.p
            total = (
                total + weight * evaluate(expr, values | {name: moved}, arithmetic=ring)
            ) % ring.p
        blocks.append(total * pow(12, -1, ring.p) % ring.p)
    return np.stack(blocks)


a, q = leaf("a", 3, 3), leaf("q", 3, 3)
POLYNOMIAL = {
    "tied products": ta.einsum("i k, k j, i j -> i j", a, a, q),
    "diagonals": ta.einsum("i i, i j -> (i j) i", a, q),
    "embedded": ta.einsum("i j -> i i j", a),
    "window": ta.window(a @ q, 4, 2, offset=(-1, 1)),
    "concatenate": ta.concatenate([a, 2 * q, a @ q], axis=1),
    "take": ta.take(a @ a, IndexMap("table", (2, 2), 3, (0, 2, 1, 1, 1, -1, 1, 1)), axis=1),
    "place": ta.place(ta.reshape(a, 9), 4, 4, index=list(range(2, 11))),
    "polynomial": ta.polynomial(a, 1, 2, 3, 4),
    "neumann": ta.neumann(a, 4),
    "transform": ta.linear_transform(ta.window(a, 4, 3), "walsh_hadamard"),
    "scaled": 3 * (2 * a) - q,
}


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_derivatives_of_polynomials_are_their_differences(name: str) -> None:
    expr = POLYNOMIAL[name]
    ring = ResidueArithmetic(P)
    source = np.random.default_rng(0)
    values = {n: source.integers(0, P, (3, 3)) for n in ("a", "q")}
    duals = {n: leaf_dual(n, value) for n, value in values.items()}
    found = evaluate(expr, duals, arithmetic=DualArithmetic(ring))
    assert (found.value == evaluate(expr, values, arithmetic=ring)).all()
    used = {x.name for x in topological(expr) if hasattr(x, "name")}
    assert set(found.blocks) == used
    for n in used:
        assert (found.block(n) == finite_quotient(expr, values, n, ring)).all()


INVERSES = {
    "reciprocal": (1 / (a + 7)) * (a + 7),
    "divide": (q / a) * a - q,
    "cayley": (ta.cayley(a) @ (ta.eye(3) + a)) - (ta.eye(3) - a),
    "inverse": (ta.cayley(a, inverse=True) @ (ta.eye(3) - a)) - (ta.eye(3) + a),
    "householder": ta.householder(a) @ ta.householder(a).T,
    "sin": ta.sin(a) * ta.sin(a) + ta.cos(a) * ta.cos(a),
    "exp": ta.exp(a) * ta.exp(-1 * a),
    "sigmoid": ta.sigmoid(a) + ta.sigmoid(-1 * a),
    "norm": ta.row_norm(a) * ta.row_norm(a) - ta.einsum("i j, i j -> i", a, a),
}


@pytest.mark.parametrize("name", INVERSES)
def test_derivatives_respect_identities(name: str) -> None:
    """Each expression is constant, so every derivative is 0, through every rule on the way."""
    expr = INVERSES[name]
    ring = ResidueArithmetic(P, analytic=True, norms=True)
    source = np.random.default_rng(1)
    values = {n: source.integers(1, P, (3, 3)) for n in ("a", "q")}
    if name == "norm":  # 3² + 4² + 12² = 13², and multiples of it
        values["a"] = np.array([[3, 4, 12], [6, 8, 24], [12, 3, 4]])
    duals = {n: leaf_dual(n, value) for n, value in values.items()}
    found = evaluate(expr, duals, arithmetic=DualArithmetic(ring))
    assert all((found.block(n) == 0).all() for n in found.blocks)
    assert "a" in found.blocks


def test_planted_fault_a_forgotten_term_of_the_product_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = DualArithmetic.einsum

    def forgetful(self: DualArithmetic, pattern: object, sizes: object, operands: list) -> Dual:
        kept = [operands[0], *(Dual(x.value) for x in operands[1:])]
        return whole(self, pattern, sizes, kept)  # type: ignore[arg-type]

    monkeypatch.setattr(DualArithmetic, "einsum", forgetful)
    found = dimension(product(6, 5, 2))
    assert found.value < 18 and found.status == "bounded"


# --- refusals ----------------------------------------------------------------------------


def test_bad_input_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ShapeError, match="Take a smaller instance"):
        family_dimension(zoo.lora(rank=16), (1024, 1024))
    with pytest.raises(ShapeError, match="without a shape"):
        family_dimension(zoo.lora(rank=2))
    with pytest.raises(UnsupportedError, match="sqrt has no exact derivatives"):
        family_dimension(ta.elementwise("sqrt", product(3, 3, 1)))


def test_norms_of_products_have_no_free_derivatives() -> None:
    with pytest.raises(UnsupportedError, match="a norm of a product has no exact derivatives"):
        family_dimension(ta.scale_rows(ta.row_norm(product(4, 5, 2)), leaf("y", 4, 5)))


def test_derived_leaves_keep_their_relation() -> None:
    w = ta.base(5, 5)
    u = ta.frozen("U", 5, 2, recipe=left_singular(w, 2))
    assert dimension(u @ leaf("a", 2, 5)).value == 10
