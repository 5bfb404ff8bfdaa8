"""Serves runs of several real ranks: torch is imported once, and every rank is a fork of this process.

A line on stdin: {"run": directory, "world": n, "per_node": n, "env": {...}}. Two lines on stdout: the ranks' process ids, then, when all
have ended, [[exit status, what it printed], ...].
"""

import json
import os
import sys
import tempfile
import traceback

import ditscale.train.loop as loop
from ditscale.errors import UserError
from ditscale.train.ends import Diverged, Stopped


def rank(job: dict, number: int, log) -> int:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    os.environ.update(
        SUBMITIT_LOCAL_GLOBALID=str(number),
        SUBMITIT_LOCAL_LOCALID=str(number % job["per_node"]),
        SUBMITIT_LOCAL_NTASKS=str(job["world"]),
        SUBMITIT_LOCAL_JOB_ID=str(os.getppid()) + "-" + str(job["number"]),
        LOCAL_WORLD_SIZE=str(job["per_node"]),
        **job["env"],
    )
    try:
        print(loop.train(job["run"]), flush=True)
        return 0
    except (Stopped, Diverged, UserError) as reason:
        print(f"{type(reason).__name__}: {reason}", flush=True)
        return 130 if isinstance(reason, Stopped) else 2
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


for number, line in enumerate(sys.stdin):
    job = json.loads(line) | {"number": number}
    logs = [tempfile.TemporaryFile("w+") for _ in range(job["world"])]
    pids = []
    for i, log in enumerate(logs):
        pids.append(os.fork())
        if not pids[-1]:
            os._exit(rank(job, i, log))
    print(json.dumps(pids), flush=True)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    texts = []
    for log in logs:
        log.seek(0)
        texts.append(log.read())
    print(json.dumps(list(zip(ends, texts))), flush=True)
