"""What may be asked about endpoints, keys and usage (see :mod:`plenum.control.commands` for what a command is)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from plenum.control.commands import AbsentError, ChangedError, Command, LimitError, TakenError, check_at, check_name
from plenum.control.endpoints import events as ep
from plenum.control.endpoints.revisions import MAX_NAME
from plenum.control.fact import Event
from plenum.control.state import State
from plenum.model.endpoint import Endpoint
from plenum.model.errors import FieldError
from plenum.ports.gateway import MAX_USAGE_ROWS, Key, LoadReport, Usage, UsageBatch
from plenum.ports.store import TERM_GAP

MAX_ENDPOINTS = 2_000
MAX_REPLICAS = 2_000
"""Of one pool."""

MAX_KEYS = 20_000
MAX_KEYS_EACH = 1_000
"""Of one tenant."""

MAX_GATEWAYS = 1_000
SILENT_S = 30 * 86_400.0
"""A gateway that has sent all its usage and then nothing for so long gives its place up where others need one."""

MAX_TOKENS_A_ROW = 2**40
"""No fewer than gateways let engines say: a row that is refused keeps all those after it waiting."""

MAX_COUNT = 2**60
MAX_CHARACTERS = 200
MAX_SECONDS = 1e8
DAY_S = 86_400.0
OUTCOMES = ("done", "cancelled", "broken", "interrupted")
TIERS = ("interactive", "batch")


class MissedError(ChangedError):
    """A batch of usage came before the one that it follows."""

    code = "usage.missed"


def apply_endpoint(spec: Endpoint, manifest: dict[str, Any], *, if_version: int | None = None) -> Command:
    """Ask for an endpoint, or for a change of one; asked for again after a rollback, the same is tried once more."""

    def run(state: State, now: float) -> Sequence[Event]:
        old = state.endpoints.get(spec.id)
        check_at(old.version if old else 0, if_version, f"Endpoint {spec.id}", asked=old.asked if old else None)
        _check(spec, state)
        if old is not None and old.stop:
            raise TakenError(f"{spec.id} is being deleted; apply it again once it is gone")
        if old is None:
            _check_room(spec, state)
        _check_name_is_free(spec, state)
        if old is not None and (old.spec, old.manifest) == (spec, manifest) and old.failed is None:
            return ()
        return (ep.EndpointApplied(endpoint=spec.id, spec=spec, manifest=manifest),)

    return Command(subject=f"endpoint/{spec.id}", run=run, also=(f"tenant/{spec.tenant}",), alone=False)


def _check(spec: Endpoint, state: State) -> None:
    check_name(spec.name)
    if len(spec.name) > MAX_NAME:
        raise FieldError("metadata.name", f"an endpoint's name has at most {MAX_NAME} characters, not {len(spec.name)}")
    if spec.tenant not in state.tenants:
        raise FieldError("metadata.tenant", f"there is no tenant {spec.tenant!r}; an operator makes it first")
    for pool in spec.pools:
        if pool.max_replicas > MAX_REPLICAS:
            raise FieldError(
                "spec.replicas", f"a pool has at most {MAX_REPLICAS:,} replicas, not {pool.max_replicas:,}"
            )
    _check_budget(spec)
    if spec.cheaper == spec.name:
        raise FieldError("spec.cheaper", "names the endpoint itself; name another that is cheaper, or none")


def _check_budget(spec: Endpoint) -> None:
    if not spec.budget_gpus or spec.attached:
        return
    if not spec.apart or not all(pool.gpus for pool in spec.pools):
        raise FieldError(
            "spec.gpuBudget", "is shared by prefill and decode: give it with pools whose replicas take whole GPUs"
        )
    least = sum(max(pool.min_replicas, 1) * pool.gpus for pool in spec.pools)
    if spec.budget_gpus < least:
        raise FieldError(
            "spec.gpuBudget", f"must hold the fewest replicas of both, {least} GPUs; not {spec.budget_gpus}"
        )


def _check_room(spec: Endpoint, state: State) -> None:
    """Raise unless there may be one more endpoint, of this name."""
    job = state.jobs.get(spec.id)
    if job is not None and job.id in state.live:
        raise TakenError(f"there is a job {spec.id} already; delete it first, or choose another name")
    if len(state.endpoints) >= MAX_ENDPOINTS:
        raise LimitError(f"there are {MAX_ENDPOINTS:,} endpoints already; delete one first")
    most = state.tenants[spec.tenant].max_jobs
    if most and sum(1 for other in state.endpoints.values() if other.tenant == spec.tenant) >= most:
        raise LimitError(f"tenant {spec.tenant} has {most} endpoints, as many as it may have jobs; delete one first")


def _check_name_is_free(spec: Endpoint, state: State) -> None:
    """Raise TakenError if clients could not tell the endpoint from another of its tenant."""
    for other in state.endpoints.values():
        if other.tenant == spec.tenant and other.id != spec.id:  # one that goes has its names until it is gone
            names = {other.spec.model_name, *(name for name, _ in other.spec.adapters)}
            for name in (spec.model_name, *(name for name, _ in spec.adapters)):
                if name in names:
                    raise TakenError(f"{other.id} is served as {name!r} already; choose another name (spec.servedAs)")


def delete_endpoint(endpoint_id: str, *, if_version: int | None = None) -> Command:
    """Let an endpoint go: its replicas finish what they stream, and stop."""

    def run(state: State, now: float) -> Sequence[Event]:
        found = state.endpoints.get(endpoint_id)
        if found is None:
            raise AbsentError(f"there is no Endpoint {endpoint_id}")
        check_at(found.version, if_version, f"Endpoint {endpoint_id}", asked=found.asked)
        return () if found.stop else (ep.EndpointStopRequested(endpoint=endpoint_id),)

    return Command(subject=f"endpoint/{endpoint_id}", run=run, alone=False)


# -- keys -------------------------------------------------------------------------------------------


def issue_key(key: Key, note: str = "") -> Command:
    """Hand out a key; the caller made the secret and keeps only its hash."""

    def run(state: State, now: float) -> Sequence[Event]:
        if key.tenant not in state.tenants:
            raise FieldError("tenant", f"there is no tenant {key.tenant!r}; an operator makes it first")
        if key.tier not in TIERS:
            raise FieldError("tier", f"must be {' or '.join(TIERS)}, not {key.tier[:60]!r}")
        for name in ("requests_per_minute", "tokens_per_minute", "max_parallel"):
            if getattr(key, name) < 0:
                raise FieldError(name, "must not be negative; 0 means no limit")
        if not key.id or key.id in state.keys:
            raise TakenError(f"there is a key {key.id!r} already; make another")
        if len(key.models) > MAX_CHARACTERS or any(len(name) > MAX_CHARACTERS for name in (*key.models, key.id)):
            raise FieldError("models", f"at most {MAX_CHARACTERS} names of at most {MAX_CHARACTERS} characters")
        if len(state.keys) >= MAX_KEYS:
            raise LimitError(f"there are {MAX_KEYS:,} keys already; revoke some first")
        if sum(1 for known in state.keys.values() if known.key.tenant == key.tenant) >= MAX_KEYS_EACH:
            raise LimitError(f"tenant {key.tenant} has {MAX_KEYS_EACH:,} keys already; revoke some first")
        return (ep.KeyIssued(key=key, note=note[:MAX_CHARACTERS]),)

    return Command(subject="keys", run=run, also=(f"tenant/{key.tenant}",))


def revoke_key(key_id: str) -> Command:
    """End a key's validity."""

    def run(state: State, now: float) -> Sequence[Event]:
        known = state.keys.get(key_id)
        if known is None:
            raise AbsentError(f"there is no key {key_id}")
        return (ep.KeyRevoked(id=key_id, of_tenant=known.key.tenant),)

    return Command(subject=f"key/{key_id}", run=run, also=("keys",))


