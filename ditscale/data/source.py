"""What every data set offers: the embedded scenes, and files of VAE latents with frozen text features."""

from torch import Tensor

from ..config import Data
from ..image_file import check_shapes


class Source:
    """Images with text, addressed by position: image i is the same on every rank, in every batch and after a resume. A
    text is either ids of a vocabulary (`text_dim` is 0) or features of a frozen encoder (`text_vocab` is 0)."""

    name: str
    channels: int
    resolution: int  # Pixels or latent cells on a side, R.
    text_length: int  # Tokens per caption, T.
    text_vocab: int  # Ids are 0 .. text_vocab - 1, and id 0 is the empty text that guidance needs. 0 for features.
    text_dim: int  # Values per token of text features. 0 for ids.
    pixels: bool  # Whether the images are pictures on [-1, 1] with 8-bit levels. Otherwise they are latents.
    encoders: dict[str, str]  # Models that made latents and text features, where known: "vae", "text_encoder".
    n_images: int | None = None  # None: endless, every position holds a new image.

    @property
    def fingerprint(self) -> str:
        """A hash of what a file holds. Empty where images are drawn, for the configuration decides those."""
        return ""

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """At `index`, int64 [B]: float32 [B, C, R, R] in about [-1, 1], texts int64 [B, T] or float32 [B, T, D]."""
        return self.normalise(*self.read(index))

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and texts as they are stored, often in half the bytes."""
        raise NotImplementedError

    def normalise(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The batch that a model sees, of what `read` returns, on whatever device."""
        return images, texts

    def denormalise(self, images: Tensor) -> Tensor:
        """Images [B, C, R, R] that a model sees or makes, as they would be stored: latents as their VAE gives them."""
        return images

    def captions(self, index: Tensor) -> list[str]:
        """The texts at `index` in words, for people; empty where there are none."""
        raise NotImplementedError

    def pictures(self, index: Tensor) -> Tensor | None:
        """uint8 [B, 3, H, W]: what latents at `index` were made from; None where there are none."""
        return None


def open_source(data: Data) -> Source:
    """The Source that a Data describes. Raises UserError when its shapes are not the described ones."""
    from .latents import Latents  # Here, because both are Sources.
    from .miniature_scenes import Scenes

    objects = max(1, (data.text_length - 1) // 3)
    is_file = data.source == "latents"
    source = Latents(data.path, data.seed) if is_file else Scenes(data.resolution, objects, data.seed, data.source)
    check_shapes(data, source)
    return source
