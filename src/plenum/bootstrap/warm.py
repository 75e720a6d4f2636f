"""The first decision made in advance, on a cloud that exists only in memory: so that the real first one finds its code compiled."""

from __future__ import annotations

from plenum.adapters.clock import SystemClock
from plenum.adapters.manifests.fleet import parse_fleet
from plenum.adapters.manifests.resources import parse_manifests
from plenum.bootstrap.apply import command_of
from plenum.control.agent import Agent
from plenum.control.controller import Controller
from plenum.control.questions import explained
from plenum.sim.nodes import SimulatedDriver
from plenum.sim.store import MemoryStore

CLOUD = """
{apiVersion: plenum.dev/v1alpha1, kind: Tenant, metadata: {name: default}}
---
apiVersion: plenum.dev/v1alpha1
kind: Fleet
metadata: {name: warm}
spec: {groups: [{name: warm, template: dgx-h100, nodes: 2}]}
---
apiVersion: plenum.dev/v1alpha1
kind: TrainingJob
metadata: {name: gang}
spec: {replicas: 2, resources: {gpu: 2, cpu: 1}, constraints: [{together: place.rack, required: false}]}
---
apiVersion: plenum.dev/v1alpha1
kind: Task
metadata: {name: share}
spec: {replicas: 2, resources: {gpu: 0.5, cpu: 1}}
---
apiVersion: plenum.dev/v1alpha1
kind: TrainingJob
metadata: {name: wide}
spec: {replicas: 3, resources: {gpu: 8}}
"""
"""A gang, shares of a GPU, and what has to wait: between them they use every compiled loop."""


def warm_up() -> None:
    """Decide and explain once: takes half a minute when the loops are compiled for the first time, a second or two later on."""
    clock = SystemClock()
    controller = Controller(MemoryStore(clock), clock, parse_fleet)
    controller.load()
    controller.lead(3_600.0)
    for resource in parse_manifests(CLOUD):
        controller.execute(command_of(resource))
    fleet = controller.state.fleets["warm"]
    controller.sync(Agent(fleet.agent, SimulatedDriver(fleet.nodes, clock), clock).request())
    controller.step()
    explained(controller.state, controller.decider, "default/wide", clock.now())
