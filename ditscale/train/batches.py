"""A rank's share of every batch: images, captions, noise and timesteps, each a function of the position in the
stream."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..data.captions import Dropout
from ..data.source import Source
from ..diffusion.rectified_flow import Noise

CHUNK = 1024  # images made at once: one call's overhead is shared by many steps
AHEAD = 2  # chunks made for a GPU before it asks for them; a CPU that trains has no core to spare


def stream(
    source: Source,
    noise: Noise,
    captions: Dropout,
    first: int,
    last: int,
    batch_size: int,
    rank: int,
    world: int,
    device,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (x0, text, eps, t) of this rank for each batch from position `first` up to `last`.

    Batch k holds positions k * batch_size onwards; rank r takes the r-th of `world` equal parts, in order, so the union
    over ranks is the same for every world size.
    """
    share = batch_size // world
    steps_at_once = max(1, CHUNK // share)
    cuda = device.type == "cuda"

    def read(start: int) -> tuple[Tensor, Tensor, Tensor]:
        index = (
            torch.arange(start, min(last, start + steps_at_once * batch_size))
            .view(-1, world, share)[:, rank]
            .reshape(-1)
        )
        made = index, *source.read(index)
        return tuple(part.pin_memory() for part in made) if cuda else made

    starts = range(first, last, steps_at_once * batch_size)
    for chunk in ahead(read, starts) if cuda else map(read, starts):
        index, x0, text = (part.to(device, non_blocking=True) for part in chunk)
        x0, text = source.normalise(x0, text)  # here, not in the thread: a GPU has hardly anything to do for it
        text = captions(index, text)
        eps, t = noise.draw(index, x0.shape)
        yield from zip(*(part.split(share) for part in (x0, text, eps, t)))


def ahead(make: Callable, arguments: Iterable) -> Iterator:
    """`make` of each argument, in order; AHEAD of them are made in a thread before they are asked for."""
    with ThreadPoolExecutor(1, "ahead") as worker:
        waiting = deque()
        try:
            for argument in arguments:
                waiting.append(worker.submit(make, argument))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            worker.shutdown(cancel_futures=True)
