"""What can be wrong with a request before anything is asked of the control plane."""

from __future__ import annotations

from plenum.control.commands import AbsentError
from plenum.model.errors import FieldError, PlenumError


class UnauthenticatedError(PlenumError):
    """Nobody, or somebody who cannot prove it."""

    code = "auth.required"


class InvalidTokenError(UnauthenticatedError):
    """A token that is not known here, was revoked, or does not verify. One sentence for all, so that nothing is learned from it."""

    code = "auth.invalid"

    def __init__(self) -> None:
        super().__init__("the token is not valid here (any more); log in again or ask for another")


class ExpiredTokenError(UnauthenticatedError):
    """A token that was valid."""

    code = "auth.expired"

    def __init__(self) -> None:
        super().__init__("the token has expired; log in again or ask for another")


class ForbiddenError(PlenumError):
    """Somebody known asks for what they may not have."""

    code = "auth.forbidden"


class HiddenError(AbsentError):
    """Somebody known asks for what is not theirs to see; the answer is that to what is not there, and the audit knows better."""


class RateError(PlenumError):
    """Too many requests, or too many streams at once."""

    code = "rate.limited"

    def __init__(self, sentence: str, retry_after_s: int = 1) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class BusyError(RateError):
    """Too much is being done for everybody."""

    code = "api.busy"


class BodySizeError(PlenumError):
    """A body larger than is read."""

    code = "body.too-large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit:,} bytes, the most that is read here; send less at a time")


class BodyTimeoutError(PlenumError):
    """A body that did not arrive."""

    code = "body.timeout"


class BodySyntaxError(PlenumError):
    """A body that is not what it claims to be."""

    code = "body.malformed"


class MediaTypeError(PlenumError):
    """A body of a type that is not read here."""

    code = "body.type"


class ParameterError(FieldError):
    """A parameter of the path, the query or a header that cannot be meant."""

    code = "request.invalid"


class CursorError(ParameterError):
    """A cursor that this list did not hand out."""

    code = "request.cursor"

    def __init__(self) -> None:
        super().__init__("continue", "is not a cursor of this list with these filters; start again without it")


class SecretGoneError(PlenumError):
    """The answer to a repeated request held a secret that nobody knows any more."""

    code = "token.shown"


class UnknownRouteError(PlenumError):
    """No such address."""

    code = "route.absent"


class MethodError(PlenumError):
    """The address does not take this method."""

    code = "route.method"
