"""One process on a run directory: a lock the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from ..errors import UserError
from ..files import read_mapping

PATIENCE_S = 1.0  # is_locked holds a lock of its own for microseconds; a run that starts then tries again


class LockHeld(UserError):
    """Another process has the lock."""


class RunLock:
    """Held from construction to `release`. Raises LockHeld, naming the holder, when another process has it for longer
    than a look takes. On a file system without locks it holds nothing: there claims (rundir/attempts.py) must do."""

    def __init__(self, path: Path):
        path = Path(path)
        try:
            self.file = open(path, "a+")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        if not _within(PATIENCE_S, self._take):
            self.file.close()
            who = read_mapping(path)
            raise LockHeld(
                f"{path.parent}: process {who.get('pid', '?')} on {who.get('host', '?')} is running it; "
                f"wait for it, or end it first"
            )
        self.file.truncate(0)
        self.file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        self.file.flush()

    def _take(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks here
        return True

    def release(self):
        self.file.close()


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or no locks here
        return False
    return False


def _within(seconds: float, true) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
