"""Pictures, for people and feature extractors, of what a model sees: pictures too, or latents that a VAE decodes."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .decoder import VAEDecoder, load_decoder
from .held_out import HeldOut


class Pictures:
    """Pictures uint8 [B, C', H, W] of a data set's images and of samples. Latents stay latents where no `decoder` (the
    directory of their VAE) is given."""

    def __init__(self, data: HeldOut, decoder: str):
        self.data = data
        self.vae = _load_once(decoder, data.device) if decoder and not data.pixels else None

    def of(self, images: Tensor) -> Tensor:
        """Pictures of images [B, C, R, R] as a model sees or makes them."""
        if self.vae is not None:
            return as_bytes(self.vae(self.data.source.denormalise(images)))
        return as_bytes(images) if self.data.pixels else images.float()

    def reference(self, index: Tensor) -> Tensor:
        """The held-out pictures at positions index [B]: those that the latents were made from, where the file has
        them."""
        originals = self.data.source.pictures(index)
        return self.of(self.data.images(index)[0]) if originals is None else originals.to(self.data.device)


@cache
def _load_once(directory: str, device: torch.device) -> VAEDecoder:
    return load_decoder(Path(directory), device)


def as_bytes(x_BCRR: Tensor) -> Tensor:
    """Pictures in about [-1, 1] as uint8 [B, C, R, R], at native size. Values beyond black and white are clipped."""
    return ((x_BCRR.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
