"""The normal form: canonical numbering, refinement, barriers, cancellation; and minimum cuts."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensoradapt.algebra as ta
from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.nodes import AtStart
from tensoradapt.algebra.notation import Pattern
from tensoradapt.algebra.starts import constant, normal
from tensoradapt.analysis.bound import rank_bound
from tensoradapt.analysis.cut import minimum_cut
from tensoradapt.errors import ShapeError
from tensoradapt.network.canonical import canonical
from tensoradapt.network.form import Factor, Network, NormalForm, Ones, Opaque
from tensoradapt.network.lower import MAX_TERMS, lower
from tensoradapt.planning.planner import plan_expression
from tests.laws import rank_is_within_bound
from tests.residues import Residues, random_residues, rank_modulo


def leaf(name: str, *shape: int) -> Expr:
    return ta.parameter(name, *shape, start=normal())


A, B, C, D = leaf("A", 4, 6), leaf("B", 6, 5), leaf("C", 5, 3), leaf("D", 4, 6)
Q, R, M, N = leaf("Q", 4, 4), leaf("R", 4, 4), leaf("M", 2, 3), leaf("N", 3, 2)
V, U, W = leaf("V", 4), leaf("U", 6), ta.base(4, 6)
T = leaf("T", 2, 3, 4)


def barriers(form: NormalForm) -> list[Opaque]:
    return [f.source for n in form.terms for f in n.factors if isinstance(f.source, Opaque)]


# --- equal expressions have equal forms ---------------------------------------------------

EQUAL = {
    "associativity of @": ((A @ B) @ C, A @ (B @ C)),
    "associativity of *": ((A * D) * W, A * (D * W)),
    "commutativity of *": (A * D * W, W * A * D),
    "commutativity of +": (A + D + W, W + (D + A)),
    "renamed indices": (
        ta.einsum("o r, r i -> o i", A, B),
        ta.einsum("x y, y z -> x z", A, B),
    ),
    "permuted operands": (
        ta.einsum("o r, r i, o -> o i", A, B, V),
        ta.einsum("o, r i, o r -> o i", V, B, A),
    ),
    "one einsum and three": (
        ta.einsum("o, o r, r, r i -> o i", V, A, U, B),
        ta.scale_rows(V, ta.scale_columns(A, U) @ B),
    ),
    "scales anywhere": (2 * (A @ (B * 3)), (A * 6) @ B),
    "scales that cancel": ((A / 3) * 3, A),
    "a double transpose": (A.T.T, A),
    "a transposed product": ((A @ B).T, B.T @ A.T),
    "a double reshape": (ta.reshape(ta.reshape(A, 2, 12), 4, 6), A),
    "a split that nothing needs": (
        ta.reshape(ta.reshape(leaf("big", 12, 6), 3, 4, 6), 12, 6) * leaf("B12", 12, 6),
        leaf("B12", 12, 6) * leaf("big", 12, 6),
    ),
    "ones that were split": (ta.reshape(ta.ones(2, 3), 6), ta.ones(6)),
    "the identity": (Q @ ta.eye(4), Q),
    "ones": (ta.ones(4, 6) * A, A),
    "a Kronecker product": (
        ta.kron(M, N),
        ta.einsum("a b, c d -> (a c) (b d)", M, N),
    ),
    "a Kronecker product by reshapes": (
        ta.kron(M, N),
        ta.reshape(ta.einsum("a b, c d -> a c b d", M, N), 6, 6),
    ),
    "a split axis": (
        ta.reshape(ta.kron(M, leaf("P", 3, 2)), 2, 3, 3, 2),
        ta.einsum("a b, c d -> a c b d", M, leaf("P", 3, 2)),
    ),
    "distribution": ((A + D) @ B, A @ B + D @ B),
    "collection": (A + A + A, 3 * A),
    "sums of ones": (ta.einsum("o i, i -> o", A, ta.ones(6)), ta.einsum("o i -> o", A)),
    "a factor of one": (ta.einsum("o i, k -> o i", A, ta.ones(5)), 5 * A),
    "an axis of one": (ta.reshape(A, 4, 1, 6), ta.einsum("o i -> o () i", A)),
    "held twice": (ta.hold(ta.hold(A)), ta.hold(A)),
    "held products": (ta.hold(A @ B), ta.hold(A) @ ta.hold(B)),
    "what is frozen is held": (ta.hold(W), W),
    "a trace": (ta.einsum("i i ->", Q @ R), ta.einsum("i j, j i ->", R, Q)),
    "a barrier's inside": (ta.sin(A + D), ta.sin(D + A)),
    "what is added and taken away": (W + (A - W), A),
    "a difference to the start": (A - ta.at_start(A) + ta.at_start(A), A),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_expressions_have_one_normal_form(name: str) -> None:
    left, right = map(lower, EQUAL[name])
    assert left == right, f"{left}\n{right}"
    assert hash(left) == hash(right) and left.key == right.key and str(left) == str(right)


DIFFERENT = [
    (Q @ R, R @ Q),
    (Q * Q, Q),
    (Q @ R, (Q @ R).T),
    (A, D),
    (A + A, A),
    (ta.einsum("i i -> i", Q), ta.einsum("i j -> i", Q)),
    (ta.einsum("o k, o k, k i -> o i", Q, Q, R), Q @ R),
    (ta.kron(M, N), ta.kron(N, M)),
    (ta.sin(A), ta.cos(A)),
    (ta.sin(2 * A), 2 * ta.sin(A)),
    (ta.hold(A), A),
    (ta.at_start(A), A),
    (2**0.5 * A, A),
]


@pytest.mark.parametrize("pair", DIFFERENT, ids=str)
def test_different_expressions_have_different_forms(pair: tuple[Expr, Expr]) -> None:
    assert lower(pair[0]) != lower(pair[1])


# --- random networks ----------------------------------------------------------------------


@st.composite
def networks(draw, most: int = 4) -> tuple[list[Factor], tuple, dict[int, int]]:
    """Factors over shared indices: hyperedges, grouped axes, repeated factors and indices."""
    count = draw(st.integers(1, most))
    sizes = {i: draw(st.sampled_from((2, 3, 4))) for i in range(count)}
    index = st.integers(0, count - 1)
    factors = []
    for _ in range(draw(st.integers(1, most))):
        groups = draw(st.lists(st.lists(index, min_size=1, max_size=2), min_size=1, max_size=3))
        axes = tuple(map(tuple, groups))
        shape = tuple(prod(sizes[i] for i in group) for group in axes)
        name = draw(st.sampled_from("pqr"))
        factors.append(Factor(leaf(f"{name}{'x'.join(map(str, shape))}", *shape), axes))
    seen = [i for i in range(count) if any(i in f.indices for f in factors)]
    lone = [i for i in range(count) if i not in seen]
    factors += [Factor(Ones(sizes[i]), ((i,),)) for i in lone]
    wanted = st.lists(st.sampled_from(range(count)), max_size=2).map(tuple)
    output = (draw(wanted), draw(wanted))
    return factors, output, sizes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(networks(), st.randoms(use_true_random=False))
def test_canonical_numbering_forgets_names_and_order(network, source: random.Random) -> None:
    factors, output, sizes = network
    labels = list(range(100, 100 + 2 * len(sizes)))
    source.shuffle(labels)
    new = dict(zip(sizes, labels, strict=False))

    def rename(axes):
        return tuple(tuple(new[i] for i in group) for group in axes)

    renamed = [Factor(f.source, rename(f.axes), f.held) for f in factors]
    source.shuffle(renamed)
    moved = {new[i]: n for i, n in sizes.items()}
    first = canonical(factors, output, sizes, Fraction(1))
    second = canonical(renamed, rename(output), moved, Fraction(1))
    assert first == second and hash(first) == hash(second)
    assert sorted(f.key for f in first.factors) == sorted(f.key for f in factors)
    assert canonical(list(first.factors), first.output, dict(enumerate(first.sizes)), 1) == Network(
        first.factors, first.output, first.sizes, 1
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(networks(most=5), st.integers(0, 10**6))
def test_the_minimum_cut_is_the_least_over_all_sides(network, seed: int) -> None:
    factors, output, sizes = network
    made = canonical(factors, output, sizes, Fraction(1))
    source = random.Random(seed)
    bounds = {f: source.choice((None, 1, 2, 5)) for f in made.factors if len(f.axes) == 2}
    assert minimum_cut(made, (0,)).value == least_by_trial(made, {})
    cut = minimum_cut(made, (0,), bounds.get)
    assert cut.value == least_by_trial(made, bounds)
    assert cut.value == prod(made.sizes[i] for i in cut.indices) * prod(
        bounds[made.factors[k]] or 1 for k in cut.bounded
    )


def least_by_trial(network: Network, bounds: dict[Factor, int | None]) -> int:
    """Give every factor (or half of a bounded one) a side; pay each index that both sides see."""
    pieces: list[set[int]] = []
    joints: list[tuple[int, int, int]] = []
    for factor in network.factors:
        bound = bounds.get(factor)
        if bound is None:
            pieces.append(set(factor.indices))
        else:
            joints.append((len(pieces), len(pieces) + 1, bound))
            pieces += [set(group) for group in factor.axes]
    rows, columns = (set(group) for group in network.output)
    best: int | None = None
    for sides in product((True, False), repeat=len(pieces)):
        on_rows = rows.union(*(p for p, side in zip(pieces, sides, strict=True) if side))
        on_columns = columns.union(*(p for p, side in zip(pieces, sides, strict=True) if not side))
        price = prod(network.sizes[i] for i in on_rows & on_columns)
        price *= prod(bound for a, b, bound in joints if sides[a] != sides[b])
        best = price if best is None else min(best, price)
    assert best is not None
    return best


@settings(max_examples=150, deadline=None, derandomize=True)
@given(networks(most=5), st.integers(0, 10**6))
def test_no_random_value_has_a_rank_above_the_cut(network, seed: int) -> None:
    factors, output, sizes = network
    made = canonical(factors, output, sizes, Fraction(1))
    named = {f"n{i}": n for i, n in enumerate(made.sizes)}
    drawn = random_residues({f.key: _shape(f, made) for f in made.factors}, seed)

    def axes(groups):
        return tuple(tuple(f"n{i}" for i in group) for group in groups)

    pattern = Pattern(tuple(axes(f.axes) for f in made.factors), axes(made.output))
    matrix = Residues().einsum(pattern, named, [drawn[f.key] for f in made.factors])
    assert rank_modulo(matrix) <= minimum_cut(made, (0,)).value


def _shape(factor: Factor, network: Network) -> tuple[int, ...]:
    return tuple(prod(network.sizes[i] for i in group) for group in factor.axes)


# --- hyperedges, refinement, barriers -----------------------------------------------------


def test_a_hadamard_product_of_low_ranks_is_one_network_with_hyperedges() -> None:
    (network,) = lower(zoo.loha(rank=3).on((7, 5))).terms
    assert len(network.factors) == 4 and sorted(network.sizes) == [3, 3, 5, 7]
    carriers = [sum(i in f.indices for f in network.factors) for i in network.output_indices]
    assert carriers == [2, 2]


def test_groups_of_indices_meet_in_their_common_refinement() -> None:
    vector = leaf("x", 6)
    (network,) = lower(ta.kron(M, N) @ vector).terms
    assert sorted(network.sizes) == [2, 2, 3, 3]
    by_name = {f.source.name: f.axes for f in network.factors}
    assert sorted(map(len, by_name["x"])) == [2]


def test_groups_without_a_common_refinement_make_a_barrier_with_its_reason() -> None:
    across = ta.reshape(ta.kron(M, N), 9, 4)
    (barrier,) = barriers(lower(across))
    assert barrier.operation == "reshape"
    assert "no common refinement with (9, 4)" in barrier.reason
    assert "no common refinement" in str(plan_expression(across, 8, "apply"))


def test_a_product_that_splits_an_axis_two_ways_materializes_one_side() -> None:
    left, right = (
        ta.kron(leaf("a", 5, 2), leaf("b", 1, 3)),
        ta.kron(leaf("c", 3, 1), leaf("d", 2, 5)),
    )
    form = lower(left @ right)
    (barrier,) = barriers(form)
    assert barrier.operation == "sum" and "its axes split as" in barrier.reason


def test_axes_of_size_one_carry_no_index() -> None:
    for network in lower(zoo.lora(rank=1).on((1, 1))).terms:
        assert network.sizes == ()


@pytest.mark.parametrize("terms", [8, 9, 12])
def test_products_are_multiplied_out_up_to_eight_networks(terms: int) -> None:
    total = leaf("t0", 4, 4)
    for k in range(1, terms // 2 + terms % 2):
        total = total + leaf(f"t{k}", 4, 4)
    pair = leaf("u0", 4, 4) + leaf("u1", 4, 4)
    form = lower(total @ pair)
    count = len(total.terms) * 2
    if count <= MAX_TERMS == 8:
        assert len(form.terms) == count and not barriers(form)
    else:
        assert len(form.terms) == 2
        assert all(f"would make {count} networks" in b.reason for b in barriers(form))


def test_what_is_no_product_is_one_barrier_inside_a_network() -> None:
    (network,) = lower(ta.scale_rows(V, ta.sin(A @ B)) @ C).terms
    assert [f.source.operation for f in network.factors if isinstance(f.source, Opaque)] == ["map"]
    assert len(network.factors) == 3


# --- cancellation -------------------------------------------------------------------------


def test_an_expression_minus_itself_is_zero() -> None:
    zero = lower((A @ B) - ta.einsum("x y, y z -> x z", A, B))
    assert zero.terms == () and str(zero) == "0" and zero.shape == (4, 5)
    assert int(rank_bound(A @ B - A @ B)) == 0


def test_hut_that_adds_one_is_hira() -> None:
    inside = leaf("b", 4, 2) @ leaf("a", 2, 6)
    assert lower(W * (ta.ones(4, 6) + inside) - W) == lower(W * inside)
    assert lower(W * (1 + inside) - W) == lower(W * inside)


def test_hold_never_cancels() -> None:
    assert len(lower(ta.hold(A) - A).terms) == 2
    assert len(lower(ta.hold(A @ B) - A @ B).terms) == 2
    assert lower(ta.hold(A) - ta.hold(A)).terms == ()


def test_at_start_is_a_leaf_of_its_own_or_a_constant() -> None:
    form = lower(A - AtStart(A))
    assert sorted(f.source.name for n in form.terms for f in n.factors) == ["A", "A@start"]
    half = ta.parameter("half", 4, 6, start=constant(0.5))
    assert lower(half - AtStart(half)) == lower(half - ta.ones(4, 6) / 2)
    assert lower(AtStart(W)) == lower(W)


def test_equal_barriers_cancel_though_their_reasons_differ() -> None:
    assert lower(ta.sin(A + D) - ta.sin(D + A)).terms == ()


# --- rank bounds --------------------------------------------------------------------------


def test_the_bound_prints_its_proof() -> None:
    bound = rank_bound(zoo.lora(rank=3).on((6, 5)))
    assert str(bound) == (
        "rank ≤ 3  minimum cut of A[c b], B[a c] -> [a b] through the index of A and B = 3"
    )
    assert str(bound.why).startswith("≤ 3  minimum cut")
    total = rank_bound(zoo.lora(rank=1).on((9, 8)) + leaf("Z", 9, 2) @ leaf("Y", 2, 8))
    assert int(total) == 3 and str(total.why).startswith("≤ 3  sum of 2 networks\n  ≤ ")
    shape = rank_bound(leaf("L", 3, 9))
    assert int(shape) == 3


BOUNDS = [
    (zoo.lora(rank=4).on((12, 10)), 4),
    (zoo.loha(rank=3).on((64, 32)), 9),
    (zoo.loha(rank=4).on((12, 10)), 10),
    (zoo.kronecker(rank=2).on((12, 8)), 4),
    (ta.kron(leaf("k1", 3, 4), leaf("k2", 5, 2)), 6),
    (ta.block_diag(leaf("blocks", 3, 2, 5)), 6),
    (ta.monarch(leaf("l", 2, 3, 4), leaf("r", 2, 5, 4)), 6),
    (ta.scale_rows(leaf("s", 12), zoo.lora(rank=4).on((12, 10))), 4),
    (ta.sin(zoo.lora(rank=2).on((12, 10))), 10),
    (ta.householder(leaf("h", 9, 2)) - ta.eye(9), 2),
    (ta.cayley(zoo.lora(rank=2).on((9, 9))) - ta.eye(9), 2),
    (ta.window(zoo.lora(rank=2).on((5, 5)), 9, 9), 2),
    (ta.circulant(leaf("c", 9)) @ zoo.lora(rank=2).on((9, 7)), 2),
    ((leaf("e", 9, 2) + leaf("f", 9, 2)) @ (leaf("g", 2, 9) + leaf("i", 2, 9)), 2),
    (ta.einsum("o, i -> o i", leaf("o", 9), leaf("p", 7)), 1),
]


@pytest.mark.parametrize(("expr", "value"), BOUNDS, ids=[repr(e)[:50] for e, _ in BOUNDS])
def test_bounds_of_known_structures(expr: Expr, value: int) -> None:
    assert int(rank_bound(expr)) == value
    rank, _ = rank_is_within_bound(expr)
    assert rank == value, "the bound is attained at random values"


def test_a_vector_has_no_rank() -> None:
    with pytest.raises(ShapeError, match="needs two axes or more"):
        rank_bound(V)
