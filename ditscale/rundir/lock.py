"""One process on a run directory: a lock that the kernel drops when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from ..errors import UserError
from ..files import read_mapping, unwritable

PATIENCE_S = 1.0  # `is_locked` takes the lock for microseconds; a run that starts at that moment tries again


class LockHeld(UserError):
    """Another process has the lock."""


class RunLock:
    """The run's lock, from construction to `release`. Raises LockHeld, naming the holder, when another process keeps it
    for PATIENCE_S. On a file system without locks it locks nothing: there claims (attempts.py) must suffice."""

    def __init__(self, path: Path):
        path = Path(path)
        try:
            self.file = open(path, "a+")
        except OSError as error:
            raise unwritable(path, error) from None
        until = time.monotonic() + PATIENCE_S
        while _refused(self.file, fcntl.LOCK_EX):
            if time.monotonic() > until:
                self.file.close()
                who = read_mapping(path)
                holder = f"process {who.get('pid', '?')} on {who.get('host', '?')}"
                raise LockHeld(f"{path.parent}: {holder} is running it; wait for it, or end it first")
            time.sleep(0.005)
        self.file.truncate(0)
        self.file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        self.file.flush()

    def release(self):
        self.file.close()


def is_locked(path: Path) -> bool:
    """Whether a living process has the lock; False where there is no such file, or the file system has no locks."""
    try:
        with open(path) as file:
            return _refused(file, fcntl.LOCK_SH)
    except OSError:
        return False


def _refused(file: IO, kind: int) -> bool:
    """Take a lock if possible, as on file systems without locks it never is; whether another process has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False
