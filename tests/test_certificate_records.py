"""Certificates of generic ranks: what may stand for what, records, forgeries, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import tensoradapt as ta
from tensoradapt import zoo
from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.starts import (
    given,
    left_singular,
    ones,
    orthogonal,
    paired_columns,
    qr_q,
    qr_r,
    right_singular,
    singular_values,
    value_of,
    zeros,
)
from tensoradapt.analysis import certificate as certificate_module
from tensoradapt.analysis.certificate import certify_rank
from tensoradapt.analysis.eliminate import Pivots
from tensoradapt.analysis.minors import is_regular
from tensoradapt.analysis.points import Drawing
from tensoradapt.analysis.records import RankCertificate, Witness
from tensoradapt.analysis.residues import ResidueArithmetic
from tensoradapt.analysis.verify import verify_certificate
from tensoradapt.errors import (
    ParseError,
    ShapeError,
    StructureError,
    UnsupportedError,
    ValueMissingError,
)
from tests.test_certificates import (
    lower,
    product,
)
from tests.test_certificates import (
    test_a_relation_between_arguments_is_not_taken_for_independence as relation_of_cosines,
)

leaf = ta.parameter


# --- what derived leaves may stand for ---------------------------------------------------


def residual(rank: int) -> Expr:
    """W0 without its leading singular part: rank n - r, never n."""
    w = ta.base(6, 6)
    u = ta.frozen("U", 6, rank, recipe=left_singular(w, rank))
    s = ta.frozen("S", rank, recipe=singular_values(w, rank))
    v = ta.frozen("V", rank, 6, recipe=right_singular(w, rank))
    return w - ta.einsum("o r, r, r i -> o i", u, s, v) + 0 * leaf("x", 6, 6)


@pytest.mark.parametrize("rank", [2, 6])
def test_singular_vectors_keep_their_relation_to_the_base(rank: int) -> None:
    found = certify_rank(residual(rank))
    assert found.lower == 6 - rank
    assert any("by its relation to W0" in text for text in found.assumptions)


def test_split_and_shifted_singular_parts_and_qr() -> None:
    w = ta.base(5, 7)
    halves = [
        ta.frozen("U", 5, 2, recipe=left_singular(w, 2, 0.5, 1))
        @ ta.frozen("V", 2, 7, recipe=right_singular(w, 2, 0.5, 1))
    ]
    assert lower(w - halves[0]) == 3
    q, r = ta.frozen("Q", 5, 5, recipe=qr_q(w, 5)), ta.frozen("R", 5, 7, recipe=qr_r(w, 5))
    assert lower(w - q @ r + 0 * leaf("x", 5, 7)) == 0


def test_planted_fault_free_numbers_for_singular_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must never be: W0 - U S V with free factors is full, and would be proved."""
    monkeypatch.setattr(
        Drawing, "derived", lambda self, leaf, name, start: self.free(name, leaf.shape)
    )
    with pytest.raises(AssertionError):
        test_singular_vectors_keep_their_relation_to_the_base(6)


def test_rounded_singular_vectors_prove_nothing_about_generic_ones() -> None:
    """For balls only a real point is left, and rounded factors of W0 are not its factors."""
    blocked = ta.elementwise("sqrt", leaf("y", 6, 6) * leaf("y", 6, 6) + 1) * 0
    with pytest.raises(UnsupportedError, match="sqrt has no exact points"):
        certify_rank(residual(6) + blocked)
    q = ta.frozen("q", 6, 6, recipe=orthogonal())
    with pytest.raises(UnsupportedError, match="too special for balls"):
        certify_rank(q.T @ q - ta.eye(6) + blocked)


def test_trained_leaves_that_start_from_the_base_are_free() -> None:
    w = ta.base(5, 6)
    b = leaf("b", 5, 2, start=left_singular(w, 2))
    a = leaf("a", 2, 6, start=qr_r(w, 2))
    assert lower(w * (b @ a)) == 5
    assert lower(b @ a - ta.at_start(b) @ ta.frozen("f", 2, 6)) == 4


def test_singular_vectors_of_a_given_base_enter_by_their_floats() -> None:
    base = np.random.default_rng(0).standard_normal((6, 6))
    found = certify_rank(residual(2), base=base)
    assert any("float64 values" in text for text in found.assumptions)
    assert verify_certificate(found, residual(2), base=base)
    assert not verify_certificate(found, residual(2), base=base + 1)


