"""The first decision made in advance, on a cloud that exists only in memory: so that the real first one finds its code compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plenum.adapters.clock import SystemClock
from plenum.adapters.manifests.fleet import parse_fleet
from plenum.adapters.manifests.resources import parse_manifests
from plenum.bootstrap.apply import command_of
from plenum.control.agent import Agent
from plenum.control.controller import Controller
from plenum.control.questions import explained
from plenum.sim.nodes import SimulatedDriver
from plenum.sim.store import MemoryStore

FLEET = """
{apiVersion: plenum.dev/v1alpha1, kind: Tenant, metadata: {name: default}}
---
apiVersion: plenum.dev/v1alpha1
kind: Fleet
metadata: {name: warm}
spec: {groups: [{name: warm, template: dgx-h100, nodes: 2}]}
"""

SHARES = """
---
apiVersion: plenum.dev/v1alpha1
kind: Task
metadata: {name: share}
spec: {replicas: 2, resources: {gpu: 0.5, cpu: 1}}
"""
"""What is placed replica by replica."""

GANGS = """
---
apiVersion: plenum.dev/v1alpha1
kind: TrainingJob
metadata: {name: gang}
spec: {replicas: 2, resources: {gpu: 2, cpu: 1}, constraints: [{together: place.rack, required: false}]}
---
apiVersion: plenum.dev/v1alpha1
kind: TrainingJob
metadata: {name: wide}
spec: {replicas: 3, resources: {gpu: 8}}
"""
"""A gang, and one that has to wait: with the shares they use every compiled loop."""


def warm_up() -> None:
    """Decide and explain once: takes a while when the loops are compiled for the first time, a second or two later on."""
    with _gangs_compiled_beside():
        _decided(FLEET + SHARES)
    controller, clock = _decided(FLEET + SHARES + GANGS)
    explained(controller.state, controller.decider, "default/wide", clock.now())


def _decided(cloud: str) -> tuple[Controller, SystemClock]:
    clock = SystemClock()
    controller = Controller(MemoryStore(clock), clock, parse_fleet)
    controller.load()
    controller.lead(3_600.0)
    for resource in parse_manifests(cloud):
        controller.execute(command_of(resource))
    fleet = controller.state.fleets["warm"]
    controller.sync(Agent(fleet.agent, SimulatedDriver(fleet.nodes, clock), clock).request())
    controller.step()
    return controller, clock


@contextmanager
def _gangs_compiled_beside() -> Iterator[None]:
    """Have a second process compile what gangs need, which this one then loads: Numba compiles one function of a process at a time."""
    if next(Path(os.environ["NUMBA_CACHE_DIR"]).glob("*/packing.bind-*.nbi"), None):
        yield
        return
    quiet = subprocess.DEVNULL
    beside = subprocess.Popen([sys.executable, "-m", __name__], stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        beside.wait()


if __name__ == "__main__":
    _decided(FLEET + GANGS)
