"""Observations: what floating point sees of a rank. Useful, and no proof of anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Observation:
    """Singular values as float64 computes them, summed up.

    Parameters
    ----------
    numerical_rank : int
        How many singular values exceed ``tolerance`` times the largest.
    tolerance : float
        Relative to the largest singular value.
    stable_rank : float
        ``‖M‖_F² / ‖M‖₂²``; 0 for the zero matrix.
    """

    numerical_rank: int
    tolerance: float
    stable_rank: float

    def __str__(self) -> str:
        return (
            f"observed in float64, not proved: numerical rank {self.numerical_rank} at tolerance "
            f"{self.tolerance:.1e}, stable rank {self.stable_rank:.2f}"
        )


def observe(
    matrix: np.ndarray, tolerance: float | None = None, eps: float = 2.0**-52
) -> Observation:
    """Count the singular values of a matrix that are not small.

    Parameters
    ----------
    matrix : numpy.ndarray
        ``(rows, columns)``.
    tolerance : float, optional
        Relative to the largest; by default ``max(rows, columns) · eps``.
    eps : float
        The rounding unit of the numbers that the matrix is made of.

    Examples
    --------
    >>> print(observe(np.diag([4.0, 2.0, 1e-20])))
    observed in float64, not proved: numerical rank 2 at tolerance 6.7e-16, stable rank 1.25
    """
    relative = max(matrix.shape) * eps if tolerance is None else float(tolerance)
    singular = np.linalg.svd(matrix, compute_uv=False)
    top = float(singular[0]) if singular.size else 0.0
    if top == 0 or not np.isfinite(singular).all():
        return Observation(0, relative, 0.0)
    scaled = singular / top
    return Observation(int((scaled > relative).sum()), relative, float((scaled**2).sum()))
