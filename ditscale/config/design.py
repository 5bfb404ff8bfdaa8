"""The transformer, but for its size."""

from dataclasses import dataclass
from typing import Literal

from .mapping import PositiveInt, Problems


@dataclass(frozen=True)
class Design:
    """The transformer, but for its size. Which tokens attend to which is the design's name."""

    name: Literal["incontext", "crossattention"]
    head_size: PositiveInt = 64
    mlp_ratio: PositiveInt = 4
    patch: PositiveInt = 2  # Pixels (or latent cells) on a side of a patch.
    time_features: PositiveInt = 256  # Sine and cosine features of t before the time MLP.
    qk_norm: bool = True

    def problems(self) -> Problems:
        if self.time_features % 2:
            yield "time_features", f"{self.time_features} is odd; sines and cosines come in pairs"


def width_problem(width: int, head_size: int) -> str:
    """What is wrong with a width that heads of this size do not fill; "" where they do."""
    use = max(1, round(width / head_size)) * head_size
    return f"{width} is not a multiple of the head size {head_size}; use {use}" if width % head_size else ""
