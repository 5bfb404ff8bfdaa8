"""Serves runs of several real ranks: torch is imported once, and every rank is a fork of this process.

A line on stdin: {"run": directory, "world": n, "per_node": n, "env": {...}, "short": [rank, images]}; PRODUCTS=onednn
in env has all projections done by oneDNN. Two lines on stdout: the ranks' process ids, then, when all have ended,
[[exit status, what it printed], ...].
"""

import itertools
import json
import os
import sys
import tempfile
import traceback

import ditscale.model.projection as projection
from ditscale import logs
from ditscale.errors import UserError
from ditscale.rundir.outcomes import Diverged, Stopped
from ditscale.train import loop, step


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
    logs.show()
    if job["env"].get("PRODUCTS") == "onednn":
        projection.MIN_PRODUCTS, projection.mkl_is_slow = 0, lambda: True
    if job["short"] and job["short"][0] == number:
        short_of_memory(job["short"][1])
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


def short_of_memory(images: int):
    """From the third step on, the allocator refuses what a pass with more images needs."""
    losses, passes = step.losses, itertools.count()

    def refused(model, x0, *others):
        made = losses(model, x0, *others)  # the other ranks wait for this one in the backward pass
        if len(x0) > images and next(passes) >= 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                "1 bytes."
            )
        return made

    step.losses = refused


for number, line in enumerate(sys.stdin):
    job = json.loads(line) | {"number": number}
    outputs = [tempfile.TemporaryFile("w+") for _ in range(job["world"])]
    pids = []
    for i, log in enumerate(outputs):
        pids.append(os.fork())
        if not pids[-1]:
            os._exit(rank(job, i, log))
    print(json.dumps(pids), flush=True)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    texts = []
    for log in outputs:
        log.seek(0)
        texts.append(log.read())
    print(json.dumps(list(zip(ends, texts))), flush=True)
