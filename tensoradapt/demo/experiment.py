"""One trial: pretrain, freeze, adapt, measure, save, load, merge.

``pretrain`` makes the model that knows digits 0 to 4 and writes it down. ``run_trial`` takes it,
lays one structure on every weight of its blocks, trains that and a new head on digits 5 to 9,
and measures what the table shows. Both are plain functions of plain data, so that a pool of
processes can run them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import tensoradapt as ta
import tensoradapt.nn as tnn

from .candidates import FULL, Candidate
from .digits import Task, load_tasks
from .train import accuracy, predict, relative_step_time, train
from .transformer import Configuration, VisionTransformer

SITES = "blocks.*.attention.* | blocks.*.mlp.*"
TOLERANCE = 1e-4  # a singular value counts from this share of the largest


@dataclass(frozen=True, slots=True)
class Settings:
    """How long things are trained and how often they are timed; the same for every candidate."""

    pretraining_steps: int = 400
    pretraining_learning_rate: float = 3e-3
    adaptation_steps: int = 200
    batch_size: int = 32
    timing_rounds: int = 25


QUICK = Settings(pretraining_steps=120, adaptation_steps=40, timing_rounds=7)


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What the pretraining of one seed came to."""

    seed: int
    accuracy: float
    n_parameters: int


@dataclass(frozen=True, slots=True)
class Site:
    """The trained update of one weight.

    Attributes
    ----------
    path : str
        Of the module in the model.
    shape : tuple of int
        Of the weight.
    rank_bound : int
        Of the structure; valid for every value of its parameters.
    singular_values : tuple of float
        Of the trained ΔW, falling.
    """

    path: str
    shape: tuple[int, ...]
    rank_bound: int
    singular_values: tuple[float, ...]

    @property
    def numerical_rank(self) -> int:
        """The number of singular values above ``TOLERANCE`` times the largest."""
        largest = self.singular_values[0]
        return sum(value > TOLERANCE * largest for value in self.singular_values)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one candidate came to for one seed.

    Attributes
    ----------
    candidate, seed
        Whose it is.
    n_parameters : int
        Trained parameters without those of the head, which all candidates train.
    accuracy : float
        On the test images of digits 5 to 9.
    loss : float
        Mean training loss over the last tenth of the steps.
    step_time : float
        Of a training step, relative to the frozen model.
    sites : tuple of Site
        The adapted weights; empty for the head alone.
    loaded_difference, merged_difference : float, optional
        Largest difference of a score from the adapted model's: of a fresh model that loaded the
        adapter, and of that model merged. None where there is no adapter.
    """

    candidate: Candidate
    seed: int
    n_parameters: int
    accuracy: float
    loss: float
    step_time: float
    sites: tuple[Site, ...] = ()
    loaded_difference: float | None = None
    merged_difference: float | None = None


def pretrain(seed: int, settings: Settings, output: Path) -> Pretraining:
    """Train the transformer on digits 0 to 4 and write it to ``output``.

    Parameters
    ----------
    seed : int
        Decides the data, the starting weights and the order of the images.
    settings : Settings
        Steps and learning rate.
    output : Path
        An existing folder.

    Returns
    -------
    Pretraining
        With the accuracy on the test images.
    """
    task, _ = load_tasks(seed)
    model = _new_model(seed)
    train(
        model,
        model.parameters(),
        task,
        n_steps=settings.pretraining_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.pretraining_learning_rate,
        seed=seed,
    )
    save_model(model, str(_pretrained_file(output, seed)))
    return Pretraining(seed, accuracy(model, task), _size(list(model.parameters())))


def run_trial(candidate: Candidate, seed: int, settings: Settings, output: Path) -> Trial:
    """Adapt the pretrained model of a seed to digits 5 to 9 in the way of one candidate.

    Parameters
    ----------
    candidate : Candidate
        A structure or a reference.
    seed : int
        One that was pretrained into ``output``.
    settings : Settings
        Steps and rounds.
    output : Path
        The folder with the pretrained model; the adapter is written below it.

    Returns
    -------
    Trial
        All that is reported.
    """
    _, task = load_tasks(seed)
    frozen = pretrained_model(output, seed, head_seed=seed).requires_grad_(False)
    model = copy.deepcopy(frozen)
    parameters = _lay(candidate, model, seed)
    loss = train(
        model,
        parameters,
        task,
        n_steps=settings.adaptation_steps,
        batch_size=settings.batch_size,
        learning_rate=candidate.learning_rate,
        seed=seed,
    )
    step_time = relative_step_time(
        model, frozen, task, n_rounds=settings.timing_rounds, batch_size=settings.batch_size
    )
    loaded, merged = (None, None)
    if candidate.structure is not None:
        folder = output / "adapters" / f"{candidate.name}-seed{seed}"
        loaded, merged = _round_trip(model, folder, output, seed, task)
    return Trial(
        candidate,
        seed,
        _size(parameters) - _size(list(frozen.head.parameters())),
        accuracy(model, task),
        loss,
        step_time,
        _sites(candidate, model, frozen),
        loaded,
        merged,
    )


def pretrained_model(output: Path, seed: int, *, head_seed: int) -> VisionTransformer:
    """Read the pretrained model of a seed and give it a new head."""
    model = _new_model(seed)
    load_model(model, str(_pretrained_file(output, seed)))
    model.head = _new_model(head_seed).head
    return model


def _new_model(seed: int) -> VisionTransformer:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return VisionTransformer(Configuration())


def _pretrained_file(output: Path, seed: int) -> Path:
    return output / f"pretrained-seed{seed}.safetensors"


def _lay(candidate: Candidate, model: VisionTransformer, seed: int) -> list[nn.Parameter]:
    """Prepare a frozen model for training and list what trains in it."""
    if candidate.structure is not None:
        tnn.adapt(model, candidate.structure, where=SITES, also_train="head", seed=seed)
        return tnn.parameters(model)
    trained = model if candidate == FULL else model.head
    return list(trained.requires_grad_(True).parameters())


def _size(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _sites(
    candidate: Candidate, model: VisionTransformer, frozen: VisionTransformer
) -> tuple[Site, ...]:
    """Read the trained ΔW of every site: from the library, or as a difference of weights."""
    if candidate.structure is not None:
        return tuple(
            _site(
                path,
                tnn.delta_weight(module),
                int(ta.rank_bound(candidate.structure.on(tuple(module.weight.shape)))),
            )
            for path, module in tnn.sites(model)
        )
    if candidate != FULL:
        return ()
    before = dict(frozen.blocks.named_parameters(prefix="blocks"))
    return tuple(
        _site(name.removesuffix(".weight"), after - before[name], min(after.shape))
        for name, after in model.blocks.named_parameters(prefix="blocks")
        if after.ndim == 2
    )


def _site(path: str, update: Tensor, rank_bound: int) -> Site:
    values = torch.linalg.svdvals(update.detach().double())
    return Site(path, tuple(update.shape), rank_bound, tuple(values.tolist()))


def _round_trip(
    model: nn.Module, folder: Path, output: Path, seed: int, task: Task
) -> tuple[float, float]:
    """Save the adapter, load it into a fresh model with another head, and merge it there."""
    scores = predict(model, task.test_images)
    tnn.save(model, folder)
    fresh = pretrained_model(output, seed, head_seed=seed + 1)
    tnn.load(fresh, folder)
    loaded = predict(fresh, task.test_images)
    tnn.merge(fresh)
    merged = predict(fresh, task.test_images)
    return float((loaded - scores).abs().max()), float((merged - scores).abs().max())
