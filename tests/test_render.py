"""Formulas, LaTeX and trees of expressions."""

from __future__ import annotations

from fractions import Fraction
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensoradapt.algebra as ta
from tensoradapt.algebra import starts
from tensoradapt.algebra.nodes import MatrixFunction, Sum
from tensoradapt.algebra.notation import Pattern, parse_pattern
from tensoradapt.algebra.outline import MAX_LINES
from tensoradapt.algebra.recognize import DIAGONAL, TRANSPOSED, Use, recognize
from tensoradapt.algebra.render import MAX_LENGTH
from tests.strategies import any_shapes, expressions

B, A = ta.parameter("B", 6, 2), ta.parameter("A", 2, 5)
B2, A2 = ta.parameter("B2", 6, 2), ta.parameter("A2", 2, 5)
W = ta.base(6, 5)
m, c, d = ta.parameter("m", 6), ta.parameter("c", 6), ta.parameter("d", 5)
Q, G = ta.parameter("Q", 3, 3), ta.parameter("G", 2, 3, 4)
V = W + B @ A

FORMULAS = [
    (B @ A, "B A"),
    (2 * (B @ A), "2 B A"),
    (Fraction(1, 2) * (B @ A), "1/2 B A"),
    (0.7071 * (B @ A), "0.7071 B A"),
    ((1 / 3**0.5) * B, "0.57735 B"),
    (1e-20 * B, "1e-20 B"),
    ((B @ A) * (B2 @ A2), "(B A) ⊙ (B2 A2)"),
    (W * (B @ A), "W0 ⊙ (B A)"),
    ((2 * B @ A) * W, "((2 B) A) ⊙ W0"),
    (ta.scale_rows(m, V), "diag(m) (W0 + B A)"),
    (ta.scale_columns(B @ A, d), "(B A) diag(d)"),
    (ta.kron(ta.parameter("K", 2, 3), ta.parameter("L", 3, 2)), "K ⊗ L"),
    (ta.circulant(c), "C(c)"),
    (ta.skew_circulant(c), "S(c)"),
    (ta.sin(B @ A), "sin(B A)"),
    (ta.row_norm(V), "‖W0 + B A‖"),
    (ta.column_norm(W), "‖W0‖_col"),
    (ta.norm(W, 0, 1), "‖W0‖_F"),
    (ta.hold(ta.row_norm(W)), "hold(‖W0‖)"),
    (ta.at_start(B) @ A, "B@start A"),
    (ta.at_start(B @ A), "(B A)@start"),
    (V - W, "W0 + B A - W0"),
    (ta.scale_rows(m / ta.hold(ta.row_norm(V)), V) - W,
     "diag(m / hold(‖W0 + B A‖)) (W0 + B A) - W0"),
    (-(B @ A), "-B A"),
    ((-B) @ A, "(-B) A"),
    ((2 * (B + B2)) @ A, "(2 (B + B2)) A"),
    (Sum((B, Sum((B2, B)))), "B + (B2 + B)"),
    (B - (B2 - B), "B - (B2 - B)"),
    ((B + B2) * B, "(B + B2) ⊙ B"),
    (B * B2 + B, "B ⊙ B2 + B"),
    (-(B * B2), "-B ⊙ B2"),
    (3 * (B * B2), "3 (B ⊙ B2)"),
    (B.T @ W, "Bᵀ W0"),
    ((B @ A).T, "(B A)ᵀ"),
    (m / c, "m / c"),
    (1 / c, "1 / c"),
    ((m * c) / c, "(m ⊙ c) / c"),
    (m / (c / m), "m / (c / m)"),
    (m / c + 1, "m / c + 𝟏"),
    (m @ m, "mᵀ m"),
    (m @ B, "Bᵀ m"),
    (ta.einsum("o, i -> o i", m, d), "m dᵀ"),
    (ta.cayley(Q), "cayley(Q)"),
    (MatrixFunction(Q, "cayley", (-1,)), "cayley⁻¹(Q) - I"),
    (ta.cayley(Q) @ Q, "cayley(Q) Q"),
    (MatrixFunction(Q, "cayley", (1,)) @ Q, "(cayley(Q) - I) Q"),
    (ta.neumann(Q, 3), "neumann(Q, degree 3)"),
    (ta.exponential(ta.parameter("R", 2, 3, 3)), "expm(R)"),
    (ta.block_diag(G), "block_diag(G)"),
    (ta.cp([B, ta.parameter("Z", 5, 2), ta.parameter("Y", 3, 2)]), "cp(B, Z, Y)"),
    (ta.reshape(B @ A, 5, 6), "reshape(B A, 5×6)"),
    (ta.window(W, 7, 5, offset=(-1, 0)), "window(W0, 7×5, from [-1, 0])"),
    (ta.concatenate([B, A.T]), "[B; Aᵀ]"),
    (ta.concatenate([B, B2], axis=1), "[B, B2]"),
    (ta.shuffle(m, 3), "shuffle(m, seed 3)"),
    (ta.linear_transform(W, "inverse_dct", 1), "dct⁻¹(W0, axis 1)"),
    (ta.polynomial(m, 1, 2), "polynomial(m, 1, 2)"),
    (W.bias, "b0"),
    (ta.einsum("a b c -> a c b", G), 'einsum("a b c -> a c b", G)'),
]  # fmt: skip


