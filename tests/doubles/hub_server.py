"""A local stand-in for the model hub that answers the requests of `export.checkpoint.hub` as the hub does."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 4096  # bytes; files of at least this size are stored by their sha256, and the hub redirects to them
REPOSITORY = "someone/model"
COMMIT = "c0ffee" * 6 + "c0de"


@dataclass
class Request:
    """A request that arrived. range: first byte requested."""

    host: str
    path: str
    range: int
    token: str | None


@dataclass
class StandInHub:
    """A repository on the hub, and the faults of its answers.

    Attributes:
        files: Content of the files by path.
        repository: Name of the repository.
        bodies: Content that is sent for a path instead of the listed one.
        cuts: By path, for each answer in turn: the number of bytes after which the connection breaks.
        statuses: By path, for each answer in turn: HTTP status and X-Error-Code; the path "" is the listing.
        stalls: Paths whose answer stops half-way while the connection stays open.
        ranges: Whether range requests are supported.
        page: Body that is sent instead of the listing.
        requests: Requests so far.
        port: Port of the server.
        stalled: Set when an answer stops half-way.
        ended: Set when the server ends.
    """

    files: Mapping[str, bytes]
    repository: str = REPOSITORY
    bodies: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    ranges: bool = True
    page: bytes = b""
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """Return the requested paths."""
        return [r.path for r in self.requests if r.path]

    def listing(self) -> dict[str, Any]:
        """Return the hub's description of the repository."""
        return {"id": self.repository, "sha": COMMIT, "siblings": [self._sibling(path) for path in self.files]}

    def _sibling(self, path: str) -> dict[str, Any]:
        body = self.files[path]
        sha1 = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        sibling: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": sha1}
        if len(body) >= LARGE:
            sibling["blobId"] = hashlib.sha1(sha1.encode()).hexdigest()  # of the pointer, not of the content
            sibling["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return sibling


@contextmanager
def serving(hub: StandInHub) -> Iterator[StandInHub]:
    """Run the hub at `hub.address`."""

    class Handler(_Handler):
        state = hub

    server = _Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may close the connection early
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    state: StandInHub
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True  # or each small answer would wait for the client's next acknowledgement

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """Answer with the listing, a file, or a redirection to it."""
        hub, address = self.state, unquote(urlsplit(self.path).path)
        listed = address.removeprefix("/api/models/") != address
        path = "" if listed else address.split(f"/{COMMIT}/", 1)[-1]
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        hub.requests.append(Request(self.headers["Host"], path, begin, self.headers.get("Authorization")))
        if hub.statuses.get(path):
            status, code = hub.statuses[path].pop(0)
            self._answer(status, b"", {"X-Error-Code": code} if code else {})
        elif listed and not address.startswith(f"/api/models/{hub.repository}/"):
            self._answer(307, b"", {"Location": f"/api/models/{hub.repository}/revision/main?blobs=true"})
        elif listed:
            self._answer(200, hub.page or json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
        elif address.startswith("/elsewhere/") or len(hub.files[path]) < LARGE:
            self._send(path, begin)
        else:
            elsewhere = f"http://localhost:{hub.port}/elsewhere/{COMMIT}/{path}?signature=1"
            self._answer(302, b"moved for now", {"Location": elsewhere, "X-Repo-Commit": COMMIT})

    def _send(self, path: str, begin: int) -> None:
        hub = self.state
        body = hub.bodies.get(path, hub.files[path])
        if not hub.ranges or not begin:
            self._answer(200, body, {}, path)
        elif begin >= len(body):
            self._answer(416, b"", {})
        else:
            self._answer(206, body[begin:], {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}, path)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], path: str = "") -> None:
        hub = self.state
        cut = hub.cuts[path].pop(0) if hub.cuts.get(path) else None
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if path in hub.stalls:
            self.wfile.write(body[: len(body) // 2])
            hub.stalled.set()
            hub.ended.wait(10)
            self.close_connection = True
        elif cut is None:
            self.wfile.write(body)
        else:
            self.wfile.write(body[:cut])
            self.close_connection = True
