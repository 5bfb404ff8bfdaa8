"""A rank's share of every batch: images, captions, noise and timesteps, each a function of the position in the stream."""

from __future__ import annotations

from typing import Iterator

import torch
from torch import Tensor

from ..data.captions import Dropout
from ..data.source import Source
from ..diffusion.rectified_flow import Noise

CHUNK = 1024  # images made at once: one call's overhead is shared by many steps


def stream(
    source: Source, noise: Noise, captions: Dropout, first: int, last: int, batch_size: int, rank: int, world: int, device
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (x0, text, eps, t) of this rank for each batch from position `first` up to `last`.

    Batch k holds positions k * batch_size onwards; rank r takes the r-th of `world` equal parts, in order, so the union
    over ranks is the same for every world size.
    """
    share = batch_size // world
    steps_at_once = max(1, CHUNK // share)
    for start in range(first, last, steps_at_once * batch_size):
        stop = min(last, start + steps_at_once * batch_size)
        index = torch.arange(start, stop).view(-1, world, share)[:, rank].reshape(-1)
        x0, text = source.batch(index)
        x0, text = (part.to(device, non_blocking=True) for part in (x0, captions(index, text)))
        eps, t = noise.draw(index.to(device), x0.shape)
        yield from zip(*(part.split(share) for part in (x0, text, eps, t)))
