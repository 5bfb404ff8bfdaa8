"""What every data set offers: the embedded scenes, and files of VAE latents with frozen text features."""

from typing import Protocol

from torch import Tensor


class Source(Protocol):
    """Images with text, addressed by position: image i is the same on every rank, in every batch and after a resume.

    A text is either ids of a vocabulary (`text_dim` is 0) or features of a frozen encoder (`text_vocab` is 0).
    """

    name: str
    channels: int
    resolution: int  # Pixels or latent cells on a side, R.
    text_length: int  # Tokens per caption, T.
    text_vocab: int  # Ids are 0 .. text_vocab - 1, and id 0 is the empty text that guidance needs. 0 for features.
    text_dim: int  # Values per token of text features. 0 for ids.
    pixels: bool  # Whether the images are pictures on [-1, 1] with 8-bit levels. Otherwise they are latents.
    # Names of the frozen models that made latents and text features, where known: "vae", "text_encoder".
    encoders: dict[str, str]

    @property
    def n_images(self) -> int | None:
        """None: endless, every position holds a new image."""

    @property
    def fingerprint(self) -> str:
        """A hash of what a file holds. Empty where images are drawn, for the configuration decides those."""

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and texts at `index`, int64 [B]: `read`, then `normalise`. Images are float32 [B, C, R, R] in about
        [-1, 1], texts int64 [B, T] or float32 [B, T, text_dim]."""

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and texts as they are stored, often in half the bytes."""

    def normalise(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The batch that a model sees, of what `read` returns, on whatever device."""

    def denormalise(self, images: Tensor) -> Tensor:
        """Images [B, C, R, R] that a model sees or makes, as they would be stored: latents as their VAE gives them."""

    def captions(self, index: Tensor) -> list[str]:
        """The texts at `index` in words, for people; empty where there are none."""

    def pictures(self, index: Tensor) -> Tensor | None:
        """uint8 [B, 3, H, W]: the pictures that latents at `index` were made from. None where the images are pictures,
        or the file has no pictures."""
