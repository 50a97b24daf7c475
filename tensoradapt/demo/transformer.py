"""A vision transformer for 8 x 8 images, on one page.

An image becomes 16 patches of 2 x 2 pixels; a patch becomes a token; pre-norm blocks mix the tokens; their mean is
classified. Every product with a weight is an nn.Linear with a name of its own, so that each is a site an adapter can name:

    blocks.<n>.attention.query | key | value | project        (width, width)
    blocks.<n>.mlp.expand                                     (expansion · width, width)
    blocks.<n>.mlp.contract                                   (width, expansion · width)

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929; the order of reading is that of Karpathy's nanoGPT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Configuration:
    """Sizes of the transformer."""

    image_size: int = 8
    patch_size: int = 2
    width: int = 48
    n_blocks: int = 3
    n_heads: int = 4
    expansion: int = 2
    n_classes: int = 5

    @property
    def n_tokens(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Every token looks at every token, in ``n_heads`` subspaces."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*heads)  # (batch, n_heads, tokens, width / n_heads)
        return self.project(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """Every token thinks for itself."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


class Block(nn.Module):
    """Attention, then the MLP, each added to what came in."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(configuration.width)
        self.attention = Attention(configuration.width, configuration.n_heads)
        self.mlp_norm = nn.LayerNorm(configuration.width)
        self.mlp = MLP(configuration.width, configuration.expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """Patches, positions, blocks, mean, head.

    Parameters
    ----------
    configuration : Configuration
        Its sizes.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        width = configuration.width
        self.patch_size = configuration.patch_size
        self.embedding = nn.Linear(configuration.patch_size**2, width)
        self.positions = nn.Parameter(0.5 * torch.randn(configuration.n_tokens, width))
        self.blocks = nn.ModuleList(Block(configuration) for _ in range(configuration.n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, configuration.n_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedding(self._patches(images)) + self.positions  # (batch, tokens, width)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))  # (batch, n_classes)

    def _patches(self, images: Tensor) -> Tensor:
        size = self.patch_size
        rows = images.unflatten(2, (-1, size)).unflatten(
            1, (-1, size)
        )  # (batch, down, size, across, size)
        return rows.transpose(2, 3).flatten(3).flatten(1, 2)  # (batch, down · across, size²)
