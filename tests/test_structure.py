"""Structures: settings, names of leaves, text and JSON, and what must be refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensoradapt.algebra as ta
from tensoradapt.algebra.walk import leaves
from tensoradapt.errors import ParseError, ShapeError, StructureError
from tensoradapt.spelling import (
    MAX_TEXT,
    as_structure,
    parse,
    structure_from_data,
    structure_to_data,
)
from tensoradapt.structure import Fixed, Structure, Total, Update, method, methods


@method(paper="a test")
def plain_pair(w, *, rank=2, alpha=None, kind="a"):
    """ΔW = s B A."""
    return ta.scaling(alpha, rank) * ta.low_rank(w, rank)


@method(paper="a test")
def outer_wrap(w, *, within=None, others=(), factor=1.0):
    """ΔW = m ⊙ (within + others)."""
    found = within(w) if within is not None else ta.low_rank(w, 1)
    for other in others:
        found = found + other(w)
    return ta.scale_rows(ta.parameter("m", w.shape[0]), found) * factor


@method(paper="a test")
def needs_size(w, *, size):
    """A setting without default."""
    return ta.low_rank(w, size)


@method(paper="a test", scope="group")
def tied_core(ws, *, rank=2):
    """One core for a group of weights."""
    core = ta.parameter("core", rank, rank, scope="group")
    made = []
    for k, w in enumerate(ws):
        left = ta.parameter(f"L{k}", w.shape[0], rank)
        made.append(left @ core @ ta.parameter(f"R{k}", rank, w.shape[1]))
    return made


@method(paper="a test")
def bias_shift(w):
    """Only the bias."""
    return Update(bias=ta.parameter("b", w.shape[0]))


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
    assert f"{__name__}.plain_pair" in str(caught.value)
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


# --- text --------------------------------------------------------------------------------

plain_settings = st.fixed_dictionaries(
    {},
    optional={
        "rank": st.integers(1, 9),
        "alpha": st.none() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False),
        "kind": st.text(max_size=8),
    },
)
structures = st.recursive(
    plain_settings.map(lambda s: plain_pair(**s)),
    lambda inner: (
        st.builds(lambda within, others: outer_wrap(within=within, others=others),
                  inner, st.lists(inner, max_size=2))
        | st.builds(lambda a, b: a + b, inner, inner)
    ),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(structures)
def test_what_prints_can_be_read_back(structure):
    assert parse(str(structure)) == structure
    assert parse(f"  {structure}\n") == structure
    data = json.loads(json.dumps(structure_to_data(structure)))
    assert structure_from_data(data) == structure
    assert structure_to_data(structure_from_data(data)) == data
    assert pickle.loads(pickle.dumps(structure)) == structure
    assert copy.deepcopy(structure) == structure


def test_a_sum_of_many_terms_can_be_read_back():
    total = Total((plain_pair(),) * 200)
    assert parse(str(total)) == total


def test_a_bare_name_is_a_call():
    assert parse("plain_pair") == plain_pair()
    assert parse("plain_pair(rank=-3, alpha=1e-3)") == plain_pair(rank=-3, alpha=1e-3)


HOSTILE = [
    '__import__("os").system("x")',
    "__import__('os')",
    "lambda: 0",
    "lambda w: w",
    "plain_pair.function",
    "plain_pair().method",
    "plain_pair(rank=plain_pair.defaults)",
    "plain_pair.__class__.__subclasses__()",
    "().__class__",
    "plain_pair(rank=(lambda: 3)())",
    "plain_pair(rank=2**9999999)",
    "plain_pair(rank=9*9)",
    "plain_pair(8)",
    "plain_pair(*[1])",
    "plain_pair(**{'rank': 3})",
    "plain_pair(rank=1, rank=2)",
    "plain_pair(rank=[x for x in (1,)])",
    "plain_pair(rank=f'{1}')",
    "plain_pair(rank=b'1')",
    "plain_pair(rank=1j)",
    "plain_pair(rank=...)",
    "plain_pair(rank=1e999)",
    "plain_pair(rank=nan)",
    "plain_pair(self=1)",
    "plain_pair(rank := 3)",
    "plain_pair() - plain_pair()",
    "plain_pair() + 3",
    "+plain_pair()",
    "plain_pair() if 1 else plain_pair()",
    "plain_pair()[0]",
    "plain_pair(); import os",
    "plain_pair()\nplain_pair()",
    "import os",
    "eval('1')",
    "exec",
    "open('x')",
    "3",
    "'text'",
    "None",
    "(plain_pair(),)",
    "",
    "   ",
    "(",
    "plain_pair(",
    "plain_pair)",
    "\x00",
    "plain_pair\u0000()",
    "п\u0301лан()",
    "\ud800",
    "9" * 4000,
    "(" * 4000,
    "-" * 4000 + "1",
    "plain_pair(rank=" + "[" * 2000 + "]" * 2000 + ")",
    "outer_wrap(within=" * 200 + "plain_pair()" + ")" * 200,
    "plain_pair+" * 300 + "3",
    "x" * 1_000_000,
    "(" * 1_000_000,
]


@pytest.mark.parametrize(
    "text", HOSTILE, ids=[text[:40].encode("ascii", "replace").decode() for text in HOSTILE]
)
def test_a_text_that_is_no_structure_is_refused_with_a_sentence(text):
    begin = perf_counter()
    with pytest.raises((ParseError, StructureError)) as caught:
        parse(text)
    assert len(caught.value.args) == 3 and all(caught.value.args)
    assert len(str(caught.value)) < 600
    assert perf_counter() - begin < 2


def test_the_sentence_says_what_stands_against_it():
    for text, reason in {
        "plain_pair.function": "It contains a Attribute, which is not data.",
        "3": "It denotes 3, which is not a structure.",
        "x" * (MAX_TEXT + 1): f"The limit is {MAX_TEXT}.",
        "plain_pair() + 3": "Only structures can be added.",
        "outer_wrap(within=" * 40 + "plain_pair" + ")" * 40: "It nests deeper than 32.",
    }.items():
        with pytest.raises(ParseError) as caught:
            parse(text)
        assert reason in str(caught.value)
    with pytest.raises(StructureError, match="nearest: plain_pair"):
        parse("plain_pairs()")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="plain_pir()=,+rk3'\".[]{}*:\\ \n-", max_size=40))
def test_any_text_is_a_structure_or_refused(text):
    try:
        found = parse(text)
    except (ParseError, StructureError):
        return
    assert parse(str(found)) == found


# --- JSON --------------------------------------------------------------------------------


def _nested(depth: int):
    data = {"method": "plain_pair", "settings": {}}
    for _ in range(depth):
        data = {"method": "outer_wrap", "settings": {"within": data}}
    return data


def _sums(depth: int):
    data = {"method": "plain_pair", "settings": {}}
    for _ in range(depth):
        data = {"sum": [data]}
    return data


def _lists(depth: int):
    data = [1]
    for _ in range(depth):
        data = [data]
    return {"method": "outer_wrap", "settings": {"others": data}}


BAD_DATA = [
    None,
    3,
    "plain_pair()",
    [],
    {},
    {"method": "plain_pair"},
    {"method": 3, "settings": {}},
    {"method": "eval", "settings": {}},
    {"method": "plain_pair", "settings": []},
    {"method": "plain_pair", "settings": {"rnk": 1}},
    {"method": "plain_pair", "settings": {"self": 1}},
    {"method": "plain_pair", "settings": {"rank": {"os": "system"}}},
    {"method": "plain_pair", "settings": {"rank": math.nan}},
    {"method": "plain_pair", "settings": {}, "code": "x"},
    {"sum": []},
    {"sum": {}},
    {"sum": [{"method": "plain_pair", "settings": {}}], "method": "x"},
    {"sum": [3]},
    _nested(40),
    _nested(100_000),
    _sums(100_000),
    _lists(100_000),
]


@pytest.mark.parametrize("data", BAD_DATA, ids=range(len(BAD_DATA)))
def test_bad_data_is_refused_with_a_sentence(data):
    with pytest.raises((ParseError, StructureError)) as caught:
        structure_from_data(data)
    assert len(caught.value.args) == 3 and all(caught.value.args)
    assert len(str(caught.value)) < 2000


def test_nested_sums_are_read_flat():
    one = {"method": "plain_pair", "settings": {}}
    assert structure_from_data({"sum": [{"sum": [one, one]}, one]}) == Total((plain_pair(),) * 3)
    assert structure_from_data({"sum": [one]}) == plain_pair()


def test_a_fixed_expression_has_no_name_to_be_written_by():
    with pytest.raises(StructureError, match="It is an expression without a method"):
        structure_to_data(as_structure(ta.base(2, 3)))


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