def test_several_decompositions_of_one_base_need_it() -> None:
    w = ta.base(5, 5)
    u, q = ta.frozen("U", 5, 2, recipe=left_singular(w, 2)), ta.frozen("Q", 2, 5, recipe=qr_r(w, 2))
    with pytest.raises(UnsupportedError, match="several decompositions"):
        certify_rank(u @ q)
    assert lower(u @ q, base=np.random.default_rng(0).standard_normal((5, 5))) == 2


def test_the_start_of_a_frozen_leaf_is_that_leaf() -> None:
    f = ta.frozen("f", 5, 4)
    assert lower(f - ta.at_start(f) + 0 * leaf("x", 5, 4)) == 0
    x = leaf("x", 5, 4, start=orthogonal())
    assert lower(x - ta.at_start(x)) == 4
    constant = ta.frozen("c", 5, 4, recipe=ones())
    assert lower(constant + 0 * leaf("y", 5, 4)) == 1
    assert lower(ta.frozen("z", 5, 4, recipe=zeros()) + 0 * leaf("y", 5, 4)) == 0


def test_special_frozen_leaves_keep_what_makes_them_special() -> None:
    q = ta.frozen("q", 6, 3, recipe=orthogonal())
    assert lower(q.T @ q - ta.eye(3) + 0 * leaf("y", 3, 3)) == 0
    pairs = ta.frozen("p", 6, 4, recipe=paired_columns())
    assert lower(pairs + 0 * leaf("y", 6, 4)) == 2
    inner = leaf("a", 4, 2) @ leaf("b", 2, 4)
    copy = ta.frozen("copy", 4, 4, recipe=value_of(ta.frozen("f", 4, 2) @ ta.frozen("g", 2, 4)))
    assert lower(copy - ta.frozen("f", 4, 2) @ ta.frozen("g", 2, 4) + inner) == 2


def test_frozen_values_are_those_of_the_seed() -> None:
    f = ta.frozen("f", 4, 4)
    found = certify_rank(f + 0 * leaf("x", 4, 4), frozen="values")
    assert found.lower == 4 and "f enters by its values, exactly" in found.assumptions
    given_leaf = ta.frozen("data", 4, 4, recipe=given())
    with pytest.raises(ValueMissingError, match="Pass values="):
        certify_rank(given_leaf * leaf("x", 4, 4))
    values = {"data": np.diag([1.0, 0, 2, 0])}
    assert lower(given_leaf * leaf("x", 4, 4), values=values) == 2


# --- constants and norms -----------------------------------------------------------------

ROOT = 2**0.5


def test_a_constant_inside_a_sum_is_generic_and_said_so() -> None:
    x = leaf("x", 4, 4)
    found = certify_rank(x + ROOT * ta.eye(4))
    assert found.lower == found.upper == 4 and found.status == "proved for generic constants"
    assert not found.proved and "the constant 1.41421 is generic" in found.assumptions


@pytest.mark.parametrize(
    "expr",
    [
        ROOT * (product(5, 4, 2) + leaf("y", 5, 4)),
        ROOT * product(5, 4, 2) + ta.kron(leaf("k", 5, 2), ta.ones(1, 2)),
        zoo.lora(rank=2, alpha=3, use_rslora=True).on((5, 4)) + leaf("y", 5, 4),
        (ROOT * leaf("d", 5, 5)) @ ta.eye(5) - ta.eye(5),
        0.5 * product(5, 4, 2) + ta.window(ta.eye(4), 5, 4),
    ],
    ids=repr,
)
def test_constants_that_do_not_matter_are_not_held_against_the_proof(expr: Expr) -> None:
    assert certify_rank(expr).proved


def test_a_constant_that_cancels_is_never_proved_away() -> None:
    """2√2 X - 2 (√2 X) is zero, and generic constants do not see it: so it is not "proved"."""
    x = ta.eye(4)
    gone = 2 * ROOT * x - ta.hold(2 * ta.reshape(ROOT * x, 4, 4)) + 0 * leaf("y", 4, 4)
    assert not certify_rank(gone).proved


def test_norms_of_bare_leaves_are_exact() -> None:
    b = leaf("b", 6, 3)
    unit = ta.einsum("o r, r -> o r", b, 1 / ta.column_norm(b))
    lengths = ta.einsum("o r, o r -> r", unit, unit)
    assert lower(unit) == 3 and certify_rank(unit).proved
    assert lower(ta.einsum("r, s -> r s", lengths - ta.ones(3), leaf("y", 3))) == 0


