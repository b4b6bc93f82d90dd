"""A wire between a gateway and the Primaries that can be cut in one direction or refused. Plain TCP; TLS passes through.

Stands where a balancer would stand: each new connection goes to one of the living Primaries.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

CHUNK = 65536
LOOK_SECONDS = 0.05


class Cut(StrEnum):
    """What the wire does to what is sent. A cut is effective at once, also for connections that are open."""

    NONE = "none"
    UP = "up"
    """What the gateway says is lost; answers to what was heard before still arrive."""
    DOWN = "down"
    """The gateway is heard, and hears nothing."""
    BOTH = "both"
    REFUSED = "refused"


class Wire:
    """One listener. Close it when done; it ends its own threads and connections."""

    def __init__(self, targets: Callable[[], list[int]]) -> None:
        self._targets = targets
        self._turn = 0
        self._cut = Cut.NONE
        self._ended = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.dropped = 0
        """Bytes that a cut has swallowed: a cut that swallowed nothing has tested nothing."""
        self.refused = 0
        """Connections that were refused."""
        self.carried: Counter[int] = Counter()
        """Connections by the port they were carried to."""
        threading.Thread(target=self._accept, name=f"wire-{self.port}", daemon=True).start()

    def cut(self, how: Cut) -> None:
        """From here on. Connections that have lost bytes cannot go on, so mending or refusing ends those that are open."""
        self._cut = how
        if how in (Cut.NONE, Cut.REFUSED):
            self._end_all()

    def close(self) -> None:
        self._ended.set()
        self._listener.close()
        self._end_all()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = self._far_end() if self._cut is not Cut.REFUSED else None
        if far is None:
            self.refused += 1
            near.close()
            return
        with self._lock:
            self._open |= {near, far}
        try:
            self._carry(near, far)
        except OSError:
            pass  # one side went away, or the wire was mended
        finally:
            with self._lock:
                self._open -= {near, far}
            near.close()
            far.close()

    def _far_end(self) -> socket.socket | None:
        ports = self._targets()
        for _ in ports:
            self._turn += 1
            port = ports[self._turn % len(ports)]
            with contextlib.suppress(OSError):
                far = socket.create_connection(("127.0.0.1", port), timeout=2)
                self.carried[port] += 1
                return far
        return None

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(near, selectors.EVENT_READ, (far, Cut.UP))
            ready.register(far, selectors.EVENT_READ, (near, Cut.DOWN))
            while not self._ended.is_set():
                for key, _ in ready.select(LOOK_SECONDS):
                    other, lost_by = key.data
                    data = key.fileobj.recv(CHUNK)
                    if not data:
                        return
                    if self._cut in (lost_by, Cut.BOTH):
                        self.dropped += len(data)
                    else:
                        other.sendall(data)

    def _end_all(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
