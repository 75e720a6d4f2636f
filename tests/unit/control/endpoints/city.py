"""A small cloud that serves: a controller, an agent over imitated nodes, and a gateway that says what it sees."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.unit.control.cloud import Cloud, read_fleet

from plenum.control.controller import Controller
from plenum.control.endpoints import commands as ec
from plenum.control.endpoints import events as ep
from plenum.control.endpoints.process import NO_WEIGHTS
from plenum.control.endpoints.state import EndpointRecord
from plenum.control.endpoints.table import table_of
from plenum.control.events import event_of
from plenum.model.endpoint import Endpoint, Pool
from plenum.model.process import Process, Simulated
from plenum.model.workload import Request
from plenum.ports.gateway import LoadReport, PoolLoad, Replica, Served

CHAT = "red/chat"


def imitated(spec: Endpoint, pool: Pool) -> Process:
    """Return an engine that exists only here; one with the argument ``broken`` or ``hopeless`` fails at once, ``slow`` is never ready."""
    codes = {"broken": 1, "hopeless": NO_WEIGHTS}
    if code := next((codes[each] for each in spec.arguments if each in codes), 0):
        return Process(simulated=Simulated(duration_s=0.5, exit_code=code), grace_s=5.0)
    return Process(simulated=Simulated(start_s=1e9 if "slow" in spec.arguments else 2.0, duration_s=0.0), grace_s=5.0)


def chat(low: int = 1, high: int = 4, **more: object) -> Endpoint:
    """Return an endpoint of one pool."""
    gpus = int(more.pop("gpus", 1))  # type: ignore[call-overload]
    pool = Pool(min_replicas=low, max_replicas=high, request=Request(gpus=gpus))
    return Endpoint(**{"name": "chat", "tenant": "red", "model": "smollm2", "pools": (pool,), **more})  # type: ignore[arg-type]


@dataclass
class Gateway:
    """What one gateway would report: figures a second for each revision's pool, and what is open on replicas that drain."""

    name: str = "g"
    seen: dict[tuple[int, str], PoolLoad] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    silent: bool = False
    table: int = -1
    """Version that it is stuck at; -1: it follows."""


class City(Cloud):
    """A cloud with endpoints; :meth:`run` also lets the gateway report every second."""

    def __init__(self, nodes: int = 2, **more: object) -> None:
        super().__init__(nodes, **more)  # type: ignore[arg-type]
        self.gateway = Gateway()

    def replica(self, holder: str) -> Controller:
        """Return another controller over the same log, which imitates engines."""
        controller = Controller(self.store, self.clock, read_fleet, holder=holder, engine_process=imitated)
        controller.load()
        return controller

    def apply(self, spec: Endpoint) -> None:
        """Ask for an endpoint."""
        self.execute(ec.apply_endpoint(spec, {"text": str(spec)}))

    def endpoint(self, name: str = CHAT) -> EndpointRecord:
        """Return an endpoint."""
        return self.state.endpoints[name]

    def served(self, name: str = CHAT) -> Served:
        """Return what gateways are told of an endpoint."""
        table = table_of(self.state, "secret")
        return next(s for s in table.served if s.spec.id == name)

    def replicas(self, phase: str = "ready", revision: int = 0) -> list[Replica]:
        """Return the replicas in a phase."""
        return [r for r in self.served().replicas if r.phase == phase and revision in (0, r.revision)]

    def see(self, revision: int = 1, pool: str = "serve", **figures: object) -> None:
        """Let the gateway see so much of a revision every second from now on."""
        self.gateway.seen[revision, pool] = PoolLoad(endpoint=CHAT, revision=revision, pool=pool, **figures)  # type: ignore[arg-type]

    def run(self, seconds: float = 5.0, *, agent: bool = True) -> None:
        """Let time pass, second by second."""
        for _ in range(int(seconds)):
            self.report()
            super().run(1, agent=agent)

    def report(self) -> None:
        """Let the gateway say what it sees."""
        if self.gateway.silent:
            return
        version = self.state.served_version if self.gateway.table < 0 else self.gateway.table
        self.controller.loads.take(
            LoadReport(
                gateway=self.gateway.name,
                seconds=1.0,
                table=version,
                pools=tuple(self.gateway.seen.values()),
                draining=self.gateway.open,
            ),
            self.clock.monotonic(),
        )

    def said(self, kind: type[ep.Event]) -> list[ep.Event]:
        """Return the facts of a kind in the log."""
        return [e for e in map(event_of, self.store.read(0, 100_000)) if isinstance(e, kind)]


def changed(spec: Endpoint, *arguments: str) -> Endpoint:
    """Return an endpoint that takes a new revision."""
    return replace(spec, arguments=(*arguments, "changed"))
