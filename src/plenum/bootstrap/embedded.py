"""Agents inside the control plane's own process: this host's node, and the imitated nodes of simulated fleets."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from plenum.control.agent import Agent
from plenum.control.service import Service
from plenum.control.state import State
from plenum.model.errors import PlenumError
from plenum.ports.nodes import RUNNING, STARTING, NodeDriver
from plenum.ports.store import Record
from plenum.sim.nodes import SimulatedDriver

POLL_S = 0.2
"""How often an embedded agent looks at its runs; news from the control plane reaches it at once."""

LOOK_S = 1.0
"""How often it is looked whether this replica leads; fleets applied or deleted are seen at once."""


async def serve_agent(service: Service, name: str, driver: NodeDriver, *, instance: str = "") -> None:
    """Run an agent over a driver until cancelled.

    The driver's calls may touch the disk, so they run in threads; one agent's calls never overlap.
    """
    service.embedded[name] = driver
    agent = Agent(name, driver, service.clock, instance=instance)
    try:
        while True:
            try:
                request = await asyncio.to_thread(agent.request, POLL_S)
                sent_at = service.clock.monotonic()
                response = await service.sync(request)
                await asyncio.to_thread(agent.take, request, sent_at, response)
                pause_s = 0.0 if response.orders is not None else POLL_S / 4
            except PlenumError:  # not leading, or the store is away: the lease decides how long to go on
                pause_s = POLL_S
            with suppress(PlenumError):  # a full disk must not end the agent; what it runs ends itself with the lease
                await asyncio.to_thread(agent.tick)
            await asyncio.sleep(pause_s)
    finally:
        service.embedded.pop(name, None)
        driver.close()


async def serve_simulated(service: Service) -> None:
    """Imitate the nodes of every simulated fleet there is, while this replica leads."""
    running: dict[str, tuple[tuple[str, ...], asyncio.Task[None]]] = {}
    look = asyncio.Event()

    def heed(record: Record) -> None:
        if record.type in ("FleetApplied", "FleetDeleted"):
            look.set()

    service.on_records.append(heed)
    try:
        while True:
            wanted = (
                {f.agent: f.nodes for f in service.state.fleets.values() if f.driver == "simulated"}
                if service.leading
                else {}
            )
            for agent in [a for a, (nodes, _) in running.items() if wanted.get(a) != nodes]:
                await _ended(running.pop(agent)[1])
            for agent, nodes in wanted.items():
                if agent not in running:
                    driver = _driver(service, agent, nodes)
                    running[agent] = (nodes, asyncio.create_task(serve_agent(service, agent, driver)))
            look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await look.wait()
    finally:
        service.on_records.remove(heed)
        for _, task in running.values():
            await _ended(task)


def _driver(service: Service, agent: str, nodes: tuple[str, ...]) -> SimulatedDriver:
    """Return a driver that goes on with what the log says was running."""
    driver = SimulatedDriver(nodes, service.clock)
    state: State = service.state
    for run_id, (_, unit) in state.held.get(agent, {}).items():
        run, order = unit.runs[run_id], state.orders.get(agent, {}).get(run_id)
        if order is None or run.phase not in (STARTING, RUNNING):
            continue  # one that was never reported is started like any other
        script = order.process.simulated
        driver.adopt(order, run.started_at + (script.start_s if script and run.phase == STARTING else 0.0))
    return driver


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