@pytest.mark.parametrize(("expr", "text"), FORMULAS, ids=[text for _, text in FORMULAS])
def test_an_expression_prints_as_in_a_paper(expr, text):
    assert ta.formula(expr) == repr(expr) == str(expr) == text


PATTERNS = [
    ("o k, k i -> o i", "a b, b c -> a c", "B A"),
    ("or,ri,os,si->oi", "x y, y z, x w, w z -> x z", "(B A) ⊙ (B2 A2)"),
    ("o r, r i, o s, s i, o -> o i", "p q, q t, p u, u t, p -> p t", "diag(m) ((B A) ⊙ (B2 A2))"),
]


@pytest.mark.parametrize(("first", "second", "text"), PATTERNS)
def test_names_of_indices_do_not_matter(first, second, text):
    operands = (B, A, B2, A2, m)[: first.count(",") + 1]
    assert ta.formula(ta.einsum(first, *operands)) == text
    assert ta.formula(ta.einsum(second, *operands)) == text


# --- what is recognized is what is computed ----------------------------------------------

NAMES = "abcd"
SIZE = dict(zip(NAMES, (2, 3, 4, 5), strict=True))


@st.composite
def patterns(draw) -> Pattern:
    """Patterns of vectors and matrices over few indices, so that many have a name."""
    axes = st.lists(st.sampled_from(NAMES), max_size=2)
    parts = draw(st.lists(axes, min_size=1, max_size=5))
    known = sorted({name for part in parts for name in part})
    output = draw(st.permutations(known))[: draw(st.integers(0, 2))] if known else []
    group = tuple((name,) for name in output)
    return Pattern(tuple(tuple((name,) for name in part) for part in parts), group)


def _kinds(form) -> set[str]:
    below = () if isinstance(form, Use) else form.parts
    return {getattr(form, "kind", "product")}.union(*map(_kinds, below))


def _value(form, arrays):
    if isinstance(form, Use):
        array = arrays[form.position]
        if form.mode == DIAGONAL:
            return np.diag(array)
        if form.mode == TRANSPOSED:
            return array[None, :] if array.ndim == 1 else array.T
        return array
    parts = [_value(part, arrays) for part in form.parts]
    if form.kind == "trace":
        return np.trace(parts[0])
    result = parts[0]
    for part in parts[1:]:
        if form.kind == "product":
            result = _times(result, part)
        else:
            result = {"hadamard": np.multiply, "kron": np.kron}[form.kind](result, part)
    return result


def _times(left, right):
    """A product as it is read: a plain vector is a column."""
    if np.ndim(left) == 0 or np.ndim(right) == 0:
        return left * right
    left = left[:, None] if np.ndim(left) == 1 else left
    result = left @ right
    return result[0] if right.ndim == 1 and left.shape[0] == 1 else result


