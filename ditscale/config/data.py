"""A data set."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Self

from ..errors import UserError, one_of
from .mapping import PositiveInt

SHAPE = ("channels", "resolution", "text_length", "text_vocab", "text_dim")  # The fields that a model is built for.


@dataclass(frozen=True)
class Data:
    """A data set: where its images and captions come from, and the shapes the model must have for them."""

    name: str
    source: Annotated[str, partial(one_of, valid=("scenes", "scenes-ood", "latents"))]
    channels: PositiveInt
    resolution: PositiveInt  # Pixels or latent cells on a side.
    text_length: PositiveInt  # Tokens of a caption.
    text_vocab: int = 0  # Size of the vocabulary, when captions are token ids.
    text_dim: int = 0  # Width of the frozen text encoder's features, when captions are features.
    seed: int = 0
    path: str = ""  # The file, for sources that read files.

    def check(self, where: str):
        if (self.text_vocab > 0) == (self.text_dim > 0):
            raise UserError(f"{where}: give either text_vocab (captions as ids) or text_dim (captions as features)")

    def check_shape(self, trained_on: Self):
        """Raise UserError where a model that was trained on another data set cannot take this one."""
        for name in SHAPE:
            if getattr(self, name) != getattr(trained_on, name):
                raise UserError(
                    f"data {self.name}: {name} is {getattr(self, name)}, but the model is trained on "
                    f"{getattr(trained_on, name)}; evaluate it on images and captions of its own shape"
                )
