"""The control plane's API, called: retries that cannot repeat a change, the leader found, problems as our own errors."""

from __future__ import annotations

import json
import os
import pathlib
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from plenum import __version__
from plenum.adapters.authorities import trusting
from plenum.adapters.contexts import Context, is_loopback, server_url
from plenum.model.errors import FileError, PlenumError, Where

BASE = "/v1alpha1"

ATTEMPTS = 6
"""Times that a request is sent before its last failure is told."""

ATTEMPTS_REFUSED = 2
"""The same where nothing listens: a control plane that is not there is told soon."""

PAUSE_S = 0.2
MAX_PAUSE_S = 5.0
MAX_HOPS = 3
"""Leaders that one request is sent on to."""

STREAM_IDLE_S = 40.0
"""A stream silent for longer than this (heartbeats come every ten seconds) has lost its server."""

STREAM_PATIENCE_S = 60.0
"""How long a broken stream is taken up again before it is given up."""

STREAM_ATTEMPTS = 30
"""Times in a row that it is tried."""

MAX_EVENT_BYTES = 32 * 2**20
PAGE = 1000
MAX_PAGES = 10_000
T = TypeVar("T")
_AGAIN = (408, 425, 429, 502, 503, 504)


class UnreachableError(PlenumError):
    """No control plane answers."""

    code = "client.unreachable"


