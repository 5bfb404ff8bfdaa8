"""Signs of life of a running attempt, for `ditscale status`: one small JSON file, replaced about once a second."""

import json
import os
import socket
import time
from pathlib import Path

from ..files import write_text
from . import fencing

EVERY_S = 1.0


class Heartbeat:
    """Writes heartbeat.json; `beat` is cheap to call often. It raises Fenced once a newer attempt exists."""

    def __init__(self, path: Path, n_images: int, every_s: float = EVERY_S):
        self.path, self.n_images, self.every_s, self.last = path, n_images, every_s, 0.0
        self.speed_from: tuple[float, int] | None = None  # time and images between which and now the speed is taken

    def beat(self, phase: str, images: int, loss: float | None, flops_per_image: int, force: bool = False):
        """phase: "starting", "training", "reading" (a nested run is trained), "validating", "evaluating"; `loss` is the
        EMA of the training loss."""
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
        self.last = now
        content = {
            "phase": phase,
            "images": images,
            "n_images": self.n_images,
            "loss": loss,
            "images_per_s": rate,
            "flops_per_s": rate * flops_per_image if rate else None,
            "unix": now,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        write_text(self.path, json.dumps(content), to_disk=False)
