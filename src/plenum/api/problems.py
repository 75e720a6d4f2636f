"""Errors as problem documents (RFC 9457): a permanent code, a status, a sentence, never a stack."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from starlette.responses import Response

from plenum.adapters.stores.faults import BackupError, ReadOnlyError
from plenum.api import errors
from plenum.control.commands import AbsentError, ChangedError, LimitError, TakenError
from plenum.control.controller import NotLeaderError
from plenum.control.service import BusyError, LogsError
from plenum.model.errors import FieldError, FileError, MissingExtraError, PlenumError
from plenum.ports.batches import BatchError
from plenum.ports.nodes import AbsentLogsError, StaleOrderError
from plenum.ports.store import ConflictError, FencedError, StoreError
from plenum.sim.store import NoFileError

TYPES = "https://plenum.dev/problems/"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

STATUS: dict[type[PlenumError], int] = {
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.BusyError: 503,
    errors.RateError: 429,
    errors.BodySizeError: 413,
    errors.BodyTimeoutError: 408,
    errors.BodySyntaxError: 400,
    errors.MediaTypeError: 415,
    errors.SecretGoneError: 409,
    errors.UnknownRouteError: 404,
    errors.MethodError: 405,
    AbsentError: 404,
    AbsentLogsError: 404,
    ChangedError: 412,
    TakenError: 409,
    StaleOrderError: 409,
    LimitError: 429,
    FieldError: 422,
    FileError: 400,
    BatchError: 422,
    LogsError: 404,
    NoFileError: 501,
    NotLeaderError: 503,
    BusyError: 503,
    BackupError: 503,
    ReadOnlyError: 503,
    ConflictError: 503,
    FencedError: 503,
    StoreError: 503,
    MissingExtraError: 501,
}
"""Class to status; of a class that is not here its nearest base counts."""

_TITLES = {
    400: "Malformed",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    412: "Changed meanwhile",
    413: "Too large",
    415: "Type not read",
    422: "Not valid",
    429: "Too many",
    500: "Internal error",
    501: "Not available",
    503: "Try again",
}


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A refusal or failure.

    Parameters
    ----------
    code
        Permanent, for programs: ``auth.forbidden``, ``manifest.invalid``, …
    detail
        For people: what is wrong and what would be right.
    field
        What is at fault in what was sent, as a dotted path.
    line
        Where that stands in a YAML body, from 1.
    leader
        Address of the control plane that leads, where this one does not.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    field: str = ""
    line: int = 0
    leader: str = ""


_ENCODER = msgspec.json.Encoder()


def status_of(error: PlenumError) -> int:
    """Return the HTTP status of an error; 400 for one that nothing is known of."""
    return next((STATUS[base] for base in type(error).__mro__ if base in STATUS), 400)


def problem_of(error: PlenumError, path: str) -> Problem:
    """Return the document of an error; ``path`` is the address it happened at."""
    status = status_of(error)
    return Problem(
        type=TYPES + error.code,
        title=_TITLES.get(status, "Refused"),
        status=status,
        detail=error.sentence,
        code=error.code,
        instance=quote(path[:300]),
        field=error.where.field[:300],
        line=error.where.line,
        leader=error.address if isinstance(error, NotLeaderError) else "",
    )


def answer_of(error: PlenumError, path: str, headers: dict[str, str] | None = None) -> Response:
    """Return the response to an error."""
    problem = problem_of(error, path)
    headers = dict(headers or {})
    if problem.status == 401:
        headers["www-authenticate"] = 'Bearer realm="plenum"'
    if problem.status in (429, 503):
        headers["retry-after"] = str(error.retry_after_s if isinstance(error, errors.RateError) else RETRY_AFTER_S)
    return respond(problem, headers)


def internal(path: str) -> Response:
    """Return the response to a fault of ours; what happened stands in the server's log alone."""
    return respond(
        Problem(
            type=TYPES + "internal",
            title=_TITLES[500],
            status=500,
            detail="something went wrong on our side; it has been written down, try again or tell the operator",
            code="internal",
            instance=quote(path[:300]),
        )
    )


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """Return a problem document as a response."""
    return Response(_ENCODER.encode(problem), problem.status, headers, MEDIA_TYPE)
