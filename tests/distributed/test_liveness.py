"""Finding the other ranks of a run: an address left behind, and a rank that never comes."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from ditscale.distributed import liveness, ranks
from ditscale.process import this_process


@pytest.mark.slow
def test_an_address_that_was_left_behind_is_passed_over(tmp_path, monkeypatch):
    """Job numbers return: the file may be of another attempt, at a port where nobody is, or somebody else."""
    monkeypatch.setattr(ranks, "KNOCK_S", 1)
    place, timeout = tmp_path / "rendezvous.json", timedelta(seconds=20)
    somebody = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    for port in (1, somebody.port):
        stale = {"attempt": this_process().attempt, "host": socket.gethostname(), "port": port, "token": "old"}
        place.write_text(json.dumps(stale))
        with ThreadPoolExecutor() as pool:
            other = pool.submit(ranks._meet, 1, 2, place, timeout)
            time.sleep(0.5)
            first = pool.submit(ranks._meet, 0, 2, place, timeout)
            first.result(timeout=20).set("a", "b")
            assert other.result(timeout=20).get("a") == b"b" and not place.exists()


def test_a_rank_that_never_comes_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(liveness, "MEET_S", 0.2)
    with pytest.raises(OSError):
        liveness.Liveness(0, 2, lambda value: value)


def test_on_another_node_the_launcher_says_where(monkeypatch):
    """The name that rank 0's node has for itself may mean nothing elsewhere."""
    told, ready, ends = [], threading.Event(), []

    def share(value):
        if value:
            told.append(("no-such-host.invalid", value[1]))
            ready.set()
        ready.wait(10)
        return told[0]

    first = threading.Thread(target=lambda: ends.append(liveness.Liveness(0, 2, share)))
    first.start()
    ready.wait(10)
    other = liveness.Liveness(1, 2, lambda value: told[0], "localhost")
    first.join(10)
    assert ends and socket.gethostname() != told[0][0]
    for end in (*ends, other):
        end.close(orderly=True)
    assert not ends[0].peer_died(within_s=0.5) and not other.peer_died(within_s=0.1)