def test_norms_that_depend_on_each_other_are_not_proved() -> None:
    v = product(4, 5, 2)
    gone = ta.row_norm(2 * v) - 2 * ta.row_norm(v)
    found = certify_rank(ta.scale_rows(gone, leaf("y", 4, 5)))
    assert found.status == "proved for free scales" and not found.proved
    assert any("replaced by a free positive scale" in text for text in found.assumptions)


def test_a_norm_that_is_always_zero_is_not_called_free() -> None:
    """1/0 is 0, so a row that is always zero stays zero whatever the magnitude is."""
    v = ta.window(product(2, 5, 2), 4, 5)
    m, x = leaf("m", 4), leaf("x", 4, 5)
    scaled = ta.scale_rows(m / ta.row_norm(v), x)
    assert lower(scaled) == 2


# --- piecewise functions -----------------------------------------------------------------


@pytest.mark.parametrize(
    "expr",
    [
        ta.relu(product(6, 6, 3)),
        ta.elementwise("abs", product(6, 6, 3)),
        ta.clip(product(6, 6, 2), -0.5, 0.5),
        ta.softmax_top(leaf("x", 5, 6), 2) @ leaf("bank", 6, 4),
    ],
    ids=repr,
)
def test_piecewise_functions_are_certified_on_an_open_set(expr: Expr) -> None:
    found = certify_rank(expr)
    assert found.lower == found.upper and found.status == "proved on an open set"
    assert not found.proved and verify_certificate(found, expr)


def test_a_square_root_is_left_to_balls() -> None:
    x = leaf("x", 4, 4)
    found = certify_rank(ta.elementwise("sqrt", x * x + 1))
    assert found.witness.kind == "balls" and found.lower == 4


# --- records -----------------------------------------------------------------------------

LOHA = zoo.loha(rank=2).on((9, 8))


def test_a_certificate_goes_to_json_and_back() -> None:
    found = certify_rank(LOHA, seed=3)
    text = found.to_json()
    assert RankCertificate.from_json(text) == found
    assert json.loads(text)["witness"]["prime"] == found.witness.prime
    assert found == certify_rank(LOHA, seed=3) != certify_rank(LOHA, seed=4)


def test_a_certificate_prints_as_a_proof() -> None:
    text = str(certify_rank(LOHA))
    assert "generic rank 4 (proved)" in text and "minor is not 0 modulo" in text
    assert "minimum cut" in text or "≤ 4" in text


