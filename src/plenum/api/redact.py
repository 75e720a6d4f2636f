"""What a tenant's people may read of texts and facts that speak of others' jobs too."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from plenum.control import events as ev
from plenum.control.endpoints.events import KeyIssued
from plenum.control.state import State
from plenum.model.plan import Reason
from plenum.ports.store import Record

OTHERS = "another tenant's job"
"""Stands where the name of one stood."""

Tenants = frozenset[str] | None
"""Tenants whose jobs somebody may see; None: of all."""

_JOB = re.compile(r"(?<![\w./-])([a-z0-9][a-z0-9.-]{0,62})/([a-z0-9][a-z0-9.-]*[a-z0-9]|[a-z0-9])(#[\w.-]+)?")


def text_for(text: str, visible: Tenants, state: State) -> str:
    """Return a sentence without the names of jobs of tenants that are not visible.

    Notes
    -----
    Whatever has the form of a job's name counts as one, unless it starts with the name of a node (as ``n1/numa0`` does): a tenant that
    was deleted since must not show either.
    """
    if visible is None or "/" not in text:
        return text

    def seen(match: re.Match[str]) -> str:
        owner = match[1]
        hidden = owner not in visible and (owner in state.tenants or owner not in state.nodes)
        return OTHERS if hidden else match[0]

    return _JOB.sub(seen, text)


def reason_for(reason: Reason, visible: Tenants, state: State) -> dict[str, Any]:
    """Return an explanation as plain values, without what is not visible."""
    told = camel(msgspec.to_builtins(reason))
    if visible is None:
        return told
    for blocker in told["blockers"]:
        if blocker["tenant"] not in visible:
            blocker["workload"], blocker["tenant"] = OTHERS, ""
    return _texts(told, visible, state)


def why_for(why: msgspec.Struct, visible: Tenants, state: State) -> dict[str, Any]:
    """Return the answer to ``why`` as plain values, without what is not visible."""
    return _texts(camel(msgspec.to_builtins(why)), visible, state)


def body_for(record: Record, visible: Tenants, state: State) -> bytes:
    """Return the body of a record that somebody may see, without what they may not: hashes of tokens nobody, names of others' jobs."""
    if record.type in (ev.TokenIssued.__name__, KeyIssued.__name__):
        body = msgspec.json.decode(record.body)
        for holder in (body, body.get("key", {})):
            holder.pop("hash", None)
        return msgspec.json.encode(body)
    # Of the facts of a job only these carry sentences that others' jobs may stand in.
    if visible is not None and record.type in (ev.JobWaiting.__name__, ev.UnitBound.__name__, ev.JobEnded.__name__):
        return msgspec.json.encode(_texts(msgspec.json.decode(record.body), visible, state))
    return record.body


def camel(value: Any) -> Any:
    """Return plain values with the keys of mappings in camelCase."""
    if isinstance(value, dict):
        return {_camel_key(key): camel(item) for key, item in value.items()}
    return [camel(item) for item in value] if isinstance(value, (list, tuple)) else value


def _camel_key(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _texts(value: Any, visible: Tenants, state: State) -> Any:
    if isinstance(value, str):
        return text_for(value, visible, state)
    if isinstance(value, dict):
        return {key: _texts(item, visible, state) for key, item in value.items()}
    return [_texts(item, visible, state) for item in value] if isinstance(value, (list, tuple)) else value
