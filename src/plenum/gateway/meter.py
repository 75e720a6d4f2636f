"""Counts what a streamed answer comes to while it is passed on, without reading each of its events.

Sans I/O: bytes in, bytes out. Events are told by their ends alone; only one that names ``usage`` is parsed, which is the last. Lines may
end in CR, LF or both, as the standard of server-sent events has it; on they go with LF.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from plenum.ports.engine import EngineError

MAX_EVENT_BYTES = 4 * 2**20

_END = b"\n\n"
_DATA = b"data:"
_USAGE = b'"usage":'
_ROLE = b'"role":'
_DONE = (b"data: [DONE]\n\n", b"data:[DONE]\n\n")
_ERROR = b'data: {"error"'
_TIMINGS = b',"timings":{'
_NO_FINGERPRINT = b'"system_fingerprint":"b0-unknown",'

_timings = re.compile(re.escape(_TIMINGS) + rb"[^{}]*\}")

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading somebody's JSON may raise."""

MAX_TOKENS = 2**40
"""Of one answer: an engine that says more, or less than none, says nothing."""

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class Details(msgspec.Struct, frozen=True):
    """Of a prompt's tokens."""

    cached_tokens: _Tokens | None = None


class Counted(msgspec.Struct, frozen=True):
    """Usage as engines say it."""

    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens | None = 0
    prompt_tokens_details: Details | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache."""
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class _Event(msgspec.Struct, frozen=True):
    usage: Counted | None = None
    choices: list[msgspec.Raw] = []


class _Choice(msgspec.Struct, frozen=True):
    delta: dict[str, Any] = {}


class _First(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []


class _Whole(msgspec.Struct, frozen=True):
    usage: Counted | None = None


_event = msgspec.json.Decoder(_Event)
_first = msgspec.json.Decoder(_First)
_whole = msgspec.json.Decoder(_Whole)


def usage_of(body: bytes) -> Counted | None:
    """Return the usage that an answer which is no stream says; None: it says none.

    Raises
    ------
    EngineError
        It is no object in JSON.
    """
    try:
        if not body.isascii():
            body.decode()  # what is passed over is not looked at otherwise
        return _whole.decode(body).usage
    except UNREADABLE:
        with suppress(*UNREADABLE):
            if isinstance(msgspec.json.decode(body), dict):
                return None
        raise EngineError("the engine's answer is no JSON object") from None


def plain(data: bytes) -> bytes:
    """Return whole events, or a whole answer, without what llama.cpp adds to OpenAI's: times of its own, and a build that it does not know.

    In a text of JSON's a quotation mark is written \\", so these bytes stand for names or nowhere.
    """
    if _TIMINGS in data:
        data = _timings.sub(b"", data)
    return data.replace(_NO_FINGERPRINT, b"")


class Meter:
    """One stream.

    Parameters
    ----------
    wants_usage
        Whether the client asked for the event that tells usage; else it is left out.

    Attributes
    ----------
    tokens
        Events with content so far: of engines that send each token by itself, output tokens.
    usage
        What the engine says of the whole, once it does.
    done
        Whether the stream said that it had ended.
    failed
        Whether it said that something went wrong, after a status that said otherwise.
    """

    __slots__ = ("_after_cr", "_tail", "_wants_usage", "done", "failed", "tokens", "usage")

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._tail, self._after_cr = b"", False
        self.tokens = 0
        self.usage: Counted | None = None
        self.done = self.failed = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the engine's; returns those for the client, whole events only.

        Raises
        ------
        EngineError
            An event is longer than :data:`MAX_EVENT_BYTES`.
        """
        if self._after_cr or b"\r" in data:
            data = self._with_plain_ends(data)
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if not data.endswith(_END):
            cut = data.rfind(_END) + 2
            if cut == 1:
                cut = 0
            self._tail, data = data[cut:], data[:cut]
            if len(self._tail) > MAX_EVENT_BYTES:
                raise EngineError(f"the engine sent an event of more than {MAX_EVENT_BYTES:,} bytes")
            if not data:
                return b""
        if _USAGE in data:
            data = self._read_usage(data)
        # In JSON a line's end is written \n, so these bytes stand at the start of an event or nowhere.
        events = data.count(b"\n\ndata:") + data.startswith(_DATA)
        if data.endswith(_DONE):
            self.done = True
            events -= 1
        if _ERROR in data and (data.startswith(_ERROR) or _END + _ERROR in data):
            self.failed = True
            events -= 1
        if _ROLE in data:
            # A choice's first event tells its role; with some engines its first token too.
            events -= sum(_tells_only_role(event) for event in data.split(_END) if _ROLE in event)
        self.tokens += events
        return plain(data)

    def rest(self) -> bytes:
        """Return what came after the last whole event of a stream that ended well."""
        rest, self._tail = self._tail, b""
        return rest

    def _with_plain_ends(self, data: bytes) -> bytes:
        # In JSON a CR is written \r: one that stands here ends a line, alone or with the LF that may come next.
        if self._after_cr and data:
            data, self._after_cr = data.removeprefix(b"\n"), False
        self._after_cr = self._after_cr or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _read_usage(self, data: bytes) -> bytes:
        events = data.split(_END)[:-1]
        return b"".join([event + _END for event in events if _USAGE not in event or self._passes(event)])

    def _passes(self, event: bytes) -> bool:
        """Read an event that tells usage; returns whether the client gets it."""
        try:
            said = _event.decode(event.partition(_DATA)[2])
        except UNREADABLE:
            return True
        if said.usage is None:
            return True
        self.usage = said.usage
        if said.choices:
            return True
        self.tokens -= self._wants_usage  # counted by who calls, though it holds no token
        return self._wants_usage


def _tells_only_role(event: bytes) -> bool:
    try:
        choices = _first.decode(event.partition(_DATA)[2]).choices
    except UNREADABLE:
        return True
    return not any(said for choice in choices for name, said in choice.delta.items() if name != "role")
