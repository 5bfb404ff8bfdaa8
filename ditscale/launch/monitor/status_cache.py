"""How finished runs ended, as `status` has read it before: it need not open their records again. It only saves time,
goes by the records' times and sizes, and may be deleted at any moment."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...errors import UserError
from ...files import read_mapping, write_text
from ...naming import RunPaths


class Seen:
    """The content of jobs/seen.json."""

    def __init__(self, path: Path):
        self.path = path
        self.before = read_mapping(path)
        self.now = dict(self.before)

    def end(self, at: RunPaths) -> dict | None:
        """What was noted of this finished run, or None."""
        match self.now.get(at.name):
            case [[_, _] as stamp, dict(end)] if stamp == _stamp(at.metrics):
                return end
        return None

    def note_end(self, at: RunPaths, content: dict):
        """Note how a finished run ended."""
        self.now[at.name] = [_stamp(at.metrics), content]

    def save(self):
        """Write what is new; silently not where that cannot be: it only saves time."""
        if self.now != self.before and self.path.parent.is_dir():
            try:
                write_text(self.path, json.dumps(self.now), to_disk=False)
            except UserError:
                pass


def _stamp(path: Path) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size]
