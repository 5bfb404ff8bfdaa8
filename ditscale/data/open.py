"""From a data set's configuration to its Source."""

from ..config import SHAPE, Data
from ..errors import UserError
from .source import Source


def open_source(data: Data) -> Source:
    """The Source that a Data describes. Raises UserError when its shapes are not the described ones."""
    source: Source
    if data.source == "latents":
        from .latents import Latents

        source = Latents(data.path)
    else:
        from .miniature_scenes import Scenes

        source = Scenes(
            size=data.resolution, objects=max(1, (data.text_length - 1) // 3), seed=data.seed, style=data.source
        )
    for name in SHAPE:
        described, actual = getattr(data, name), getattr(source, name)
        if described != actual:
            raise UserError(
                f"data {data.name}: {name} is {described} in the configuration but {actual} in the data; set "
                f"data.{name}={actual}"
            )
    return source
