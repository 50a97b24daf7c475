"""The demo: its data, its model, its measurements and its report."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from rich.console import Console

from tensoradapt.demo import main, run
from tensoradapt.demo.candidates import FULL, HEAD, Candidate, Group, candidates
from tensoradapt.demo.digits import load_tasks
from tensoradapt.demo.experiment import Pretraining, Settings, Site, Trial, pretrain, run_trial
from tensoradapt.demo.plots import draw
from tensoradapt.demo.pool import Pool
from tensoradapt.demo.report import to_table
from tensoradapt.demo.summary import Report, rows_of, to_document
from tensoradapt.demo.train import accuracy, relative_step_time, train
from tensoradapt.demo.transformer import Configuration, VisionTransformer
from tensoradapt.errors import MissingExtraError, TensorAdaptError
from tensoradapt.zoo import lora

TINY = Settings(pretraining_steps=20, adaptation_steps=20, timing_rounds=1)
BY_NAME = {candidate.name: candidate for candidate in candidates()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the demo; a second thread makes so small a model slower
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tasks():
    return load_tasks(0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    pretrain(0, TINY, folder)
    return folder


def test_every_real_image_is_in_one_part_of_one_task(tasks):
    parts = [part for task in tasks for part in (task.train_images, task.test_images)]
    images = torch.cat(parts).flatten(1)
    assert len(images) == 1797
    assert len(images.unique(dim=0)) == 1797
    assert images.min() == -1 and images.max() == 1


def test_labels_start_at_zero_and_every_digit_is_halved(tasks):
    for task in tasks:
        train_counts, test_counts = task.train_labels.bincount(), task.test_labels.bincount()
        assert len(train_counts) == len(test_counts) == 5
        assert (train_counts - test_counts).abs().max() <= 1


def test_the_seed_decides_the_cut(tasks):
    assert torch.equal(load_tasks(0)[1].train_images, tasks[1].train_images)
    assert not torch.equal(load_tasks(1)[1].train_images, tasks[1].train_images)


def test_a_token_is_a_square_of_pixels():
    model = VisionTransformer(Configuration())
    image = torch.arange(64.0).reshape(1, 8, 8)
    tokens = model._patches(image)
    assert tokens.shape == (1, 16, 4)
    assert torch.equal(tokens[0, 5], image[0, 2:4, 2:4].flatten())


def test_training_learns_and_repeats_itself(tasks):
    def trained():
        torch.manual_seed(0)
        model = VisionTransformer(Configuration(n_blocks=1))
        loss = train(
            model,
            model.parameters(),
            tasks[0],
            n_steps=60,
            batch_size=32,
            learning_rate=3e-3,
            seed=0,
        )
        return loss, accuracy(model, tasks[0])

    first = trained()
    assert first[0] < 1.0 and first[1] > 0.5
    assert trained() == first


def test_a_model_takes_as_long_as_itself(tasks):
    model = VisionTransformer(Configuration()).requires_grad_(False)
    ratio = relative_step_time(model, model, tasks[0], n_rounds=15, batch_size=32)
    assert 0.5 < ratio < 2


def test_budgets_are_near_equal():
    def size(name):
        structure = BY_NAME[name].structure
        shapes = [(48, 48)] * 4 + [(96, 48), (48, 96)]
        return sum(_parameters(structure.on(shape)) for shape in shapes)

    near = [name for name, c in BY_NAME.items() if c.group == Group.NEAR_EQUAL]
    assert len(near) >= 10
    assert {name: size(name) for name in near if abs(size(name) / size("lora") - 1) > 0.17} == {}


def _parameters(update):
    from tensoradapt.algebra.nodes import Parameter
    from tensoradapt.algebra.walk import leaves

    return sum(torch.Size(p.shape).numel() for p in leaves(update) if isinstance(p, Parameter))


@pytest.mark.parametrize("name", ["lora", "dora", "crossed_blocks", "circulant"])
def test_a_trial_keeps_its_bound_and_its_output(name, pretrained):
    trial = run_trial(BY_NAME[name], 0, TINY, pretrained)
    assert len(trial.sites) == 18
    assert all(0 < site.numerical_rank <= site.rank_bound for site in trial.sites)
    assert trial.loaded_difference == 0
    assert trial.merged_difference < 1e-4
    if name != "circulant":
        assert abs(trial.n_parameters - 8064) < 1100


def test_the_references_train_what_they_say(pretrained):
    head, full = (run_trial(c, 0, TINY, pretrained) for c in (HEAD, FULL))
    assert (head.n_parameters, head.sites) == (0, ())
    assert full.n_parameters == 57_984
    assert {site.path for site in full.sites} >= {"blocks.1.attention.value", "blocks.2.mlp.expand"}


def test_a_trial_repeats_itself(pretrained):
    first, second = (
        replace(run_trial(BY_NAME["lora"], 0, TINY, pretrained), step_time=0.0) for _ in range(2)
    )
    assert first == second


def test_the_numerical_rank_counts_from_the_tolerance():
    assert Site("a", (3, 3), 3, (2.0, 2.1e-4, 1.9e-4)).numerical_rank == 2
    assert Site("a", (2, 2), 1, (0.0, 0.0)).numerical_rank == 0


def _report(numerical=4, seeds=(0, 1)):
    candidate = Candidate("lora", Group.NEAR_EQUAL, 1e-2, lora(rank=4))
    values = tuple(1.0 if k < numerical else 1e-9 for k in range(8))
    site = Site("blocks.1.attention.value", (8, 8), 4, values)
    trials = [Trial(candidate, s, 64, 0.9 + s / 100, 0.1, 1.5, (site,), 0.0, 1e-6) for s in seeds]
    trials += [Trial(HEAD, s, 0, 0.5, 1.0, 1.0) for s in seeds]
    known = tuple(Pretraining(seed, 0.98, 100) for seed in seeds)
    return Report(TINY, known, rows_of((HEAD, candidate), trials), 1.0)


def _printed(report):
    console = Console(width=80, record=True, file=sys.__stderr__, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(to_table(report))
    return capture.get()


def test_the_table_fits_a_terminal_and_says_all():
    text = _printed(_report())
    assert max(map(len, text.splitlines())) <= 80
    for word in ("lora(rank=4)", "90.5 ± 0.7", "1.50", "1.0e-06", "0.0001", "98.0 %"):
        assert word in text


def test_a_rank_above_its_bound_is_shown():
    assert "> bound" not in _printed(_report(numerical=4))
    assert "5 > bound" in _printed(_report(numerical=5))


def test_the_document_is_json_with_the_content_of_the_table():
    document = json.loads(json.dumps(to_document(_report()), allow_nan=False))
    row = document["rows"][1]
    assert (row["structure"], row["parameters"], row["rank_bound"]) == ("lora(rank=4)", 64, [4, 4])
    site = row["trials"][0]["sites"]["blocks.1.attention.value"]
    assert (site["numerical_rank"], len(site["singular_values"])) == (4, 8)
    assert to_document(_report(seeds=(0,)))["rows"][1]["accuracy"]["standard_deviation"] is None


def test_both_plots_are_drawn(tmp_path):
    for path in draw(_report(), tmp_path):
        assert path.stat().st_size > 10_000


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tensoradapt\[plot\]"'):
        run(quick=True, output=tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tensoradapt\[demo\]"'):
        load_tasks(0)


def test_what_cannot_be_run_is_refused_before_training(tmp_path):
    with pytest.raises(TensorAdaptError, match=r"n_seeds=0.*\n.*at least one"):
        run(n_seeds=0, output=tmp_path)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(TensorAdaptError, match="cannot be made"):
        run(output=file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("n_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_results_come_in_the_order_of_the_jobs(n_workers):
    torch.set_num_threads(2)
    with Pool(n_workers, Console(quiet=True)) as pool:
        assert pool.run("squares", [partial(pow, k, 2) for k in range(5)]) == [0, 1, 4, 9, 16]
        assert pool.run("threads", [torch.get_num_threads]) == [1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_the_whole_demo_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    few = (HEAD, BY_NAME["lora"])
    monkeypatch.setattr(main, "candidates", lambda: few)
    monkeypatch.setattr(main, "QUICK", TINY)
    document = run(quick=True, as_json=True, output=tmp_path / "new" / "folder", n_workers=1)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(json.dumps(document))
    assert printed.err == ""
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names >= {"results.json", "accuracy.png", "spectrum.png", "adapters"}
