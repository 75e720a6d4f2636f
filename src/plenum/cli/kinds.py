"""Kinds of things that a control plane shows: what they are called, where they are, which columns tell about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from plenum.cli.tables import Column
from plenum.cli.times import age, clock
from plenum.model.units import counted, show

Item = dict[str, Any]
Cells = list[tuple[Column, object]]

JOB_KINDS = ("trainingjobs", "tasks", "endpoints")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind.

    Parameters
    ----------
    plural
        As people write it, and as its path is called.
    words
        Whatever else it may be called.
    cells
        Columns and cells of an item, at a time.
    of_tenant
        Whether each is some tenant's.
    """

    plural: str
    words: tuple[str, ...]
    cells: Callable[[Item, float], Cells]
    of_tenant: bool = False
    filters: tuple[str, ...] = ()


def kind_named(word: str) -> Kind:
    """Return a kind by any of its names.

    Raises
    ------
    BadParameter
        There is none of that name.
    """
    kind = KIND_BY_WORD.get(word.lower())
    if kind is None:
        import difflib

        close = difflib.get_close_matches(word.lower(), KIND_BY_WORD, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        listed = ", ".join(k.plural for k in KINDS)
        raise click.BadParameter(f"there is no kind {word[:60]!r}{hint}; there is {listed}", param_hint="KIND")
    return kind


def kind_and_names(word: str, names: Sequence[str]) -> tuple[Kind, tuple[str, ...]]:
    """Return a kind, and names without it: ``node n1`` and ``node/n1``, as commands print it, mean the same.

    Raises
    ------
    BadParameter
        There is no such kind.
    """
    before, _, first = word.partition("/")
    kind = kind_named(before if first else word)

    def plain(name: str) -> str:
        head, _, rest = name.partition("/")
        return rest if rest and KIND_BY_WORD.get(head.lower()) is kind else name

    return kind, tuple(plain(name) for name in ((first, *names) if first else names))


def job_path(plural: str, tenant: str, name: str) -> str:
    """Return the path of a job."""
    return f"/tenants/{quote(tenant, safe='')}/{plural}/{quote(name, safe='')}"


# -- jobs -------------------------------------------------------------------------------------------


def _job_cells(job: Item, now: float) -> Cells:
    meta, status = job["metadata"], job.get("status", {})
    return [
        (Column(head="TENANT"), meta.get("tenant", "")),
        (Column(head="NAME", fold=True), meta["name"]),
        (Column(head="KIND"), job.get("kind", "")),
        (Column(head="PHASE"), status.get("phase", "")),
        (Column(head="REPLICAS", right=True), replicas_text(status)),
        (Column(head="GPUS", right=True), gpus_text(job.get("spec", {}))),
        (Column(head="AGE", right=True), age(meta.get("createdAt", ""), now)),
        (Column(head="BY", wide=True, fold=True), meta.get("createdBy", "").removeprefix("user/")),
        (Column(head="TRY", wide=True, right=True), status.get("attempt", 0) or ""),
        (Column(head="INSIDE", wide=True, fold=True), ", ".join(status.get("inside", ()))),
        (
            Column(head="NOTE", fold=True, below=True),
            without_subject(job_note(status), meta),
        ),
    ]


def _endpoint_cells(endpoint: Item, now: float) -> Cells:
    """Of models that are served, beside what every job has: which model, on what, and what goes through it now."""
    spec, status = endpoint.get("spec", {}), endpoint.get("status", {})
    pools = status.get("pools", ())
    rate = sum(pool["requestsPerS"] for pool in pools)
    own = [
        (Column(head="MODEL", fold=True), spec.get("model", "")),
        (Column(head="ENGINE"), spec.get("engine", "llamacpp") if spec.get("model") else ""),
        (Column(head="REQ/S", right=True), f"{rate:.3g}" if pools else ""),
        (Column(head="OPEN", right=True, wide=True), sum(p["running"] + p["waiting"] for p in pools) if pools else ""),
    ]
    cells = _job_cells(endpoint, now)
    # Nothing but the attempt of a run differs from what jobs show, and revisions say more.
    return [*cells[:5], *own, *cells[5:]]


def replicas_text(status: Item) -> str:
    """Return how many replicas are where they should be, of how many."""
    counts = status.get("replicas", {})
    phase = status.get("phase", "")
    well = counts.get("succeeded", 0) if phase in ("Succeeded", "Failed") else counts.get("running", 0)
    # Replicas that are through count beside those that still run.
    well += counts.get("succeeded", 0) if phase == "Running" else 0
    return f"{well}/{counts.get('wanted', 0)}"


def gpus_text(spec: Item) -> str:
    """Return the GPUs that a job's manifest asks for in all; empty for none."""
    total = 0.0
    for role in spec.get("roles") or list((spec.get("pools") or {}).values()) or [spec]:
        resources = role.get("resources") or {}
        each = resources.get("gpu", 1 if resources.get("count") else 0) or 0
        if resources.get("mig"):
            return f"{resources['mig']} slices"
        replicas = role.get("replicas") or 1
        most = replicas.get("max", 1) if isinstance(replicas, dict) else replicas
        total += float(each) * (resources.get("count") or 1) * most
    return f"{total:g}" if total else ""


def job_note(status: Item) -> str:
    """Return what else there is to say of a job, in short."""
    if status.get("phase") in ("Succeeded", "Failed"):
        return status.get("message", "")
    waiting = status.get("waiting")
    if waiting:
        return waiting.get("sentence") or waiting["code"]
    if failures := status.get("failures"):
        return f"failed {counted(failures, 'time')} before"
    return status.get("message", "")


def without_subject(sentence: str, meta: Item) -> str:
    """Return a sentence without the name that it begins with: the job's, or that of the endpoint's job that it is about."""
    whose = re.escape(f"{meta.get('tenant')}/{meta['name']}")
    return re.sub(rf"^{whose}(-r\d+(-prefill|-decode)?)? ", "", sentence)


# -- hardware ---------------------------------------------------------------------------------------


def node_phase(status: Item) -> str:
    """Return whether a node is there and takes work, in a word."""
    phase = status.get("phase", "")
    if status.get("draining"):
        return "Draining" if phase == "Ready" else f"{phase},draining"
    if status.get("cordoned"):
        return "Cordoned" if phase == "Ready" else f"{phase},cordoned"
    return phase


def _node_cells(node: Item, now: float) -> Cells:
    spec, status = node.get("spec", {}), node.get("status", {})
    gpus = f"{spec['gpus']}" if spec.get("gpus") else ""
    return [
        (Column(head="NAME", fold=True), node["metadata"]["name"]),
        (Column(head="PHASE"), node_phase(status)),
        (Column(head="FLEET", fold=True), spec.get("fleet", "")),
        (Column(head="GPUS", right=True), gpus),
        (Column(head="MODEL"), spec.get("gpuModel", "")),
        (Column(head="CORES", right=True), show(spec.get("cpuMilli", 0), "cpu_milli")),
        (Column(head="MEMORY", right=True), show(spec.get("memoryBytes", 0), "memory_bytes")),
        (Column(head="RUNS", right=True), status.get("runs", 0)),
        (Column(head="SINCE", right=True), age(status.get("since", ""), now)),
        (
            Column(head="GPU POWER", wide=True, right=True),
            show(spec["powerW"], "power_w") if spec.get("powerW") else "",
        ),
        (Column(head="TRAITS", wide=True, fold=True), ",".join(spec.get("traits", ()))),
        (Column(head="WHY", fold=True, below=True), status.get("why", "")),
    ]


def _fleet_cells(fleet: Item, now: float) -> Cells:
    meta, status = fleet["metadata"], fleet.get("status", {})
    return [
        (Column(head="NAME", fold=True), meta["name"]),
        (Column(head="READY", right=True), f"{status.get('ready', 0):,}/{status.get('nodes', 0):,}"),
        (Column(head="DRIVER"), status.get("driver", "")),
        (Column(head="AGE", right=True), age(meta.get("createdAt", ""), now)),
        (Column(head="AGENT", wide=True, fold=True), status.get("agent", "")),
        (Column(head="ADDRESS", wide=True), status.get("address", "")),
    ]


# -- people -----------------------------------------------------------------------------------------


def _tenant_cells(tenant: Item, now: float) -> Cells:
    meta, spec, status = tenant["metadata"], tenant.get("spec", {}), tenant.get("status", {})
    quota, held = spec.get("quota", {}), status.get("held", {})
    limit = f"/{spec['maxJobs']:,}" if spec.get("maxJobs") else ""
    others = sorted({*quota, *held} - {"gpu_milli", "cpu_milli", "memory_bytes"})
    return [
        (Column(head="NAME", fold=True), meta["name"]),
        (Column(head="JOBS", right=True), f"{status.get('jobs', 0):,}{limit}"),
        (Column(head="GPUS", right=True), share_text(held, quota, "gpu_milli")),
        (Column(head="CORES", right=True), share_text(held, quota, "cpu_milli")),
        (Column(head="MEMORY", right=True), share_text(held, quota, "memory_bytes")),
        (Column(head="AGE", right=True), age(meta.get("createdAt", ""), now)),
        (Column(head="OTHER", wide=True, fold=True), ", ".join(f"{n} {share_text(held, quota, n)}" for n in others)),
    ]


def share_text(held: Item, quota: Item, resource: str) -> str:
    """Return what is held of what may be; GPUs are shown in whole ones."""
    name = "cpu_milli" if resource == "gpu_milli" else resource
    text = show(held.get(resource, 0), name)
    return f"{text}/{show(quota[resource], name)}" if resource in quota else text


def _user_cells(user: Item, now: float) -> Cells:
    meta = user["metadata"]
    grants = ", ".join(grant_text(grant) for grant in user.get("spec", {}).get("grants", ()))
    return [
        (Column(head="NAME", fold=True), meta["name"]),
        (Column(head="GRANTS", fold=True), grants),
        (Column(head="AGE", right=True), age(meta.get("createdAt", ""), now)),
    ]


def grant_text(grant: Item) -> str:
    """Return a role and where it counts."""
    return grant["role"] if grant["tenant"] == "*" else f"{grant['role']} of {grant['tenant']}"


def _token_cells(token: Item, now: float) -> Cells:
    meta, spec = token["metadata"], token.get("spec", {})
    return [
        (Column(head="ID"), meta["name"]),
        (Column(head="FOR", fold=True), spec.get("user", "")),
        (Column(head="KIND"), spec.get("kind", "")),
        (Column(head="PHASE"), token.get("status", {}).get("phase", "")),
        (Column(head="EXPIRES"), clock(spec.get("expiresAt", "")) or "never"),
        (Column(head="AGE", right=True), age(meta.get("createdAt", ""), now)),
        (Column(head="NOTE", fold=True), spec.get("note", "")),
    ]


def _key_cells(key: Item, now: float) -> Cells:
    meta, spec = key["metadata"], key.get("spec", {})
    limits = (("requestsPerMinute", "requests/min"), ("tokensPerMinute", "tokens/min"), ("maxParallel", "at once"))
    return [
        (Column(head="ID"), meta["name"]),
        (Column(head="TENANT"), meta.get("tenant", "")),
        (Column(head="MODELS", fold=True), ", ".join(spec.get("models", ())) or "all"),
        (Column(head="TIER"), spec.get("tier", "interactive")),
        (Column(head="LIMITS", fold=True), ", ".join(f"{spec[k]:,} {text}" for k, text in limits if spec.get(k))),
        (Column(head="PHASE"), key.get("status", {}).get("phase", "")),
        (Column(head="EXPIRES"), clock(spec.get("expiresAt", "")) or "never"),
        (Column(head="AGE", right=True), age(meta.get("createdAt", ""), now)),
        (Column(head="NOTE", fold=True), spec.get("note", "")),
    ]


def _gateway_cells(gateway: Item, now: float) -> Cells:
    return [
        (Column(head="NAME", fold=True), gateway["name"]),
        (Column(head="URL", fold=True), gateway["url"]),
        (Column(head="TABLE", right=True), gateway["table"]),
        (Column(head="HEARD OF", right=True), f"{age(gateway['seenAt'], now)} ago"),
    ]


# -- the log ----------------------------------------------------------------------------------------


def _event_cells(event: Item, now: float) -> Cells:
    from plenum.cli.story import told

    return [
        (Column(head="POSITION", right=True), event["position"]),
        (Column(head="TIME"), clock(event["at"])),
        (Column(head="ABOUT", fold=True), event.get("subject", "").removeprefix("job/")),
        (Column(head="TYPE", wide=True), event["type"]),
        (Column(head="BY", wide=True, fold=True), event.get("actor", "")),
        (Column(head="WHAT", fold=True), told(event)),
    ]


def _decision_cells(decision: Item, now: float) -> Cells:
    rejected = decision.get("rejected", ())
    return [
        (Column(head="POSITION", right=True), decision["position"]),
        (Column(head="TIME"), clock(decision["at"])),
        (Column(head="SAW", right=True), decision["inputs"]),
        (Column(head="POLICY"), decision.get("policy", "")),
        (Column(head="CONSIDERED", right=True), len(decision.get("considered", ()))),
        (Column(head="BOUND", right=True), _count(decision, "bound")),
        (Column(head="WAITING", right=True), _count(decision, "waiting")),
        (Column(head="REJECTED", right=True), len(rejected)),
        (Column(head="JOBS", wide=True, fold=True), _some(decision.get("considered", ()))),
    ]


def _count(decision: Item, name: str) -> object:
    value = decision.get(name)
    return "" if value is None else value


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


KINDS = (
    Kind(plural="jobs", words=("job", "j", "all"), cells=_job_cells, of_tenant=True, filters=("phase", "label")),
    Kind(
        plural="trainingjobs",
        words=("trainingjob", "training", "tj"),
        cells=_job_cells,
        of_tenant=True,
        filters=("phase", "label"),
    ),
    Kind(plural="tasks", words=("task", "ta"), cells=_job_cells, of_tenant=True, filters=("phase", "label")),
    Kind(
        plural="endpoints", words=("endpoint", "ep"), cells=_endpoint_cells, of_tenant=True, filters=("phase", "label")
    ),
    Kind(plural="keys", words=("key", "ke"), cells=_key_cells, of_tenant=True),
    Kind(plural="gateways", words=("gateway", "gw"), cells=_gateway_cells),
    Kind(plural="nodes", words=("node", "no"), cells=_node_cells),
    Kind(plural="fleets", words=("fleet", "fl"), cells=_fleet_cells),
    Kind(plural="tenants", words=("tenant", "te"), cells=_tenant_cells),
    Kind(plural="users", words=("user", "us"), cells=_user_cells),
    Kind(plural="tokens", words=("token", "to"), cells=_token_cells),
    Kind(plural="events", words=("event", "ev"), cells=_event_cells),
    Kind(plural="decisions", words=("decision", "de"), cells=_decision_cells),
)
KIND_BY_WORD = {word: kind for kind in KINDS for word in (kind.plural, *kind.words)}
JOB_WORDS = {
    word: "" if kind.plural == "jobs" else kind.plural
    for kind in KINDS
    if kind.of_tenant and kind.plural != "keys"
    for word in (kind.plural, *kind.words)
}
"""Word that may stand before a job's name, to the path of its kind; empty: of whichever."""
