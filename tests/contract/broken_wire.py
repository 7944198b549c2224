"""A wire between a client and a server that breaks on cue: after so many bytes, or when an answer is on its way."""

import contextlib
import socket
import threading
from collections.abc import Callable


class BrokenWire:
    """Passes TCP on to a port of this machine. What breaks is said while it runs; each break happens once.

    `budgets`: bytes of answers that still pass; at the end of each the connection breaks and the next begins; empty: all pass.
    `loses`: for the head of a request whether its answer is lost, and the connection with it. `is_silent`: nothing passes back.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.budgets: list[int] = []
        self.loses: Callable[[bytes], bool] = lambda head: False
        self.is_silent = False
        self.breaks = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "BrokenWire":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        heads: list[bytes] = [b""]
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._upstream)) as server:
            threading.Thread(target=self._up, args=(client, server, heads), daemon=True).start()
            self._down(client, server, heads)
            for end in (client, server):  # closing alone would not wake who reads from them
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _down(self, client: socket.socket, server: socket.socket, heads: list[bytes]) -> None:
        while data := server.recv(65536):
            if self.is_silent:
                continue
            is_final = data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 100")
            if is_final and self.loses(heads[0]):
                self.breaks += 1
                return
            allowed = self._allowed(len(data))
            client.sendall(data[:allowed])
            if allowed < len(data):
                self.breaks += 1
                return

    def _up(self, client: socket.socket, server: socket.socket, heads: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if data.split(b" ", 1)[0] in (b"GET", b"PUT", b"POST", b"HEAD", b"DELETE"):
                    heads[0] = data[:2000]
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _allowed(self, size: int) -> int:
        with self._lock:
            if not self.budgets:
                return size
            allowed = min(size, self.budgets[0])
            self.budgets[0] -= allowed
            if allowed < size:
                self.budgets.pop(0)
            return allowed
