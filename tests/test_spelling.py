"""Structures as text and as JSON: what prints can be read, and nothing else can."""

from __future__ import annotations

import copy
import json
import math
import pickle
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensoradapt.algebra as ta
from tensoradapt.errors import ParseError, StructureError
from tensoradapt.spelling import (
    MAX_TEXT,
    as_structure,
    parse,
    structure_from_data,
    structure_to_data,
)
from tensoradapt.structure import Total
from tests.example_methods import outer_wrap, plain_pair

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
