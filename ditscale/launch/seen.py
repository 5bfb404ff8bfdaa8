"""What `status` has read before and cannot have changed: each run.yaml, and how finished runs ended. It only saves time
(2,000 runs in a second or two), is known by the files' times and sizes, and may be deleted at any moment."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..config import build, plain
from ..errors import UserError
from ..files import write_text
from ..naming import RunPaths
from ..plan.run import Run, read_run


class Seen:
    """The content of jobs/seen.json."""

    def __init__(self, path: Path):
        self.path, self.now = path, {}  # now: what this process has read or found unchanged
        try:
            self.before = json.loads(path.read_text())
        except (OSError, ValueError):
            self.before = {}

    def run(self, at: RunPaths) -> Run:
        """The content of run.yaml."""
        found, stamp = self.before.get(at.name, {}), _stamp(at.run)
        if found.get("run_stamp") == stamp:
            self.now[at.name] = found
            return build(Run, found["run"], str(at.run))
        run = read_run(at.run)
        self.now[at.name] = {"run_stamp": stamp, "run": plain(run)}
        return run

    def end(self, at: RunPaths) -> dict | None:
        """What was noted of this finished run, or None."""
        found = self.now.get(at.name, {})
        return found.get("end") if found.get("end_stamp") == _stamp(at.metrics) else None

    def note_end(self, at: RunPaths, content: dict):
        """Note how a finished run ended."""
        self.now[at.name] = self.now[at.name] | {"end_stamp": _stamp(at.metrics), "end": content}

    def save(self):
        """Write what is new; silently not where that cannot be: it only saves time."""
        content = self.before | self.now
        if content != self.before and self.path.parent.is_dir():
            try:
                write_text(self.path, json.dumps(content))
            except UserError:
                pass


def _stamp(path: Path) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size]
