"""Einsum patterns: text to a pattern, and back."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensoradapt.algebra.notation import Pattern, parse_pattern
from tensoradapt.errors import PatternError


def test_spaces_separate_names_and_parentheses_group_them():
    pattern = parse_pattern("o1 i1, o2 i2 -> (o1 o2) (i1 i2)")
    assert pattern.operands == ((("o1",), ("i1",)), (("o2",), ("i2",)))
    assert pattern.output == (("o1", "o2"), ("i1", "i2"))


def test_without_spaces_every_letter_is_an_index():
    assert parse_pattern("or,ri->oi") == parse_pattern("o r, r i -> o i")


@pytest.mark.parametrize("text", ["o r,r i->o i", " o  r , r i  ->o i ", "o\tr, r i -> o i"])
def test_spacing_does_not_matter(text):
    assert parse_pattern(text) == parse_pattern("o r, r i -> o i")


def test_an_empty_part_is_a_scalar():
    assert parse_pattern(", o -> o").operands == ((), (("o",),))
    assert parse_pattern("ab->").output == ()


def test_an_empty_group_is_an_axis_of_one_element():
    assert parse_pattern("a -> a ()").output == (("a",), ())


def test_a_pattern_prints_with_spaces():
    assert str(parse_pattern("or,ri->oi")) == "o r, r i -> o i"
    assert str(parse_pattern("a1 b,( c d )->(a1 c) b d")) == "a1 b, (c d) -> (a1 c) b d"


def test_names_are_listed_in_order_of_first_use():
    assert parse_pattern("b a, (a c) -> c b").names == ("b", "a", "c")


BAD = {
    "o i": "It has 0 arrows, and must have exactly one.",
    "a -> b -> c": "It has 2 arrows, and must have exactly one.",
    "a -> a b": "asks for the index 'b' in its result",
    "(a (b c)) -> a": "cannot be read at '('",
    "a) -> a": "cannot be read at ')'",
    "(a b -> a": "A parenthesis is opened and never closed.",
    "a-b -> a": "cannot be read at '-'",
    "a 1b -> a": "cannot be read at '1'",
    "a1->a1": "cannot be read letter by letter",
    "äb->ä": "cannot be read letter by letter",
    "... i -> ... i": "cannot be read at '.'",
    "a, (b, c) -> a": "A parenthesis is opened and never closed.",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_pattern_is_refused_with_a_sentence(text):
    with pytest.raises(PatternError) as caught:
        parse_pattern(text)
    assert BAD[text] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_long_pattern_is_read_in_linear_time():
    text = " ".join(f"a{k}" for k in range(50_000))
    begin = perf_counter()
    assert len(parse_pattern(f"{text} -> {text}").output) == 50_000
    assert perf_counter() - begin < 5


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,3}", fullmatch=True)
axes = st.lists(st.lists(names, max_size=3).map(tuple), max_size=4).map(tuple)


@st.composite
def any_pattern(draw) -> Pattern:
    operands = tuple(draw(st.lists(axes, min_size=1, max_size=4)))
    known = [name for part in operands for group in part for name in group]
    group = st.lists(st.sampled_from(known), max_size=3).map(tuple) if known else st.just(())
    return Pattern(operands, tuple(draw(st.lists(group, max_size=4))))


@settings(max_examples=200, deadline=None)
@given(any_pattern())
def test_a_pattern_prints_as_it_is_read(pattern):
    assert parse_pattern(str(pattern)) == pattern


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab()->, 1\n.", max_size=30))
def test_any_text_is_a_pattern_or_refused(text):
    try:
        pattern = parse_pattern(text)
    except PatternError:
        return
    assert parse_pattern(str(pattern)) == pattern
