"""A model hub on loopback, as far as huggingface_hub needs one: what a repository holds, and its files, in ranges too."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE_BYTES = 1000  # what is larger is told with its SHA-256, as Git LFS does


class Hub:
    """One repository, `org/tiny`, and everything that was asked of it. `token` is asked for where it is set."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str, str]] = []  # method, path, Range
        self.url = ""
        self.token = ""
        self.breaks_after = 0  # bytes of the next large file, after which the connection ends, once
        self.lies_about: dict[str, str] = {}  # a file's SHA-256, as told

    def sha256(self, name: str) -> str:
        return self.lies_about.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def tree(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "oid": "0" * 40, "size": 0}]
        for name, data in self.files.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
            if len(data) > LARGE_BYTES:
                entry["lfs"] = {"oid": self.sha256(name), "size": len(data), "pointerSize": 134}
            listed.append(entry)
        return listed


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path, self.headers.get("Range") or ""))
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        if not path.startswith(("/api/models/org/tiny", "/org/tiny/")):
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Not found."})
        if match := re.fullmatch(r"/api/models/org/tiny(/revision/(.+))?", path):
            if match[2] not in (None, "main", "v1", COMMIT):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return self._send(200, json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": []}).encode())
        if path == f"/api/models/org/tiny/tree/{COMMIT}":
            return self._send(200, json.dumps(self.hub.tree()).encode())
        match = re.fullmatch(rf"/org/tiny/resolve/{COMMIT}/(.+)", path)
        if match is None or match[1] not in self.hub.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._file(match[1])

    def _file(self, name: str) -> None:
        data = self.hub.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.hub.sha256(name)}"', "Accept-Ranges": "bytes"}
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and self.hub.breaks_after and len(data) > self.hub.breaks_after:
            cut, self.hub.breaks_after = self.hub.breaks_after, 0
            self._send(200, data, headers, cut=cut)
            self.close_connection = True
            return None
        return self._send(206 if start else 200, data[start:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])


@contextmanager
def hub_server(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve a repository on a free port of loopback."""
    hub = Hub(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