# -- loads ------------------------------------------------------------------------------------------


def check_report(report: LoadReport) -> None:
    """Refuse figures that scaling cannot reckon with: one gateway's nonsense must not stop the work for all.

    Raises
    ------
    FieldError
        There is such a figure; names it.
    """
    if not 0 <= report.seconds <= MAX_SECONDS:
        raise FieldError("seconds", f"must be from 0 to {MAX_SECONDS:,.0f}, not {report.seconds!r}")
    for i, pool in enumerate(report.pools):
        for name in _COUNTS:
            if not 0 <= getattr(pool, name) <= MAX_COUNT:
                raise FieldError(f"pools[{i}].{name}", f"must be from 0 to {MAX_COUNT:,}, not {getattr(pool, name)}")
        if not 0 <= pool.cache_used < 2:  # rounded
            raise FieldError(f"pools[{i}].cache_used", f"is a part of the whole, not {pool.cache_used!r}")


_COUNTS = (
    "arrived", "finished", "failed", "refused", "waiting", "running", "prompt_tokens", "cached_tokens", "output_tokens",
)  # fmt: skip


# -- usage ------------------------------------------------------------------------------------------


def record_usage(batch: UsageBatch) -> Command:
    """Write down what a gateway's requests took; a batch that is in the log already is acknowledged again, and counts once.

    Each journal needs a name of its own for its gateway: numbers of a name that was used before would be taken for repetitions.
    """

    def run(state: State, now: float) -> Sequence[Event]:
        _check_batch(batch)
        known = state.metered.get(batch.gateway)
        freed = _freed(state, now) if known is None else ()
        if known is not None and batch.number <= known.number:
            return ()
        # Restored from a backup, the log knows less than was acknowledged, and the gateway has let go of it. So it has where its journal is
        # not known: its folder was moved to another disk, which gives it another name, or it was forgotten here.
        if known is not None and batch.number > known.number + 1 and state.term // TERM_GAP <= known.restored:
            sentence = f"batch {batch.number} of {batch.gateway} comes too early; send {known.number + 1} first"
            raise MissedError(sentence)
        # All that is as old as what was forgotten last had been taken by then.
        forgotten_at = state.forgotten_at if known is None else 0.0
        # A gateway whose clock is ahead must not push the days out that were summed up before.
        latest = now + DAY_S
        rows = tuple(
            row if row.at <= latest else msgspec.structs.replace(row, at=latest)
            for row in batch.rows
            if not row.at <= forgotten_at
        )
        return (
            ep.UsageRecorded(
                gateway=batch.gateway, number=batch.number, rows=rows, waiting=max(batch.waiting, 0), freed=freed
            ),
        )

    return Command(subject=f"usage/{batch.gateway}", run=run, alone=False)


