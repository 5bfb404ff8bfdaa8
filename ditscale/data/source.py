"""What every data set offers: the embedded scenes, and files of VAE latents with frozen text features."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Source(Protocol):
    """Images with text, addressed by position: image i is the same on every rank, in every batch and after a resume.

    A text is either ids of a vocabulary (`text_dim` is 0) or features of a frozen encoder (`text_vocab` is 0).
    """

    name: str
    channels: int
    height: int
    width: int
    text_length: int  # T, tokens per caption
    text_vocab: int  # ids are 0 .. text_vocab - 1, and id 0 is the empty text that guidance needs; 0 for features
    text_dim: int  # values per token of text features; 0 for ids
    pixels: bool  # whether the images are pictures on [-1, 1] with 8-bit levels; otherwise they are latents
    n_images: int | None  # None: endless, every position holds a new image
    fingerprint: str  # of what a file holds; empty where images are drawn, for the configuration says all of these
    # the frozen models of latents and of text features, as far as they are named: "vae", "text_encoder"
    made_by: dict[str, str]

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and texts at `index`, int64 [B].

        Images are float32 [B, C, H, W] in about [-1, 1], texts int64 [B, T] or float32 [B, T, text_dim].
        """
        ...

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The same as they are kept, often in half the bytes: what `ready` makes a batch of, on whatever device."""
        ...

    def ready(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of what is `stored`; `batch` is both."""
        ...

    def captions(self, index: Tensor) -> list[str]:
        """The texts at `index` in words, for people; empty where there are none."""
        ...

    def pictures(self, index: Tensor) -> Tensor | None:
        """uint8 [B, 3, H, W]: the pictures that latents at `index` were made from; None where the images are pictures,
        or where nobody has kept them."""
        ...
