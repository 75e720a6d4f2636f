"""Prompts: that they are what they should be, name nothing that an engine would fetch, and what of them tells prefixes apart."""

from __future__ import annotations

from typing import Any

import msgspec

from plenum.gateway.answers import invalid
from plenum.gateway.request import RefusedError

MAX_MESSAGES = 8_192
MAX_PARTS = 1_024
MAX_INPUTS = 2_048
MAX_DATA_CHARACTERS = 6 * 2**20
MAX_TOKEN_ID = 2**31

MEDIA_BYTES = 2_048
"""What an image or a sound counts as where the length of prompts is estimated: some 500 tokens."""

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MESSAGE = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning", "reasoning_content"}
)  # fmt: skip
_TEXTS = ("text", "refusal")
_MEDIA = ("image_url", "video_url", "audio_url")
_ABOUT = frozenset({"type", "detail", "cache_control"})


class Prompt(msgspec.Struct, frozen=True):
    """What a request's prompt comes to.

    Parameters
    ----------
    text
        By which prefixes are told; of prompts that are tokens, those as text.
    size_bytes
        Of the text, and :data:`MEDIA_BYTES` for each image or sound.
    tokens
        Where it was given as tokens, how many; else 0.
    many
        Prompts in one request.
    """

    text: str
    size_bytes: int
    tokens: int = 0
    many: int = 1


def read_messages(body: dict[str, Any]) -> Prompt:
    """Return the prompt of a chat.

    Raises
    ------
    RefusedError
        The messages are none, or a part of one is something that an engine would have to fetch.
    """
    messages = body.get("messages")
    if type(messages) is not list or not messages:
        raise invalid("messages", "messages must be a list of at least one message")
    if len(messages) > MAX_MESSAGES:
        raise invalid("messages", f"messages must be at most {MAX_MESSAGES:,}, not {len(messages):,}")
    texts: list[str] = []
    media = 0
    if tools := body.get("tools") or body.get("functions"):
        # Templates put them before all messages.
        texts.append(msgspec.json.encode(tools).decode())
    for index, message in enumerate(messages):
        if type(message) is not dict or message.get("role") not in _ROLES:
            raise invalid(f"messages[{index}].role", f"a message has a role, one of {', '.join(_ROLES)}")
        if not message.keys() <= _MESSAGE:
            unknown = next(iter(message.keys() - _MESSAGE))
            raise _unknown(f"messages[{index}]", unknown)
        texts.append(message["role"])
        media += _read_content(message, index, texts)
    text = "\n".join(texts)
    return Prompt(text, _size(text) + media * MEDIA_BYTES)


def _read_content(message: dict[str, Any], index: int, texts: list[str]) -> int:
    """Add a message's text to ``texts``; returns how many images and sounds it has."""
    content = message.get("content")
    media = 0
    if type(content) is str:
        texts.append(content)
    elif type(content) is list:
        if len(content) > MAX_PARTS:
            raise invalid(f"messages[{index}].content", f"a message has at most {MAX_PARTS:,} parts")
        for place, part in enumerate(content):
            media += _read_part(part, f"messages[{index}].content[{place}]", texts)
    elif content is not None:
        raise invalid(f"messages[{index}].content", "content must be a text or a list of parts")
    calls = message.get("tool_calls") or message.get("function_call")
    if calls:
        texts.append(msgspec.json.encode(calls).decode())
    for name in ("name", "tool_call_id", "refusal", "reasoning", "reasoning_content"):
        if message.get(name) is not None and type(message[name]) is not str:
            raise invalid(f"messages[{index}].{name}", f"{name} must be a text")
    return media


def _read_part(part: Any, where: str, texts: list[str]) -> int:
    kind = part.get("type") if type(part) is dict else None
    if kind in _TEXTS:
        _only(part, where, kind)
        if type(part.get(kind)) is not str:
            raise invalid(f"{where}.{kind}", f"{kind} must be a text")
        texts.append(part[kind])
        return 0
    if kind in _MEDIA:
        _only(part, where, kind)
        given = part.get(kind)
        if type(given) is dict:
            if not given.keys() <= {"url", "detail"}:
                raise _unknown(f"{where}.{kind}", next(iter(given.keys() - {"url", "detail"})))
            given = given.get("url")
        texts.append(_data_url(given, f"{where}.{kind}"))
        return 1
    if kind == "input_audio":
        _only(part, where, kind)
        sound = part.get(kind)
        if type(sound) is not dict or not sound.keys() <= {"data", "format"} or type(sound.get("data")) is not str:
            raise invalid(f"{where}.{kind}", "input_audio must hold data (base64) and format")
        _inline(sound["data"], f"{where}.{kind}.data")
        texts.append(sound["data"][:64])
        return 1
    raise invalid(
        f"{where}.type",
        "a part is text, image_url, video_url, audio_url or input_audio, its data in the request itself",
        code="request.part_unsupported",
    )


def _only(part: dict[str, Any], where: str, kind: str) -> None:
    """Pass if a part holds nothing beside what its type says; else engines might go by the rest."""
    unknown = part.keys() - _ABOUT - {kind}
    if unknown:
        raise _unknown(where, next(iter(unknown)))


def _data_url(url: Any, where: str) -> str:
    """Return what tells one inline image from another.

    Raises
    ------
    RefusedError
        It is a URL to be fetched: an engine stands inside the fleet's network, and a file's name is one on its host.
    """
    if type(url) is not str or url[:5].lower() != "data:":
        raise invalid(where, "only data: URLs are taken; nothing is fetched for a request", code="request.url_refused")
    _inline(url, where)
    return f"{len(url)}:{url[-64:]}"


def _inline(data: str, where: str) -> None:
    if len(data) > MAX_DATA_CHARACTERS:
        raise invalid(
            where, f"must be at most {MAX_DATA_CHARACTERS:,} characters", code="request.too_large", status=413
        )


def read_texts(value: Any, field: str) -> Prompt:
    """Return the prompt of a completion or the input of embeddings: a text, texts, tokens, or lists of tokens.

    Raises
    ------
    RefusedError
        It is none of these, or too many.
    """
    if type(value) is str:
        return Prompt(value, _size(value))
    if type(value) is not list or not value:
        raise invalid(field, f"{field} must be a text, a list of texts, tokens, or a list of lists of tokens")
    if type(value[0]) is int:
        _check_tokens(value, field)
        return Prompt(",".join(map(str, value)), 0, len(value))
    if len(value) > MAX_INPUTS:
        raise invalid(field, f"{field} must be at most {MAX_INPUTS:,} at once, not {len(value):,}")
    if type(value[0]) is str:
        if any(type(each) is not str for each in value):
            raise invalid(field, f"{field} must be all texts or all tokens")
        return Prompt("\n".join(value), sum(map(_size, value)), many=len(value))
    for each in value:
        if type(each) is not list or not each:
            raise invalid(field, f"{field} must be all texts or all tokens")
        _check_tokens(each, field)
    return Prompt(",".join(map(str, value[0])), 0, sum(map(len, value)), len(value))


def _check_tokens(tokens: list[Any], field: str) -> None:
    if any(type(token) is not int for token in tokens) or not 0 <= min(tokens) <= max(tokens) < MAX_TOKEN_ID:
        raise invalid(field, f"tokens of {field} must be whole numbers from 0")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _unknown(where: str, name: str) -> RefusedError:
    shown = name[:64] if name.isprintable() else "?"
    return invalid(where, f"{where} has no {shown!r}; leave it out", code="request.field_unknown")
