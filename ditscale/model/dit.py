"""The two Diffusion Transformers of Liang et al., "Scaling Laws for Diffusion Transformers" (arXiv 2410.08184).

In-Context: patch, text and time tokens form one sequence under one self-attention. Cross-Attention: patch tokens form
the sequence; time and text tokens are the context of a cross-attention in each block. Neither has adaptive norms.
Shape letters: B batch, I image tokens, T text tokens, P values of a patch, W width, C channels, R resolution."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flops import Shape
from .blocks import Block, Norm


class DiT(nn.Module):
    """Predicts the velocity of an image: v(x_t, t, text). `shape` selects the design and the size."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        s, W = shape, shape.width
        cross = s.design == "crossattention"
        self.patch = nn.Linear(s.patch_values, W)
        self.text = nn.Embedding(s.text_vocab, W) if s.text_vocab else nn.Linear(s.text_dim, W)
        self.position_image = nn.Parameter(sine_positions(s.image_tokens, W))
        self.position_text = nn.Parameter(torch.empty(s.text_length, W))
        self.time_in = nn.Linear(s.time_features, W)
        self.time_out = nn.Linear(W, W)
        self.norm_context = Norm(W) if cross else None
        blocks = [Block(W, s.head_size, s.mlp_ratio, s.qk_norm, cross) for _ in range(s.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm_final = Norm(W)
        self.final = nn.Linear(W, s.patch_values)
        self.initialise(blocks)

    def initialise(self, blocks: list[Block]):
        """Draw linear weights with variance 1 / inputs, those that write to the residual stream with a further factor
        1 / writers. A final layer of 0 makes the first prediction 0, so all sizes start from the same loss."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
        nn.init.normal_(self.position_text)
        for block in blocks:
            writers = [block.attention.out, block.mlp.down] + ([block.cross.out] if hasattr(block, "cross") else [])
            for writer in writers:
                nn.init.normal_(writer.weight, std=(writer.in_features * len(writers) * len(blocks)) ** -0.5)
        nn.init.zeros_(self.final.weight)

    def forward(self, x_BCRR: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        """Velocity [B, C, R, R] of noisy images x_t [B, C, R, R] at times t [B] in [0, 1] (t = 0 is data). `text` is
        int64 [B, T] when captions are ids, float [B, T, text_dim] when they are features."""
        x_BSW, context_BCW = self.embed(x_BCRR, t_B, text)
        for block in self.blocks:
            x_BSW = block(x_BSW, context_BCW)
        return self.head(x_BSW, x_BCRR.shape)

    def embed(self, x_BCRR: Tensor, t_B: Tensor, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """The blocks' sequence [B, S, W], and the context [B, 1 + T, W] of a cross-attention or None."""
        x_BIW = self.patch(self.patchify(x_BCRR)) + self.position_image
        features = time_features(t_B, self.shape.time_features)
        time_B1W = self.time_out(F.silu(self.time_in(features)))[:, None]
        text_BTW = self.text(text) + self.position_text
        if self.norm_context is None:
            return torch.cat([time_B1W, text_BTW, x_BIW], dim=1), None
        return x_BIW, self.norm_context(torch.cat([time_B1W, text_BTW], dim=1))

    def head(self, x_BSW: Tensor, shape: torch.Size) -> Tensor:
        """The velocity, of `shape`, from the blocks' sequence, which ends with the image's tokens."""
        return self.unpatchify(self.final(self.norm_final(x_BSW[:, -self.shape.image_tokens :])), shape)

    def patchify(self, x_BCRR: Tensor) -> Tensor:
        """[B, C, R, R] to [B, I, P], patches row by row, values of a patch as (row, column, channel)."""
        B, C, R, _ = x_BCRR.shape
        n, p = self._grid(C)
        return x_BCRR.view(B, C, n, p, n, p).permute(0, 2, 4, 3, 5, 1).reshape(B, n * n, p * p * C)

    def unpatchify(self, x_BIP: Tensor, shape: torch.Size) -> Tensor:
        """[B, I, P] to images of `shape`: the inverse of patchify."""
        B, C, R, _ = shape
        n, p = self._grid(C)
        return x_BIP.view(B, n, n, p, p, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, R, R)

    def _grid(self, channels: int) -> tuple[int, int]:
        return math.isqrt(self.shape.image_tokens), math.isqrt(self.shape.patch_values // channels)


def time_features(t_B: Tensor, n: int) -> Tensor:
    """Sines and cosines of t in [0, 1] at n/2 frequencies from 1 to 1000, spaced geometrically: [B, n]."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), n // 2, device=t_B.device))
    angle = t_B.float()[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sine_positions(tokens: int, width: int) -> Tensor:
    """Initial values of the learned positions, [tokens, width]: sines and cosines of row and column, with frequencies
    from half a turn over the image up to the grid's own."""
    n, k = math.isqrt(tokens), width // 4
    frequencies = math.pi * torch.exp(torch.linspace(0, math.log(max(n / 2, 1.0)), max(k, 1)))
    angle = (torch.arange(n) + 0.5)[:, None] / n * frequencies
    one_axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # [n, 2k].
    both = torch.cat([one_axis[:, None].expand(n, n, -1), one_axis[None].expand(n, n, -1)], dim=-1).reshape(tokens, -1)
    positions = torch.randn(tokens, width) * 0.02
    positions[:, : both.shape[1]] = both[:, :width]
    return positions
