"""Expressions to JSON and back; documents that must be refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import fields
from fractions import Fraction
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensoradapt.algebra as ta
from tensoradapt.algebra import codec, nodes, schema, starts
from tensoradapt.algebra.builders import elementwise
from tensoradapt.algebra.expression import Expr, Start
from tensoradapt.algebra.indexing import IndexMap
from tensoradapt.algebra.nodes import Frozen, MatrixFunction, Parameter, Scale, Take
from tensoradapt.algebra.walk import leaves, start_of, topological
from tensoradapt.errors import ParseError, StructureError
from tests.strategies import any_shapes, expressions

B, A, W = ta.parameter("B", 6, 2), ta.parameter("A", 2, 5), ta.base(6, 5)


def _document(expr: Expr | None = None) -> dict:
    return copy.deepcopy(ta.to_data(B @ A if expr is None else expr))


# --- round trips -------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(expressions(max_depth=4, shape=any_shapes, smooth=False))
def test_every_expression_comes_back_equal(expr):
    data = ta.to_data(expr)
    assert ta.from_data(data) == expr
    assert ta.to_data(ta.from_data(data)) == data
    assert ta.loads(ta.dumps(expr)) == expr
    assert ta.loads(ta.dumps(expr, indent=2)).shape == expr.shape


def test_every_node_and_every_field_has_a_rule():
    every = {kind for kind in vars(nodes).values() if isinstance(kind, type)}
    every = {kind for kind in every if issubclass(kind, Expr) and kind is not Expr}
    assert every == set(schema.FIELDS)
    for kind, rules in schema.FIELDS.items():
        assert list(rules) == [field.name for field in fields(kind)]


def test_random_expressions_contain_every_node():
    seen: set[type[Expr]] = set()

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(expressions(max_depth=4, shape=any_shapes))
    def draw(expr):
        seen.update(map(type, topological(expr)))

    draw()
    assert seen == set(schema.FIELDS)


ALL_STARTS = [
    starts.constant(0.1),
    starts.identity(),
    starts.kaiming_uniform(),
    starts.kaiming_normal(),
    starts.xavier_uniform(0.02),
    starts.xavier_normal(),
    starts.orthogonal(),
    starts.paired_columns(),
    starts.value_of(W @ A.T),
    starts.left_singular(W, 2, 0.5, 1),
    starts.right_singular(W, 2),
    starts.singular_values(W, 2, -1.0),
    starts.start("qr_q", W, rank=2),
    starts.start("qr_r", W, rank=2),
    starts.given(),
    starts.normal(std=1e-300),
    starts.uniform(-0.0, 1.0),
]


@pytest.mark.parametrize("start", ALL_STARTS, ids=lambda start: start.kind)
def test_every_start_comes_back_equal(start):
    leaf = ta.parameter("x", 6, 2, start=start, scope="group")
    back = ta.loads(ta.dumps(leaf))
    assert back == leaf
    assert start_of(back) == start
    assert repr(start_of(back)) == repr(start)


def test_the_kinds_of_numbers_are_kept():
    for factor in (Fraction(1, 3), 1 / 3, Fraction(2), 2.0, -0.0, 1e-310, Fraction(-(2**900), 7)):
        scaled = Scale(factor, B)
        back = ta.loads(ta.dumps(scaled))
        assert type(back.factor) is type(factor)
        assert repr(back.factor) == repr(factor)


def test_infinite_limits_of_a_clip_come_back():
    clipped = ta.clip(B, -math.inf, 1.0)
    assert ta.loads(ta.dumps(clipped)) == clipped


def test_a_shared_part_is_written_once():
    v = W + B @ A
    assert len(ta.to_data(ta.sin(v) * v)["nodes"]) == len(ta.to_data(v)["nodes"]) + 2


def test_a_leaf_that_only_a_start_reads_is_written():
    inner = ta.parameter("inner", 6)
    outer = ta.parameter("outer", 6, start=ta.value_of(ta.sin(inner)))
    assert [node["node"] for node in ta.to_data(outer)["nodes"]] == [
        "Parameter",
        "Map",
        "Parameter",
    ]
    assert ta.loads(ta.dumps(outer)) == outer


def test_depth_is_free():
    expr = ta.parameter("e", 2, 2)
    for _ in range(200):
        expr = expr @ expr
    for _ in range(5000):
        expr = ta.sin(expr)
    begin = perf_counter()
    back = ta.loads(ta.dumps(expr))
    assert back == expr
    assert pickle.loads(pickle.dumps(expr)) == expr
    assert copy.deepcopy(expr) is expr
    assert perf_counter() - begin < 10


def test_an_expression_pickles_with_its_starts():
    leaf = ta.parameter("m", 6, start=ta.value_of(ta.row_norm(W)))
    back = pickle.loads(pickle.dumps({"update": ta.scale_rows(leaf, W), "start": leaf.initial}))
    assert back["update"] == ta.scale_rows(leaf, W)
    assert back["start"] == leaf.initial


def test_names_in_any_script_come_back():
    leaf = ta.parameter("слой.Β⊙\n\"'\\", 2)
    assert ta.loads(ta.dumps(leaf)).name == leaf.name


# --- refusals ----------------------------------------------------------------------------


def _refused(data) -> str:
    with pytest.raises(ParseError) as caught:
        ta.loads(data) if isinstance(data, str) else ta.from_data(data)
    lines = str(caught.value).splitlines()
    assert lines[0] == "An expression was to be read from JSON."
    assert len(lines) == 3
    assert len(str(caught.value)) < 800
    return lines[1].strip()


def _changed(position: int, expr: Expr | None = None, /, **changes) -> dict:
    data = _document(expr)
    data["nodes"][position].update(changes)
    return data


TAKE = ta.circulant(ta.parameter("c", 4))
HALF = Scale(Fraction(1, 2), B)
CLIP = ta.clip(B, 0.0, 1.0)

CHANGES = [
    (_changed(0, node="Exec"), "no node is named 'Exec'"),
    (_changed(0, node=7), "no node is named '7'"),
    (_changed(0, extra=1), "does not have exactly the fields node, name, shape, initial, scope"),
    (_changed(2, operands=[0, 2]), "points at node 2; a node points at earlier ones only"),
    (_changed(2, operands=[0, -1]), "points at node -1"),
    (_changed(2, operands=[0, True]), "Einsum.operands: it is not an integer"),
    (_changed(2, operands={"0": 1}), "Einsum.operands: it is not a list"),
    (_changed(2, pattern="o k, k i -> o j"), "asks for the index 'j' in its result"),
    (_changed(2, pattern="__import__('os')"), "has 0 arrows"),
    (_changed(2, sizes=[["o", 6], ["k", 2]]), "each of size 1 or more"),
    (_changed(2, sizes=[["o", 6], ["k", 2], ["i", 5], ["i", 5]]), "each index once"),
    (_changed(2, sizes=[["o", 3], ["k", 4], ["i", 5]]), "given an operand of shape (6, 2)"),
    (_changed(2, sizes=[["o", -6], ["k", -2], ["i", 5]]), "each of size 1 or more"),
    (_changed(0, name=""), "A leaf named ''"),
    (_changed(0, name="a b"), "no space"),
    (_changed(0, name=5), "Parameter.name: it is not a text"),
    (_changed(0, scope="world"), "The scope 'world'"),
    (_changed(0, shape=[6, 0]), "Every size must be an integer of 1 or more"),
    (_changed(0, shape=[6, -2]), "Every size must be an integer of 1 or more"),
    (_changed(0, shape=[6, 2.0]), "Parameter.shape: it is not an integer"),
    (_changed(0, shape=[True, 2]), "Parameter.shape: it is not an integer"),
    (_changed(0, shape="62"), "Parameter.shape: it is not a list"),
    (_changed(0, shape=[10**6, 10**6]), "its shape has more than 17179869184 elements"),
    (_changed(0, shape=[10**40]), "it is not an integer below"),
    (_changed(0, shape=[1] * 65), "it has 65 axes; the limit is 64"),
    (_changed(0, initial={"kind": "zeros"}), "exactly the fields kind, settings, operand"),
    (_changed(0, initial={"kind": "pickle", "settings": {}, "operand": None}), "no start is named"),
    (_changed(0, initial={"kind": "zeros", "settings": {"a": 1}, "operand": None}), "exactly"),
    (_changed(0, initial={"kind": "constant", "settings": {"value": "1"}, "operand": None}),
     "it is not an integer"),
    (_changed(1, initial={"kind": "zeros", "settings": {}, "operand": 0}), "It takes []"),
    (_changed(1, initial={"kind": "value_of", "settings": {}, "operand": None}), "and an operand"),
    (_changed(1, initial={"kind": "value_of", "settings": {}, "operand": 1}), "earlier ones only"),
    (_changed(1, HALF, factor=math.nan), "not a fraction"),
    (_changed(1, HALF, factor=math.inf), "not a fraction"),
    (_changed(1, HALF, factor=2), "not a fraction"),
    (_changed(1, HALF, factor=True), "not a fraction"),
    (_changed(1, HALF, factor="1/0"), "not a fraction"),
    (_changed(1, HALF, factor="1/-2"), "not a fraction"),
    (_changed(1, HALF, factor="1_0/2"), "not a fraction"),
    (_changed(1, HALF, factor="0x1/2"), "not a fraction"),
    (_changed(1, HALF, factor="--1/2"), "not a fraction"),
    (_changed(1, HALF, factor="1" * 650 + "/1"), "Fraction of up to 1000 bits"),
    (_changed(1, CLIP, function={"name": "eval", "settings": []}), "elementwise function 'eval'"),
    (_changed(1, CLIP, function={"name": "clip", "settings": [1.0]}), "with 1 numbers"),
    (_changed(1, CLIP, function={"name": "clip", "settings": [1, 2]}), "holds an integer"),
    (_changed(1, CLIP, function="clip"), "exactly the fields name, settings"),
    (_changed(1, TAKE, axis=1), "take along axis 1"),
    (_changed(1, TAKE, index={"kind": "circulant", "shape": [4, 4], "size": 4, "settings": []}),
     "does not fit an axis of 4"),
    (_changed(1, TAKE, index={"kind": "circulant", "shape": [4, 4], "size": 4, "settings": [0]}),
     "does not fit an axis of 4"),
    (_changed(1, TAKE, index={"kind": "table", "shape": [2], "size": 4, "settings": [0, 4]}),
     "points at 0 to 4"),
    (_changed(1, TAKE, index={"kind": "slice", "shape": [2], "size": 4, "settings": [-1, 1]}),
     "does not fit an axis of 4"),
    (_changed(1, TAKE, index={"kind": "tile", "shape": [2**35], "size": 4, "settings": [4]}),
     "its shape has more than"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), CHANGES, ids=[reason for _, reason in CHANGES])
def test_a_changed_document_is_refused_with_a_sentence(data, reason):
    assert reason in _refused(data)


def test_the_sentence_names_the_node():
    assert _refused(_changed(1, shape=[2, "5"])).startswith("Node 1: Parameter.shape: ")


ENVELOPES = [
    (None, 'does not say "format"'),
    ([], 'does not say "format"'),
    ({}, 'does not say "format"'),
    (_document() | {"format": "pickle"}, 'does not say "format"'),
    (_document() | {"version": 2}, "Its version is 2; this library reads version 1."),
    (_document() | {"version": True}, "it is not an integer"),
    (_document() | {"root": 3}, "The root: it points at node 3"),
    (_document() | {"root": None}, "The root: it is not an integer"),
    (_document() | {"nodes": {}}, "Its nodes are not a list"),
    (_document() | {"nodes": [[]]}, "no node is named"),
    (
        _document() | {"nodes": [None] * (codec.MAX_NODES + 1)},
        "Its nodes are not a list of at most",
    ),
    (_document() | {"code": "x"}, "exactly the fields format, version, root, nodes"),
]


@pytest.mark.parametrize(("data", "reason"), ENVELOPES, ids=[reason for _, reason in ENVELOPES])
def test_a_wrong_envelope_is_refused_with_a_sentence(data, reason):
    assert reason in _refused(data)


TEXTS = [
    ("", "It is not JSON"),
    ("{", "It is not JSON"),
    (ta.dumps(B @ A)[:-20], "It is not JSON"),
    ("[" * 1_000_000, "It nests too deep"),
    ('{"a":' * 1_000_000, "It nests too deep"),
    ('{"format": NaN}', "It contains NaN, which is not a number"),
    ('{"format": Infinity}', "It contains Infinity"),
    ('{"format": "a", "format": "b"}', "It names a field twice"),
    ("9" * 10_000, "It is not JSON"),
    (" " * (codec.MAX_TEXT + 1), "the limit is 16777216"),
    (ta.dumps(CLIP).replace("1.0", "1e999"), "integer"),
    (ta.dumps(HALF).replace('"1/2"', "1e999"), "not a fraction"),
    ("\x00", "It is not JSON"),
    ("\ud800", "It is not JSON"),
]


@pytest.mark.parametrize(("text", "reason"), TEXTS, ids=[reason for _, reason in TEXTS])
def test_a_hostile_text_is_refused_with_a_sentence(text, reason):
    begin = perf_counter()
    assert reason in _refused(text)
    assert perf_counter() - begin < 5


def test_shapes_that_grow_are_refused():
    data = ta.to_data(ta.parameter("x", 2**17))
    sizes = [["a", 2**17], ["b", 2**17]]
    einsum = {"node": "Einsum", "operands": [0, 0], "pattern": "a, b -> a b", "sizes": sizes}
    data["nodes"].append(einsum)
    data["root"] = 1
    assert ta.from_data(data).size == 2**34
    tall = {"node": "Concatenate", "operands": [1, 1], "axis": 0}
    data["nodes"].append(tall)
    assert _refused(data).startswith("Node 2: its shape has more than")


def test_starts_that_nest_too_deep_are_refused():
    leaf = ta.parameter("x", 2)
    for k in range(codec.MAX_START_DEPTH + 1):
        leaf = ta.parameter(f"x{k}", 2, start=ta.value_of(leaf))
    assert "starts nest deeper than 64" in _refused(ta.to_data(leaf))


def test_a_million_references_to_one_node_are_read_in_time():
    data = ta.to_data(B)
    data["nodes"].append({"node": "Sum", "terms": [0] * 1_000_000})
    data["root"] = 1
    begin = perf_counter()
    assert ta.from_data(data).shape == (6, 2)
    assert perf_counter() - begin < 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(expressions(max_depth=3, shape=any_shapes, smooth=False), st.data())
def test_a_document_with_any_value_anywhere_is_read_or_refused(expr, data):
    document = json.loads(ta.dumps(expr))
    place = data.draw(st.sampled_from(document["nodes"]))
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [v for v in (place.values() if isinstance(place, dict) else place) if v]
        inner = [v for v in inner if isinstance(v, dict | list)]
        if inner:
            place = data.draw(st.sampled_from(inner))
    key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
    near = st.integers(-3, 8) | st.sampled_from([0.5, "1/2", "zeros", "slice", "skew", "W0", "inf"])
    place[key] = data.draw(JSON | near | st.lists(near, max_size=3))
    try:
        back = ta.from_data(document)
    except ParseError as error:
        assert len(str(error).splitlines()) == 3
        return
    assert ta.from_data(ta.to_data(back)) == back
    assert ta.formula(back)
    assert leaves(back) is not None


# --- what cannot be written --------------------------------------------------------------


def test_a_nan_cannot_be_written():
    leaf = Parameter("x", (2,), Start("constant", (("value", math.nan),)))
    with pytest.raises(StructureError, match="contains the number nan was to be written"):
        ta.to_data(leaf)


def test_what_could_not_be_read_is_not_written():
    with pytest.raises(
        StructureError, match=r"the largest here has the shape \(1048576, 1048576\)"
    ):
        ta.to_data(Frozen("x", (2**20, 2**20), starts.zeros()))
    table = IndexMap("table", (3_000_000,), 10**6, (999_999,) * 3_000_000)
    with pytest.raises(StructureError, match="was to be written as"):
        ta.dumps(Take(ta.parameter("x", 10**6), 0, table))


def test_bad_nodes_are_refused_before_they_could_be_written():
    with pytest.raises(StructureError, match="It takes"):
        MatrixFunction(ta.parameter("Q", 2, 2), "neumann", (10**9,))
    with pytest.raises(StructureError, match="with 0 numbers"):
        elementwise("clip", B)
