"""The command line: what it prints, in which form, and what it says to a wrong call."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tensoradapt as ta
from tensoradapt import demo, structure, zoo
from tensoradapt.cli.app import app
from tensoradapt.cli.arguments import read_shape
from tensoradapt.errors import ShapeError, TensorAdaptError

MODULE = '''
"""A user's own method."""
import tensoradapt as ta


@ta.method(paper="a test of the command line", name="{name}")
def scaled(w, *, rank):
    """ΔW = 2 B A."""
    return 2 * ta.low_rank(w, rank)
'''


def run(*arguments):
    return CliRunner().invoke(app, [*arguments], terminal_width=100)


def refused(*arguments):
    """The three sentences of a call that is refused."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not result.stdout
    return result.stderr.splitlines()


@pytest.fixture
def users_module(tmp_path, monkeypatch, request):
    name = f"scaled_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(structure, "_METHODS", dict(structure._METHODS))
    return name


# --- methods ---------------------------------------------------------------------------


def test_methods_lists_every_registered_method():
    result = run("methods")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in zoo.__all__)


def test_methods_as_json_has_formula_paper_and_settings():
    found = {entry["name"]: entry for entry in json.loads(run("methods", "--json").stdout)}
    assert {*zoo.__all__} <= {*found}
    assert found["lora"]["formula"].startswith("ΔW = s B A")
    assert "2106.09685" in found["lora"]["paper"]
    assert found["vera"]["settings"] == {"rank": 256, "d_initial": 0.1}
    assert found["dora"]["settings"]["within"] == "lora(rank=8)"


def test_methods_of_a_users_module_are_listed(users_module):
    found = json.loads(run("methods", "--import", users_module, "--json").stdout)
    entry = next(entry for entry in found if entry["name"] == users_module)
    assert entry["formula"] == "ΔW = 2 B A."
    assert entry["settings"] == {"rank": {"required": True}}


# --- explain ---------------------------------------------------------------------------


def test_explain_says_formula_factors_counts_bound_plan_and_crossover():
    result = run("explain", "loha(rank=4)", "--shape", "768x3072", "--tokens", "64")
    assert result.exit_code == 0
    for part in (
        "ΔW = (B1 A1) ⊙ (B2 A2)",
        "├─ einsum",
        "kaiming_uniform",
        "30720 trained; the weight itself has 2359296 elements",
        "rank ≤ 16  minimum cut",
        "64 tokens",
        "result v",
        "Crossover: ",
    ):
        assert part in result.stdout


def test_explain_prints_latex_only_when_asked():
    asked = ("explain", "lora(rank=2)", "--shape", "8x6")
    assert r"\Delta W" not in run(*asked).stdout
    assert r"\Delta W = B\,A" in run(*asked, "--latex").stdout


@pytest.mark.parametrize("mode", ["train", "forward", "apply", "materialize"])
@pytest.mark.parametrize("text", ["lora(rank=2)", "circulant()", "dora() + vera(rank=3)"])
def test_explain_as_json_agrees_with_the_library(text, mode):
    shape, asked = (48, 36), ta.parse(text)
    result = run("explain", text, "--shape", "48x36", "--mode", mode, "--tokens", "9", "--json")
    found, expr = json.loads(result.stdout), asked.on(shape)
    assert ta.parse(found["structure"]) == asked
    assert found["formula"] == str(expr)
    assert found["count"]["trained"] == int(ta.count(expr))
    assert found["count"]["trained"] == sum(
        factor["elements"] for factor in found["factors"] if factor["kind"] == "trained"
    )
    assert found["rank_bound"]["value"] == int(ta.rank_bound(expr))
    plan = ta.plan(asked, shape, tokens=9, mode=mode)
    assert found["plan"]["chosen"] == plan.chosen.name
    assert len(found["plan"]["steps"]) == len(plan.program.steps)


def test_explain_takes_the_shape_of_a_convolution():
    result = run("explain", "lora(rank=2)", "--shape", "64x32x3x3", "--json")
    assert json.loads(result.stdout)["shape"] == [64, 32, 3, 3]


def test_explain_names_what_is_read_as_it_was_at_the_start(users_module):
    name = users_module + "_start"
    source = MODULE.format(name=name).replace(
        "2 * ta.low_rank(w, rank)", "(e := ta.low_rank(w, rank)) - ta.at_start(e)"
    )
    Path(f"{name}.py").write_text(source, encoding="utf-8")
    text = f"{name}(rank=2)"
    result = run("explain", text, "--shape", "8x6", "--import", name, "--json")
    assert [factor["name"] for factor in json.loads(result.stdout)["factors"]] == [
        "B",
        "A",
        "A@start",
    ]


def test_explain_knows_a_users_method(users_module):
    text = f"{users_module}(rank=3)"
    result = run("explain", text, "--shape", "8x6", "--import", users_module)
    assert result.exit_code == 0
    assert "ΔW = 2 B A" in result.stdout


# --- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("nope()", [], "The method 'nope' was asked for."),
        ("lora(rnk=2)", [], "  lora has no setting 'rnk'; nearest: rank"),
        ("lora(rank=0)", [], "  rank must be an integer of 1 or more."),
        ("lora(rank=99)", [], "  The largest rank of a matrix of 64 × 32 is 32."),
        ("lora(", [], "The structure 'lora(' cannot be read."),
        ("__import__('os').abort()", [], "  It contains a Call, which is not data."),
        ("lora()", ["--tokens", "-1"], "  A token count is zero or more."),
        ("lora()", ["--mode", "fast"], "A plan in the mode 'fast' was asked for."),
        (
            "lora()",
            ["--import", "no_such_module"],
            "The module 'no_such_module' was to be imported.",
        ),
        ("lora()", ["--import", ".."], "The module '..' was to be imported."),
    ],
)
def test_a_wrong_call_is_answered_by_three_sentences(text, options, sentence):
    lines = refused("explain", text, "--shape", "64x32", *options)
    assert sentence in "\n".join(lines)
    assert len(lines) == 3


@pytest.mark.parametrize(
    "shape", ["", "64", "64x", "x64", "64x0", "64x-3", "64,32", "64x3.5", "axb", "9" * 30 + "x2"]
)
def test_a_wrong_shape_is_answered_by_three_sentences(shape):
    lines = refused("explain", "lora()", "--shape", shape)
    assert lines[0] == f"A weight of the shape {shape!r} was asked for."
    assert len(lines) == 3


def test_a_weight_beyond_all_memory_is_refused():
    assert "limit" in refused("explain", "lora()", "--shape", "99999999x99999999")[1]


def test_a_missing_option_exits_with_2():
    assert run("explain", "lora()").exit_code == 2


def test_a_shape_may_be_written_with_the_sign():
    assert read_shape(" 768×3072 ") == (768, 3072)
    with pytest.raises(ShapeError):
        read_shape("768×")


# --- demo, version, entry --------------------------------------------------------------


def test_demo_hands_its_options_over(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(demo, "run", lambda **options: given.update(options), raising=False)
    result = run("demo", "--quick", "--seeds", "2", "--output", str(tmp_path), "--json")
    assert result.exit_code == 0
    assert given == {"quick": True, "n_seeds": 2, "output": tmp_path, "as_json": True}


def test_demo_without_seeds_is_refused(tmp_path):
    assert "n_seeds=0" in refused("demo", "--seeds", "0", "--output", str(tmp_path))[0]


def test_an_error_inside_a_command_is_printed_without_a_traceback(monkeypatch):
    def fail(**options):
        raise TensorAdaptError("Asked.", "Against.", "Remedy.")

    monkeypatch.setattr(demo, "run", fail, raising=False)
    assert refused("demo") == ["Asked.", "  Against.", "  Remedy."]


def test_version_is_printed():
    assert run("--version").stdout == f"tensoradapt {ta.__version__}\n"


def test_the_console_script_runs():
    script = Path(sysconfig.get_path("scripts")) / "tensoradapt"
    done = subprocess.run(
        [script, "explain", "lora(rank=4)", "--shape", "64xx32"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("A weight of the shape '64xx32' was asked for.")
