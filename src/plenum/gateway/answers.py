"""OpenAI's shapes of what a gateway says itself: errors, and headers that no client can put anything into."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any

import msgspec

from plenum.gateway.request import RefusedError

JSON = b"application/json"
EVENTS = b"text/event-stream"

Headers = list[tuple[bytes, bytes]]

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_WORD = re.compile(r"[a-z0-9._ -]{1,128}")
_RETRY_LIMIT_S = 3_600


def invalid(field: str, sentence: str, *, code: str = "request.invalid", status: int = 400) -> RefusedError:
    """Return the refusal of a request that cannot be meant."""
    return RefusedError(status, "invalid_request_error", code, sentence, field=field)


def overloaded(code: str, sentence: str, *, retry_after_s: float = 1.0, status: int = 503) -> RefusedError:
    """Return the refusal of a request that may come again."""
    return RefusedError(status, "overloaded_error", code, sentence, retry_after_s=retry_after_s)


def error_body(error: RefusedError) -> bytes:
    """Return a refusal as OpenAI's clients read it."""
    return msgspec.json.encode({"error": _shape(error)})


def error_event(error: RefusedError) -> bytes:
    """Return the same for a stream that has begun."""
    return b"data: " + error_body(error) + b"\n\n"


def _shape(error: RefusedError) -> dict[str, Any]:
    code = error.engine_code or error.code
    return {"message": error.sentence, "type": error.kind, "param": error.field or None, "code": code}


def error_headers(error: RefusedError) -> Headers:
    """Return when to come back, and whom to ask for a key."""
    headers: Headers = []
    if error.retry_after_s > 0:
        after_s = min(_RETRY_LIMIT_S, max(1, math.ceil(error.retry_after_s)))
        headers.append((b"retry-after", b"%d" % after_s))
        headers.append((b"retry-after-ms", b"%d" % min(_RETRY_LIMIT_S * 1_000, math.ceil(error.retry_after_s * 1e3))))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def client_id(value: bytes) -> bytes:
    """Return an id that a client gave, or nothing where it has characters that ids have not."""
    return value if _ID.fullmatch(value) else b""


def is_loopback(address: str) -> bool:
    """Return whether an address is this host's own."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def word(text: str) -> bytes:
    """Return a word of ours as a header's value; anything else as nothing."""
    return text.encode() if _WORD.fullmatch(text) else b""
