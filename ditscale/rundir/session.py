"""What the one process that writes a run's directory does: lock, heartbeat, record and end. Without torch."""

import json
import math
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Self

import numpy as np

from ..config import dump_yaml, plain
from ..errors import UserError
from ..files import write_text
from ..naming import RunPaths
from ..plan.run import Run
from . import checkpoints, fencing
from .lock import RunLock
from .outcomes import Diverged, Stopped, note_failure
from .record import VALIDATION, Record
from .strata import standard_error

LOSS_EMA = 0.9  # the paper smooths the training loss with this coefficient
EVERY_S = 1.0  # between heartbeats


@contextmanager
def owning_run(at: RunPaths, lock: RunLock | None = None) -> Iterator[None]:
    """Take the run's lock, or take over `lock`, for the `with` block. An error inside, but not a request to stop, is
    written to failure.json. Raises UserError when another process has the lock, Fenced when a newer attempt writes."""
    lock = lock or RunLock(at.lock)
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        fencing.check()
        note_failure(at, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        raise
    finally:
        lock.release()


class Heartbeat:
    """Signs of life for `ditscale status`: heartbeat.json, one small file that `beat` replaces every `every_s`."""

    def __init__(self, path: Path, n_images: int, every_s: float = EVERY_S):
        self.path, self.n_images, self.every_s, self.last = path, n_images, every_s, 0.0
        self.speed_from: tuple[float, int] | None = None  # time and images between which and now the speed is taken

    def beat(self, phase: str, images: int, loss: float | None, flops_per_image: int, force: bool = False):
        """phase: "starting", "training", "reading" (a nested run is trained), "validating", "evaluating"; `loss` is the
        EMA of the training loss. Cheap to call often. Raises Fenced once a newer attempt exists."""
        now = time.time()
        if not force and now - self.last < self.every_s:
            return
        fencing.check()
        rate = None
        if phase != "training":
            self.speed_from = None  # the time of other phases does not count as slow training
        elif self.speed_from and images > self.speed_from[1]:
            rate = (images - self.speed_from[1]) / (now - self.speed_from[0])
        if phase == "training" and (self.speed_from is None or now - self.speed_from[0] > 5 * self.every_s):
            self.speed_from = (now, images)
        self.last, flops_per_s = now, rate * flops_per_image if rate else None
        content = {"phase": phase, "images": images, "n_images": self.n_images, "loss": loss, "images_per_s": rate}
        content |= {"flops_per_s": flops_per_s, "unix": now, "pid": os.getpid(), "host": socket.gethostname()}
        write_text(self.path, json.dumps(content), to_disk=False)


class Writer:
    """One attempt's record and heartbeat, open from its start at `images` until the `with` block is left. Leaving it by
    Stopped or Diverged gives the record that state. `beat_s`: seconds between heartbeats."""

    def __init__(
        self, at: RunPaths, run: Run, images: int, ranks: int, begun: np.ndarray | None = None, beat_s: float = EVERY_S
    ):
        """begun: the first rows of a nested run, of dtype STEP, which its parent run has recorded."""
        self.at, self.run = at, run
        self.heart = Heartbeat(at.heartbeat, run.n_images, beat_s)
        self.beat("starting", images, None, force=True)
        self.names, mark = [data.name for data in (run.data, *run.validation.also.values())], str(run.rehearsal or "")
        self.record = Record(at.metrics, dump_yaml(plain(run)), run.steps, self.names, run.validation.n, mark)
        self.measure = self.record.measure
        self.record.begin(time.time(), images, ranks, socket.gethostname())
        if begun is not None:
            self.record.write_steps(0, begun)
        # Training seconds that earlier attempts spent on the images that the run keeps.
        last = images // run.recipe.batch_size - 1
        self.elapsed_before = float(self.record.file["steps"][last]["elapsed_s"]) if images else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: Any, reason: BaseException | None, _trace: Any) -> None:
        try:
            if isinstance(reason, (Stopped, Diverged)):
                self.record.end("stopped" if isinstance(reason, Stopped) else "diverged", time.time())
        finally:
            self.record.close()

    def beat(self, phase: str, images: int, loss: float | None, force: bool = False):
        """Write the heartbeat, if it is due or with `force`; raises Fenced when a newer attempt writes this run."""
        self.heart.beat(phase, images, loss, self.run.flops_per_image, force)

    def write_steps(self, first: int, rows: np.ndarray):
        """Record rows of dtype STEP from step number `first` (from 0) on, then the heartbeat."""
        self.record.write_steps(first, rows)
        self.beat("training", int(rows["images"][-1]), float(rows["loss_ema"][-1]))

    def write_validation(self, i: int, images: int, loss: float, raw: float, samples: np.ndarray, seconds: float = 0):
        """Record the losses of the i-th data set; `samples` are those of each triple, and give the standard error."""
        row = np.array((self.names[i].encode(), images, loss, standard_error(samples), raw, seconds), VALIDATION)
        self.record.write_validation(i, row, samples)

    def finish(self):
        """All is saved and measured: set the state to finished and delete the checkpoints for resuming."""
        self.record.end("finished", time.time())
        checkpoints.clear(self.at.checkpoint)


def smoothed(before: float, loss: float) -> float:
    """The loss's EMA after a step; NaN before the first, which starts it."""
    return loss if math.isnan(before) else LOSS_EMA * before + (1 - LOSS_EMA) * loss
