"""Metrics for Prometheus, by its conventions: base units, no label whose values grow with the work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plenum.control import events as ev
from plenum.control.service import Service
from plenum.model.fleet import CPU, GPU, GPU_MILLI, MEMORY, POWER
from plenum.model.workload import Kind
from plenum.ports.store import Record

CONTENT_TYPE = CONTENT_TYPE_LATEST

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DECISION_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
_WAIT_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)

_RESOURCES = (
    (GPU_MILLI, "gpus", "GPUs", GPU),
    (CPU, "cpu_cores", "CPU cores", 1000),
    (MEMORY, "memory_bytes", "Memory of hosts", 1),
    (POWER, "gpu_power_watts", "Power of GPUs", 1),
)
"""Resource, its name and words in metrics, and its base units to one of theirs."""


class Metrics:
    """Counts what happens, and reads the rest off the state when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "plenum_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.request_s = Histogram(
            "plenum_http_request_duration_seconds",
            "Time from request to answer, without streams and long polls.",
            ["method", "route"],
            buckets=_REQUEST_S,
            registry=registry,
        )
        self.in_flight = Gauge("plenum_http_requests_in_flight", "Requests and streams open.", registry=registry)
        self.connections = Gauge("plenum_http_connections", "Connections of clients.", registry=registry)
        self.connections_dropped = Counter(
            "plenum_http_connections_dropped", "Connections ended for what they did.", ["why"], registry=registry
        )
        self.refusals = Counter("plenum_http_refusals", "Requests refused.", ["code"], registry=registry)
        self._decision_s = Histogram(
            "plenum_decision_duration_seconds", "Time that decisions took.", buckets=_DECISION_S, registry=registry
        )
        self._bound = Counter("plenum_placements", "Units placed by decisions of this replica.", registry=registry)
        self._wait_s = Histogram(
            "plenum_queue_wait_seconds",
            "Time from submission to the first placement.",
            ["kind"],
            buckets=_WAIT_S,
            registry=registry,
        )
        self._ended = Counter("plenum_jobs_ended", "Jobs that came to their end.", ["phase"], registry=registry)
        for kind in Kind:
            self._wait_s.labels(kind.value)
        registry.register(_StateCollector(service))
        service.on_records.append(self._note)
        service.on_decision = self._decided

    def exposition(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)

    def _decided(self, seconds: float, bound: int) -> None:
        self._decision_s.observe(seconds)
        self._bound.inc(bound)

    def _note(self, record: Record) -> None:
        if record.type == ev.UnitBound.__name__:
            event = ev.event_of(record)
            assert isinstance(event, ev.UnitBound)
            job = self._service.state.jobs.get(event.job)
            if job is not None and event.attempt == 1:
                self._wait_s.labels(job.workload.kind.value).observe(max(0.0, record.at - job.submitted_at))
        elif record.type == ev.JobEnded.__name__:
            event = ev.event_of(record)
            assert isinstance(event, ev.JobEnded)
            self._ended.labels(event.phase).inc()


class _StateCollector(Collector):
    """What the state says at the moment of asking."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        service, state = self._service, self._service.state
        use = service.utilisation()
        jobs = GaugeMetricFamily("plenum_jobs", "Jobs by kind and phase.", labels=["kind", "phase"])
        counted: dict[tuple[str, str], int] = {}
        for job in state.jobs.values():
            key = (job.workload.kind.value, job.phase)
            counted[key] = counted.get(key, 0) + 1
        for key, number in sorted(counted.items()):
            jobs.add_metric(key, number)
        yield jobs
        nodes = GaugeMetricFamily("plenum_nodes", "Nodes by phase.", labels=["phase"])
        for phase, number in use.nodes.items():
            nodes.add_metric([phase], number)
        yield nodes
        for resource, name, words, unit in _RESOURCES:
            share = use.resources[resource]
            yield GaugeMetricFamily(f"plenum_held_{name}", f"{words} held by jobs.", share.held / unit)
            yield GaugeMetricFamily(f"plenum_capacity_{name}", f"{words} of nodes that are ready.", share.total / unit)
        yield GaugeMetricFamily("plenum_waiting_jobs", "Jobs with replicas that wait for a place.", use.waiting)
        yield GaugeMetricFamily(
            "plenum_oldest_wait_seconds", "Time that the oldest of them has waited.", use.oldest_wait_s
        )
        yield GaugeMetricFamily("plenum_tenants", "Tenants.", len(state.tenants))
        yield GaugeMetricFamily(
            "plenum_log_position", "Position of the log that this replica has reached.", state.position
        )
        yield GaugeMetricFamily("plenum_term", "Term of the leader.", state.term)
        yield GaugeMetricFamily("plenum_leader", "1 if this replica leads.", float(service.leading))
        yield GaugeMetricFamily("plenum_ready", "1 if this replica can be asked.", float(service.ready))
