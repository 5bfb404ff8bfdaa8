"""One process on a run directory: a lock that the kernel drops when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

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
        while not self._take():
            if time.monotonic() > until:
                self.file.close()
                who = read_mapping(path)
                raise LockHeld(
                    f"{path.parent}: process {who.get('pid', '?')} on {who.get('host', '?')} is running it; "
                    "wait for it, or end it first"
                )
            time.sleep(0.005)
        self.file.truncate(0)
        self.file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        self.file.flush()

    def _take(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # This file system has no locks.
        return True

    def release(self):
        self.file.close()


def is_locked(path: Path) -> bool:
    """Whether a living process has the lock; False where there is no such file, or the file system has no locks."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
