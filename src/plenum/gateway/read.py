"""From a request's bytes to an :class:`~plenum.gateway.request.Ask`: read strictly, and written anew for the engine.

Engines are sent what was checked, encoded afresh: of a body that two readers could read differently (a name given twice) they see the
one reading that was checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from plenum.gateway.answers import invalid
from plenum.gateway.directory import Directory, check_text
from plenum.gateway.estimates import Estimates
from plenum.gateway.fields import check_fields
from plenum.gateway.prompts import Prompt, read_messages, read_texts
from plenum.gateway.request import Ask
from plenum.gateway.settings import GatewaySettings
from plenum.ports.engine import CHAT, EMBEDDINGS
from plenum.ports.gateway import Key

MAX_DEPTH = 64
MAX_NESTED = 262_144
"""Objects and lists in one body: parsing millions of empty ones would stop the loop for everybody."""

SALTED = frozenset({"vllm", "sglang", "emulated"})
"""Engines that keep prefixes of different ``cache_salt`` apart."""

TEXT_TIMES = 5
"""As much as its bytes a text comes to, of characters of one byte; of wider ones to two or three times that."""

ITEM_BYTES = 120
"""What an item of a list or an object comes to at most beside its text, as Python keeps it."""

_FOUR_BYTES = (*(bytes([lead]) for lead in range(0xF0, 0xF5)), b"\\ud", b"\\uD")
"""Begin characters in whose presence a text takes four bytes a character."""

_BATCH_TIERS = frozenset({"flex", "batch"})
_decoder = msgspec.json.Decoder()


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says beside the body.

    Parameters
    ----------
    timeout_s
        After which it will have gone; 0: it does not say.
    tier
        ``batch`` for what can wait; empty: as its key says.
    session
        What belongs together, by ``x-session-id``.
    judges
        Whether it judges an answer: it is in no experiment, and nobody moderates it.
    """

    timeout_s: float = 0.0
    tier: str = ""
    session: str = ""
    judges: bool = False


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A request as read.

    Parameters
    ----------
    wants_usage
        Whether the client asked for usage at the end of a stream; the engine always is asked.
    size_bytes
        Of the prompt's text; 0: its tokens were given.
    """

    ask: Ask
    wants_usage: bool
    size_bytes: int


def read_ask(
    raw: bytes,
    *,
    id: str,
    path: str,
    key: Key,
    wishes: Wishes,
    directory: Directory,
    estimates: Estimates,
    settings: GatewaySettings,
    now_s: float,
    rewrite: Callable[[dict[str, Any]], None] = lambda body: None,
) -> Reading:
    """Read a request.

    Parameters
    ----------
    now_s
        By the monotonic clock.
    rewrite
        Makes the body what it is to be, before it is checked.

    Raises
    ------
    RefusedError
        It cannot be meant, is not allowed, or names a model that is not there.
    """
    body = read_object(raw)
    named = check_text(body.get("model"), "model")
    rewrite(body)
    model = check_text(body.get("model"), "model")
    served = directory.served(key, model, named)
    check_fields(path, body)
    prompt = _prompt(path, body)
    choices = _choices(body, prompt, settings)
    spec = served.spec
    stream = bool(body.get("stream"))
    wants_usage = stream and bool((body.get("stream_options") or {}).get("include_usage"))
    if stream:
        body["stream_options"] = {"include_usage": True}
    else:
        body.pop("stream_options", None)
    salt = directory.salt(key.tenant)
    keep_apart(body, spec.engine, salt if path != EMBEDDINGS else "", shared=directory.is_shared(served))
    tier = _tier(body, key, wishes)
    prompt_tokens = prompt.tokens or estimates.tokens(spec.id, prompt.size_bytes)
    output_tokens = 0 if path == EMBEDDINGS else _output_tokens(body, settings) * choices
    if spec.context_tokens and prompt.tokens > spec.context_tokens:
        raise invalid(
            "prompt",
            f"the prompt has {prompt.tokens:,} tokens, and {model} takes {spec.context_tokens:,}",
            code="context_length_exceeded",
        )
    limit_s = min(settings.request_s, wishes.timeout_s or settings.request_s)
    ask = Ask(
        id=id,
        key=key,
        served=served,
        path=path,
        body=body,
        raw=msgspec.json.encode(body),
        model=model,
        stream=stream,
        prompt=prompt.text,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        tier=tier,
        session=wishes.session or body.get("prompt_cache_key") or body.get("user") or "",
        arrived_s=now_s,
        deadline_s=now_s + limit_s,
    )
    return Reading(ask=ask, wants_usage=wants_usage, size_bytes=prompt.size_bytes)


def keep_apart(body: dict[str, Any], engine: str, salt: str, *, shared: bool) -> None:
    """Have a tenant's prefixes kept apart from others': else how fast an engine answers tells one what another has asked."""
    body.pop("cache_salt", None)
    body.pop("cache_prompt", None)
    if engine not in SALTED and shared:
        body["cache_prompt"] = False
    elif engine in SALTED and salt:
        body["cache_salt"] = salt


def cost_bytes(raw: bytes) -> int:
    """Return what a body comes to in memory at most while it is read: as it came, several times as text, and written anew."""
    if any(start in raw for start in _FOUR_BYTES):
        times = 3 * TEXT_TIMES
    else:
        times = TEXT_TIMES if raw.isascii() and b"\\u" not in raw else 2 * TEXT_TIMES
    return len(raw) * times + ITEM_BYTES * raw.count(b",")


def read_object(raw: bytes) -> dict[str, Any]:
    """Return a body that is a JSON object.

    Raises
    ------
    RefusedError
        It is something else, not UTF-8, or nested beyond meaning.
    """
    nested = raw.count(b"[") + raw.count(b"{")
    if nested > MAX_NESTED:
        raise invalid("", f"the body has more than {MAX_NESTED:,} objects and lists", code="request.too_nested")
    try:
        body = _decoder.decode(raw)
    except UnicodeDecodeError as error:
        raise invalid("", "the body is not valid UTF-8", code="request.encoding") from error
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.MsgspecError as error:
        raise invalid("", f"the body is not valid JSON: {str(error)[:200]}", code="request.json") from error
    if type(body) is not dict:
        raise invalid("", "the body must be a JSON object", code="request.json")
    if nested > MAX_DEPTH:
        _check_depth(body)
    return body


def _check_depth(body: dict[str, Any]) -> None:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            each
            for holder in level
            for each in (holder.values() if type(holder) is dict else holder)
            if type(each) is dict or type(each) is list
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> Exception:
    return invalid("", f"the body is nested deeper than {MAX_DEPTH} levels", code="request.too_nested")


def _prompt(path: str, body: dict[str, Any]) -> Prompt:
    if path == CHAT:
        return read_messages(body)
    field = "input" if path == EMBEDDINGS else "prompt"
    return read_texts(body.get(field), field)


def _choices(body: dict[str, Any], prompt: Prompt, settings: GatewaySettings) -> int:
    """Return how many answers are generated."""
    most = settings.choices
    for name in ("n", "best_of"):
        if (body.get(name) or 1) > most:
            raise invalid(name, f"{name} must be at most {most}, not {body[name]}")
    return max(body.get("n") or 1, body.get("best_of") or 1) * prompt.many


def _output_tokens(body: dict[str, Any], settings: GatewaySettings) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if body.get(name) is not None:
            return body[name]
    return settings.output_tokens


def _tier(body: dict[str, Any], key: Key, wishes: Wishes) -> str:
    """Return a request's class: its key's, or the lower one if it says so."""
    said = body.pop("service_tier", None)
    return "batch" if said in _BATCH_TIERS or wishes.tier == "batch" else key.tier