class ProblemError(PlenumError):
    """The control plane refused, or failed.

    Parameters
    ----------
    status
        HTTP status.
    code
        Permanent code of the problem, such as ``resource.absent``.
    leader
        Address of the control plane that leads, where another one was asked.
    """

    def __init__(
        self,
        sentence: str,
        *,
        status: int,
        code: str,
        where: Where | None = None,
        leader: str = "",
        retry_s: float = 0.0,
    ) -> None:
        super().__init__(sentence, where)
        self.status = status
        self.code = code
        self.leader = leader
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One server-sent event; ``id`` is its position in the log, ``data`` its JSON."""

    id: str
    data: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """Bytes of a log from ``offset``; ``next_offset`` is where to go on, ``end`` says that the run has written its last."""

    data: bytes
    offset: int
    next_offset: int
    end: bool


class Client:
    """Speaks to one control plane.

    Parameters
    ----------
    attempts
        Times that a request is sent before its last failure is told.
    pause
        Called with seconds between attempts.
    transport
        Instead of the network, for tests.

    Notes
    -----
    Every change carries an idempotency key, so that sending it again cannot do it twice.
    """

    def __init__(
        self,
        context: Context,
        *,
        attempts: int = ATTEMPTS,
        timeout_s: float = 30.0,
        pause: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.context = context
        self._home = self._server = server_url(context.server)
        self._attempts = attempts
        self._pause = pause
        self._rng = rng or random.Random()
        host = urlsplit(self._server).hostname or ""
        self._http = httpx.Client(
            verify=(trusting(context.ca) if context.ca else True) if self._server.startswith("https") else False,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            transport=transport,
            trust_env=not is_loopback(host),  # a proxy cannot reach our own loopback
            headers={"User-Agent": f"plenum/{__version__}", "Accept": "application/json"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    @property
    def server(self) -> str:
        """The address that it speaks to: the context's, or the leader's once it was sent on."""
        return self._server

    # -- requests ----------------------------------------------------------------------------------

    def get(self, path: str, **params: object) -> Any:
        """Return what is at a path below the API's base, as plain values.

        Raises
        ------
        UnreachableError
            No control plane answers.
        ProblemError
            It refused.
        """
        return _json(self.request("GET", path, params=params))

    def put(self, path: str, body: object, *, version: str = "", **params: object) -> httpx.Response:
        """Make or change a resource; ``version`` (of what is being changed) guards against a change meanwhile."""
        headers = {"If-Match": f'"{version}"'} if version else {}
        return self.request("PUT", path, params=params, body=body, headers=headers)

    def post(self, path: str, body: object | None = None, **params: object) -> Any:
        """Do something; returns the answer as plain values."""
        return _json(self.request("POST", path, params=params, body=body if body is not None else {}))

    def delete(self, path: str, **params: object) -> Any:
        """Remove a resource."""
        return _json(self.request("DELETE", path, params=params))

    def pages(self, path: str, **params: object) -> Iterator[dict[str, Any]]:
        """Yield a list page by page."""
        params = {"limit": PAGE, **params}
        for _ in range(MAX_PAGES):
            page = self.get(path, **params)
            yield page
            cursor = page.get("metadata", {}).get("continue", "")
            if not cursor:
                return
            params = {**params, "continue": cursor}
        raise ProblemError(f"the list of {path} does not end", status=500, code="client.list")

    def listed(self, path: str, **params: object) -> dict[str, Any]:
        """Return a whole list as one: the first page with the items of all."""
        whole: dict[str, Any] = {}
        for page in self.pages(path, **params):
            if not whole:
                whole = page
            else:
                whole["items"] += page["items"]
        whole.get("metadata", {}).pop("continue", None)
        return whole

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        body: object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request until it is answered: again where nothing was heard or the answer was to try again.

        Raises
        ------
        UnreachableError, ProblemError
            See :meth:`get`.
        """
        sent = {**(headers or {}), **self._credentials()}
        if method != "GET":
            sent["Idempotency-Key"] = secrets.token_hex(16)
        if body is not None:
            sent["Content-Type"] = "application/json"
        content = json.dumps(body).encode() if body is not None else None
        hops = attempt = 0
        while True:
            attempt += 1
            try:
                response = self._http.request(
                    method, self._url(path), params=_query(params), content=content, headers=sent
                )
                if response.is_success:
                    return response
                problem = _problem(response)
                if problem.leader and hops < MAX_HOPS and self._follow(problem.leader):
                    hops += 1
                    continue
                error: PlenumError = problem
                final = problem.status not in _AGAIN or problem.code == "limit.reached"
            except httpx.TransportError as failure:
                error = self._unreachable(failure)
                refused = isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout)
                final = refused and attempt >= ATTEMPTS_REFUSED and not self._back_home()
            if final or attempt >= self._attempts:
                raise error
            self._pause(self._pause_s(attempt, getattr(error, "retry_s", 0.0)))

    # -- streams -----------------------------------------------------------------------------------

    def events(self, after: int | None = None, **params: object) -> Iterator[Message | None]:
        """Yield records of the log as they come, None with each heartbeat; goes on where it was when the connection breaks.

        Raises
        ------
        UnreachableError
            The server has been away for a minute.
        ProblemError
            It refused.
        """
        last = "" if after is None else str(after)

        def opened() -> Iterator[Message | None]:
            nonlocal last
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            with self._stream("/events", {**params, "after": last, "watch": True}, headers) as response:
                for message in _messages(response):
                    if message is not None and message.id:
                        last = message.id
                    yield message

        yield from self._resumed(opened, lambda: False)

    def log(self, path: str, **params: object) -> LogPiece:
        """Return a piece of a log."""
        response = self.request("GET", path, params=params)
        return _piece(response, response.content)

    def followed_log(self, path: str, *, offset: int = 0, **params: object) -> Iterator[bytes]:
        """Yield a log's bytes as they are written, until the run ends; goes on where it was when the connection breaks.

        Raises
        ------
        UnreachableError, ProblemError
            See :meth:`events`.
        """
        ended = False

        def opened() -> Iterator[bytes]:
            nonlocal offset, ended
            query = {**params, "offset": offset, "follow": True}
            with self._stream(path, query, {"Accept": "text/plain"}) as response:
                offset = _piece(response, b"").next_offset
                for data in response.iter_bytes():
                    offset += len(data)
                    yield data
            # The server ends a stream when the run has ended, and also when the stream has lasted too long.
            rest = self.log(path, **params, offset=offset)
            if rest.data:
                offset = rest.next_offset
                yield rest.data
            ended = rest.end

        yield from self._resumed(opened, lambda: ended)

    def download(self, path: str, file: pathlib.Path) -> int:
        """Write what a path answers to POST into a new file that only this user can read, whole or not at all.

        Returns
        -------
        int
            Position of the log that it was made at.

        Raises
        ------
        UnreachableError, ProblemError
            See :meth:`get`.
        FileError
            The file exists, or cannot be written.
        """
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as into:
                headers = {"Idempotency-Key": secrets.token_hex(16)}
                with self._stream(path, {}, headers, method="POST", idle_s=600.0) as response:
                    for data in response.iter_bytes():
                        into.write(data)
                    wanted, position = response.headers.get("x-plenum-bytes"), response.headers.get("x-plenum-position")
                if wanted is not None and into.tell() != int(wanted):
                    raise UnreachableError(
                        f"{self._server} broke off after {into.tell():,} of {wanted} bytes; try again"
                    )
            os.link(unfinished, file)  # fails if there is one by now
        except httpx.TransportError as failure:
            raise self._unreachable(failure) from None
        except FileExistsError:
            raise FileError("exists already; choose another name", Where(file=str(file))) from None
        except OSError as error:
            raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(file))) from None
        finally:
            unfinished.unlink(missing_ok=True)
        return int(position or 0)

    def _resumed(self, opened: Callable[[], Iterator[T]], ended: Callable[[], bool]) -> Iterator[T]:
        """Yield what a stream brings; open it again when it breaks, unless it has been away for too long."""
        since: float | None = None
        failures = 0
        while not ended():
            error: PlenumError | None = None
            try:
                for item in opened():
                    since, failures = None, 0
                    yield item
            except httpx.ReadTimeout:
                since, failures = None, 0  # nothing to tell for long; if the server is gone, the next try finds out
            except httpx.TransportError as failure:
                error = self._unreachable(failure)
                self._back_home()
            except UnreachableError as failure:
                error = failure
            except ProblemError as problem:
                if problem.leader:
                    self._follow(problem.leader)
                elif problem.status not in _AGAIN:
                    raise
                error = problem
            if ended():
                return
            now = time.monotonic()
            since = since if since is not None else now
            failures += 1
            if error is not None and (now - since > STREAM_PATIENCE_S or failures >= STREAM_ATTEMPTS):
                raise error
            self._pause(self._pause_s(failures, getattr(error, "retry_s", 0.0)))

    @contextmanager
    def _stream(
        self,
        path: str,
        params: Mapping[str, object],
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        idle_s: float = STREAM_IDLE_S,
    ) -> Iterator[httpx.Response]:
        with self._http.stream(
            method,
            self._url(path),
            params=_query(params),
            headers={**headers, **self._credentials()},
            timeout=httpx.Timeout(idle_s, connect=5.0),
        ) as response:
            if not response.is_success:
                response.read()
                raise _problem(response)
            yield response

    # -- inside ------------------------------------------------------------------------------------

    def _url(self, path: str) -> str:
        return f"{self._server}{path if path.startswith(BASE) or path == '/readyz' else BASE + path}"

    def _credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.context.token}"} if self.context.token else {}

    def _follow(self, leader: str) -> bool:
        """Speak to the leader from now on; never with less protection than before."""
        scheme = self._server.partition("://")[0]
        try:
            url = server_url(leader if "://" in leader else f"{scheme}://{leader}")
        except PlenumError:
            return False
        if url == self._server or not url.startswith(f"{scheme}://"):
            return False
        self._server = url
        return True

    def _back_home(self) -> bool:
        """Ask the context's own server again, where a leader that it named has gone away."""
        away = self._server != self._home
        self._server = self._home
        return away

    def _pause_s(self, attempt: int, asked_s: float) -> float:
        most = min(PAUSE_S * 2 ** (attempt - 1), MAX_PAUSE_S)
        return min(max(asked_s, 0.0), MAX_PAUSE_S) + self._rng.uniform(0.5, 1.0) * most

    def _unreachable(self, failure: httpx.TransportError) -> UnreachableError:
        server, text = self._server, str(failure)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            known = f"the authority in {self.context.ca}" if self.context.ca else "an authority that this system knows"
            return UnreachableError(f"{server} is not certified by {known}; name its authority with --ca FILE")
        if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
            return UnreachableError(f"{server} does not speak TLS; it may be meant to be http://")
        if isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout):
            return UnreachableError(f"no control plane answers at {server}; start one with `plenum up`")
        if isinstance(failure, httpx.TimeoutException):
            return UnreachableError(f"the control plane at {server} took too long to answer")
        hint = "; it may want https://" if server.startswith("http:") else ""
        return UnreachableError(f"{server} broke the connection off ({text or type(failure).__name__}){hint}")


