"""The transformer, but for its size."""

from __future__ import annotations

from dataclasses import dataclass

from .. import units
from ..errors import UserError, one_of

DESIGNS = ("incontext", "crossattention")


@dataclass(frozen=True)
class Design:
    """The transformer, but for its size. Which tokens attend to which is the design's name."""

    name: str
    head_size: int = 64
    mlp_ratio: int = 4
    patch: int = 2  # pixels (or latent cells) on a side of a patch
    time_features: int = 256  # sine and cosine features of t before the time MLP
    qk_norm: bool = True

    def check(self, where: str):
        one_of(self.name, DESIGNS, f"{where}.name")
        for name in ("head_size", "mlp_ratio", "patch", "time_features"):
            units.whole(getattr(self, name), f"{where}.{name}", low=1)
        if self.time_features % 2:
            raise UserError(f"{where}.time_features: {self.time_features} is odd; sines and cosines come in pairs")
