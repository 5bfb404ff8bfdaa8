"""Whether the other ranks are alive. A rank may wait for its peers deep inside a collective, on a GPU for ever: so each
rank keeps a connection to rank 0. The kernel closes it when a process dies, however it dies, and keep-alives close it
when a node does. A rank that loses its connection has GRACE_S to end with the collective's error; then it is ended."""

import os
import selectors
import socket
import threading
from contextlib import suppress
from typing import Any, Callable

from ..logs import log

GRACE_S = 20.0
MEET_S = 60.0
KEEP_ALIVE = {socket.SO_KEEPALIVE: (socket.SOL_SOCKET, 1)} | {  # A silent node counts as dead after 10 + 4 * 5 s.
    getattr(socket, name): (socket.IPPROTO_TCP, value)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
}
BYE = b"."


class Liveness:
    """This rank's connections. `broadcast` gives every rank the value of rank 0; `address` is how others reach rank 0's
    node, where that is known. Raises OSError when a rank does not come within MEET_S."""

    def __init__(self, rank: int, world: int, broadcast: Callable[[Any], Any], address: str = ""):
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
        return self._lost.wait(within_s)

    def close(self, orderly: bool):
        """This rank is done. `orderly`: the others know, and are done too; otherwise they end as after its death."""
        self._over.set()
        self._hang_up(BYE if orderly else b"")

    def _hang_up(self, word: bytes = b""):
        for peer in self.peers:
            with suppress(OSError):  # The peer has closed it already.
                if word:
                    peer.sendall(word)
                peer.shutdown(socket.SHUT_RDWR)

    def _watch(self):
        with selectors.DefaultSelector() as selector:
            for peer in self.peers:
                selector.register(peer, selectors.EVENT_READ, peer)
            while selector.get_map():
                for key, _ in selector.select():
                    word = b""
                    with suppress(OSError):
                        word = key.data.recv(1)
                    selector.unregister(key.fileobj)
                    if word == BYE or self._over.is_set():
                        continue
                    self._lost.set()
                    self._hang_up()  # Rank 0 passes it on to the others.
                    if self._over.wait(GRACE_S):
                        return
                    log.error("ditscale: error: another rank of this run has died; this one ends too")
                    os._exit(1)
