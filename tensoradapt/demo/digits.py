"""Real handwritten digits, as the task of the pretraining and the task of the adaptation.

The images are the 1797 scans of 8 × 8 pixels that come inside scikit-learn, so that nothing is
downloaded. Digits 0 to 4 are the pretraining task, digits 5 to 9 the adaptation task: the
pretrained model has never seen one of them.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingExtraError

IMAGE_SIZE = 8
BRIGHTEST = 16.0  # a pixel counts the inked dots of a 4 × 4 square
PRETRAINING_DIGITS = (0, 1, 2, 3, 4)
ADAPTATION_DIGITS = (5, 6, 7, 8, 9)


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
    """Load the digits and cut them into the pretraining task and the adaptation task.

    Parameters
    ----------
    seed : int
        Decides which images of a digit are trained on and which are tested on.
    test_fraction : float
        Share of every digit that is kept for testing.

    Returns
    -------
    tuple of Task
        Digits 0 to 4, then digits 5 to 9, both with labels from 0 to 4.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.
    """
    images, digits = _scans()
    generator = np.random.RandomState(seed)
    pretraining = _cut(images, digits, PRETRAINING_DIGITS, test_fraction, generator)
    adaptation = _cut(images, digits, ADAPTATION_DIGITS, test_fraction, generator)
    return pretraining, adaptation


def _scans() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("scikit-learn", "demo", "The demo's data") from error
    pixels, digits = load_digits(return_X_y=True)
    images = pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE) * (2 / BRIGHTEST) - 1
    return images, digits  # (1797, 8, 8), (1797,)


def _cut(
    images: np.ndarray,
    digits: np.ndarray,
    wanted: tuple[int, ...],
    test_fraction: float,
    generator: np.random.RandomState,
) -> Task:
    """Cut every digit by itself, so that both parts hold the same share of it."""
    train_rows: list[int] = []
    test_rows: list[int] = []
    for digit in wanted:
        rows = generator.permutation(np.flatnonzero(digits == digit))
        n_test = round(len(rows) * test_fraction)
        test_rows.extend(rows[:n_test])
        train_rows.extend(rows[n_test:])
    labels = digits - wanted[0]
    return Task(
        torch.as_tensor(images[train_rows], dtype=torch.float32),
        torch.as_tensor(labels[train_rows]),
        torch.as_tensor(images[test_rows], dtype=torch.float32),
        torch.as_tensor(labels[test_rows]),
    )
