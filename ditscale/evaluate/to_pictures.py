"""What people and extractors see of what a model sees: pictures, or latents through the decoder of their VAE."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from .decoder import VAEDecoder, load_decoder
from .held_out import HeldOut


def sight(data: HeldOut, decoder: str) -> Callable[[Tensor], Tensor]:
    """The function from images [B, C, R, R] as a model sees them to pictures uint8 [B, C', H, W]; latents stay as they
    are where no `decoder` (the directory of their VAE) is named."""
    if data.pixels:
        return as_bytes
    if not decoder:
        return lambda x: x.float()
    vae = decoder_of(decoder, data.device)
    return lambda x: as_bytes(vae(data.source.as_encoded(x)))


@cache
def decoder_of(directory: str, device: torch.device) -> VAEDecoder:
    """Read once in a process."""
    return load_decoder(Path(directory), device)


def as_bytes(x_BCRR: Tensor) -> Tensor:
    """Pictures in about [-1, 1] as uint8 [B, C, R, R], at native size; beyond white is white."""
    return ((x_BCRR.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
