"""Whether the other ranks still live. A rank waits for its peers deep inside a collective, on a GPU without end: so
each holds a connection to rank 0, which the kernel closes when a process dies, however it dies, and keep-alives close
when a node does.

A rank that loses its line has GRACE_S to end by itself, with whatever error the collective gives; then it is ended.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading

GRACE_S = 20.0
MEET_S = 60.0
KEEP_ALIVE = {socket.SO_KEEPALIVE: (socket.SOL_SOCKET, 1)} | {  # a silent node is given up after 10 + 4 * 5 s
    getattr(socket, name): (socket.IPPROTO_TCP, value)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
}
BYE = b"."


class Liveness:
    """This rank's end of it. `broadcast` gives every rank the value of rank 0; `address` is how others reach
    rank 0's node, where that is known. Raises OSError when a rank does not come within MEET_S."""

    def __init__(self, rank: int, world: int, broadcast, address: str = ""):
        listener = socket.create_server(("", 0), backlog=world) if rank == 0 else None
        host, port = broadcast((socket.gethostname(), listener.getsockname()[1]) if listener else None)
        if listener:
            listener.settimeout(MEET_S)
            self.peers = [listener.accept()[0] for _ in range(world - 1)]
            listener.close()
        else:
            address = "127.0.0.1" if host == socket.gethostname() else address or host
            self.peers = [socket.create_connection((address, port), timeout=MEET_S)]
        for peer in self.peers:
            peer.settimeout(None)
            for option, (level, value) in KEEP_ALIVE.items():
                peer.setsockopt(level, option, value)
        self._lost, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def peer_died(self, within_s: float) -> bool:
        """Whether a rank is gone, or is found to be within so many seconds."""
        return self._lost.wait(within_s)

    def close(self, orderly: bool):
        """This rank is done. `orderly`: the others know, and are too; otherwise they are to end, as after its death."""
        self._over.set()
        self._hang_up(BYE if orderly else b"")

    def _hang_up(self, word: bytes = b""):
        for peer in self.peers:
            try:
                if word:
                    peer.sendall(word)
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has gone already

    def _watch(self):
        with selectors.DefaultSelector() as waiting:
            for peer in self.peers:
                waiting.register(peer, selectors.EVENT_READ)
            while waiting.get_map():
                for key, _ in waiting.select():
                    try:
                        word = key.fileobj.recv(1)
                    except OSError:
                        word = b""
                    waiting.unregister(key.fileobj)
                    if word != BYE and not self._over.is_set():
                        return self._end()

    def _end(self):
        self._lost.set()
        self._hang_up()  # rank 0 passes it on
        if not self._over.wait(GRACE_S):
            print("ditscale: error: another rank of this run has ended; so does this one", file=sys.stderr, flush=True)
            os._exit(1)
