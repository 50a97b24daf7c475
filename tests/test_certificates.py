"""Certificates of generic ranks: claims of the literature as instances, and faults that show."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import pytest

import tensoradapt as ta
from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.analysis.certificate import certify_rank
from tensoradapt.analysis.verify import verify_certificate

leaf = ta.parameter


def lower(expr: Expr, **options: object) -> int:
    """The certified lower bound, verified again by another path."""
    found = certify_rank(expr, **options)  # type: ignore[arg-type]
    again = {k: v for k, v in options.items() if k in ("base", "bias", "values")}
    assert verify_certificate(found, expr, **again), verify_certificate(found, expr, **again).reason  # type: ignore[arg-type]
    assert found.lower <= found.upper
    return found.lower


def product(m: int, n: int, r: int, tag: str = "") -> Expr:
    return leaf(f"u{tag}", m, r) @ leaf(f"v{tag}", r, n)


# --- low rank and its powers (claims 1, 4, 5, 9 to 11) -----------------------------------


@pytest.mark.parametrize(("m", "n", "r"), [(2, 2, 1), (3, 6, 2), (5, 4, 5), (7, 6, 3), (2, 4, 5)])
def test_lora_has_the_rank_of_its_factors(m: int, n: int, r: int) -> None:
    found = certify_rank(product(m, n, r))
    assert found.lower == found.upper == min(m, n, r) and found.status == "proved"


@pytest.mark.parametrize(
    ("m", "n", "r", "s"), [(9, 8, 2, 3), (5, 9, 2, 2), (6, 6, 1, 3), (4, 5, 3, 3)]
)
def test_fedpara_multiplies_ranks(m: int, n: int, r: int, s: int) -> None:
    found = certify_rank(product(m, n, r, "1") * product(m, n, s, "2"))
    assert found.lower == found.upper == min(m, n, r * s) and found.proved


@pytest.mark.parametrize("r", [2, 3, 4])
def test_tied_and_half_tied_hadamard_products_fall_to_the_symmetric_square(r: int) -> None:
    u, v, x = leaf("u", 14, r), leaf("v", r, 14), leaf("x", r, 14)
    assert lower((u @ v) * (u @ v)) == comb(r + 1, 2)
    assert lower((u @ v) * (u @ x)) == comb(r + 1, 2)


@pytest.mark.parametrize(
    ("r", "coefficients"),
    [(1, (1, 1, 1)), (2, (0, 1, 0, 2)), (3, (0, 0, 1)), (2, (1, 0, 3)), (1, (0, 0, 0, 0, 5))],
)
def test_polynomials_have_the_rank_of_their_monomials(r: int, coefficients: tuple) -> None:
    expr = ta.polynomial(product(11, 12, r), *coefficients)
    assert lower(expr) == min(11, sum(comb(r + k - 1, k) for k, c in enumerate(coefficients) if c))


# --- analytic functions (claim 13) and their hypotheses ----------------------------------


@pytest.mark.parametrize("function", [ta.sin, ta.cos, ta.tanh, ta.exp, ta.sigmoid])
@pytest.mark.parametrize("r", [1, 3])
def test_analytic_functions_of_low_rank_are_full(function: Callable, r: int) -> None:
    found = certify_rank(function(100 * product(9, 7, r)))
    assert found.lower == found.upper == 7 and found.proved
    assert any("Lindemann" in text for text in found.assumptions)


def skew(n: int, name: str = "s") -> Expr:
    return ta.take(leaf(name, n * (n - 1) // 2), IndexMap("skew", (n, n), n * (n - 1) // 2, (n,)))


ROW = leaf("row", 6)
NOT_FULL = {
    "tiled": (ta.einsum("a b, c -> (c a) b", product(3, 8, 2), ta.ones(3)), 3),
    "repeated columns": (ta.take(product(6, 3, 2), [0, 1, 2, 0, 1], axis=1), 3),
    "one row": (ta.window(ta.reshape(ROW, 1, 6), 5, 6), 1),
    "odd skew": (skew(5), 4),
    "skew by hand": (leaf("q", 7, 7) - leaf("q", 7, 7).T, 6),
    "one vector": (ta.einsum("a, b -> a b", ROW, ta.ones(6)), 1),
    "opposite rows": (
        ta.einsum(
            "k a b -> (k a) b",
            ta.concatenate(
                [ta.reshape(product(3, 7, 2), 1, 3, 7), -1 * ta.reshape(product(3, 7, 2), 1, 3, 7)]
            ),
        ),
        3,
    ),
}


@pytest.mark.parametrize("name", NOT_FULL)
def test_sines_of_structured_matrices_are_not_called_full(name: str) -> None:
    operand, rank = NOT_FULL[name]
    assert lower(ta.sin(operand)) == rank
    assert lower(ta.tanh(operand)) == rank


def test_a_relation_between_arguments_is_not_taken_for_independence() -> None:
    """sin(a), sin(b), sin(a + b) satisfy a relation, and free numbers would not."""
    a, b = leaf("a", 1, 1), leaf("b", 1, 1)
    cosines = [ta.cos(a), ta.cos(b), ta.cos(a + b)]
    x, y, z = cosines
    vanishing = 1 + 2 * x * y * z - x * x - y * y - z * z
    found = certify_rank(vanishing)
    assert found.lower == 0 and found.status == "bounded"
    assert found.witness.kind == "balls"


def test_sines_of_one_argument_keep_their_identity() -> None:
    x = product(6, 6, 2)
    one = ta.sin(x) * ta.sin(x) + ta.cos(x) * ta.cos(x)
    assert lower(one) == 1
    assert lower(ta.exp(x) * ta.exp(-1 * x)) == 1


def test_sines_inside_other_structures_are_certified() -> None:
    found = certify_rank(zoo.dora(within=zoo.sine_lora(rank=1)), (8, 6))
    assert found.lower == found.upper == 6 and found.proved
    assert lower(ta.sin(product(5, 5, 1)) * product(5, 5, 1, "x") + leaf("y", 5, 5)) == 5
    assert (
        lower(ta.einsum("a b, c d -> (a c) (b d)", ta.sin(product(3, 3, 1)), leaf("k", 2, 1))) == 3
    )


def test_a_sine_of_a_sine_is_left_to_balls() -> None:
    found = certify_rank(ta.sin(ta.sin(product(4, 4, 2))))
    assert found.lower == 4 and found.witness.kind == "balls" and found.proved


# --- Kronecker products and tensors (claims 18 to 30) ------------------------------------


def test_kronecker_products_multiply_ranks() -> None:
    assert lower(ta.kron(product(4, 5, 2), leaf("b", 3, 2))) == 4
    three = (leaf("a", 2, 3), leaf("b", 3, 2), leaf("c", 2, 2))
    assert lower(ta.kron(*three)) == 8


def test_lokr_has_the_rank_of_its_factors() -> None:
    assert lower(ta.kron(leaf("w1", 3, 4), product(5, 6, 2))) == 6


@pytest.mark.parametrize(("a", "x", "b", "y", "rank"), [(3, 5, 5, 3, 14), (5, 9, 9, 5, 42)])
def test_two_kronecker_terms_fall_below_the_cut(a: int, x: int, b: int, y: int, rank: int) -> None:
    terms = ta.einsum("w a x, w b y -> (a b) (x y)", leaf("a", 2, a, x), leaf("b", 2, b, y))
    assert lower(terms) == rank


def test_three_kronecker_terms_fall_below_the_cut() -> None:
    a, b = leaf("a", 3, 4, 11), leaf("b", 3, 11, 4)
    assert lower(ta.einsum("w a x, w b y -> (a b) (x y)", a, b)) == 43


def test_two_stacked_kroneckers_fall_below_the_cut() -> None:
    a, b = leaf("a", 2, 2, 3), leaf("b", 2, 2, 3)
    assert lower(ta.einsum("c a x, c b y -> (c a b) (x y)", a, b)) == 7


def test_aligned_hadamard_products_of_kroneckers_multiply() -> None:
    first = ta.kron(product(3, 3, 1, "a"), leaf("b", 3, 3))
    second = ta.kron(product(3, 3, 2, "c"), product(3, 3, 1, "d"))
    assert lower(first * second) == 2 * 3


def test_cp_and_tucker_and_trains_have_their_matricizations() -> None:
    factors = [leaf(f"f{k}", n, 5) for k, n in enumerate((3, 4, 2, 3))]
    assert lower(ta.reshape(ta.cp(factors), 12, 6)) == 5
    tucker = ta.tucker(leaf("c", 3, 2, 2), [leaf("g0", 4, 3), leaf("g1", 5, 2), leaf("g2", 6, 2)])
    assert lower(ta.reshape(tucker, 4, 30)) == 3
    badly = ta.tucker(leaf("c", 4, 2, 1), [leaf("g0", 5, 4), leaf("g1", 5, 2), leaf("g2", 6, 1)])
    assert lower(ta.reshape(badly, 5, 30)) == 2
    cores = [leaf("t0", 3, 2), leaf("t1", 2, 4, 3), leaf("t2", 3, 3, 2), leaf("t3", 2, 4)]
    assert lower(ta.reshape(ta.tensor_train(cores), 12, 12)) == 3


def test_an_interleaved_train_is_not_bounded_by_its_bond() -> None:
    cores = ta.einsum(
        "i j a, a k l b, b m n -> (i k m) (j l n)",
        leaf("t0", 2, 2, 2), leaf("t1", 2, 2, 2, 2), leaf("t2", 2, 2, 2),
    )  # fmt: skip
    assert lower(cores) == 8


def test_rings_have_the_product_of_two_bonds_unless_tied() -> None:
    ring = [leaf("r0", 2, 3, 2), leaf("r1", 2, 3, 2), leaf("r2", 2, 3, 2), leaf("r3", 2, 3, 2)]
    assert lower(ta.reshape(ta.tensor_ring(ring), 9, 9)) == 4
    tied = leaf("g", 2, 2, 2)
    alternating = ta.einsum("a i b, b j c, c k d, d l a -> (i k) (j l)", tied, tied, tied, tied)
    assert lower(alternating) == 3


def test_lotr_and_lorta_slices_and_stacks() -> None:
    stack = ta.einsum(
        "o r, l r s, s i -> l o i", leaf("a", 6, 2), leaf("g", 3, 2, 2), leaf("b", 2, 5)
    )
    assert lower(ta.reshape(stack, 18, 5)) == 2
    cp = ta.cp([leaf("l", 3, 2), leaf("o", 6, 2), leaf("i", 5, 2)])
    assert lower(ta.reshape(ta.take(cp, [1]), 6, 5)) == 2


# --- circulant and Toeplitz (claims 32 to 39) --------------------------------------------


def test_circulants_are_full_and_lose_a_rank_for_each_zero_of_their_spectrum() -> None:
    assert lower(ta.circulant(leaf("c", 7))) == 7
    difference = ta.take(leaf("c", 6), [5, 0, 1, 2, 3, 4]) - leaf("c", 6)
    assert lower(ta.circulant(difference)) == 5
    assert lower(ta.skew_circulant(leaf("c", 6))) == 6


def test_block_circulants_lose_the_rank_of_each_frequency() -> None:
    blocks = ta.einsum("k a b -> k a b", leaf("c", 4, 2, 3))
    made = ta.take(blocks, IndexMap("circulant", (4, 4), 4, (4,)))
    assert lower(ta.einsum("i j a b -> (i a) (j b)", made)) == 8
    thin = ta.einsum("k a r, k r b -> k a b", leaf("x", 4, 3, 1), leaf("y", 4, 1, 3))
    made = ta.take(ta.linear_transform(thin, "dct"), IndexMap("circulant", (4, 4), 4, (4,)))
    assert lower(ta.einsum("i j a b -> (i a) (j b)", made)) <= 12


def test_toeplitz_and_skew_matrices() -> None:
    assert lower(ta.toeplitz(leaf("t", 9), 4, 6)) == 4
    assert lower(ta.symmetric_toeplitz(leaf("t", 5))) == 5
    strictly = ta.window(ta.place(leaf("t", 4), 9, index=[5, 6, 7, 8]), 9)
    assert lower(ta.toeplitz(strictly, 5, 5)) == 4
    assert [lower(skew(n)) for n in (4, 5, 6, 7)] == [4, 4, 6, 6]


def test_low_displacement_rank_is_full_with_the_displacement_it_says() -> None:
    g, h = leaf("g", 7, 2), leaf("h", 7, 2)
    made = ta.low_displacement_rank(g, h)
    assert lower(made) == 7
    shift = ta.take(made, IndexMap("shift", (7,), 7, (7, 1)))
    wrap = ta.take(
        made, IndexMap("table", (7,), 7, (1, 2, 3, 4, 5, 6, 0, 1, 1, 1, 1, 1, 1, -1)), axis=1
    )
    assert lower(shift - wrap) == 2


def test_products_of_circulants_and_diagonals() -> None:
    n = 5
    factors = [ta.circulant(leaf(f"c{k}", n)) for k in range(2)]
    assert lower(factors[0] @ factors[1]) == n
    assert lower(ta.scale_columns(factors[0], leaf("d", n)) @ factors[1]) == n


# --- base weights (claims 46 to 49) ------------------------------------------------------


def test_hira_multiplies_the_rank_of_the_base() -> None:
    source = np.random.default_rng(0)
    for rank in (1, 2, 3):
        base = source.integers(-3, 4, (7, rank)).astype(float) @ source.integers(-3, 4, (rank, 8))
        assert lower(zoo.hira(rank=2).on((7, 8)), base=base) == min(7, 2 * rank)
    assert certify_rank(zoo.hira(rank=1), (7, 8)).status == "proved"


def test_hira_on_structured_bases_is_not_called_generic() -> None:
    assert lower(zoo.hira(rank=2).on((5, 5)), base=np.ones((5, 5))) == 2
    apart = np.zeros((6, 6))
    apart[0, 0], apart[1:, 1:] = 1, 1
    assert lower(zoo.hira(rank=2).on((6, 6)), base=apart) == 3


def test_hira_on_supports_has_their_matching() -> None:
    base = np.zeros((5, 6))
    base[[0, 0, 1, 2, 2, 3], [0, 1, 1, 3, 4, 3]] = 1 + np.arange(6)
    assert lower(zoo.hira(rank=1).on((5, 6)), base=base) == 4


def test_hut_adds_a_low_rank_to_a_product_with_the_base() -> None:
    w = ta.base(8, 9)
    base = np.ones((8, 9))
    assert lower(w * product(8, 9, 1, "a") + product(8, 9, 2, "b"), base=base) == 3


def test_dora_is_full_and_bounded_by_the_rank_of_the_base() -> None:
    assert certify_rank(zoo.dora(within=zoo.lora(rank=1)), (6, 8)).status == "proved"
    assert lower(zoo.dora(within=zoo.lora(rank=1)).on((6, 8))) == 6
    source = np.random.default_rng(0)
    base = source.integers(-3, 4, (9, 3)).astype(float) @ source.integers(-3, 4, (3, 9))
    assert lower(zoo.dora(within=zoo.lora(rank=2)).on((9, 9)), base=base) == 3 + 2


def test_a_base_enters_exactly() -> None:
    """1 + 2⁻⁵² and 1 differ in the last bit only; in exact arithmetic that is a full rank."""
    base = np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-52]])
    assert lower(ta.base(2, 2) + 0 * leaf("x", 2, 2), base=base) == 2
    assert lower(ta.base(2, 2) + 0 * leaf("x", 2, 2), base=np.ones((2, 2))) == 1


# --- frozen, rotated, gauged (claims 50 to 57) -------------------------------------------


@pytest.mark.parametrize(("r", "n"), [(2, 3), (4, 7), (9, 5)])
def test_vera_lora_xs_and_randlora(r: int, n: int) -> None:
    assert lower(zoo.vera(rank=r).on((6, n))) == min(r, 6, n)
    rank = min(r, n, 6)
    assert lower(zoo.lora_xs(rank=rank).on((6, n))) == rank


def test_melora_adds_ranks() -> None:
    blocks = (product(3, 4, 2, "a"), product(4, 3, 1, "b"), product(2, 2, 1, "c"))
    assert lower(ta.block_diag(*blocks)) == 4


@pytest.mark.parametrize(("size", "blocks"), [(3, 2), (4, 2), (5, 1), (2, 3)])
def test_odd_rotations_fix_an_axis(size: int, blocks: int) -> None:
    names = [f"q{k}" for k in range(blocks)]
    turns = [ta.cayley(skew(size, name)) - ta.eye(size) for name in names]
    assert lower(ta.block_diag(*turns)) == 2 * (size // 2) * blocks
    turned = ta.block_diag(*turns) @ ta.base(size * blocks, 7)
    assert lower(turned) == min(7, 2 * (size // 2) * blocks)


def test_exponentials_and_orthonormal_bases_have_their_families() -> None:
    assert lower(ta.exponential(skew(5)) - ta.eye(5)) == 4
    x = leaf("x", 6, 2)
    q = ta.orthonormal(x)
    assert lower(q @ q.T) == 2
    assert lower(q.T @ q - ta.eye(2)) == 0
    assert lower(ta.householder(leaf("u", 6, 2)) - ta.eye(6)) == 2


def test_sums_add_ranks_where_a_term_is_free() -> None:
    assert lower(product(7, 8, 2, "a") + ta.kron(leaf("k", 7, 4), ta.ones(1, 2))) == 6
    assert lower(product(7, 8, 2, "a") + product(7, 8, 3, "b")) == 5
    a, b = ta.circulant(leaf("c", 5)), ta.kron(leaf("x", 5, 5), ta.ones(1, 1))
    assert lower(a + ta.circulant(leaf("d", 5))) == 5
    assert lower(b - b) == 0


def test_symmetric_and_skew_products() -> None:
    a, b = leaf("a", 7, 3), leaf("b", 7, 3)
    assert lower(a @ a.T) == 3
    assert lower(a @ b.T - b @ a.T) == 6
    assert lower(a @ leaf("m", 3, 3) @ a.T) == 3
