"""A rank's share of every batch: images, captions, noise and timesteps, functions of the position in the stream."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, Iterator, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..data.source import Source
from ..diffusion.rectified_flow import draw_noise, drop_captions
from ..distributed.ranks import Ranks
from ..plan.run import Run

CHUNK = 1024  # Images read at once, so that many steps share the overhead of one call.
AHEAD = 2  # Chunks read before a GPU needs them. A CPU that trains has no core to spare for that.
T = TypeVar("T")


class Batch(NamedTuple):
    x0: Tensor  # images [n, C, H, W]
    text: Tensor  # [n, T] ids, or [n, T, text_dim] features
    eps: Tensor  # noise [n, C, H, W]
    t: Tensor  # timesteps [n]

    def split(self, size: int) -> Iterator[Batch]:
        return map(Batch._make, zip(*(part.split(size) for part in self)))


def stream(source: Source, run: Run, positions: range, ranks: Ranks) -> Iterator[Batch]:
    """This rank's share of each batch of the positions: the r-th of `world` parts, whose union is always the same."""
    recipe, share = run.recipe, run.recipe.batch_size // ranks.world
    chunk_size = max(1, CHUNK // share) * recipe.batch_size
    cuda = ranks.device.type == "cuda"

    def read(start: int) -> list[Tensor]:
        chunk = torch.arange(start, min(positions.stop, start + chunk_size))
        index = chunk.view(-1, ranks.world, share)[:, ranks.rank].reshape(-1)
        parts = [index, *source.read(index)]
        return [part.pin_memory() for part in parts] if cuda else parts

    starts = range(positions.start, positions.stop, chunk_size)
    for chunk in ahead(read, starts) if cuda else map(read, starts):
        index, x0, text = (part.to(ranks.device, non_blocking=True) for part in chunk)
        x0, text = source.normalise(x0, text)  # Here, not in the thread: it is little work for a GPU.
        text = drop_captions(run.seed, recipe.caption_dropout, index, text)
        yield from Batch(x0, text, *draw_noise(run.seed, recipe.timesteps, index, x0.shape)).split(share)


def ahead(make: Callable[[Any], T], arguments: Iterable[Any]) -> Iterator[T]:
    """`make` of each argument, in order; AHEAD of them are made in a thread before they are asked for."""
    with ThreadPoolExecutor(1, "ahead") as worker:
        pending: deque[Future[T]] = deque()
        try:
            for argument in arguments:
                pending.append(worker.submit(make, argument))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            yield from (future.result() for future in pending)
        finally:
            worker.shutdown(cancel_futures=True)
