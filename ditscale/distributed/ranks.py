"""The ranks of a run: how they find each other, and their collective operations."""

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..errors import UserError
from ..files import read_mapping, write_text
from ..process import this_process
from ..rundir.outcomes import Closed
from .liveness import GRACE_S, Liveness

MEET_S = 120  # for all ranks to find each other
KNOCK_S = 10  # for rank 0 to answer at a published address
TIMEOUT_S = 600  # Of a collective: ranks differ in how long they compile or read. A death is noticed by liveness.py.


@dataclass(frozen=True)
class Ranks:
    """This process's rank in 0..world-1, its device, and the number of ranks per node (nodes are filled one by one)."""

    rank: int
    world: int
    device: torch.device
    per_node: int = 1
    runs_per_gpu: int = 1
    liveness: Liveness | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def all_reduce(self, values: torch.Tensor, op: Any = dist.ReduceOp.SUM):
        if self.world > 1:
            dist.all_reduce(values, op=op)

    def broadcast(self, value: Any, group: dist.ProcessGroup | None = None) -> Any:
        holder = [value]
        if self.world > 1:
            dist.broadcast_object_list(holder, src=0, group=group, device=torch.device("cpu"))
        return holder[0]

    def all_true(self, good: bool) -> bool:
        flag = torch.tensor(float(good), device=self.device)
        self.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)

    def barrier(self):
        """Wait for all ranks. Who leaves while others still talk to it can abort in gloo's threads."""
        if self.world > 1:
            dist.barrier()

    def peer_died(self, error: Exception) -> bool:
        """Whether the cause of a collective's error is another rank's death."""
        return self.liveness is not None and isinstance(error, RuntimeError) and self.liveness.peer_died(within_s=5)

    def close(self, orderly: bool):
        """Leave. `orderly`: all ranks have passed a barrier since their last collective."""
        if self.liveness:
            self.liveness.close(orderly)
            # With NCCL, to destroy the group may wait for a collective that never ends.
            timer = threading.Timer(GRACE_S, os._exit, (1,))
            timer.daemon = True
            if not orderly:
                timer.start()
            dist.destroy_process_group()
            timer.cancel()


def close(rendezvous: Path):
    """Rank 0 tells the others, which wait for its address, that there will be none."""
    write_text(rendezvous, json.dumps({"attempt": this_process().attempt}))


def start(run_dir: Path, rendezvous: Path) -> Ranks:
    """Find this process's rank and, with several, join the others. Raises UserError when they do not come in time.
    Without torchrun, rank 0 takes a free port and publishes it in the run's directory, so that runs never share one."""
    me = this_process()
    rank, world, local = me.rank, me.world, me.local_rank
    cuda = torch.cuda.is_available()
    if cuda:
        local %= torch.cuda.device_count()  # On Slurm a task sees one GPU, or all of its node's.
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if world == 1:
        return Ranks(rank, world, device, runs_per_gpu=me.runs_per_gpu)
    backend, timeout = "cpu:gloo,cuda:nccl" if cuda else "gloo", timedelta(seconds=TIMEOUT_S)
    try:
        if me.launcher == "torchrun":
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = _meet(rank, world, rendezvous, timedelta(seconds=MEET_S))
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
        ranks = Ranks(rank, world, device, me.ranks_per_node, me.runs_per_gpu)
        return replace(ranks, liveness=Liveness(rank, world, ranks.broadcast, me.address))
    except (dist.DistError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{run_dir}: rank {rank} of {world} did not find the others ({reason})") from None


def _meet(rank: int, world: int, rendezvous: Path, timeout: timedelta) -> dist.TCPStore:
    """The store of all ranks, once all have joined. Raises RuntimeError when one does not come in time."""
    attempt = this_process().attempt
    if rank == 0:
        store = dist.TCPStore("0.0.0.0", 0, world, is_master=True, timeout=timeout, wait_for_workers=False)
        token = secrets.token_hex(8)
        store.set("token", token)
        place = {"attempt": attempt, "host": socket.gethostname(), "port": store.port, "token": token}
        write_text(rendezvous, json.dumps(place))
        try:
            store.wait([f"here {other}" for other in range(1, world)], timeout)
        finally:
            rendezvous.unlink(missing_ok=True)  # Job numbers are reused: another attempt may get this one's.
        store.set("all", "")
        return store
    until = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < until:
        found = read_mapping(rendezvous)
        if found.get("attempt") == attempt:
            if "port" not in found:
                raise Closed("rank 0 declined this run")
            host = "127.0.0.1" if found["host"] == socket.gethostname() else found["host"]
            try:  # Briefly: an earlier attempt may have left this address behind.
                store = dist.TCPStore(host, found["port"], world, is_master=False, timeout=timedelta(seconds=KNOCK_S))
                answers = store.get("token").decode() == found["token"]
            except RuntimeError:
                answers = False
            if answers:
                store.set_timeout(timeout)
                store.set(f"here {rank}", "")
                store.wait(["all"], timeout)
                return store
        time.sleep(0.05)
    raise RuntimeError(f"no address from rank 0 within {MEET_S} s")
