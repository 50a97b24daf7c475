"""Penalties that methods add to the loss: scalars of the same algebra."""

from __future__ import annotations

from ..algebra.builders import einsum, norm
from ..algebra.expression import Expr
from ..algebra.leaves import eye


def orthogonality(rows: Expr) -> Expr:
    """``‖X Xᵀ - I‖_F``: how far the rows of X ``(r, n)`` are from orthonormal."""
    return norm(rows @ rows.T - eye(rows.shape[0]), 0, 1)


def mean_variance(rows: Expr) -> Expr:
    """The mean over the rows of X ``(r, n)`` of the variance in each, ``Σ (x - mean)² / n``."""
    r, n = rows.shape
    squares = einsum("r i, r i -> ", rows, rows) / (r * n)
    return squares - einsum("r i, r k -> ", rows, rows) / (r * n * n)


def sum_of_squares(vector: Expr) -> Expr:
    """``Σ v²``."""
    return einsum("i, i -> ", vector, vector)