@settings(max_examples=1500, deadline=None)
@given(patterns())
def test_a_recognized_pattern_means_what_numpy_computes(pattern):
    form = recognize(pattern)
    if form is None or not _kinds(form) <= {"product", "hadamard", "trace"}:
        return
    random = np.random.RandomState(0)
    arrays = [random.randn(*(SIZE[g[0]] for g in axes)) for axes in pattern.operands]
    arrays = [np.asarray(array) for array in arrays]
    text = ",".join("".join(g[0] for g in axes) for axes in pattern.operands)
    want = np.einsum(f"{text}->{''.join(g[0] for g in pattern.output)}", *arrays)
    np.testing.assert_allclose(np.squeeze(_value(form, arrays)), want, rtol=1e-9, atol=1e-9)


NAMELESS = [
    "o k, o k, k i, k i -> o i",
    "o k, k i, o k, k i -> o i",
    "o k, k i, k i -> o i",
    "o k, k i, k l -> o i",
    "o k, l i -> o i",
    "o i, k -> o i",
    "o k -> o",
    "o o, o i -> o i",
    "a b, b c, c a -> ",
    "o k, k o -> o",
]


@pytest.mark.parametrize("text", NAMELESS)
def test_a_pattern_that_is_no_product_keeps_its_pattern(text):
    assert recognize(parse_pattern(text)) is None


KRONS = ["a b, c d -> (a c) (b d)", "a b, c d -> (c a) (d b)", "a, b, c -> (c a b)"]


@pytest.mark.parametrize("text", KRONS)
def test_a_kronecker_product_is_written_in_the_order_of_its_groups(text):
    pattern = parse_pattern(text)
    form = recognize(pattern)
    arrays = [np.random.RandomState(0).randn(*(SIZE[g[0]] for g in a)) for a in pattern.operands]
    flat = text.replace("(", "").replace(")", "").replace(" ", "")
    want = np.einsum(flat, *arrays)
    assert form.kind == "kron"
    np.testing.assert_allclose(
        _value(form, arrays).ravel(), want.reshape(_value(form, arrays).shape).ravel()
    )


@pytest.mark.parametrize(
    "text", ["a b, c d -> (a c) (d b)", "a b, a d -> a (b d)", "a b, c -> (a c) b"]
)
def test_what_is_no_kronecker_product_is_not_written_as_one(text):
    form = recognize(parse_pattern(text))
    assert form is None or form.kind != "kron"


FORMS = {
    "khatri_rao": ta.khatri_rao(B, A.T),
    "monarch": ta.einsum("a b d, a c d -> (a b) (c d)", G, ta.parameter("H", 2, 5, 4)),
    "tucker": ta.tucker(ta.parameter("T", 2, 2, 2), [B, B2, A.T]),
    "tensor_train": ta.tensor_train([B, ta.parameter("T3", 2, 3, 2), A]),
    "tensor_ring": ta.tensor_ring([ta.parameter(f"R{k}", 2, 3, 2) for k in range(4)]),
    "weighted_cp": ta.cp([B, B2, A.T], ta.parameter("s", 2)),
}


@pytest.mark.parametrize("name", FORMS)
def test_tensor_formats_print_by_their_builders_name(name):
    assert ta.formula(FORMS[name]).startswith(f"{name}(")


# --- LaTeX -------------------------------------------------------------------------------

LATEX = [
    (2 * (B @ A), r"2\,B\,A"),
    (Fraction(1, 2) * B, r"\tfrac{1}{2}\,B"),
    (1e-20 * B, r"1 \cdot 10^{-20}\,B"),
    (W * (B @ A), r"W_{0} \odot \left(B\,A\right)"),
    (B2.T, r"{B_{2}}^{\top}"),
    (ta.sin(B), r"\sin\left(B\right)"),
    (ta.parameter("within.B", 2), r"B^{(\mathrm{within})}"),
    (ta.parameter("lam_x", 2), r"\mathrm{lam\_x}"),
    (ta.at_start(B), "{B}^{(0)}"),
    (ta.reshape(B, 12), r"\operatorname{reshape}\left(B, 12\right)"),
    (ta.reshape(B, 4, 3), r"\operatorname{reshape}\left(B, 4 \times 3\right)"),
]


