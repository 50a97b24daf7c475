"""How far two computations of one number may lie apart: one function of dtype and depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tensoradapt.algebra.expression import Expr
from tensoradapt.algebra.nodes import Einsum, Map, MatrixFunction, Scale, Sum
from tensoradapt.algebra.snapshot import distribute_snapshots
from tensoradapt.algebra.walk import children, topological


def tolerance(dtype: Any, depth: float) -> float:
    """``4 eps · depth``, relative to the largest entry of what is compared."""
    eps = torch.finfo(dtype).eps if isinstance(dtype, torch.dtype) else np.finfo(dtype).eps
    return 4 * float(eps) * depth


def depth(expr: Expr) -> float:
    """The roundings on the longest way from a leaf to the result.

    A product counts its operands and a sum its terms. A function of ``c · e`` magnifies the
    rounding of e by ``|c|``: sin(200 x) knows x to two digits less than sin(x) does.
    """
    known: dict[Expr, float] = {}
    for sub in topological(distribute_snapshots(expr)):
        parts = children(sub)
        below = max((known[part] for part in parts), default=0.0)
        if isinstance(sub, Map | MatrixFunction):
            inner = parts[0]
            factor = abs(float(inner.factor)) if isinstance(inner, Scale) else 1.0
            known[sub] = 1 + below * max(factor, 1.0)
        else:
            known[sub] = below + (len(parts) if isinstance(sub, Einsum | Sum) else 1)
    return known[expr if expr in known else distribute_snapshots(expr)]


def as_float64(a: Any) -> np.ndarray:
    """A copy in numpy float64 of an array of numpy or torch, or of complex numbers' real pairs."""
    if isinstance(a, torch.Tensor):
        return a.detach().cpu().to(torch.float64).numpy().copy()
    return np.array(a, dtype=np.float64)


def distance(got: Any, want: Any, scale: float | None = None) -> float:
    """The largest difference, relative to ``scale`` or else to the largest entry of ``want``."""
    a, b = as_float64(got), as_float64(want)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    if not b.size:
        return 0.0
    largest = float(np.abs(b).max()) if scale is None else scale
    worst = float(np.abs(a - b).max())
    return worst / largest if largest > 0 else worst


def assert_close(
    got: Any, want: Any, dtype: Any, depth: float, what: str = "", scale: float | None = None
) -> None:
    """Assert that two results agree within the tolerance of a dtype and a depth."""
    found, allowed = distance(got, want, scale), tolerance(dtype, depth)
    assert found <= allowed, f"{what}: differs by {found:.2e}, allowed {allowed:.2e}"
