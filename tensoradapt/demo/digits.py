"""Real handwritten digits, split into the task a model is pretrained on and the task it is adapted to.

The images are the 1797 scans of 8 x 8 pixels that come inside scikit-learn, so that nothing is downloaded. Digits 0 to 4
are the pretraining task, digits 5 to 9 the adaptation task: the model has never seen a digit of the second one.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingExtraError

IMAGE_SIZE = 8
N_CLASSES = 5
PRETRAINING_CLASSES = (0, 1, 2, 3, 4)
ADAPTATION_CLASSES = (5, 6, 7, 8, 9)
BRIGHTEST = 16.0  # the scans count ink in 4 x 4 pixels, so a pixel is an integer from 0 to 16


@dataclass(frozen=True, slots=True)
class Task:
    """Images and labels of one task, cut into a part to train on and a part to test on.

    Attributes
    ----------
    train_images, test_images : Tensor
        Shape ``(count, 8, 8)``, float32, between -1 and 1.
    train_labels, test_labels : Tensor
        Shape ``(count,)``, int64, numbered from 0 within the task.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_tasks(seed: int, *, test_fraction: float = 0.5) -> tuple[Task, Task]:
    """Load the digits and cut them into the pretraining and the adaptation task.

    Parameters
    ----------
    seed : int
        Which images of a class are trained on and which are tested on.
    test_fraction : float
        Share of every class that is kept for testing.

    Returns
    -------
    tuple of Task
        Digits 0 to 4, then digits 5 to 9, both with labels from 0 to 4.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.
    """
    images, labels = _scans()
    generator = np.random.RandomState(seed)
    pretraining = _cut(images, labels, PRETRAINING_CLASSES, test_fraction, generator)
    adaptation = _cut(images, labels, ADAPTATION_CLASSES, test_fraction, generator)
    return pretraining, adaptation


def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Read the images ``(1797, 8, 8)``, between -1 and 1, and their digits ``(1797,)``."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("scikit-learn", "demo", "The demo's data") from error
    pixels, digits = load_digits(return_X_y=True)
    return pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE) * (2 / BRIGHTEST) - 1, digits


def _cut(
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[int, ...],
    test_fraction: float,
    generator: np.random.RandomState,
) -> Task:
    """Shuffle every class by itself, so that both parts hold the same share of it."""
    train, test, train_labels, test_labels = [], [], [], []
    for number, digit in enumerate(classes):
        rows = generator.permutation(np.flatnonzero(labels == digit))
        n_test = round(len(rows) * test_fraction)
        test.append(images[rows[:n_test]])
        train.append(images[rows[n_test:]])
        test_labels += [number] * n_test
        train_labels += [number] * (len(rows) - n_test)
    return Task(
        torch.as_tensor(np.concatenate(train), dtype=torch.float32),
        torch.tensor(train_labels),
        torch.as_tensor(np.concatenate(test), dtype=torch.float32),
        torch.tensor(test_labels),
    )
