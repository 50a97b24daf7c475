"""The benchmarks run and write what they promise; no time is asserted."""

from __future__ import annotations

import doctest
import json

import pytest
import torch

from benchmarks import columns, harness, memory, overhead, peers, reference, step_time

TINY = ["--quick", "--shapes", "32x24", "--tokens", "3"]


def test_a_quick_run_writes_a_document_and_tables(tmp_path, capsys):
    assert step_time.main([*TINY, "--output", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "step_time.json").read_text())
    text = (tmp_path / "step_time.md").read_text()
    assert document["schema"] == 1
    assert {"date", "commit", "processor", "cores", "threads", "torch"} <= set(
        document["environment"]
    )
    (column,) = document["columns"]
    assert (column["shape"], column["tokens"]) == ([32, 24], 3)
    _check_rows(column["rows"])
    _check_overhead(document["overhead"])
    for title in ("Training step", "Inference", "Extra peak memory", "Saved bytes"):
        assert f"## {title}" in text
    assert text.count("| frozen again |") == 6
    captured = capsys.readouterr()
    assert captured.out.strip() == text.strip()
    assert captured.err == ""


def _check_rows(rows) -> None:
    assert [row["method"] for row in rows if row["library"] == "torch"] == ["frozen again"]
    assert rows[0]["extra_peak_bytes"] == rows[0]["saved_bytes"] == 0
    ours = [row["method"] for row in rows if row["library"] == "tensoradapt"]
    assert {"lora r16", "dora r16", "circulant", "tt_lora r5", "hut r16"} <= set(ours)
    theirs = [row["method"] for row in rows if row["library"] == "peft"]
    assert len(theirs) == (8 if peers.are_installed() else 0)
    for row in rows:
        for measure in columns.TIMES:
            summary = row[measure]
            assert 0 < summary["low"] <= summary["ratio"] <= summary["high"]
            assert summary["microseconds"] > 0
        if row["library"] != "torch":
            assert row["parameters"] > 0
            assert 0 < row["error"] < reference.TOLERANCE
            assert row["peak_bytes"] > 0


def _check_overhead(document) -> None:
    assert document["threads"] == 1
    for measure in overhead.MEASURES:
        methods = [row["method"] for row in document["rows"] if row["measure"] == measure]
        assert methods[:4] == ["frozen", "frozen again", "hand-written", "lora r8"]
        assert all(document["operations"][measure].values())


def test_a_wrong_result_is_an_error_and_not_a_row(tmp_path, capsys, monkeypatch):
    given = reference.given

    def planted(layer, data):
        results = dict(given(layer, data))
        results["the gradient of A"] = results["the gradient of A"] * 1.01
        return results

    monkeypatch.setattr(reference, "given", planted)
    assert step_time.main([*TINY, "--only", "rslora", "--output", str(tmp_path)]) == 1
    assert "the gradient of A of rslora r16 (tensoradapt)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_contender_stands_once_in_every_round():
    names = list("abcdefg")
    rounds = [harness.order(names, number, 4) for number in range(4)]
    assert all(sorted(names) == sorted(found) for found in rounds)
    assert len({tuple(found) for found in rounds}) == 4


def test_a_sample_is_divided_by_the_floors_around_it(monkeypatch):
    speeds = iter(range(1, 100))
    monkeypatch.setattr(harness, "calls_for", lambda call, seconds: 1)
    monkeypatch.setattr(harness, "sample", lambda call, count: call())
    found = harness.time_against_floor(lambda: next(speeds), {"ten": lambda: 10}, 1, 0.0)
    assert found["ten"].ratio == 10 / ((1 + 3) / 2)
    assert found[harness.CONTROL].ratio == 2 / ((1 + 3) / 2)


def test_the_peak_counts_what_is_held_at_a_time():
    x = torch.randn(64, 64)
    size = x.numel() * x.element_size()
    assert memory.peak_bytes(lambda: x @ x) == size
    assert memory.peak_bytes(lambda: ((x @ x) @ x) @ x) == 2 * size
    assert memory.peak_bytes(lambda: [x @ x, x @ x, x @ x]) == 3 * size


def test_saved_bytes_leave_out_what_is_there_anyway():
    x, w = torch.randn(8, 4), torch.randn(4, 4, requires_grad=True)

    def call():
        return torch.sin(x @ w).exp()  # keeps x @ w and its own result

    assert memory.saved_bytes(call, [x, w]) == 2 * 8 * 4 * 4
    assert memory.saved_bytes(call, []) == 3 * 8 * 4 * 4  # and x


@pytest.mark.parametrize("module", [harness, memory], ids=lambda module: module.__name__)
def test_the_examples_of_the_harness_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("text", ["768", "0x4", "axb", "4x5x6"])
def test_a_shape_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        step_time.main(["--shapes", text])
    assert "is not a shape such as 768x3072" in capsys.readouterr().err
