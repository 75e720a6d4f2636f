"""Lists: a page in the order of names, with a cursor that stays good while things come and go, and only the fields asked for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from plenum.api import shapes
from plenum.api.call import ENCODER, Call
from plenum.api.errors import CursorError, ParameterError
from plenum.api.parameters import Parameter

T = TypeVar("T")

PAGE = 100
LARGEST_PAGE = 1000
MAX_FIELDS = 32

LIMIT = Parameter(
    name="limit", about="Most items in the answer.", kind="integer", default=PAGE, low=1, high=LARGEST_PAGE, example=50
)
CONTINUE = Parameter(name="continue", about="Cursor from the list before, to go on where it ended.", default="")
FIELDS = Parameter(
    name="fields",
    about="Only these fields of each item, as dotted paths separated by commas.",
    default="",
    pattern=r"[A-Za-z0-9_.,-]*",
    example="metadata.name,status.phase",
)
PAGING = (LIMIT, CONTINUE, FIELDS)


def page(
    call: Call,
    kind: str,
    keys: Iterable[str],
    show: Callable[[str], Any],
    *,
    dated: bool = True,
) -> Response:
    """Answer with one page of a list.

    Parameters
    ----------
    keys
        Of all items that pass the filters, in any order; the page goes by their order.
    show
        Returns the item of a key.
    """
    after = cursor_of(call)
    limit = call.query["limit"]
    found = heapq.nsmallest(limit + 1, keys if after is None else (key for key in keys if key > after))
    shown, more = found[:limit], len(found) > limit
    return answer(call, kind, [show(key) for key in shown], cursor(call, shown[-1]) if more else "", dated=dated)


def answer(call: Call, kind: str, items: list[Any], continue_: str, *, dated: bool = True) -> Response:
    """Answer with items already chosen; ``dated``: what they show changes with the log alone, whose position is then the ETag."""
    fields = fields_of(call.query["fields"])
    if fields:
        items = [selected(msgspec.json.decode(ENCODER.encode(item)), fields) for item in items]
    position = call.state.position
    document = {
        "apiVersion": shapes.API_VERSION,
        "kind": f"{kind}List",
        "metadata": shapes.ListMetadata(resource_version=str(position), continue_=continue_),
        "items": items,
    }
    return call.answer(document, version=position if dated else 0)


def cursor(call: Call, key: str) -> str:
    """Return the cursor that stands behind a key, for a list with this call's filters."""
    return base64.urlsafe_b64encode(f"{_filters(call)}{key}".encode()).decode().rstrip("=")


def cursor_of(call: Call) -> str | None:
    """Return the key that a call's cursor stands behind; None: it has none.

    Raises
    ------
    CursorError
        It was not made by :func:`cursor` for these filters.

    Notes
    -----
    A cursor is not signed: whatever it says, the list shows what the caller may see and nothing else.
    """
    text = call.query["continue"]
    if not text:
        return None
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise CursorError from None
    filters = _filters(call)
    if not plain.startswith(filters) or not plain[len(filters) :].isprintable():
        raise CursorError
    return plain[len(filters) :]


def _filters(call: Call) -> str:
    """Return a short text that other filters do not share."""
    query = sorted((k, v) for k, v in call.query.items() if k not in ("limit", "continue", "fields", "watch"))
    digest = hashlib.sha256(repr((call.request.scope["path"], query)).encode("utf-8", "replace")).hexdigest()
    return f"{digest[:12]}."


def fields_of(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the paths in ``fields=``.

    Raises
    ------
    ParameterError
        There are too many, or one is empty.
    """
    if not text:
        return ()
    paths = tuple(tuple(path.split(".")) for path in text.split(","))
    if len(paths) > MAX_FIELDS or any(not step for path in paths for step in path):
        raise ParameterError("fields", f"must be at most {MAX_FIELDS} dotted paths such as status.phase")
    return paths


def selected(item: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    """Return a copy of an item with nothing but some paths; what is not there is left out."""
    chosen: dict[str, Any] = {}
    for path in paths:
        at: Any = item
        for step in path:
            at = at.get(step) if isinstance(at, dict) else None
        if at is None:
            continue
        into = chosen
        for step in path[:-1]:
            # "spec,spec.run": the whole has been chosen already.
            if (into := into.setdefault(step, {})) is None or not isinstance(into, dict):
                break
        else:
            into[path[-1]] = at
    return chosen
