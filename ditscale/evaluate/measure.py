"""A metric over n images, in chunks: shared among ranks, and, as each has a file, resumed after a kill."""

import io
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Collection, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import units
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..files import make_directory, remove, write_bytes
from ..logs import log

PROGRESS_S = 10.0  # Seconds between messages about progress.


class Unmeasurable(UserError):
    """A metric of a model has no finite value, or takes no finite time. All ranks raise it."""


class Value(NamedTuple):
    value: float  # of a metric over all images
    se: float
    unit: str
    arrays: dict[str, np.ndarray]  # further numbers by name


class PerImage(Protocol):
    """Some numbers for each image: `columns` of them, of type `dtype` (float32 where they are many)."""

    name: str
    dtype: torch.dtype

    @property
    def columns(self) -> Collection: ...

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        """The numbers [B, columns] of the images at positions index [B], and the model evaluations they took."""


class Metric(PerImage, Protocol):
    """A value computed from the numbers of all images. settings: all that decides it, besides images and seed."""

    settings: dict

    def result(self, rows: np.ndarray) -> Value: ...


class Workers(NamedTuple):
    ranks: Ranks
    parts: Path  # the directory of finished chunks
    tick: Callable[[], None] = lambda: None  # what every rank calls, in step, after each round of chunks


def measure(metric: PerImage, n: int, chunk: int, name: str, workers: Workers) -> tuple[np.ndarray, float, float]:
    """Rows [n, columns] of all images, on every rank; seconds of computing; model evaluations per image. name: of the
    directory of finished chunks, whichever rank of whichever attempt computed them. Ranks wait for each other after
    each round of chunks. Raises Unmeasurable, on all, when an image's numbers are not finite or its metric says so."""
    ranks, parts = workers.ranks, workers.parts / name
    starts = range(0, n, chunk)
    rows = torch.zeros(n, len(metric.columns), dtype=metric.dtype)
    costs = torch.zeros(2, dtype=torch.float64)  # Seconds, and evaluations.
    done = torch.zeros(len(starts), dtype=torch.int64)
    if ranks.first:
        make_directory(parts)
        for i, start in enumerate(starts):
            stored = load_arrays(parts / f"{start}.npz", "rows", "sums")
            if stored and stored[0].shape == rows[start : start + chunk].shape:
                done[i] = 1
                rows[start : start + chunk] = torch.from_numpy(stored[0])
                costs += torch.from_numpy(stored[1])
    ranks.all_reduce(done)
    missing = [start for start, finished in zip(starts, done.tolist()) if not finished]
    reported = time.monotonic()
    for i in range(0, len(missing), ranks.world):
        error = None
        for start in missing[i : i + ranks.world][ranks.rank : ranks.rank + 1]:
            began = time.monotonic()
            index = torch.arange(start, min(start + chunk, n))
            try:
                values, evaluations = metric.rows(index)
                cost = np.array([time.monotonic() - began, evaluations], dtype=float)
                if not np.isfinite(values).all():
                    raise Unmeasurable(f"{metric.name}: not finite from image {start} on; the model has diverged")
                rows[index], costs = torch.from_numpy(values), costs + torch.from_numpy(cost)
                save_arrays(parts / f"{start}.npz", to_disk=False, rows=values, sums=cost)
            except UserError as reason:
                error = reason
        if not ranks.all_true(error is None):
            raise error or Unmeasurable(f"{metric.name}: cannot be measured; another rank reports the reason")
        workers.tick()
        if ranks.first and time.monotonic() - reported > PROGRESS_S:
            reported = time.monotonic()
            images = n - sum(min(chunk, n - start) for start in missing[i + ranks.world :])
            log.info(f"  {metric.name}: {units.count(images)} of {n} images")
    ranks.all_reduce(rows)
    ranks.all_reduce(costs)
    return rows.numpy(), float(costs[0]), float(costs[1]) / n


def clear(parts: Path):
    for path in parts.glob("*.npz"):
        remove(path)
    with suppress(OSError):  # It holds the chunks of other measurements.
        parts.rmdir()
        parts.parent.rmdir()


def save_arrays(path: Path, to_disk: bool = True, **arrays: Any):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue(), to_disk)


def load_arrays(path: Path, *names: str) -> list[np.ndarray] | None:
    """Arrays of an npz file; None where the file is missing or was cut short by a crash."""
    try:
        with np.load(path) as file:
            return [file[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
