"""The layers of one shape: the frozen one, ours and PEFT's, all around one W0 and b0.

The trained leaves are where training starts plus N(0, 0.1²), so that no product is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

from tensoradapt.nn.adapt import adapt
from tensoradapt.planning.planner import schedule

from . import peers
from .cases import Case
from .harness import FLOOR, Call

OURS, PEFT, NONE = "tensoradapt", "peft", "torch"


@dataclass(frozen=True, slots=True)
class Data:
    """An input ``(tokens, in)`` that wants a gradient, and the output's gradient."""

    x: Tensor
    g: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int], tokens: int) -> Data:
        source = torch.Generator().manual_seed(tokens)
        x = torch.randn(tokens, shape[1], generator=source).requires_grad_()
        return cls(x, torch.randn(tokens, shape[0], generator=source))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer to be measured; ``leaves`` are all its leaf tensors by our names."""

    name: str
    library: str
    module: nn.Module
    case: Case | None
    leaves: dict[str, Tensor]

    @property
    def trained(self) -> dict[str, Tensor]:
        return {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}

    @property
    def label(self) -> str:
        return f"{self.name} (PEFT)" if self.library == PEFT else self.name

    def step(self, data: Data) -> Call:
        """A training step: y, and the gradients of x and of every trained leaf."""
        module, x, g, wanted = self.module, data.x, data.g, [data.x, *self.trained.values()]
        return lambda: grad(module(x), wanted, g)

    def inference(self, data: Data) -> Call:
        """y without gradients, as an evaluated model gives it."""
        module, x = self.module, data.x.detach()

        def call() -> Tensor:
            with torch.no_grad():
                return module(x)

        return call

    def forward(self, data: Data) -> Call:
        """y with its graph."""
        return lambda: self.module(data.x)

    def fixed(self, data: Data) -> list[Tensor]:
        """x and what the layer holds anyway, which no call has to save."""
        return [data.x, *self.module.parameters(), *self.module.buffers()]


def frozen(shape: tuple[int, int]) -> nn.Linear:
    """A frozen layer with seeded W0 and b0."""
    source = torch.Generator().manual_seed(shape[0] + 10_000 * shape[1])
    layer = nn.Linear(shape[1], shape[0])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(shape[1] ** -0.5), shape[1] ** -0.5, generator=source)
    return layer.requires_grad_(False)


def beside(original: nn.Linear) -> nn.Linear:
    """Another module on the same parameters, to be adapted."""
    layer = nn.Linear(original.in_features, original.out_features, device="meta")
    layer.weight, layer.bias = original.weight, original.bias
    return layer


def ours(case: Case, original: nn.Linear) -> Layer:
    """Our adapted layer."""
    model = adapt(nn.Sequential(beside(original)), case.structure, where="0")
    module: Any = model[0]  # pyright: ignore[reportIndexIssue]
    leaves = module.leaf_tensors("default")
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for leaf in leaves.values():
            if leaf.requires_grad:
                leaf.add_(torch.randn(leaf.shape, generator=source), alpha=0.1)
    return Layer(case.name, OURS, module, case, leaves)


def theirs(case: Case, original: nn.Linear, leaves: dict[str, Tensor]) -> Layer:
    """PEFT's layer with the same leaves."""
    assert case.peer is not None
    module, places = peers.build(case.peer, beside(original), leaves)
    return Layer(case.name, PEFT, module, case, places)


def layers(cases: Sequence[Case], shape: tuple[int, int], *, with_peers: bool) -> list[Layer]:
    """The frozen layer, and for every case ours and, where there is one, PEFT's."""
    original = frozen(shape)
    made = [Layer(FLOOR, NONE, original, None, {})]
    for case in cases:
        mine = ours(case, original)
        made.append(mine)
        if with_peers and case.peer is not None:
            made.append(theirs(case, original, mine.leaves))
    return made


def program_name(case: Case, shape: tuple[int, int], tokens: int) -> str:
    """Which candidate the planner chose for a training step."""
    delta = case.structure.on(shape)
    return schedule(delta, "train", has_bias=True).at(tokens).name
