"""Training, testing and timing, the same for every model of the demo.

One loop trains the pretrained model, the references and every structure: Adam, with a cosine
from the stated learning rate down to zero, on mini-batches in an order that the seed decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .digits import Task


def train(
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    task: Task,
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> float:
    """Train the given parameters of a model on a task.

    Parameters
    ----------
    model : nn.Module
        Maps images ``(batch, 8, 8)`` to scores ``(batch, n_classes)``.
    parameters : iterable of nn.Parameter
        What the optimizer may change.
    task : Task
        Its training images and labels are used.
    n_steps, batch_size : int
        The number of mini-batches, and of images in each.
    learning_rate : float
        At the first step; a cosine takes it to zero at the last.
    seed : int
        Decides the order of the images.

    Returns
    -------
    float
        The mean loss over the last tenth of the steps.
    """
    model.train()
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2
    )
    losses: list[Tensor] = []
    for rows in _batches(len(task.train_labels), batch_size, n_steps, seed):
        loss = F.cross_entropy(model(task.train_images[rows]), task.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
        losses.append(loss.detach())
    return float(torch.stack(losses[-max(1, n_steps // 10) :]).mean())


def _batches(count: int, batch_size: int, n_batches: int, seed: int) -> Iterator[Tensor]:
    """Give ``n_batches`` whole batches of row numbers out of shuffled epochs."""
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, count)
    per_epoch = count // size
    for number in range(n_batches):
        place = number % per_epoch
        if place == 0:
            order = torch.randperm(count, generator=generator)
        yield order[place * size : (place + 1) * size]


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Score images in evaluation mode: ``(count, n_classes)``."""
    model.eval()
    return model(images)


def accuracy(model: nn.Module, task: Task) -> float:
    """Return the share of the test images that the model names rightly."""
    named = predict(model, task.test_images).argmax(1)
    return float((named == task.test_labels).double().mean())


def relative_step_time(
    model: nn.Module, frozen: nn.Module, task: Task, *, n_rounds: int, batch_size: int
) -> float:
    """Measure a training step of a model relative to the same step of the frozen model.

    A step is forward, loss and backward down to the images. So the gradient passes every layer
    of the frozen model too, and what is above 1 is what the trained parameters cost. The
    optimizer is left out.

    Parameters
    ----------
    model : nn.Module
        The model whose chosen parameters train.
    frozen : nn.Module
        Its base, in which nothing trains.
    task : Task
        Its first training images are the batch.
    n_rounds : int
        How often the two models take turns, so that a disturbance of the machine meets both.
    batch_size : int
        The number of images.

    Returns
    -------
    float
        The median over the rounds of the model's time by the mean of its two neighbors.
    """
    images = task.train_images[:batch_size].clone().requires_grad_()
    labels = task.train_labels[:batch_size]
    model.train()
    frozen.train()
    _step_seconds(model, images, labels)  # the first step pays for plans and first touches
    before = _step_seconds(frozen, images, labels)
    ratios: list[float] = []
    for _ in range(n_rounds):
        between = _step_seconds(model, images, labels)
        after = _step_seconds(frozen, images, labels)
        ratios.append(2 * between / (before + after))
        before = after
    return median(ratios)


def _step_seconds(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.zero_grad()
    images.grad = None
    start = perf_counter()
    F.cross_entropy(model(images), labels).backward()
    return perf_counter() - start
