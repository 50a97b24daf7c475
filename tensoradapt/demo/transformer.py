"""A vision transformer for images of 8 × 8 pixels, on one page.

An image becomes 16 patches of 2 × 2 pixels; a patch becomes a token; blocks mix the tokens;
their mean is classified. Every product with a weight is an nn.Linear with a name of its own, so
that each is a site that an adapter can name:

    blocks.<n>.attention.query | key | value | project    (width, width)
    blocks.<n>.mlp.expand                                  (expansion · width, width)
    blocks.<n>.mlp.contract                                (width, expansion · width)

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929; read in the order of Karpathy's nanoGPT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Configuration:
    """The sizes of the transformer."""

    image_size: int = 8
    patch_size: int = 2
    width: int = 48
    n_blocks: int = 3
    n_heads: int = 4
    expansion: int = 2
    n_classes: int = 5

    @property
    def n_tokens(self) -> int:
        """The number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Every token looks at every token, in ``n_heads`` subspaces."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        width = configuration.width
        self.n_heads = configuration.n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of ``x``, of shape ``(batch, tokens, width)``."""
        query, key, value = (
            layer(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # (batch, heads, tokens, width / heads) each
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Every token is transformed by itself."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        width, inner = configuration.width, configuration.expansion * configuration.width
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the tokens of ``x``, of shape ``(batch, tokens, width)``."""
        return self.contract(F.gelu(self.expand(x)))


class Block(nn.Module):
    """Attention, then the MLP, each added to what came in."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(configuration.width)
        self.attention = Attention(configuration)
        self.mlp_norm = nn.LayerNorm(configuration.width)
        self.mlp = MLP(configuration)

    def forward(self, x: Tensor) -> Tensor:
        """Add to ``x``, of shape ``(batch, tokens, width)``, what the block finds."""
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
        # As large as the embedded pixels: with the usual 0.02 the mean over the tokens is blind
        # to where a stroke lies for the first hundreds of steps.
        self.positions = nn.Parameter(0.5 * torch.randn(configuration.n_tokens, width))
        self.blocks = nn.ModuleList(Block(configuration) for _ in range(configuration.n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, configuration.n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Score images ``(batch, 8, 8)``: ``(batch, n_classes)``."""
        x = self.embedding(self._patches(images)) + self.positions  # (batch, tokens, width)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))

    def _patches(self, images: Tensor) -> Tensor:
        size = self.patch_size
        squares = images.unfold(1, size, size).unfold(2, size, size)
        return squares.flatten(1, 2).flatten(2)  # (batch, tokens, size²)
