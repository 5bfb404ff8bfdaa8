"""Workers that are timed at once: each is started, says "ready" when it is, waits for a line, works, and prints its
speed."""

from __future__ import annotations

import os
import subprocess
import sys


def speeds(n: int, script: str, *words, **env: str) -> list[float]:
    """What n workers say of themselves, `script` with these words being each one's command. Ends the program where one
    has ended before it was ready; why, it has said."""
    command = [sys.executable, script, *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | env}
    workers = [subprocess.Popen(command, **pipes) for _ in range(n)]
    if not all([worker.stdout.readline() == "ready\n" for worker in workers]):
        for worker in workers:
            worker.kill()
        sys.exit(f"{script}: a worker has ended, see above")
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    found = [float(worker.stdout.readline()) for worker in workers]
    for worker in workers:
        worker.wait()
    return found


def wait():
    """A worker is ready, and waits for the others."""
    print("ready", flush=True)
    sys.stdin.readline()
