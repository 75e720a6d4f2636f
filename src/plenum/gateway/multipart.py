"""Reads ``multipart/form-data`` as it arrives (RFC 7578), so that an uploaded file never is in memory as a whole.

Sans I/O: bytes in, pieces out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plenum.gateway.answers import invalid
from plenum.gateway.request import RefusedError

MAX_PARTS = 16
MAX_HEAD_BYTES = 2_048
MAX_BOUNDARY = 70
"""Characters, as RFC 2046 says."""

_BOUNDARY = re.compile(rb'multipart/form-data\s*;(?:.*;)?\s*boundary=("?)([^";\s]{1,70})\1\s*(?:;.*)?', re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition\s*:\s*form-data\s*;(.*)", re.IGNORECASE)
_PARAMETER = re.compile(rb'\b([\w*-]{1,32}+)\s{0,8}+=\s{0,8}+(?:"((?:[^"\\]|\\.)*+)"|([^;\s"]+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some bytes of one field.

    Parameters
    ----------
    name, filename
        Of the field; ``filename`` is empty where it is no file.
    first, last
        Whether it begins, or ends, the field.
    """

    name: str
    filename: str
    data: bytes
    first: bool
    last: bool


def boundary_of(content_type: bytes) -> bytes:
    """Return what separates the parts.

    Raises
    ------
    RefusedError
        It is no ``multipart/form-data``.
    """
    found = _BOUNDARY.fullmatch(content_type.strip())
    if not found:
        raise RefusedError(
            415, "invalid_request_error", "request.multipart", "send the file as multipart/form-data with a boundary"
        )
    return found[2]


class Reader:
    """One body.

    Parameters
    ----------
    boundary
        As :func:`boundary_of` says.

    Attributes
    ----------
    over
        Whether the last boundary came.
    """

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"\r\n--" + boundary
        self._rest = b"\r\n"  # the first boundary may stand at the very start
        self._field: tuple[str, str] | None = None
        self._first = False
        self._parts = self._skip = 0
        self._between = False
        self.over = False

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes as they came; returns what is known of fields now.

        Raises
        ------
        RefusedError
            It is no multipart body, or one beyond the limits.
        """
        if self.over:
            return []
        self._rest += data
        pieces: list[Piece] = []
        while not self.over and self._step(pieces):
            pass
        return pieces

    def _step(self, pieces: list[Piece]) -> bool:
        """Read one thing more; returns whether there was enough for it."""
        if self._between:
            return self._head()
        at = self._rest.find(self._mark)
        if at < 0:
            # What could be the beginning of a boundary waits for the rest of it.
            keep = len(self._mark) - 1
            if self._field and len(self._rest) > keep:
                pieces.append(self._piece(self._rest[:-keep], last=False))
                self._rest = self._rest[-keep:]
            elif not self._field and len(self._rest) > MAX_HEAD_BYTES:
                raise _broken("it does not begin with its boundary")
            return False
        if self._field:
            pieces.append(self._piece(self._rest[:at], last=True))
            self._field = None
        self._rest = self._rest[at + len(self._mark) :]
        self._between = True
        return True

    def _head(self) -> bool:
        """Read the end of a boundary's line and the head of the part after it."""
        if len(self._rest) < 2:
            return False
        if self._rest.startswith(b"--"):
            self.over = True
            return False
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self._rest) > MAX_HEAD_BYTES:
                raise _broken(f"a part's head is longer than {MAX_HEAD_BYTES:,} bytes")
            return False
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _broken(f"it has more than {MAX_PARTS} parts")
        self._field = _field_of(self._rest[:end])
        # An empty part's boundary begins with the line end that ends its head, so that stays until it is known to be no boundary.
        self._rest, self._skip = self._rest[end + 2 :], 2
        self._first, self._between = True, False
        return True

    def _piece(self, data: bytes, *, last: bool) -> Piece:
        assert self._field is not None
        first, self._first = self._first, False
        skipped = min(self._skip, len(data))
        data, self._skip = data[skipped:], self._skip - skipped
        return Piece(name=self._field[0], filename=self._field[1], data=data, first=first, last=last)


def _field_of(head: bytes) -> tuple[str, str]:
    for line in head.split(b"\r\n"):
        if found := _DISPOSITION.fullmatch(line.strip()):
            values = {name.lower(): _text(quoted or plain) for name, quoted, plain in _PARAMETER.findall(found[1])}
            if name := values.get(b"name"):
                return name, values.get(b"filename", "")
    raise _broken("a part has no name")


def _text(value: bytes) -> str:
    text = re.sub(rb"\\(.)", rb"\1", value).decode("utf-8", "replace")
    return "".join(c for c in text if c.isprintable())[:255]


def _broken(sentence: str) -> RefusedError:
    return invalid("", f"the multipart body cannot be read: {sentence}", code="request.multipart")
