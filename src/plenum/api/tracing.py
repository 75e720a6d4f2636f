"""Traces (OpenTelemetry) that follow one job from submission to its end, made of the facts in the log.

The job's trace is that of the request that submitted it. Ids of spans follow from what they are of, so a span that is exported twice, by
two replicas or after a restart, is one span.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plenum.control import events as ev
from plenum.control.records import FAILED
from plenum.control.service import Service
from plenum.ports.nodes import RUNNING
from plenum.ports.store import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

MAX_OPEN = 20_000
"""Jobs followed at once; of the oldest beyond that no more spans are made."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables of the environment that say where traces go (OpenTelemetry's own); neither set: nowhere."""


@dataclass(slots=True)
class _Unit:
    attempt: int = 0
    waits_since: float = 0.0
    bound_at: float = 0.0
    running_at: float = 0.0


@dataclass(slots=True)
class _Followed:
    uid: int
    trace: int
    kind: str
    tenant: str
    submitted_at: float
    units: dict[str, _Unit] = field(default_factory=dict)


class JobTracer:
    """Makes spans of records as they are taken in: ``job``, and in it ``queued``, ``starting`` and ``running`` for each attempt.

    Parameters
    ----------
    provider
        Where spans go; None: nothing is traced.
    """

    def __init__(self, service: Service, provider: TracerProvider | None) -> None:
        self._service = service
        self._provider = provider
        self._jobs: OrderedDict[str, _Followed] = OrderedDict()
        if provider is None:
            return
        self._ids = _Ids()
        provider.id_generator = self._ids  # pyright: ignore[reportAttributeAccessIssue]
        self._tracer = provider.get_tracer("plenum")
        service.on_records.append(self.note)

    @classmethod
    def of_environment(cls, service: Service) -> JobTracer:
        """Return a tracer that exports where the environment says; one that does nothing if it does not or the extra is missing."""
        if not any(os.environ.get(name) for name in ENDPOINTS):
            return cls(service, None)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            return cls(service, None)
        provider = TracerProvider(
            resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "plenum")})
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(service, provider)

    def close(self) -> None:
        """Export what waits, and end; may block for some seconds."""
        if self._provider is not None:
            self._service.on_records.remove(self.note)
            self._provider.shutdown()

    def note(self, record: Record) -> None:
        """Take a record in."""
        handle = _HANDLERS.get(record.type)
        if handle is not None and self._service.leading:
            handle(self, ev.event_of(record), record)

    # -- facts -------------------------------------------------------------------------------------

    def _submitted(self, event: ev.JobSubmitted, record: Record) -> None:
        self._jobs.pop(event.job, None)
        self._follow(event.job)

    def _follow(self, job_id: str) -> _Followed | None:
        """Return a job that is followed; one that was submitted before this process began is followed from here on."""
        if (known := self._jobs.get(job_id)) is not None:
            return known
        job = self._service.state.jobs.get(job_id)
        if job is None:
            return None
        known = self._jobs[job_id] = _Followed(
            uid=job.uid,
            trace=int(job.trace, 16) if len(job.trace) == 32 else _number(f"trace/{job.uid}", 16),
            kind=job.workload.kind.value,
            tenant=job.tenant,
            submitted_at=job.submitted_at,
        )
        if len(self._jobs) > MAX_OPEN:
            self._jobs.popitem(last=False)
        return known

    def _bound(self, event: ev.UnitBound, record: Record) -> None:
        if (job := self._follow(event.job)) is None:
            return
        unit = job.units.setdefault(event.unit, _Unit())
        since = unit.waits_since or (job.submitted_at if event.attempt == 1 else 0.0)
        if since:
            self._span(
                event.job,
                job,
                "queued",
                event.unit,
                event.attempt,
                since,
                record.at,
                {"plenum.decision": event.decision},
            )
        job.units[event.unit] = _Unit(attempt=event.attempt, bound_at=record.at)

    def _reported(self, event: ev.RunReported, record: Record) -> None:
        job = self._jobs.get(event.job)
        unit = job.units.get(event.unit) if job else None
        if job is None or unit is None or event.phase != RUNNING or unit.running_at or not unit.bound_at:
            return
        unit.running_at = record.at
        self._span(
            event.job, job, "starting", event.unit, unit.attempt, unit.bound_at, record.at, {"plenum.node": event.node}
        )

    def _released(self, event: ev.UnitReleased, record: Record) -> None:
        job = self._jobs.get(event.job)
        unit = job.units.get(event.unit) if job else None
        if job is None or unit is None:
            return
        if since := unit.running_at or unit.bound_at:
            name = "running" if unit.running_at else "starting"
            told = {"plenum.outcome": event.outcome, "plenum.why": event.why}
            self._span(
                event.job,
                job,
                name,
                event.unit,
                event.attempt,
                since,
                record.at,
                told,
                failed=event.outcome == "failed",
            )
        job.units[event.unit] = _Unit(waits_since=record.at)

    def _ended(self, event: ev.JobEnded, record: Record) -> None:
        job = self._jobs.pop(event.job, None)
        if job is not None:
            told = {"plenum.phase": event.phase, "plenum.message": event.message}
            failed = event.phase == FAILED
            self._span(event.job, job, "job", "", 0, job.submitted_at, record.at, told, failed=failed)

    # -- spans -------------------------------------------------------------------------------------

    def _span(
        self,
        job_id: str,
        job: _Followed,
        name: str,
        unit: str,
        attempt: int,
        begin: float,
        end: float,
        told: dict[str, Any],
        *,
        failed: bool = False,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        context = Context()
        root = _number(f"span/{job.uid}/job//0", 8)
        if name != "job":
            above = trace.SpanContext(
                job.trace, root, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(above), context)
        self._ids.trace, self._ids.span = job.trace, _number(f"span/{job.uid}/{name}/{unit}/{attempt}", 8)
        told = {"plenum.job": job_id, "plenum.tenant": job.tenant, "plenum.kind": job.kind, **told}
        if attempt:
            told |= {"plenum.attempt": attempt, "plenum.unit": unit}
        span = self._tracer.start_span(name, context, attributes=told, start_time=_nanoseconds(begin))
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        # The clock may have been set back meanwhile; a span does not end before it began.
        span.end(_nanoseconds(max(begin, end)))


class _Ids:
    """Gives the SDK the ids that were decided here."""

    def __init__(self) -> None:
        self.trace = 1
        self.span = 1

    def generate_trace_id(self) -> int:
        """Return the id set last."""
        return self.trace

    def generate_span_id(self) -> int:
        """Return the id set last."""
        return self.span

    def is_trace_id_random(self) -> bool:
        """Return whether the id is known to be random: whoever sent the request chose it."""
        return False


_HANDLERS: dict[str, Any] = {
    "JobSubmitted": JobTracer._submitted,
    "UnitBound": JobTracer._bound,
    "RunReported": JobTracer._reported,
    "UnitReleased": JobTracer._released,
    "JobEnded": JobTracer._ended,
}


def _number(text: str, size: int) -> int:
    # Zero would be no id at all.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
