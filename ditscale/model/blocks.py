"""The parts both designs are made of. Shape letters: B batch, S tokens, W width, H heads, D head size (W = H * D), C
context tokens. LayerNorm, unlike RMSNorm, has a fused backward on every device; GELU is the exact (erf) one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .projection import Projection


class Norm(nn.LayerNorm):
    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # FSDP gathers weights in bf16; an fp32 input is normalised in fp32 all the same.
        weight = self.weight.to(x.dtype) if x.dtype == torch.float32 else self.weight
        return F.layer_norm(x, self.normalized_shape, weight, None, self.eps)


def attend(q_BSHD: Tensor, k_BCHD: Tensor, v_BCHD: Tensor) -> Tensor:
    """Softmax attention of each head: [B, S, H, D]. In memory the layout of the projections stays: copying is slow."""
    q, k, v = (part.transpose(1, 2) for part in (q_BSHD, k_BCHD, v_BCHD))
    # In bf16 on a CPU, torch's fused backward pass takes five times as long as plain products.
    if v.dtype == torch.bfloat16 and v.device.type == "cpu":
        q, k = q.to(v.dtype), k.to(v.dtype)
        return (((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class Attention(nn.Module):
    """Tokens [B, S, W] attend to each other, or with `cross` to a context [B, C, W]: to [B, S, W]."""

    def __init__(self, width: int, head_size: int, qk_norm: bool, cross: bool = False):
        super().__init__()
        self.heads = width // head_size
        if cross:
            self.q, self.kv = Projection(width, width), Projection(width, 2 * width)
        else:
            self.qkv = Projection(width, 3 * width)
        self.out = Projection(width, width)
        self.norm_q = Norm(head_size) if qk_norm else nn.Identity()
        self.norm_k = Norm(head_size) if qk_norm else nn.Identity()

    def forward(self, x_BSW: Tensor, context_BCW: Tensor | None = None) -> Tensor:
        B, S, W = x_BSW.shape
        if context_BCW is None:
            q, k, v = self.qkv(x_BSW).view(B, S, 3, self.heads, -1).unbind(2)  # Each is [B, S, H, D].
        else:
            q = self.q(x_BSW).view(B, S, self.heads, -1)
            k, v = self.kv(context_BCW).view(B, context_BCW.shape[1], 2, self.heads, -1).unbind(2)
        return self.out(attend(self.norm_q(q), self.norm_k(k), v).reshape(B, S, W))


class MLP(nn.Module):
    """[B, S, W] to [B, S, W] through ratio * W hidden values."""

    def __init__(self, width: int, ratio: int):
        super().__init__()
        self.up = Projection(width, ratio * width)
        self.down = Projection(ratio * width, width)

    def forward(self, x_BSW: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BSW)))


class Block(nn.Module):
    """Pre-norm transformer block. With `cross`, a cross-attention to the context follows the self-attention."""

    def __init__(self, width: int, head_size: int, mlp_ratio: int, qk_norm: bool, cross: bool):
        super().__init__()
        self.norm_attention = Norm(width)
        self.attention = Attention(width, head_size, qk_norm)
        if cross:
            self.norm_cross = Norm(width)
            self.cross = Attention(width, head_size, qk_norm, cross)
        self.norm_mlp = Norm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x_BSW: Tensor, context_BCW: Tensor | None = None) -> Tensor:
        x_BSW = x_BSW + self.attention(self.norm_attention(x_BSW))
        if context_BCW is not None:
            x_BSW = x_BSW + self.cross(self.norm_cross(x_BSW), context_BCW)
        return x_BSW + self.mlp(self.norm_mlp(x_BSW))