def _freed(state: State, now: float) -> tuple[str, ...]:
    """Return which gateway makes place for another where there are as many as there may be: the one that has been silent longest."""
    if len(state.metered) < MAX_GATEWAYS:
        return ()
    silent = {name: m.at for name, m in state.metered.items() if not m.waiting and m.at < now - SILENT_S}
    if not silent:
        raise LimitError(
            f"{MAX_GATEWAYS:,} gateways have reported usage within {SILENT_S / DAY_S:.0f} days, the most there may be"
        )
    return (min(silent, key=lambda name: (silent[name], name)),)


def _check_batch(batch: UsageBatch) -> None:
    if not 0 < len(batch.gateway) <= MAX_CHARACTERS or batch.number < 1:
        raise FieldError("gateway", f"must have 1 to {MAX_CHARACTERS} characters, and batches count up from 1")
    if len(batch.rows) > MAX_USAGE_ROWS:
        raise FieldError("rows", f"at most {MAX_USAGE_ROWS:,} rows in a batch, not {len(batch.rows):,}")
    for i, row in enumerate(batch.rows):
        problem = _problem(row)
        if problem:
            raise FieldError(f"rows[{i}]", problem)


def _problem(row: Usage) -> str:
    """Return what is wrong with a row; empty: nothing."""
    counts = (row.prompt_tokens, row.cached_tokens, row.output_tokens)
    if not all(0 <= count <= MAX_TOKENS_A_ROW for count in counts):
        return f"token counts must be from 0 to {MAX_TOKENS_A_ROW:,}, not {counts}"
    if not (math.isfinite(row.at) and 0 <= row.at < 1e11):
        return f"must be dated in seconds since the epoch, not {row.at!r}"
    if any(len(text) > MAX_CHARACTERS for text in (row.request, row.tenant, row.key, row.endpoint, row.model)):
        return f"names have at most {MAX_CHARACTERS} characters"
    return "" if row.outcome in OUTCOMES else f"an outcome is one of {', '.join(OUTCOMES)}, not {row.outcome[:60]!r}"
