"""The ranks of a run: how they meet, and what they do together."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import UserError
from ..files import read_mapping, write_text
from ..process import this_process
from ..rundir.outcomes import Closed
from .liveness import GRACE_S, Liveness

MEET_S = 120
KNOCK_S = 10
# of a collective: ranks may differ in how long they compile or read; their death is noticed at once (liveness.py)
TIMEOUT_S = 600


@dataclass(frozen=True)
class Ranks:
    """This process's place: rank in 0..world-1, its device, and how many ranks a node has (nodes are filled one by
    one)."""

    rank: int
    world: int
    device: torch.device
    per_node: int = 1
    runs_per_gpu: int = 1
    liveness: Liveness | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def all_reduce(self, values: torch.Tensor, op=dist.ReduceOp.SUM):
        """Reduce in place over all ranks; nothing to do on one."""
        if self.world > 1:
            dist.all_reduce(values, op=op)

    def broadcast(self, value):
        """Rank 0's value, on every rank."""
        holder = [value]
        if self.world > 1:
            dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
        return holder[0]

    def all_true(self, good: bool) -> bool:
        """Whether it is good on every rank."""
        flag = torch.tensor(float(good), device=self.device)
        self.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)

    def barrier(self):
        """Wait for all ranks. A process that leaves while others still talk to it can abort in gloo's threads."""
        if self.world > 1:
            dist.barrier()

    def peer_died(self, error: Exception) -> bool:
        """Whether an error of a collective comes from the end of another rank."""
        return self.world > 1 and isinstance(error, RuntimeError) and self.liveness.peer_died(within_s=5)

    def close(self, orderly: bool):
        """Leave. `orderly`: all ranks have met since they last computed together."""
        if self.world > 1:
            self.liveness.close(orderly)
            if not orderly:  # with NCCL, the next line may wait for a collective that never ends
                timer = threading.Timer(GRACE_S, os._exit, (1,))
                timer.daemon = True
                timer.start()
            dist.destroy_process_group()
            if not orderly:
                timer.cancel()


def close(rendezvous: Path):
    """Rank 0 tells the others, who wait for its address, that there will be none."""
    write_text(rendezvous, json.dumps({"attempt": this_process().attempt}))


def start(run_dir: Path, rendezvous: Path) -> Ranks:
    """Find this process's rank and, with several, join the others. Raises UserError when they do not come in time.

    Under torchrun the addresses are in the environment. Otherwise rank 0 takes a free port and publishes it in the
    run's directory, so that runs which share a node never meet on one port.
    """
    me = this_process()
    rank, world, local = me.rank, me.world, me.local_rank
    cuda = torch.cuda.is_available()
    if cuda:
        local %= torch.cuda.device_count()  # one GPU visible per task, or all of them: both are usual on Slurm
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if world > 1:
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        timeout = timedelta(seconds=TIMEOUT_S)
        try:
            address = ""
            if me.launcher == "torchrun":
                address = os.environ.get("MASTER_ADDR", "")
                dist.init_process_group(backend, timeout=timeout)
            else:
                store = _meet(rank, world, rendezvous, timedelta(seconds=MEET_S))
                dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
            ranks = Ranks(rank, world, device, me.ranks_per_node, me.runs_per_gpu)
            return replace(ranks, liveness=Liveness(rank, world, ranks.broadcast, address))
        except (dist.DistError, RuntimeError, OSError) as error:
            raise UserError(
                f"{run_dir}: rank {rank} of {world} could not meet the others ({str(error).splitlines()[0]})"
            ) from None
    return Ranks(rank, world, device, runs_per_gpu=me.runs_per_gpu)


def _meet(rank: int, world: int, rendezvous: Path, timeout: timedelta) -> dist.TCPStore:
    """The store of all ranks, once they are all there. Raises RuntimeError when one does not come in time."""
    attempt = this_process().attempt
    if rank == 0:
        store = dist.TCPStore("0.0.0.0", 0, world, is_master=True, timeout=timeout, wait_for_workers=False)
        place = {"host": socket.gethostname(), "port": store.port, "token": secrets.token_hex(8)}
        store.set("token", place["token"])
        write_text(rendezvous, json.dumps({"attempt": attempt} | place))
        try:
            store.wait([f"here {other}" for other in range(1, world)], timeout)
        finally:
            rendezvous.unlink(missing_ok=True)  # job numbers return: another attempt may have this one's
        store.set("all", "")
        return store
    until = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < until:
        found = read_mapping(rendezvous)
        if found.get("attempt") == attempt:
            if "port" not in found:
                raise Closed("rank 0 has nothing to do")
            host = "127.0.0.1" if found["host"] == socket.gethostname() else found["host"]
            try:  # briefly: it may be what an earlier attempt left behind
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
