"""A data set."""

from __future__ import annotations

from dataclasses import dataclass

from .. import units
from ..errors import UserError, one_of

SOURCES = ("scenes", "scenes-ood", "latents")


@dataclass(frozen=True)
class Data:
    """A data set: where its images and captions come from, and the shapes the model must have for them."""

    name: str
    source: str  # a key of ditscale.data.SOURCES
    channels: int
    resolution: int  # pixels or latent cells on a side
    text_length: int  # tokens of a caption
    text_vocab: int = 0  # size of the vocabulary when captions come as token ids ...
    text_dim: int = 0  # ... or width of the frozen text encoder's features when they come as features
    seed: int = 0
    path: str = ""  # for sources that read files

    def check(self, where: str):
        one_of(self.source, SOURCES, f"{where}.source")
        for name in ("channels", "resolution", "text_length"):
            units.whole(getattr(self, name), f"{where}.{name}", low=1)
        if (self.text_vocab > 0) == (self.text_dim > 0):
            raise UserError(f"{where}: give either text_vocab (captions as ids) or text_dim (captions as features)")
