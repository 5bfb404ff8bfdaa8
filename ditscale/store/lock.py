"""One process on a run directory: a lock the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from ..errors import UserError


class RunLock:
    """Held from construction to `release`. Raises UserError, naming the holder, when another process has it."""

    def __init__(self, path: Path):
        path = Path(path)
        try:
            self.file = open(path, "a+")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.seek(0)
            holder = self.file.read().strip() or "{}"
            self.file.close()
            who = json.loads(holder) if holder.startswith("{") else {}
            raise UserError(
                f"{path.parent}: process {who.get('pid', '?')} on {who.get('host', '?')} is running it; "
                f"wait for it, or end it first"
            ) from None
        self.file.truncate(0)
        self.file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        self.file.flush()

    def release(self):
        self.file.close()


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
