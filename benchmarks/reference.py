"""The judge: W0 + ΔW written out in float64, and what autograd makes of it.

A layer whose output or whose gradients differ from it is an error and gets no row.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.autograd import grad
from torch.backends import opt_einsum
from torch.nn.functional import linear

from tensoradapt.run.evaluate import evaluate

from .layers import Data, Layer

TOLERANCE = 2e-4
"""The largest difference allowed, relative to the largest element; float32 gives about 1e-6."""

Results = Mapping[str, Tensor]


class WrongResultError(ArithmeticError):
    """A layer does not compute what its formula says."""


def expected(layer: Layer, data: Data) -> Results:
    """y and the gradients of x and the trained leaves, in float64."""
    base = layer.module.get_parameter("base_layer.weight").detach().double()
    bias = layer.module.get_parameter("base_layer.bias").detach().double()
    assert layer.case is not None
    values = {name: leaf.detach().double() for name, leaf in layer.leaves.items()}
    trained = [values[name].requires_grad_() for name in layer.trained]
    x = data.x.detach().double().requires_grad_()
    # From the left: torch's own choice of an order forms out × rank × in numbers for VeRA.
    with opt_einsum.flags(enabled=False):
        change = evaluate(layer.case.structure.on(tuple(base.shape)), values, base=base)
    y = linear(x, base + change, bias)
    return _named(layer, y, grad(y, [x, *trained], data.g.double()))


def given(layer: Layer, data: Data) -> Results:
    """The same of the layer."""
    y = layer.module(data.x)
    return _named(layer, y, grad(y, [data.x, *layer.trained.values()], data.g))


def _named(layer: Layer, y: Tensor, gradients: tuple[Tensor, ...]) -> Results:
    names = ["the gradient of x", *(f"the gradient of {name}" for name in layer.trained)]
    return {"y": y.detach(), **dict(zip(names, gradients, strict=True))}


def largest_error(layer: Layer, data: Data, wanted: Results) -> float:
    """The largest difference between a layer and the reference, relative to the largest element.

    Raises
    ------
    WrongResultError
        If it is above ``TOLERANCE``, or the inference differs so from the training step's output.
    """
    results = {**given(layer, data), "y without gradients": layer.inference(data)()}
    worst = 0.0
    for name, result in results.items():
        against = wanted["y" if name == "y without gradients" else name]
        error = float((result.double() - against).abs().max() / against.abs().max())
        if not error <= TOLERANCE:
            raise WrongResultError(
                f"{name} of {layer.label} ({layer.library}) on {tuple(data.x.shape)} tokens × in "
                f"is off by {error:.1e} of its largest element; {TOLERANCE:.0e} is allowed."
            )
        worst = max(worst, error)
    return worst
