"""A local server with the interface of the model hub that `export.checkpoint.hub` uses."""

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

LARGE = 4096  # bytes; from here on a file is kept aside, under its sha256, and the hub redirects to it
REPOSITORY = "someone/model"
COMMIT = "c0ffee" * 6 + "c0de"


@dataclass
class Request:
    """One that came.  range: the first byte asked for."""

    host: str
    path: str
    range: int
    token: str | None


@dataclass
class StandInHub:
    """files: by path in the repository.  The rest makes things go wrong.

    bodies: what is sent for a path instead of what is listed.  cuts: after how many bytes the connection breaks, by
    path, for each answer in turn.  statuses: HTTP status and X-Error-Code of each answer in turn, by path; "" is the
    listing.  stalls: paths that stop for good half-way, the connection open.
    """

    files: Mapping[str, bytes]
    repository: str = REPOSITORY
    bodies: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    ranges: bool = True
    page: bytes = b""  # sent instead of the listing
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        """What HF_ENDPOINT names."""
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """Paths whose bytes were asked for."""
        return [r.path for r in self.requests if r.path]

    def listing(self) -> dict[str, Any]:
        """What the hub states of the repository."""
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
    """The hub, answering at `hub.address`."""

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
        if not isinstance(sys.exception(), ConnectionError):  # clients may leave when they have had enough
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    state: StandInHub
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True  # or each small answer would wait for the client's next acknowledgement

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """A listing, a file, or the place of one."""
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