def part(text: str) -> str:
    """Return a name as one part of a path."""
    return quote(text, safe="")


def _query(params: Mapping[str, object] | None) -> httpx.QueryParams:
    """Leave out what is not given; write flags as JSON does; repeat what is given several times."""
    several = ((k, v if isinstance(v, (list, tuple)) else (v,)) for k, v in (params or {}).items())
    given = ((key, value) for key, values in several for value in values if value not in (None, False, ""))
    return httpx.QueryParams(tuple((key, "true" if value is True else str(value)) for key, value in given))


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return {}
    try:
        return response.json()
    except ValueError:
        raise ProblemError(
            f"{response.url.host} answered with something that is not JSON; is it a control plane?",
            status=response.status_code,
            code="client.answer",
        ) from None


def _problem(response: httpx.Response) -> ProblemError:
    try:
        told = response.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or "code" not in told:
        sentence = f"{response.url} answered {response.status_code} {response.reason_phrase}; is it a control plane?"
        return ProblemError(sentence, status=response.status_code, code="client.answer")
    after = response.headers.get("retry-after", "")
    return ProblemError(
        str(told.get("detail") or told.get("title") or told["code"]),
        status=response.status_code,
        code=str(told["code"]),
        where=Where(field=str(told.get("field") or "")),
        leader=str(told.get("leader", "")),
        retry_s=float(after) if after.isdigit() else 0.0,
    )


def _piece(response: httpx.Response, data: bytes) -> LogPiece:
    offset = response.headers.get("x-plenum-offset", "")
    first = int(offset) if offset.isdigit() else 0
    return LogPiece(
        data=data,
        offset=first,
        next_offset=first + len(data),
        end=response.headers.get("x-plenum-end", "") == "true",
    )


def _messages(response: httpx.Response) -> Iterator[Message | None]:
    """Yield the events of a stream, None for a comment; the standard's line ends, its fields ``id`` and ``data``."""
    ident, data = "", []
    for line in _lines(response):
        if line.startswith(b":"):
            yield None
        elif not line:
            if data:
                yield Message(id=ident, data=json.loads(b"\n".join(data)))
            data = []
        else:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"id":
                ident = value.decode()


def _lines(response: httpx.Response) -> Iterator[bytes]:
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise ProblemError("the server sent an event without an end", status=500, code="client.answer")
        for line in lines:
            yield line.removesuffix(b"\r")
