"""Structures: settings, names of leaves, what methods return, and what must be refused."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest

import tensoradapt.algebra as ta
from tensoradapt.algebra.walk import leaves
from tensoradapt.errors import ShapeError, StructureError
from tensoradapt.spelling import (
    as_structure,
    parse,
    structure_to_data,
)
from tensoradapt.structure import Fixed, Structure, method, methods
from tests.example_methods import bias_shift, needs_size, outer_wrap, plain_pair, tied_core


def _names(structure: Structure, shape=(6, 5)) -> list[str]:
    return [leaf.name for leaf in leaves(structure.on(shape))]


# --- settings ----------------------------------------------------------------------------


def test_a_structure_prints_as_it_was_written():
    assert str(plain_pair()) == "plain_pair()"
    assert str(plain_pair(alpha=16, rank=4)) == "plain_pair(rank=4, alpha=16)"
    nested = outer_wrap(within=plain_pair(kind="b")) + plain_pair()
    assert str(nested) == "outer_wrap(within=plain_pair(kind='b')) + plain_pair()"


def test_structures_compare_by_value():
    assert plain_pair(rank=4, alpha=2) == plain_pair(alpha=2, rank=4)
    assert hash(plain_pair(rank=4)) == hash(plain_pair(rank=4))
    assert plain_pair(rank=4) != plain_pair(rank=5)
    assert plain_pair() != needs_size(size=2)
    assert plain_pair() + plain_pair() == plain_pair() + plain_pair()
    assert plain_pair().with_settings(rank=9) == plain_pair(rank=9)


def test_a_numpy_number_is_kept_as_a_plain_one():
    structure = plain_pair(alpha=np.float64(0.5))
    assert str(structure) == "plain_pair(alpha=0.5)"
    assert parse(str(structure)) == structure
    assert json.dumps(structure_to_data(structure))


SETTINGS = [
    (lambda: plain_pair(rnk=4), "plain_pair has no setting 'rnk'; nearest: rank"),
    (lambda: plain_pair(self=4), "plain_pair has no setting 'self'"),
    (lambda: plain_pair().with_settings(self=4), "plain_pair has no setting 'self'"),
    (lambda: bias_shift(rank=4), "Its settings are: none."),
    (lambda: needs_size(), "'size' has no default."),
    (lambda: plain_pair(rank=np.ones(3)), "not a ndarray"),
    (lambda: plain_pair(rank=lambda: 3), "not a function"),
    (lambda: plain_pair(alpha=math.nan), "A setting is a finite number"),
    (lambda: plain_pair(alpha=-math.inf), "A setting is a finite number"),
    (lambda: outer_wrap(others=[1, {}]), "not a dict"),
    (lambda: plain_pair() + 3, "int is not a structure."),
]


@pytest.mark.parametrize(("make", "text"), SETTINGS, ids=[text for _, text in SETTINGS])
def test_bad_settings_are_refused_with_a_sentence(make, text):
    with pytest.raises(StructureError) as caught:
        make()
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


SHAPES = [5, (), (6, 0), (6, -5), (6, 5.0), (True, 5), "65", None, 2.5, (6, None), {6, 5}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_no_shape_is_refused_with_a_sentence(shape):
    with pytest.raises(ShapeError, match="A weight's shape is a tuple of integers of 1 or more"):
        plain_pair().on(shape)


def test_an_error_in_a_method_names_the_structure_and_the_weight():
    with pytest.raises(ShapeError) as caught:
        plain_pair(rank=0).on((6, 5))
    first = str(caught.value).splitlines()[0]
    assert first.startswith("plain_pair(rank=0) on a weight of shape (6, 5): The leaf 'B'")


# --- registering -------------------------------------------------------------------------


def test_a_second_method_of_one_name_is_refused():
    with pytest.raises(StructureError) as caught:

        @method(paper="a test", name="plain_pair")
        def another(w, *, rank=2):
            """Another."""
            return w

    assert "A second method named 'plain_pair' was registered." in str(caught.value)
    assert f"{plain_pair.function.__module__}.plain_pair" in str(caught.value)
    assert methods()["plain_pair"] is plain_pair


def test_running_the_same_definition_again_is_no_duplicate():
    for rank in (2, 3):

        @method(paper="a test")
        def redefined_in_a_notebook(w, *, rank=rank):
            """Again."""
            return ta.low_rank(w, rank)

    assert redefined_in_a_notebook().on((4, 4)).operands[0].shape == (4, 3)


def test_positional_settings_are_refused():
    with pytest.raises(StructureError, match="Its settings must be keyword-only"):
        method(paper="a test", name="positional_one")(lambda w, rank=2: w)
    with pytest.raises(StructureError, match="Its settings must be keyword-only"):
        method(paper="a test", name="positional_two")(lambda w, **more: w)
    assert not {"positional_one", "positional_two"} & set(methods())


def test_the_registry_cannot_be_written_to_and_is_sorted():
    with pytest.raises(TypeError):
        methods()["plain_pair"] = None
    assert list(methods()) == sorted(methods())


# --- what a method returns ---------------------------------------------------------------


@method(paper="a test")
def two_of_a_name(w):
    """Two leaves of one name."""
    ta.parameter("B", 2)
    return ta.low_rank(w, 2)


@method(paper="a test")
def returns_none(w):
    """Nothing."""


@method(paper="a test")
def returns_transposed(w):
    """The wrong shape."""
    return w.T


@method(paper="a test", scope="group")
def returns_one_too_few(ws):
    """Not one per weight."""
    return list(ws)[1:]


@method(paper="a test")
def names_clash(w, *, first, second):
    """Two structures whose leaves are made to clash by hand."""
    out, inp = w.matrix
    leaf = ta.nodes.Parameter("B", (out, inp), ta.starts.zeros())
    other = ta.nodes.Parameter("B", (out, inp), ta.starts.ones())
    return leaf + other


RETURNS = [
    (lambda: two_of_a_name().on((6, 5)), "A second leaf named 'B' was made in one method."),
    (lambda: returns_none().on((6, 5)), "its method returned NoneType."),
    (lambda: returns_transposed().on((6, 5)), "of shape (5, 6), not (6, 5)."),
    (lambda: returns_one_too_few().on([(6, 5), (6, 5)]), "its method returned Base."),
    (lambda: names_clash(first=1, second=2).on((6, 5)), "two different leaves named 'B'."),
    (lambda: bias_shift().on((6, 5)), "This structure changes the bias only."),
    (lambda: Fixed((ta.base(6, 5),)).on((5, 6)), "It is written for (6, 5)."),
    (lambda: Fixed((ta.parameter("a", 2, 3) @ ta.parameter("a", 3, 4),)).on((2, 4)),
     "two different leaves named 'a'."),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), RETURNS, ids=[text for _, text in RETURNS])
def test_what_a_method_returns_is_checked(make, text):
    with pytest.raises(StructureError) as caught:
        make()
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_bias_is_an_update_of_its_own():
    update = bias_shift().update((6, 5))
    assert update.weight is None
    assert update.bias == ta.parameter("b", 6)


# --- names -------------------------------------------------------------------------------


def test_a_nested_structure_is_prefixed_by_its_argument():
    assert _names(outer_wrap(within=plain_pair())) == ["m", "within.B", "within.A"]
    deep = outer_wrap(within=outer_wrap(within=plain_pair()))
    assert _names(deep) == ["m", "within.m", "within.within.B", "within.within.A"]


def test_structures_in_a_list_are_prefixed_by_their_position():
    both = outer_wrap(within=plain_pair(), others=[plain_pair(), plain_pair()])
    assert _names(both)[3:] == ["others.0.B", "others.0.A", "others.1.B", "others.1.A"]


def test_the_terms_of_a_sum_are_prefixed_by_their_position():
    total = plain_pair() + plain_pair() + outer_wrap(within=plain_pair())
    assert _names(total) == ["0.B", "0.A", "1.B", "1.A", "2.m", "2.within.B", "2.within.A"]
    assert len(total.terms) == 3


def test_a_sum_inside_a_structure_keeps_both_prefixes():
    assert _names(outer_wrap(within=plain_pair() + plain_pair()))[1:3] == [
        "within.0.B",
        "within.0.A",
    ]


def test_one_method_used_twice_in_separate_calls_does_not_clash():
    plain_pair().on((6, 5))
    assert _names(plain_pair()) == ["B", "A"]


def test_a_group_shares_its_leaf():
    first, second = tied_core().on([(6, 5), (4, 3)])
    assert (first.shape, second.shape) == ((6, 5), (4, 3))
    assert set(leaves(first)) & set(leaves(second)) == {ta.parameter("core", 2, 2, scope="group")}
    assert _names(tied_core()) == ["L0", "core", "R0"]


def test_a_sum_of_a_group_and_a_site_method_works_on_a_group():
    first, _ = (tied_core() + plain_pair()).on([(6, 5), (4, 3)])
    assert [leaf.name for leaf in leaves(first)] == ["0.L0", "0.core", "0.R0", "1.B", "1.A"]


# --- what a user may hand over -----------------------------------------------------------


def test_everything_a_user_may_hand_over_becomes_a_structure():
    expr = ta.parameter("B", 6, 2) @ ta.parameter("A", 2, 5)
    assert as_structure(plain_pair(rank=3)) == plain_pair(rank=3)
    assert as_structure(plain_pair) == plain_pair()
    assert as_structure("plain_pair(rank=3)") == plain_pair(rank=3)
    assert as_structure(expr).on((6, 5)) == expr
    assert pickle.loads(pickle.dumps(as_structure(expr))) == as_structure(expr)
    with pytest.raises(StructureError, match="A list is none"):
        as_structure([plain_pair])
