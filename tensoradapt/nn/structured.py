"""A linear layer whose whole weight is a structure: ``y = x Wᵀ + b`` with ``W = gain · E``."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from ..algebra.expression import Expr
from ..algebra.leaves import parameter
from ..algebra.nodes import Parameter
from ..algebra.starts import kaiming_uniform, uniform
from ..algebra.walk import parameters, uses_base
from ..errors import StructureError
from ..run.sample import sample
from ..spelling import as_structure
from ..structure import Method, Structure, Update
from .laying import leaves_of
from .leaves import Leaves, attribute_of
from .operator import Operator
from .precision import autocast_type, cast_all, widest, without_autocast

STARTS = ("scaled", "initial")

NOTHING = 1e-9
"""A weight this much smaller than wanted is what rounding leaves of zero."""


class StructuredLinear(nn.Module):
    """``y = x (gain · E)ᵀ + b``, where the structure's expression E, with W0 := 0, is the weight.

    Parameters
    ----------
    in_features, out_features : int
        The sizes of x and y.
    structure : Structure, Method, Expr or str
        What the weight is. It must not read the base weight, for there is none.
    bias : bool
        Whether there is a bias; it starts Uniform(±1/√in), as nn.Linear's.
    start : {"scaled", "initial"}
        ``"scaled"``: leaves that would start at zero are drawn by Kaiming's rule, and the gain,
        a stored number that does not train, makes ``‖W‖² = out / 3``; so inputs that are
        independent with variance v give outputs of mean variance v/3, as nn.Linear does.
        ``"initial"``: the structure's own starts, and a gain of 1.
    seed : int
        Chooses the random numbers.
    dtype, device : optional
        Of the leaves and the bias; torch's defaults.

    Raises
    ------
    StructureError
        If the structure reads the base weight, changes only a bias, does not fit the shape, or
        is zero at a scaled start (as a difference to its own start is).

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> layer = StructuredLinear(64, 32, zoo.lora(rank=4))
    >>> layer(torch.ones(5, 64)).shape
    torch.Size([5, 32])
    >>> sum(p.numel() for p in layer.parameters())
    416
    """

    gain: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: Structure | Method | Expr | str,
        bias: bool = True,
        start: str = "scaled",
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        chosen = as_structure(structure)
        update = chosen.update((out_features, in_features))
        _check(chosen, update, start)
        self.in_features, self.out_features = in_features, out_features
        self.text = str(chosen)
        self.operator = Operator(update, (out_features, in_features), has_bias=False)
        values, gain = _first_values(self.text, self.operator, update, start, seed)
        options = {"dtype": dtype or torch.get_default_dtype(), "device": device}
        typed = {name: value.to(**options) for name, value in values.items()}
        trained = {leaf.name for leaf in leaves_of(update).values() if isinstance(leaf, Parameter)}
        self.leaves = Leaves(
            {name: value for name, value in typed.items() if name in trained},
            {name: value for name, value in typed.items() if name not in trained},
        )
        self.slots = tuple(attribute_of(name) for name in self.operator.leaf_names)
        self.register_buffer("gain", torch.tensor(gain, **options))
        first = _first_bias(in_features, out_features, seed) if bias else None
        self.bias = None if first is None else nn.Parameter(first.to(**options))

    @property
    def weight(self) -> Tensor:
        """The whole weight ``gain · E``, ``(out, in)``, formed when it is read."""
        return self.gain * _formed(self.operator, self._read())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to ``x``, of shape ``(..., in)``."""
        autocast, leaves = autocast_type(x), self._read()
        dtype = autocast or widest(x, leaves)
        with without_autocast(x, autocast):
            typed = cast_all(leaves, dtype)
            y = self.gain.to(dtype) * self.operator.delta(x.to(dtype), None, None, typed)
            return y if self.bias is None else y + self.bias.to(dtype)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.text}, in={self.in_features}, out={self.out_features}, bias={bias}"

    def _read(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self.leaves, attribute) for attribute in self.slots)


def _check(structure: Structure, update: Update, start: str) -> None:
    against = None
    if start not in STARTS:
        against = f"Its start is {start!r}; known: {', '.join(map(repr, STARTS))}."
    elif update.weight is None or update.bias is not None:
        against = "It changes a bias; the bias of this layer is a parameter of its own."
    elif update.penalty is not None:
        against = "It asks for a penalty, which this layer has no place for."
    elif uses_base(update.weight, with_starts=True) or any(
        uses_base(leaf, with_starts=True) for leaf in leaves_of(update).values()
    ):
        against = "It reads the base weight W0, and a layer that is all structure has none."
    if against is not None:
        raise StructureError(
            f"StructuredLinear was asked for with {structure}.",
            against,
            "Use a structure of its own leaves, such as zoo.lora(rank=8) or zoo.circulant().",
        )


def _first_values(
    text: str, operator: Operator, update: Update, start: str, seed: int
) -> tuple[dict[str, Tensor], float]:
    """The leaves in float64, and the gain."""
    assert update.weight is not None
    like = torch.empty((), dtype=torch.float64)
    values: dict[str, Tensor] = sample(update.weight, seed=seed, like=like)
    values = {name: values[name] for name in operator.leaf_names}
    if start == "initial":
        return values, 1.0
    for leaf in parameters(update.weight):
        if leaf.initial.kind == "zeros":
            drawn = parameter(leaf.name, *leaf.shape, start=kaiming_uniform())
            values |= sample(drawn, seed=seed, like=like)
    weight = _formed(operator, tuple(values[name] for name in operator.leaf_names))
    size, wanted = float(torch.linalg.vector_norm(weight)), sqrt(weight.shape[0] / 3)
    if size < NOTHING * wanted:
        raise StructureError(
            f"StructuredLinear was asked for with {text}.",
            "Its weight is zero whatever is drawn, so no gain can scale it.",
            'Use start="initial", or a structure that is not a difference to its own start.',
        )
    return values, wanted / size


def _formed(operator: Operator, leaves: tuple[Tensor, ...]) -> Tensor:
    weight, _ = operator.materialize(None, None, leaves)
    assert weight is not None
    return weight


def _first_bias(inp: int, out: int, seed: int) -> Tensor:
    limit = 1 / sqrt(inp)
    leaf = parameter("bias", out, start=uniform(-limit, limit))
    return sample(leaf, seed=seed, like=torch.empty((), dtype=torch.float64), path="bias")["bias"]
