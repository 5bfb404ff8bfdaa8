"""A data set."""

from dataclasses import dataclass
from typing import Literal, Self

from ..errors import UserError
from .mapping import PositiveInt, Problems

SHAPE = ("channels", "resolution", "text_length", "text_vocab", "text_dim")  # The fields that a model is built for.


@dataclass(frozen=True)
class Data:
    """A data set: where its images and captions come from, and the shapes the model must have for them."""

    name: str
    source: Literal["scenes", "scenes-ood", "latents"]
    channels: PositiveInt
    resolution: PositiveInt  # Pixels or latent cells on a side.
    text_length: PositiveInt  # Tokens of a caption.
    text_vocab: int = 0  # Size of the vocabulary, when captions are token ids.
    text_dim: int = 0  # Width of the frozen text encoder's features, when captions are features.
    seed: int = 0
    path: str = ""  # The file, for sources that read files.

    def problems(self) -> Problems:
        if (self.text_vocab > 0) == (self.text_dim > 0):
            yield "text_vocab", "give either text_vocab (captions as ids) or text_dim (captions as features)"

    def check_shape(self, trained_on: Self):
        """Raise UserError where a model that was trained on another data set cannot take this one."""
        for name in SHAPE:
            here, there = getattr(self, name), getattr(trained_on, name)
            if here != there:
                text = f"{name} is {here}, but the model is trained on {there}"
                raise UserError(f"data {self.name}: {text}; evaluate it on images and captions of its own shape")
