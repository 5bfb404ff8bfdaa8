"""Signs of life of a running attempt, for `ditscale status`: one small JSON file, replaced about once a second."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from ..files import write_text
from . import fencing

EVERY_S = 1.0


class Heartbeat:
    """Writes heartbeat.json; `beat` is cheap to call often. It raises Fenced once a newer attempt is there."""

    def __init__(self, path: Path, n_images: int, every_s: float = EVERY_S):
        self.path, self.n_images, self.every_s, self.last, self.seen = path, n_images, every_s, 0.0, None

    def beat(self, phase: str, images: int, loss: float | None, flops_per_image: int, force: bool = False):
        """phase: "starting", "training", "reading" (a run that is this one's beginning), "validating", "evaluating";
        `loss` is the EMA of the training loss."""
        now = time.time()
        if not force and now - self.last < self.every_s:
            return
        fencing.check(self.path.parent)
        rate = None
        if phase != "training":
            self.seen = None  # what is measured meanwhile is no slower training
        elif self.seen and images > self.seen[1]:
            rate = (images - self.seen[1]) / (now - self.seen[0])
        if phase == "training" and (self.seen is None or now - self.seen[0] > 5 * self.every_s):
            self.seen = (now, images)
        self.last = now
        text = json.dumps(
            {
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
        )
        write_text(self.path, text, to_disk=False)
