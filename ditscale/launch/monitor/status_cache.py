"""The status cache, jobs/seen.json: how finished runs ended, so that `status` need not open their records again. An
entry counts while its record has the same time and size; the file may be deleted at any moment."""

import json
import os
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import of_kinds, read_mapping, write_text
from ...naming import RunPaths


class StatusCache:
    """The content of the file; `kinds` are the keys of an entry and their types."""

    def __init__(self, path: Path, kinds: dict[str, Any]):
        self.path, self.kinds = path, kinds
        self.before = read_mapping(path)
        self.now = dict(self.before)

    def get(self, at: RunPaths) -> dict[str, Any] | None:
        """The entry of a finished run; None where there is none, or it is damaged, outdated or of an older version."""
        match self.now.get(at.name):
            case [[_, _] as stamp, dict(entry)] if stamp == _stamp(at.metrics):
                return entry if entry.keys() == self.kinds.keys() and of_kinds(entry, self.kinds) else None
        return None

    def put(self, at: RunPaths, entry: dict[str, Any]):
        self.now[at.name] = [_stamp(at.metrics), entry]

    def save(self):
        """Write what is new. On a disk that cannot be written nothing happens: the cache only saves time."""
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
