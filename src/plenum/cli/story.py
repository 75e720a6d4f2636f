"""Facts of the log as sentences, so that the log of a job reads as its story."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from plenum.model.units import counted, show, show_duration

Body = dict[str, Any]

MOST_NODES = 4
"""Nodes that a sentence names; the rest are counted."""


def told(event: dict[str, Any]) -> str:
    """Return what an event says, in one sentence without its subject; its type where that is not known here."""
    tell = _TELL.get(event["type"])
    return tell(event.get("body", {}), event.get("actor", "").removeprefix("user/")) if tell else event["type"]


def _tenant(body: Body, actor: str) -> str:
    quota = ", ".join(f"{show(v, _unit(k))} {resource_name(k)}" for k, v in sorted(body.get("quota", {}).items()))
    jobs = f", at most {body['max_jobs']:,} jobs" if body.get("max_jobs") else ""
    return f"applied by {actor}, {f'quota {quota}' if quota else 'no quota'}{jobs}"


def _unit(resource: str) -> str:
    return "cpu_milli" if resource == "gpu_milli" else resource


def resource_name(resource: str) -> str:
    """Return what people call a resource."""
    return {"gpu_milli": "GPUs", "cpu_milli": "cores", "memory_bytes": "memory"}.get(resource, resource)


def _user(body: Body, actor: str) -> str:
    grants = [g["role"] if g["tenant"] == "*" else f"{g['role']} of {g['tenant']}" for g in body.get("grants", ())]
    return f"applied by {actor}: {', '.join(grants) or 'may do nothing'}"


def _token(body: Body, actor: str) -> str:
    note = f" ({body['note']})" if body.get("note") else ""
    return f"{body.get('kind', 'user')} token for {body.get('user') or 'nobody yet'} issued by {actor}{note}"


def _refused(body: Body, actor: str) -> str:
    times = f", {body['times']} times" if body.get("times", 1) > 1 else ""
    source = f" from {body['source']}" if body.get("source") else ""
    return f"refused {body['verb']} {body['path']} to {actor}{source}{times}: {body['sentence']} ({body['code']})"


def _fleet(body: Body, actor: str) -> str:
    nodes = body.get("nodes", ())
    gpus = sum(node.get("gpus", 0) for node in nodes)
    served = "simulated" if body.get("driver") == "simulated" else f"served by agent {body.get('agent', '')}"
    return f"applied by {actor}: {counted(len(nodes), 'node')}, {counted(gpus, 'GPU')}, {served}"


def _cordoned(body: Body, actor: str) -> str:
    why = f": {body['why']}" if body.get("why") else ""
    if not body.get("cordoned", True):
        return f"takes work again (by {actor}){why}"
    return f"{'being drained' if body.get('drain') else 'takes no new work'} (by {actor}){why}"


def _changed(body: Body, actor: str) -> str:
    return f"changed by {actor}; {'what runs is replaced' if body.get('restart', True) else 'what runs goes on'}"


def _stop(body: Body, actor: str) -> str:
    why = body.get("why") or "deleted"
    return f"to be removed (by {actor})" if why == "deleted" else f"to stop: {why} (by {actor})"


def _bound(body: Body, actor: str) -> str:
    bindings = body.get("bindings", ())
    nodes = list(dict.fromkeys(b["node"] for b in bindings))
    gpus = sum(b.get("gpu_mask", 0).bit_count() for b in bindings)
    what = body.get("unit") or ("the gang" if len(bindings) > 1 else _slot(bindings))
    parts = [f"{what} placed on {_some(nodes)}"]
    if len(bindings) > 1 and not body.get("unit"):
        parts.append(counted(len(bindings), "replica"))
    if gpus:
        parts.append(counted(gpus, "GPU"))
    if body.get("inside"):
        parts.append(f"inside {', '.join(body['inside'])}")
    text = ", ".join(parts) + _attempt(body)
    return "; ".join((text, *body.get("given_up", ())))


def _waiting(body: Body, actor: str) -> str:
    return body.get("sentence") or f"waits: {body['code']}"


def _stopped(body: Body, actor: str) -> str:
    return f"{body.get('unit') or 'the gang'} told to end: {body.get('why') or 'no reason given'}{_attempt(body)}"


def _reported(body: Body, actor: str) -> str:
    slot = _slot_of(body)
    if body["phase"] != "exited":
        note = body.get("message", "")
        return f"{slot} {body['phase']} on {body['node']}" + (f": {note}" if note not in ("", "ready") else "")
    code, cause = body.get("exit_code"), body.get("cause", "")
    how = "ended" if cause or code in (None, -1) else "ended well" if code == 0 else f"failed with exit code {code}"
    return f"{slot} {how} on {body['node']}" + (f" ({cause})" if cause else "") + _message(body)


def _released(body: Body, actor: str) -> str:
    what = body.get("unit") or "the gang"
    reason = body.get("why") or ""
    # Of a replica by itself that failed, the fact before this one has said why.
    is_told = reason == body["outcome"] or (body.get("unit") and reason.startswith(f"{body['unit']} on "))
    why = f" ({reason})" if reason and not is_told else ""
    again = "; it is tried again" if body.get("again") else ""
    return f"{what} {body['outcome']}{why}, what it held is free{again}{_attempt(body)}"


def _ended(body: Body, actor: str) -> str:
    phase = body["phase"].lower()
    return phase if body.get("message") == phase else f"{phase}{_message(body)}"


def _decision(body: Body, actor: str) -> str:
    text = f"considered {counted(len(body.get('considered', ())), 'job')}: {body.get('bound', 0)} bound, {body.get('waiting', 0)} waiting"
    return text + (f", {len(body['rejected'])} overtaken" if body.get("rejected") else "")


def _attempt(body: Body) -> str:
    return f" (attempt {body['attempt']})" if body.get("attempt", 1) > 1 else ""


def _slot(bindings: Iterable[Body]) -> str:
    return next((f"{b['role']}-{b['rank']}" for b in bindings), "nothing")


def _slot_of(body: Body) -> str:
    """Return the replica's slot: the unit's, or of a gang's what its run's name says after uid and attempt."""
    return body.get("unit") or body["run"].split("-", 2)[-1]


def _message(body: Body) -> str:
    return f": {body['message']}" if body.get("message") else ""


def _some(names: list[str]) -> str:
    if len(names) <= MOST_NODES:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NODES - 1])} and {len(names) - MOST_NODES + 1:,} more nodes"


def _by(verb: str) -> Callable[[Body, str], str]:
    return lambda body, actor: f"{verb} by {actor}"


def _leader(body: Body, actor: str) -> str:
    return f"{body['holder']} leads from now on (term {body['term']})"


def _lost(body: Body, actor: str) -> str:
    return f"lost: {body.get('why') or 'it was silent for too long'}"


_TELL: dict[str, Callable[[Body, str], str]] = {
    "LeaderChanged": _leader,
    "TenantApplied": _tenant,
    "TenantDeleted": _by("deleted"),
    "UserApplied": _user,
    "UserDeleted": _by("deleted"),
    "TokenIssued": _token,
    "TokenRevoked": _by("revoked"),
    "Refused": _refused,
    "FleetApplied": _fleet,
    "FleetDeleted": _by("deleted"),
    "NodeLost": _lost,
    "NodeReady": lambda body, actor: "ready",
    "NodeCordoned": _cordoned,
    "JobSubmitted": _by("submitted"),
    "JobChanged": _changed,
    "JobStopRequested": _stop,
    "UnitBound": _bound,
    "JobWaiting": _waiting,
    "UnitStopped": _stopped,
    "RunReported": _reported,
    "UnitReleased": _released,
    "JobEnded": _ended,
    "JobForgotten": lambda body, actor: "left the lists; its story stays in the log",
    "DecisionMade": _decision,
    "MixLearned": lambda body, actor: f"scores are learned from {len(body.get('mix', ()))} kinds of requests",
}


def _scaled(body: Body, actor: str) -> str:
    figures = ", ".join(f"{name} {value:.3g}" for name, value in sorted(body.get("signals", {}).items()))
    what = body.get("sentence") or f"{body['pool']}: {body['before']} → {body['after']} replicas: {body['why']}"
    return what + (f" ({figures})" if figures else "")


def _endpoint_changed(body: Body, actor: str) -> str:
    spec = body.get("spec", {})
    return f"applied by {actor}: {spec.get('model', '')} on {spec.get('engine', '')}"


def _revision(verb: str) -> Callable[[Body, str], str]:
    def tell(body: Body, actor: str) -> str:
        why = body.get("sentence") or body.get("why", "")
        if why.startswith("revision "):
            return why
        return f"revision {body['revision']} {verb}" + (f": {why}" if why else "")

    return tell


def _sized(body: Body, actor: str) -> str:
    return f"revision {body['revision']} is to have {counted(body['replicas'], 'replica')} ({body['pool']})"


def _room(body: Body, actor: str) -> str:
    room = " and ".join(f"{counted(count, 'replica')} ({pool})" for pool, count in sorted(body["room"].items()))
    return f"revision {body['revision']} comes into use in the room of {room}"


def _canary(body: Body, actor: str) -> str:
    return f"revision {body['revision']} gets {100 * body['part']:.3g} % of the requests, as a canary"


def _key(body: Body, actor: str) -> str:
    note = f" ({body['note']})" if body.get("note") else ""
    return f"issued by {actor} for tenant {body.get('key', {}).get('tenant', '')}{note}"


def _usage(body: Body, actor: str) -> str:
    return f"batch {body['number']} of gateway {body['gateway']}: {counted(len(body.get('rows', ())), 'request')}"


_TELL |= {
    "JobScaled": lambda body, actor: f"is to have {counted(body['replicas'], 'replica')}",
    "EndpointApplied": _endpoint_changed,
    "EndpointStopRequested": _stop,
    "EndpointDeleted": lambda body, actor: "gone",
    "EndpointScaled": _scaled,
    "RevisionStarted": _revision("begins"),
    "RoomReckoned": _room,
    "RevisionSized": _sized,
    "CanaryStarted": _canary,
    "RevisionPromoted": _revision("serves"),
    "RevisionRolledBack": _revision("rolled back"),
    "RevisionRetired": _revision("retired"),
    "KeyIssued": _key,
    "KeyRevoked": _by("revoked"),
    "UsageRecorded": _usage,
}


def lasted(status: dict[str, Any], now: float) -> str:
    """Return for how long something ran, or has run; empty if it has not begun."""
    from plenum.cli.times import seconds_of

    started = seconds_of(status.get("startedAt", ""))
    if not started:
        return ""
    return show_duration((seconds_of(status.get("endedAt", "")) or now) - started)