@pytest.mark.parametrize(("expr", "text"), LATEX, ids=[text for _, text in LATEX])
def test_an_expression_is_set_in_latex(expr, text):
    assert ta.latex(expr) == text


HOSTILE_NAMES = [r"\input{x}", "a_b^c", "{", "}}", "50%$#&~", "x\\"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_escaped_in_latex(name):
    text = ta.latex(ta.parameter(name, 2))
    assert _balanced(text)
    assert r"\input" not in text
    assert not any(f"{c}" in text.replace(f"\\{c}", "") for c in "%#&$~")


def _balanced(text: str) -> bool:
    depth = 0
    for character in text.replace(r"\{", "").replace(r"\}", ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


@settings(max_examples=120, deadline=None)
@given(expressions(max_depth=4, shape=any_shapes, smooth=False))
def test_every_expression_can_be_printed_in_every_way(expr):
    text = ta.formula(expr)
    assert text
    assert text.count("(") == text.count(")")
    assert len(text) <= MAX_LENGTH
    assert _balanced(ta.latex(expr))
    assert ta.latex(expr).count(r"\left") == ta.latex(expr).count(r"\right")
    assert all(line.strip() for line in ta.tree(expr).splitlines())


# --- trees -------------------------------------------------------------------------------


def test_a_tree_has_nodes_shapes_and_starts():
    kaiming = ta.parameter("A", 2, 5, start=starts.kaiming_uniform())
    drawn = ta.tree(2 * (B @ kaiming) + W)
    assert drawn.splitlines() == [
        "sum  (6, 5)",
        "├─ scale 2  (6, 5)",
        "│  └─ einsum o k, k i -> o i  (6, 5)",
        "│     ├─ B  parameter (6, 2), starts at zeros",
        "│     └─ A  parameter (2, 5), starts at kaiming_uniform(a=2.23607)",
        "└─ W0  frozen weight (6, 5)",
    ]


def test_a_tree_draws_a_shared_part_once():
    drawn = ta.tree(ta.sin(V) * V)
    assert drawn.count("B  parameter") == 1
    assert drawn.count("#1 again") == 1


def test_a_tree_says_what_a_start_is_computed_from():
    magnitude = ta.parameter("m", 6, start=ta.value_of(ta.row_norm(W)))
    assert ta.tree(magnitude) == "m  parameter (6,), starts at value_of(‖W0‖)"


def test_a_tree_names_the_scope_of_shared_leaves():
    assert "one per model" in ta.tree(ta.frozen("A", 2, 5, scope="model"))


# --- deep expressions --------------------------------------------------------------------


def _squared(times: int):
    expr = ta.parameter("e", 2, 2)
    for _ in range(times):
        expr = expr @ expr
    return expr


def test_deep_shared_products_print_short_and_fast():
    expr = _squared(200)
    begin = perf_counter()
    text, drawn, set_ = ta.formula(expr), ta.tree(expr), ta.latex(expr)
    assert perf_counter() - begin < 5
    assert len(text) <= MAX_LENGTH and "…" in text
    assert len(set_) <= MAX_LENGTH and r"\dots" in set_
    assert len(drawn.splitlines()) <= MAX_LINES + 1


def test_a_long_chain_prints_its_top_and_not_its_bottom():
    expr = ta.parameter("x", 3)
    for _ in range(5000):
        expr = ta.sin(expr)
    assert ta.formula(expr).startswith("sin(sin(sin(")
    assert "…" in ta.formula(expr)
    assert "…" in ta.tree(expr)


def test_a_sum_of_many_terms_is_cut():
    terms = [ta.parameter(f"x{k}", 2) for k in range(1000)]
    text = ta.formula(Sum(tuple(terms)))
    assert text.startswith("x0 + x1 + x2")
    assert text.endswith(" + …")
    assert len(text) < 200


def test_a_formula_of_ordinary_size_is_never_cut():
    expr = B @ A
    for k in range(12):
        expr = expr + ta.sin(ta.parameter(f"B{k}", 6, 2) @ ta.parameter(f"A{k}", 2, 5))
    assert "…" not in ta.formula(expr)


def test_a_long_name_is_cut():
    assert len(ta.formula(ta.parameter("x" * 3000, 2))) == 60
