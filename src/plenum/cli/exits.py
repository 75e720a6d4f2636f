"""With what the command exits."""

from __future__ import annotations

from plenum.model.errors import PlenumError

DONE, NO, WRONG, UNREACHABLE, NOT_ALLOWED, ABSENT, CONFLICT, BUSY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130

MEANINGS = (
    (DONE, "done, or the answer is yes"),
    (NO, "the answer is no: something waits, failed, differs or took too long"),
    (WRONG, "what was given cannot be meant"),
    (UNREACHABLE, "no control plane answers"),
    (NOT_ALLOWED, "not allowed, or not logged in"),
    (ABSENT, "it is not there, or not yours to see"),
    (CONFLICT, "it was changed meanwhile, or its state does not allow this now"),
    (BUSY, "the control plane is at a limit or has a fault; try again later"),
    (INTERRUPTED, "interrupted"),
)
"""Every code and what it means; scripts may rely on them."""

_BY_STATUS = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: ABSENT, 409: CONFLICT, 412: CONFLICT, 408: BUSY, 429: BUSY}
_BY_CODE = {"client.unreachable": UNREACHABLE, "client.no-context": UNREACHABLE, "serving.does-not-fit": NO}


def exit_code(error: PlenumError) -> int:
    """Return the code to exit with after an error."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    status = getattr(error, "status", 0)
    return _BY_STATUS.get(status, BUSY if status >= 500 else WRONG)
