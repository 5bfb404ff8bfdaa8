"""A metric over n images, in chunks: shared among ranks, and resumed after a kill.

A metric gives some numbers for each image and, from those of all, its value:

    columns            names of an image's numbers
    dtype              of these: float64, or float32 where they are many
    settings           all that decides them, beside the images and the seed
    rows(index)        those of the images at positions index [B]: [B, columns], and the model evaluations they took
    result(rows)       {"value", "se", "unit", and arrays by name} from all rows [n, columns]

So memory holds one chunk of images and a few numbers for each image. A finished chunk goes to a file of its own, under
a name made of all that decides it.
"""

from __future__ import annotations

import io
import sys
import time
import zipfile
from pathlib import Path
from typing import Callable, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import units
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..files import make_directory, remove, write_bytes

PROGRESS_S = 10.0


class Unmeasurable(UserError):
    """A metric of a model has no finite value, or takes no finite time. All ranks know it."""


class Metric(Protocol):
    name: str
    columns: list
    dtype: torch.dtype
    settings: dict

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]: ...

    def result(self, rows: np.ndarray) -> dict: ...


def measure(
    metric: Metric, n: int, chunk: int, parts: Path, ranks: Ranks, tick: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, float, float]:
    """Rows [n, columns] of all images, known to every rank; seconds of computing; model evaluations of an image.

    parts: the directory of finished chunks, by whichever rank of whichever attempt. All ranks meet after each round of
    chunks, so none waits longer than one takes, and call `tick`. Raises Unmeasurable, on
    all of them, when an image's numbers are not finite or its metric says so.
    """
    starts = range(0, n, chunk)
    rows = torch.zeros(n, len(metric.columns), dtype=metric.dtype)
    sums = torch.zeros(2, dtype=torch.float64)  # seconds, evaluations
    done = torch.zeros(len(starts), dtype=torch.int64)
    if ranks.first:
        make_directory(parts)
        for i, start in enumerate(starts):
            found = _read(parts / f"{start}.npz", min(chunk, n - start), len(metric.columns))
            if found:
                done[i] = 1
                rows[start : start + chunk] = torch.from_numpy(found["rows"])
                sums += torch.from_numpy(found["sums"])
    ranks.all_reduce(done)
    missing = [start for start, there in zip(starts, done.tolist()) if not there]
    told = time.monotonic()
    for first in range(0, len(missing), ranks.world):
        mine = missing[first : first + ranks.world][ranks.rank : ranks.rank + 1]
        error = None
        for start in mine:
            began = time.monotonic()
            index = torch.arange(start, min(start + chunk, n))
            try:
                values, evaluations = metric.rows(index)
                made = np.array([time.monotonic() - began, evaluations], dtype=float)
                rows[index], sums = torch.from_numpy(values), sums + torch.from_numpy(made)
                _write(parts / f"{start}.npz", values, made)
            except UserError as trouble:
                error = trouble
        if not ranks.all_true(error is None):
            raise error or Unmeasurable(f"{metric.name}: another rank cannot measure it, and says why")
        tick()
        if ranks.first and time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            print(
                f"  {metric.name}: {units.count(min(n, n - len(missing[first + ranks.world :]) * chunk))} of {n} "
                "images",
                file=sys.stderr,
                flush=True,
            )
    ranks.all_reduce(rows)
    ranks.all_reduce(sums)
    return rows.numpy(), float(sums[0]), float(sums[1]) / n


def clear(parts: Path):
    """Delete the chunks of a measurement whose result is written."""
    for path in parts.glob("*.npz"):
        remove(path)
    for directory in (parts, parts.parent):
        try:
            directory.rmdir()
        except OSError:
            return  # others are in it


def _write(path: Path, rows: np.ndarray, sums: np.ndarray):
    if not np.isfinite(rows).all():
        raise Unmeasurable(
            f"{path.parent.name}: image {path.stem} and following give numbers that are not finite; the model has "
            "diverged"
        )
    memory = io.BytesIO()
    np.savez(memory, rows=rows, sums=sums)
    write_bytes(path, memory.getvalue(), to_disk=False)


def _read(path: Path, n: int, columns: int) -> dict | None:
    """A finished chunk; None when it is missing or a machine went down on it."""
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in ("rows", "sums")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if found["rows"].shape == (n, columns) else None
