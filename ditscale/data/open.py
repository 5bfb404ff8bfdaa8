"""From a data set's configuration to its Source."""

from __future__ import annotations

from ..config import Data
from ..errors import UserError
from .source import Source


def open_source(data: Data) -> Source:
    """The Source that a Data describes. Raises UserError when its shapes are not the described ones."""
    if data.source == "latents":
        from .latents import Latents

        source = Latents(data.path)
    else:
        from .miniature_scenes import Scenes

        source = Scenes(
            size=data.resolution, objects=max(1, (data.text_length - 1) // 3), seed=data.seed, style=data.source
        )
    described = {
        "channels": (data.channels, source.channels),
        "resolution": (data.resolution, source.height),
        "text_length": (data.text_length, source.text_length),
        "text_vocab": (data.text_vocab, source.text_vocab),
        "text_dim": (data.text_dim, source.text_dim),
    }
    for name, (said, found) in described.items():
        if said != found:
            raise UserError(
                f"data {data.name}: {name} is {said} in the configuration but {found} in the data; set "
                f"data.{name}={found}"
            )
    return source
