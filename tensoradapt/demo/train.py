"""Training, testing and timing, the same for every model of the demo.

One loop trains the pretrained model, the references and every structure: Adam with a cosine from the stated learning rate
down to zero, mini-batches in an order that only the seed decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .digits import Task


def train(
    model: nn.Module,
    task: Task,
    parameters: Iterable[nn.Parameter],
    *,
    n_steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> float:
    """Train the given parameters of a model on a task.

    Parameters
    ----------
    model : nn.Module
        Maps images ``(batch, 8, 8)`` to scores ``(batch, n_classes)``.
    task : Task
        Its training images and labels are used.
    parameters : iterable of nn.Parameter
        What the optimizer may change.
    n_steps, batch_size : int
        Number of mini-batches and of images in each.
    learning_rate : float
        At the first step; a cosine takes it to zero at the last.
    seed : int
        Decides the order of the images.

    Returns
    -------
    float
        Mean loss over the last tenth of the steps.
    """
    model.train()
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2
    )
    losses = []
    for rows in _batches(len(task.train_labels), batch_size, n_steps, seed):
        loss = F.cross_entropy(model(task.train_images[rows]), task.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
        losses.append(loss.detach())
    return float(torch.stack(losses[-max(1, n_steps // 10) :]).mean())


def _batches(count: int, batch_size: int, n_batches: int, seed: int) -> Iterator[Tensor]:
    """Walk through shuffled epochs until ``n_batches`` whole batches are given."""
    generator = torch.Generator().manual_seed(seed)
    left = n_batches
    while left > 0:
        whole = torch.randperm(count, generator=generator).split(min(batch_size, count))
        for rows in whole[: min(left, count // min(batch_size, count))]:
            left -= 1
            yield rows


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the scores ``(count, n_classes)`` of a model in evaluation mode."""
    model.eval()
    return model(images)


def accuracy(model: nn.Module, task: Task) -> float:
    """Return the share of the test images that the model names rightly."""
    return float((predict(model, task.test_images).argmax(1) == task.test_labels).float().mean())


def step_time_ratio(
    model: nn.Module, frozen: nn.Module, task: Task, *, n_rounds: int, batch_size: int
) -> float:
    """Measure a training step of a model relative to the same step of the frozen model.

    A step is forward, loss and backward down to the images, so that in the frozen model too the gradient passes every
    layer: what is above 1 is what the trained parameters cost. The optimizer is left out.

    Parameters
    ----------
    model, frozen : nn.Module
        The model that trains, and its base in which nothing does.
    task : Task
        Its first training images are the batch.
    n_rounds : int
        The two models take turns this many times, so that a disturbance of the machine meets both alike.
    batch_size : int
        Number of images.

    Returns
    -------
    float
        Median over the rounds of time / frozen time.
    """
    images = task.train_images[:batch_size].clone().requires_grad_()
    labels = task.train_labels[:batch_size]
    model.train()
    frozen.train()
    ratios = []
    for _ in range(n_rounds + 1):
        before = _seconds(lambda: F.cross_entropy(frozen(images), labels).backward())
        middle = _seconds(lambda: F.cross_entropy(model(images), labels).backward())
        after = _seconds(lambda: F.cross_entropy(frozen(images), labels).backward())
        ratios.append(2 * middle / (before + after))
        model.zero_grad()
        images.grad = None
    return median(ratios[1:])  # the first round pays for planning and first touches


def _seconds(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start
