"""What clients are told when an engine refuses, fails, breaks off, or answers what cannot be read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from plenum.gateway.request import RefusedError
from plenum.ports.engine import EngineError

MAX_SAID_CHARACTERS = 400
"""Of an engine's own sentence."""


def broken(error: EngineError | None) -> RefusedError:
    """Return the refusal of a request whose answer does not come to its end; None: its engine does not say why."""
    sentence = "the engine broke off in its answer; what came before is billed, ask again for the rest"
    return RefusedError(502, "server_error", error.code if error else "engine.incomplete", sentence, retry_after_s=1.0)


def unusable() -> RefusedError:
    """Return the refusal of a request whose answer is none of the kind that was asked for."""
    sentence = "what the engine answered cannot be read; it is not billed, ask again"
    return RefusedError(502, "server_error", "engine.answer", sentence, retry_after_s=1.0)


def of_engine(status: int, body: bytes) -> RefusedError:
    """Return an engine's refusal as ours: its sentence and field, in the one shape that all engines' refusals have here."""
    if status >= 500:
        return RefusedError(502, "server_error", "engine.failed", "the engine failed; try again", retry_after_s=1.0)
    said: Any = {}
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = msgspec.json.decode(body)
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        said = said["error"]
    given = said if isinstance(said, dict) else {}
    message, field, code = given.get("message"), given.get("param"), given.get("code")
    return RefusedError(
        status,
        "rate_limit_error" if status == 429 else "invalid_request_error",
        "engine.refused",
        message[:MAX_SAID_CHARACTERS] if isinstance(message, str) and message else "the engine refused the request",
        field=field[:64] if isinstance(field, str) and field.isprintable() else "",
        retry_after_s=1.0 if status == 429 else 0.0,
        engine_code=code if isinstance(code, str) and code.isprintable() and len(code) <= 64 else "",
    )
