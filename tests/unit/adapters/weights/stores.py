"""Servers that speak the Hub's and an OCI registry's API, with faults on demand; real sockets, on free ports."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.patience import PATIENCE_S

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Store:
    """Blobs by path, and how they are served.

    ``break_after``: bytes of a blob after which the connection ends, for so many ``breaks``; ``hold``: the blob's second half waits for
    it; ``token``: asked for; ``ranges``: whether they are understood; ``asked``: paths and ranges that came.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    documents: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    url: str = ""
    break_after: int = 0
    breaks: int = 0
    hold: threading.Event | None = None
    token: str = ""
    challenge: str = ""
    down: bool = False
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def ranges_of(self, path: str) -> list[str]:
        return [bytes_ for where, bytes_ in self.asked if where == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        store, path = self.store, unquote(urlsplit(self.path).path)
        store.asked.append((path, self.headers.get("Range", "")))
        store.headers.append(dict(self.headers.items()))
        if store.down:
            return self._answer(503, b"")
        if path == "/token":
            return self._answer(200, json.dumps({"token": store.token}).encode())
        if store.token and self.headers.get("Authorization") != f"Bearer {store.token}":
            return self._answer(401, b"", {"WWW-Authenticate": store.challenge})
        if path in store.redirects:
            return self._answer(302, b"", {"Location": store.redirects[path]})
        if path in store.documents:
            kind, data = store.documents[path]
            return self._answer(200, data, {"Content-Type": kind})
        if path in store.blobs:
            return self._blob(store.blobs[path])
        return self._answer(404, b"")

    def _blob(self, data: bytes) -> None:
        store, begin = self.store, 0
        if store.ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            begin = int(found[1])
        part = data[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if store.breaks and len(part) > store.break_after:
            store.breaks -= 1
            self.wfile.write(part[: store.break_after])
            self.close_connection = True
            return
        if (hold := store.hold) is not None:
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            hold.wait(PATIENCE_S)
            part = part[len(part) // 2 :]
        try:
            self.wfile.write(part)
        except OSError:  # whoever asked was killed
            self.close_connection = True

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served(store: Store) -> Iterator[Store]:
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        if store.hold is not None:
            store.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


def hub(store: Store, repository: str, files: dict[str, bytes], *, lies: dict[str, str] | None = None) -> None:
    """Put a repository into a store, as the Hub's API tells it; ``lies``: digests that are not true."""
    siblings = []
    for name, data in files.items():
        sha256 = (lies or {}).get(name) or hashlib.sha256(data).hexdigest()
        big = not name.endswith(".json")
        siblings.append(
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            | ({"lfs": {"size": len(data), "sha256": sha256, "pointerSize": 130}} if big else {})
        )
        store.blobs[f"/{repository}/resolve/{COMMIT}/{name}"] = data
    info = {"id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
    for path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/main"):
        store.documents[path] = ("application/json", json.dumps(info).encode())


def registry(store: Store, repository: str, layers: list[tuple[dict[str, Any], bytes]], tag: str = "v1") -> str:
    """Put an artifact into a store, as a registry tells it; returns the manifest's digest."""
    found = []
    for about, data in layers:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        store.blobs[f"/v2/{repository}/blobs/{digest}"] = data
        found.append({"mediaType": "application/octet-stream", "digest": digest, "size": len(data)} | about)
    manifest = json.dumps({"schemaVersion": 2, "layers": found}).encode()
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    for version in (tag, digest):
        store.documents[f"/v2/{repository}/manifests/{version}"] = (
            "application/vnd.oci.image.manifest.v1+json",
            manifest,
        )
    return digest


def titled(name: str) -> dict[str, Any]:
    return {"annotations": {"org.opencontainers.image.title": name}}
