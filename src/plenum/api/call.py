"""One request, from its headers to its answer."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from plenum.adapters.manifests.document import load_documents, plain
from plenum.api import shapes, views
from plenum.api.authorise import VISIBLE, Target, tenant
from plenum.api.context import ApiContext
from plenum.api.errors import (
    BodySizeError,
    BodySyntaxError,
    BodyTimeoutError,
    MediaTypeError,
    ParameterError,
)
from plenum.api.identity import Principal
from plenum.api.redact import Tenants
from plenum.control.commands import Command
from plenum.control.controller import Outcome
from plenum.control.state import State
from plenum.model.errors import FieldError

JSON = "application/json"
YAML = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

ENCODER = msgspec.json.Encoder()

LONG_BYTES = 65_536
"""Texts longer than this are parsed beside the event loop."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_KEY = re.compile(r"[!-~]{1,200}")
_ETAG = re.compile(r'"([0-9]{1,16})"')


class Call:
    """A request of somebody known, to a route whose parameters have been read.

    Parameters
    ----------
    action
        The route's; what is allowed is asked with it.
    path, query
        Parameters, read.
    """

    __slots__ = (
        "_allowed",
        "_body",
        "_target",
        "action",
        "body_limit",
        "context",
        "path",
        "principal",
        "query",
        "request",
    )

    def __init__(
        self,
        context: ApiContext,
        request: Request,
        principal: Principal,
        action: str,
        path: dict[str, Any],
        query: dict[str, Any],
        body_limit: int,
    ) -> None:
        self.context = context
        self.request = request
        self.principal = principal
        self.action = action
        self.path = path
        self.query = query
        self.body_limit = body_limit
        self._body: bytes | None = None
        self._allowed = False
        self._target: Target | None = None

    # -- what it asks about ------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state now; to be read between two awaits."""
        return self.context.service.state

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.context.service.clock.now()

    @property
    def job_id(self) -> str:
        """The job that the path names."""
        return f"{self.path['tenant']}/{self.path['name']}"

    @property
    def visible(self) -> Tenants:
        """Tenants whose things the caller may see; None: all."""
        return self.context.visible(self.principal, self.action)

    def allow(self, target: Target, action: str = "") -> None:
        """Pass if the caller may do this to a target.

        Raises
        ------
        ForbiddenError, AbsentError
            They may not.
        """
        self.context.require(self.principal, action or self.action, target)
        if target is not VISIBLE:
            self._allowed = True
        if not action:
            self._target = target

    async def still_allowed(self) -> None:
        """Pass if the token is still good and still allows what it allowed: it may have been revoked while a stream lasts.

        Raises
        ------
        PlenumError
            It does not.
        """
        self.principal = await self.context.known(self.request)
        if self._target is not None:
            self.context.require(self.principal, self.action, self._target)

    def wanted_tenants(self) -> Tenants:
        """Return the tenants that a list is about: the one that the query names, else all that the caller may see.

        Raises
        ------
        AbsentError
            The one named is not theirs to see.
        """
        named = self.path.get("tenant") or self.query.get("tenant")
        if not named:
            return self.visible
        self.allow(tenant(named))
        return frozenset([named])

    # -- headers -----------------------------------------------------------------------------------

    def if_version(self, written: str = "", current: int | None = None) -> int | None:
        """Return the version that the caller wants to change; 0: it must not exist; None: whichever it is.

        Parameters
        ----------
        written
            The one that stands in the body, which counts if no header says more.
        current
            Version now, for ``If-Match: *``.

        Raises
        ------
        ParameterError
            Another condition than these.
        """
        headers = self.request.headers
        match, none_match = headers.get("if-match"), headers.get("if-none-match")
        if match is not None and none_match is not None:
            raise ParameterError("If-Match", "give either If-Match or If-None-Match")
        if none_match is not None:
            if none_match.strip() != "*":
                raise ParameterError("If-None-Match", 'must be * here: "only if it does not exist"')
            return 0
        if match is not None:
            # A version of -1 is nobody's: what must exist and does not fails as a change does.
            if match.strip() == "*":
                return current or -1
            found = _ETAG.fullmatch(match.strip())
            if found is None:
                raise ParameterError("If-Match", 'must be one ETag that this API gave, such as "17", or *')
            return int(found[1])
        if written:
            if not re.fullmatch("[0-9]{1,16}", written):
                raise FieldError("metadata.resourceVersion", f"is not a version that this API gave: {written[:60]!r}")
            return int(written)
        return None

    def not_modified(self, etag: str) -> bool:
        """Return whether the caller has this version already."""
        given = self.request.headers.get("if-none-match")
        return given is not None and any(part.strip().removeprefix("W/") == etag for part in given.split(","))

    @property
    def trace(self) -> str:
        """Trace that the request belongs to: the caller's, or a new one."""
        found = _TRACEPARENT.fullmatch(self.request.headers.get("traceparent", "")[:300])
        if found and found[1] != "0" * 32 and found[2] != "0" * 16:
            return found[1]
        return secrets.token_hex(16)

    # -- the body ----------------------------------------------------------------------------------

    async def body(self) -> bytes:
        """Return the body.

        Raises
        ------
        BodySizeError, BodyTimeoutError, MediaTypeError
            It is too large, too slow, or compressed.
        """
        if self._body is None:
            self._body = await read_body(self.request, self.body_limit, self.context.settings.body_timeout_s)
        return self._body

    async def value(self) -> Any:
        """Return the body as plain values, from JSON or YAML as its type says.

        Raises
        ------
        BodySyntaxError, FileError, FieldError
            It is not what its type says, or beyond a limit.
        MediaTypeError
            Another type.
        """
        kind = media_type(self.request)
        body = await self.body()
        if kind == JSON:
            return json_value(body)
        if kind not in YAML:
            raise MediaTypeError(f"send {JSON} or {YAML[0]}, not {kind[:60]}")
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BodySyntaxError("the body is not UTF-8 text, so not YAML") from None
        # Parsing a large text takes long enough to hold others up.
        first, *others = (
            load_documents(text) if len(body) < LONG_BYTES else await asyncio.to_thread(load_documents, text)
        )
        if others:
            raise BodySyntaxError("the body holds more than one document; send one at a time")
        return plain(first.value)

    async def struct(self, kind: type[Any]) -> Any:
        """Return the body as a struct, from JSON.

        Raises
        ------
        BodySyntaxError, MediaTypeError
            As :meth:`value`.
        FieldError
            A field is missing, wrong or unknown.
        """
        given = media_type(self.request)
        if given != JSON:
            raise MediaTypeError(f"send {JSON}, not {given[:60]}")
        return decoded(await self.body(), kind)

    # -- carrying out ------------------------------------------------------------------------------

    @property
    def dry(self) -> bool:
        """Whether nothing is to be written."""
        return bool(self.query.get("dryRun"))

    async def execute(self, command: Command) -> Outcome:
        """Carry a command out in the caller's name, once for each idempotency key.

        Raises
        ------
        PlenumError
            It is refused, or cannot be written.
        """
        return await self.context.service.execute(self._signed(command))

    def would(self, command: Command, old: Any = None, new: Any = None) -> Response:
        """Answer what a command would write, and where two manifests differ."""
        events = self.context.service.dry_run(self._signed(command))
        diff = views.differences(old, new) if new is not None and old is not None else []
        if new is not None and old is None:
            diff = [shapes.Difference(path="", from_=None, to=new)]
        return self.answer(shapes.DryRun(changes=views.changes(events), diff=diff))

    def _signed(self, command: Command) -> Command:
        assert self._allowed, f"{self.action} would be carried out without having been allowed"
        actor, key, digest = self.principal.actor, self.request.headers.get("idempotency-key", ""), ""
        if key:
            if not _KEY.fullmatch(key):
                raise ParameterError("Idempotency-Key", "must be 1 to 200 visible ASCII characters")
            scope = self.request.scope
            named = f"{scope['method']}\n{scope['path']}\n".encode("utf-8", "surrogateescape")
            digest = hashlib.sha256(named + scope["query_string"] + b"\n" + (self._body or b"")).hexdigest()
            # The length keeps "a" with key "b:c" and "a:b" with key "c" apart.
            key = f"{len(actor)}:{actor}:{key}" if len(actor) < 90 else f"{_short(actor)}:{key}"
        return command.by(actor, trace=self.trace, key=key, digest=digest)

    # -- answers -----------------------------------------------------------------------------------

    def answer(
        self,
        shape: Any,
        *,
        status: int = 200,
        outcome: Outcome | None = None,
        version: int | str = 0,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Return an answer: 304 if the caller asked to read and has this version already.

        Parameters
        ----------
        outcome
            Of the command that was carried out; None: something was read.
        version
            Makes the ETag; 0: none.
        """
        more = {
            "x-plenum-position": str(outcome.position if outcome else self.state.position),
            "cache-control": "private, no-cache",
            "vary": "Authorization, Accept",
        }
        if outcome and outcome.replayed:
            more["idempotency-replayed"] = "true"
        if version:
            more["etag"] = etag = f'"{version}"'
            if outcome is None and self.request.method == "GET" and self.not_modified(etag):
                return Response(status_code=304, headers=more)
        if headers:
            more |= headers
        return Response(ENCODER.encode(shape), status, more, JSON)

    def done(self, message: str, outcome: Outcome) -> Response:
        """Return the answer to what left nothing to show."""
        return self.answer(
            shapes.Done(api_version=shapes.API_VERSION, kind="Done", message=message, position=outcome.position),
            outcome=outcome,
        )


def media_type(request: Request) -> str:
    """Return the type of the body; JSON where the request does not say."""
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


def json_value(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    BodySyntaxError
        It is none.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BodySyntaxError(f"the body is not JSON: {_reason(error)}") from None


def decoded(body: bytes, kind: type[Any]) -> Any:
    """Return a JSON text as a struct.

    Raises
    ------
    BodySyntaxError
        It is no JSON.
    FieldError
        A field is missing, wrong or unknown.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at `$")
        raise FieldError(path.strip("`.") or "body", sentence[:300]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BodySyntaxError(f"the body is not JSON: {_reason(error)}") from None


async def read_body(request: Request, limit: int, timeout_s: float) -> bytes:
    """Return the body of a request, and read no more than a limit of it.

    Raises
    ------
    BodySizeError, BodyTimeoutError, MediaTypeError, ParameterError
        It is too large, too slow, compressed, or its length makes no sense.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise MediaTypeError("a compressed body is not read here; send it as it is")
    announced = headers.get("content-length", "0").strip()
    if not re.fullmatch("[0-9]{1,18}", announced):
        raise ParameterError("Content-Length", "must be a number of bytes")
    if int(announced) > limit:
        raise BodySizeError(limit)
    parts: list[bytes] = []
    size = 0
    more = True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise BodyTimeoutError("the body did not arrive: the connection was closed")
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size > limit:
                    raise BodySizeError(limit)
                parts.append(part)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {timeout_s:g} s") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _short(actor: str) -> str:
    return hashlib.sha256(actor.encode()).hexdigest()[:40]
