"""The transformer, but for its size."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from ..errors import UserError, one_of
from .mapping import PositiveInt


@dataclass(frozen=True)
class Design:
    """The transformer, but for its size. Which tokens attend to which is the design's name."""

    name: Annotated[str, partial(one_of, valid=("incontext", "crossattention"))]
    head_size: PositiveInt = 64
    mlp_ratio: PositiveInt = 4
    patch: PositiveInt = 2  # Pixels (or latent cells) on a side of a patch.
    time_features: PositiveInt = 256  # Sine and cosine features of t before the time MLP.
    qk_norm: bool = True

    def check(self, where: str):
        if self.time_features % 2:
            raise UserError(f"{where}.time_features: {self.time_features} is odd; sines and cosines come in pairs")


def check_width(width: int, head_size: int, where: str):
    """Raise UserError unless heads of this size fill the width."""
    if width % head_size:
        use = max(1, round(width / head_size)) * head_size
        raise UserError(f"{where} {width} is not a multiple of the head size {head_size}; use {use}")
