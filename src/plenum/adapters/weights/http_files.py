"""Files over HTTP, from any byte on; what breaks off or is busy is told from what is wrong."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from plenum.adapters.weights.listings import AwayError, BrokenError
from plenum.adapters.weights.references import UnknownWeightsError, WeightsError

MAX_ANSWER_BYTES = 4 * 2**20
"""Of answers that are read whole; tokens and manifests are small."""

TIMEOUT = httpx.Timeout(30.0, connect=10.0)


def new_client(transport: httpx.BaseTransport | None = None, *, outside: bool = False) -> httpx.Client:
    """Return a client that follows redirects (credentials stay with the host that they are for) and needs answers in time.

    Parameters
    ----------
    outside
        Whether it may connect to nothing of this machine and its network; else that holds once it has connected to a store elsewhere.
    """
    hooks: dict[str, list[Any]] = {"request": [Connections(outside).watch], "response": [_stays_outside]}
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, max_redirects=5, event_hooks=hooks, transport=transport)


class Connections:
    """A client's connections, looked at before anything is sent: a name may mean another address than when it was checked."""

    def __init__(self, outside: bool = False) -> None:
        self._outside = outside
        self._inside = False

    def watch(self, request: httpx.Request) -> None:
        """Look at the connection that a request is sent over, if that is a new one."""
        direct = False

        def look(event: str, info: Mapping[str, Any]) -> None:
            nonlocal direct
            if event == "connection.connect_tcp.started":
                direct = (
                    info["host"] == request.url.raw_host.decode()
                )  # else it is a proxy, which the node's operator chose
            elif event == "connection.connect_tcp.complete" and direct:
                self.take(request.url.host, info["return_value"])

        request.extensions = {**request.extensions, "trace": look}

    def take(self, host: str, stream: Any) -> None:
        """Take a connection to a host.

        Raises
        ------
        WeightsError
            It leads from a store elsewhere into this network; then it is closed.
        """
        inside = _is_inside(stream.get_extra_info("server_addr")[0])
        if inside and self._outside:
            stream.close()
            raise WeightsError(f"{host} is within this network, and the store is not")
        # The first connection is the store's own, and tells where that is.
        self._inside = self._inside or inside
        self._outside = not self._inside


def is_inside(host: str) -> bool:
    """Whether a host is one that only this machine or its network has, however it is written; one that nobody knows is none."""
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return host.rstrip(".").lower().endswith("localhost")
    return any(_is_inside(address) for address in found)


def _is_inside(address: str) -> bool:
    return not ipaddress.ip_address(address.partition("%")[0]).is_global


def _stays_outside(answer: httpx.Response) -> None:
    """Raise WeightsError where a store elsewhere sends this node on to services of its own network."""
    if not answer.has_redirect_location:
        return
    try:
        there = answer.url.join(answer.headers["location"]).host
    except httpx.InvalidURL:
        raise WeightsError(f"{answer.url.host} sends on to what is no address") from None
    if is_inside(there) and not is_inside(answer.url.host):
        raise WeightsError(f"{answer.url.host} sends on to {there}, which is within this network")


@contextmanager
def read_from(
    client: httpx.Client, url: str, offset: int, headers: Mapping[str, str], name: str
) -> Iterator[Iterator[bytes]]:
    """Give the bytes of a file from an offset on.

    Raises
    ------
    BrokenError
        It broke off, or the server is too busy: worth another try.
    WeightsError
        The server refuses.
    """
    # Packed on the way it would have other offsets.
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        with client.stream("GET", url, headers=asked) as answer:
            if answer.status_code >= 500 or answer.status_code in (408, 429):
                raise BrokenError(f"the server of {name} answers {answer.status_code}")
            raise_for(answer, name)
            pieces = answer.iter_raw()
            yield _skipped(pieces, offset) if offset and answer.status_code == 200 else pieces
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise BrokenError(f"{name} broke off: {type(error).__name__}") from None


def ask(client: httpx.Client, url: str, headers: Mapping[str, str], name: str) -> httpx.Response:
    """Return a small answer.

    Raises
    ------
    AwayError
        Nobody answers, or the server is at fault.
    WeightsError
        It refuses, or says more than :data:`MAX_ANSWER_BYTES`.
    """
    body = b""
    try:
        with client.stream("GET", url, headers=dict(headers)) as answer:
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise WeightsError(f"the server of {name} answers with more than {MAX_ANSWER_BYTES:,} bytes")
    except httpx.HTTPError as error:
        raise AwayError(f"the server of {name} does not answer: {type(error).__name__}") from None
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        raise AwayError(f"the server of {name} answers {answer.status_code}; try again later")
    said = {name: value for name, value in answer.headers.items() if name == "www-authenticate"}
    return httpx.Response(answer.status_code, headers=said, content=body)


def raise_for(answer: httpx.Response, name: str) -> None:
    """Raise what a refusal means.

    Raises
    ------
    UnknownWeightsError
        There is no such thing.
    WeightsError
        It may not be read, or something else.
    """
    if answer.status_code in (401, 403):
        raise WeightsError(f"{name} may not be read with this node's credentials ({answer.status_code})")
    if answer.status_code == 404:
        raise UnknownWeightsError(f"there is no {name}")
    if answer.status_code >= 400:
        raise WeightsError(f"the server of {name} answers {answer.status_code}")


def _skipped(pieces: Iterator[bytes], offset: int) -> Iterator[bytes]:
    """Leave out what is here already, of a server that knows no ranges."""
    for piece in pieces:
        if offset >= len(piece):
            offset -= len(piece)
            continue
        yield piece[offset:]
        offset = 0