FORGED = {
    "a composite modulus": lambda c: replace(c, witness=replace(c.witness, prime=2**31 - 5)),
    "a short modulus": lambda c: replace(c, witness=replace(c.witness, prime=101)),
    "another seed's zero minor": lambda c: replace(c, lower=5, witness=replace(
        c.witness, rows=(0, 1, 2, 3, 4), columns=(0, 1, 2, 3, 4))),
    "a row named twice": lambda c: replace(c, witness=replace(c.witness, rows=(0, 0, 1, 2))),
    "a row outside": lambda c: replace(c, witness=replace(c.witness, rows=(0, 1, 2, 99))),
    "a smaller upper bound": lambda c: replace(c, upper=3, lower=3, witness=replace(
        c.witness, rows=(0, 1, 2), columns=(0, 1, 2))),
    "an assumption left out": lambda c: replace(c, assumptions=()),
    "another status": lambda c: replace(c, status="proved for generic constants"),
    "another expression": lambda c: replace(c, digest="00" * 16),
    "a base that was not given": lambda c: replace(c, base="00" * 16),
    "a negative seed": lambda c: replace(c, witness=replace(c.witness, seed=-1)),
    "balls that were not rolled": lambda c: replace(c, lower=5, upper=5, witness=Witness(
        "balls", 0, 0, (0, 1, 2, 3, 4), (0, 1, 2, 3, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_certificates_are_refused_with_a_reason(name: str) -> None:
    forged = FORGED[name](certify_rank(LOHA))
    found = verify_certificate(forged, LOHA)
    assert not found and found.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"format": "another"},
        lambda d: d | {"version": 2},
        lambda d: d | {"more": 1},
        lambda d: d | {"lower": "4"},
        lambda d: d | {"lower": True},
        lambda d: d | {"shape": [9, "8"]},
        lambda d: d | {"status": "surely"},
        lambda d: d | {"witness": {"kind": "residues"}},
        lambda d: [d],
    ],
)
def test_text_that_is_no_certificate_is_refused(change: Callable) -> None:
    data = json.loads(certify_rank(LOHA).to_json())
    for text in (json.dumps(change(data)), "{", "[" * 10**5):
        with pytest.raises(ParseError, match="certificate"):
            RankCertificate.from_json(text)


# --- planted faults in the arithmetic ----------------------------------------------------


def test_planted_fault_a_dropped_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """An einsum that forgets its last factor finds more rank than the bound allows."""
    whole = ResidueArithmetic.einsum

    def dropped(self: ResidueArithmetic, pattern: object, sizes: object, operands: list) -> object:
        return whole(self, pattern, sizes, [*operands[:-1], np.ones_like(operands[-1])])  # type: ignore[arg-type]

    monkeypatch.setattr(ResidueArithmetic, "einsum", dropped)
    found = certify_rank(product(6, 6, 3))
    assert found.lower < found.upper  # ones in place of a factor lose rank, and nothing is proved


def test_planted_fault_sines_that_are_free_without_a_hypothesis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """cos a, cos b and cos(a + b) as free numbers: their relation would be proved not to hold."""
    monkeypatch.setattr("tensoradapt.analysis.family.tested_independent", lambda *a: True)
    with pytest.raises(AssertionError):
        relation_of_cosines()


def test_planted_fault_a_norm_that_is_free_where_it_is_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tensoradapt.analysis import family as family_module

    whole = family_module.substitute
    monkeypatch.setattr(
        family_module, "substitute", lambda expr, free: replace(whole(expr, free), nonzero=())
    )
    with pytest.raises(AssertionError):
        test_a_norm_that_is_always_zero_is_not_called_free()


def test_planted_fault_a_rank_above_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the two sides of the proof contradict each other, nothing is returned."""
    monkeypatch.setattr(
        certificate_module,
        "rank_bound",
        lambda expr: replace(ta.rank_bound(expr), value=2),
    )
    monkeypatch.setattr(
        certificate_module,
        "largest_minor",
        lambda m, p, t, s: Pivots((0, 1, 2), (0, 1, 2)),
    )
    with pytest.raises(AssertionError, match="contradicts"):
        certify_rank(product(6, 6, 3))


def test_planted_fault_a_composite_modulus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensoradapt.analysis.family.draw_prime", lambda *a: 2**31 - 3)
    with pytest.raises(StructureError, match="odd prime"):
        certify_rank(product(3, 3, 1))
    assert is_regular(np.eye(3, dtype=int), 2**31 - 1)


# --- refusals ----------------------------------------------------------------------------


def test_bad_input_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ShapeError, match=r"needs two axes"):
        certify_rank(leaf("x", 4))
    with pytest.raises(ShapeError, match="without a shape"):
        certify_rank(zoo.lora(rank=2))
    with pytest.raises(ShapeError, match=r"ta\.rank_bound at any size"):
        certify_rank(zoo.lora(rank=2), (2**14, 2**14))
    with pytest.raises(StructureError, match="not finite"):
        certify_rank(zoo.hira(rank=1), (2, 2), base=np.array([[1.0, np.nan], [0, 1]]))
    with pytest.raises(StructureError, match="frozen='some'"):
        certify_rank(LOHA, frozen="some")
    with pytest.raises(StructureError, match=r"ta\.rank_at"):
        certify_rank(LOHA, values={"A1": np.zeros((2, 8))})
    with pytest.raises(StructureError, match="There is no such leaf; near are: A2"):
        certify_rank(LOHA, values={"A3": np.zeros((2, 8))})
    for wrong in ({"seed": -1}, {"seed": 1.5}, {"trials": 0}):
        with pytest.raises(StructureError, match="must be an integer"):
            certify_rank(LOHA, **wrong)
    with pytest.raises(ShapeError, match="base weight W0"):
        certify_rank(zoo.hira(rank=1), (3, 2), base=np.ones((2, 2)))
    large = ta.elementwise("sqrt", product(400, 400, 2))
    with pytest.raises(UnsupportedError, match=r"sqrt has no exact points"):
        certify_rank(large)


def test_division_by_what_is_always_zero_follows_the_convention() -> None:
    x = ta.window(product(2, 4, 2), 4, 4)
    assert lower(1 / x) == 2


def test_scales_of_the_zoo_are_exact_fractions() -> None:
    assert certify_rank(zoo.lora(rank=3, alpha=16), (6, 7)).proved
    assert Fraction(16, 3) == ta.scaling(16, 3)
