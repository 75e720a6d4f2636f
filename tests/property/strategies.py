"""Small fleets, workloads and views for Hypothesis: every axis, every kind of budget, every constraint."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import numpy as np
from hypothesis import strategies as st

from plenum.graph.build import Device, FleetBuilder
from plenum.model import GPU, Apart, Fleet, Health, Kind, Request, Role, Together, View, Workload
from plenum.model.fleet import DeviceKind
from plenum.placement import POLICIES, Cap, Engine, Policy

GPU_MODELS = ("A", "B")
TRAITS = ("attested", "liquid")
LEVELS = ("place.rack", "place.node", "fabric.leaf", "fabric.spine", "scaleup.nvlink", "power.pdu")
GIB = 2**30


def mostly(value: object, *others: object) -> st.SearchStrategy:
    """The ordinary value, which examples also shrink to, and one time in seven another."""
    return st.sampled_from((value,) * 6 * len(others) + others)


@st.composite
def fleets(draw: st.DrawFn, max_nodes: int = 8, max_gpus: int = 8) -> Fleet:
    """One to ``max_nodes`` nodes in up to three racks, leaves, NVLink domains and PDUs, some with budgets."""
    b = FleetBuilder("small")
    b.domain("place.site", "s", parent=None)
    b.domain("fabric.spine", "sp", parent=None)
    for i in range(3):
        b.domain("place.rack", f"r{i}", parent="place.site:s")
        b.domain("fabric.leaf", f"l{i}", parent="fabric.spine:sp")
        b.domain("scaleup.nvlink", f"v{i}", parent=None)
        b.domain("power.pdu", f"p{i}", parent=None)
    _shared_budgets(draw, b)
    for i in range(draw(st.integers(1, max_nodes))):
        _node(draw, b, f"n{i}", max_gpus)
    return b.build()


def _shared_budgets(draw: st.DrawFn, b: FleetBuilder) -> None:
    for i in range(3):
        if draw(mostly(False, True)):
            b.budget(f"power.pdu:p{i}", "power_w", draw(st.integers(0, 8)) * 700)
        if draw(mostly(True, False)):
            b.budget(f"place.rack:r{i}", "cxl_bytes", draw(st.integers(0, 4)) * GIB)
        if draw(mostly(False, True)):
            b.budget(f"fabric.leaf:l{i}", "gpu_milli", draw(st.integers(0, 12)) * 500)
    if draw(mostly(False, True)):
        b.budget("place.site:s", "pods", draw(st.integers(0, 12)))


def _node(draw: st.DrawFn, b: FleetBuilder, name: str, max_gpus: int) -> None:
    gpus = min(max_gpus, draw(st.sampled_from((4, 8, *range(9)))))
    numa = draw(st.sampled_from((2, 2, 0, 1)))
    pcie = draw(st.booleans())
    model = draw(st.sampled_from(GPU_MODELS))

    def seat(i: int, of: int) -> dict:
        q = i * numa // max(of, 1) if numa else None
        return {"numa": q, "pcie": f"sw{i // 2}q{q}" if pcie else None}

    health = mostly(Health.HEALTHY, Health.DOWN)
    devices = [
        Device(kind=DeviceKind.GPU, model=model, capacity=80 * GIB, health=draw(health), **seat(i, gpus))
        for i in range(gpus)
    ]
    nics = draw(st.sampled_from((gpus, 0, 1, 2)))
    devices += [
        Device(kind=DeviceKind.NIC, capacity=400 * 10**9, health=draw(health), **seat(i, nics)) for i in range(nics)
    ]
    cores = draw(mostly(32, 4, 8)) * 1000
    budgets = {"cpu_milli": cores, "memory_bytes": draw(mostly(64, 8)) * GIB}
    if draw(mostly(False, True)):
        budgets["pods"] = draw(st.integers(1, 6))
    if draw(mostly(False, True)):
        budgets["power_w"] = draw(st.integers(0, 6)) * 700
    homes = {"place": f"place.rack:r{draw(st.integers(0, 2))}"}
    for axis, prefix in (("fabric", "fabric.leaf:l"), ("scaleup", "scaleup.nvlink:v"), ("power", "power.pdu:p")):
        if draw(mostly(True, False)):
            homes[axis] = f"{prefix}{draw(st.integers(0, 2))}"
    b.node(
        name,
        domains=homes,
        budgets=budgets,
        numa_cpu_milli=[cores // numa] * numa if numa else [],
        devices=devices,
        gpu_power_w=draw(st.sampled_from((700, 0, 333))),
        traits=[t for t in TRAITS if draw(mostly(True, False))],
        health=draw(mostly(Health.HEALTHY, Health.DEGRADED)),
        cordoned=draw(mostly(False, True)),
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """What one replica may ask for: no GPU, a share, a MIG instance or whole GPUs, and all that goes with them."""
    kind = draw(st.sampled_from(("whole", "whole", "share", "mig", "cpu")))
    aligned = draw(st.sampled_from(("", "", "numa", "pcie")))
    values: dict = {
        "cpu_milli": draw(st.sampled_from((0, 1000, 3500, 8000))),
        "memory_bytes": draw(st.sampled_from((0, 1, 8))) * GIB,
        "aligned": aligned,
    }
    if kind != "cpu":
        values["gpus"] = 1
        values["gpu_models"] = draw(mostly((), ("A",), ("B",), ("A", "B")))
        values["hbm_bytes"] = draw(mostly(0, 80 * GIB, 96 * GIB))
    if kind == "whole":
        values["gpus"] = draw(st.sampled_from((1, 2, 3, 4, 8)))
    elif kind == "share":
        values["gpu_milli"] = draw(st.sampled_from((100, 250, 500, 700)))
    elif kind == "mig":
        values["mig"] = draw(st.sampled_from(("1g", "2g", "3g", "4g", "7g")))
    gpus = values.get("gpus", 0)
    values["nics"] = draw(st.sampled_from((0, gpus)) if aligned == "pcie" else mostly(0, 1, 2))
    values["traits"] = draw(mostly((), ("liquid",), TRAITS))
    values["extra"] = draw(st.sampled_from(((), (), (("cxl_bytes", GIB),), (("power_w", 500),))))
    return Request(**values)


@st.composite
def workloads(draw: st.DrawFn, name: str = "w", max_replicas: int = 4, max_roles: int = 2) -> Workload:
    """A workload of any kind, with up to two constraints of each sort."""
    roles = tuple(_role(draw, f"role{r}", max_replicas) for r in range(draw(st.integers(1, max_roles))))
    role = st.sampled_from(("", *(r.name for r in roles)))
    weight = st.sampled_from((1.0, 0.5, 3.0))
    together = st.builds(Together, level=st.sampled_from(LEVELS), required=st.booleans(), weight=weight, role=role)
    apart = st.builds(
        Apart,
        level=st.sampled_from(LEVELS),
        required=st.booleans(),
        weight=weight,
        max_per_domain=st.integers(1, 2),
        role=role,
    )
    return Workload(
        name=name,
        kind=draw(st.sampled_from(Kind)),
        tenant=draw(st.sampled_from(("red", "blue"))),
        priority=draw(mostly(0, 0, 5)),
        roles=roles,
        together=_with_block(draw, roles, draw(_few(together))),
        apart=tuple(draw(_few(apart))),
    )


def _few(constraints: st.SearchStrategy) -> st.SearchStrategy[list]:
    return st.sampled_from((0, 0, 1, 2)).flatmap(lambda size: st.lists(constraints, min_size=size, max_size=size))


def _with_block(draw: st.DrawFn, roles: tuple[Role, ...], together: list[Together]) -> tuple[Together, ...]:
    """Now and then let the first constraint hold block by block, where that can be said."""
    if not together or draw(st.booleans()):
        return tuple(together)
    name = roles[0].name
    block = gcd(roles[0].replicas, *roles[0].sizes())
    return (replace(together[0], role=name, block=draw(st.sampled_from((1, block)))), *together[1:])


def _role(draw: st.DrawFn, name: str, max_replicas: int) -> Role:
    replicas = draw(st.integers(1, max_replicas))
    return Role(
        name=name,
        replicas=replicas,
        request=draw(requests()),
        min_replicas=draw(st.sampled_from((0, *range(replicas + 1)))),
        step=draw(st.integers(1, 2)),
    )


def batches(max_size: int = 5, max_replicas: int = 4) -> st.SearchStrategy[tuple[Workload, ...]]:
    """A few workloads with names of their own."""
    return st.integers(1, max_size).flatmap(
        lambda size: st.tuples(*(workloads(name=f"w{i}", max_replicas=max_replicas) for i in range(size)))
    )


@st.composite
def views(draw: st.DrawFn, max_nodes: int = 8) -> View:
    """A fleet with something running on it, reached by placing; then a node may be cordoned or a device fail under it."""
    fleet = draw(fleets(max_nodes=max_nodes))
    engine = Engine(View(fleet=fleet), POLICIES["random"], np.random.default_rng(draw(st.integers(0, 9))))
    for i in range(draw(st.integers(0, 4))):
        engine.place(draw(workloads(name=f"old{i}", max_replicas=2)))
    view = engine.view()
    if draw(mostly(False, True)):
        cordoned = fleet.node_cordoned.copy()
        cordoned[draw(st.integers(0, fleet.n_nodes - 1))] = True
        fleet = fleet.replaced(node_cordoned=cordoned)
    if len(fleet.device_health) and draw(mostly(False, True)):
        health = fleet.device_health.copy()
        health[draw(st.integers(0, len(health) - 1))] = Health.DOWN
        fleet = fleet.replaced(device_health=health)
    return View(fleet=fleet, running=view.running, rows=view.rows)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any scorer and picker, now and then with caps."""
    cap = st.builds(
        Cap,
        level=st.sampled_from(LEVELS),
        resource=st.sampled_from(("gpu_milli", "cpu_milli", "pods")),
        amount=st.sampled_from((0, 2, 2 * GPU, 8 * GPU)),
        tenant=st.sampled_from(("", "red")),
    )
    return Policy(
        name="any",
        scorer=draw(st.sampled_from(tuple(POLICIES))),
        picker=draw(st.sampled_from(("best-fit", "most-free", "first-fit"))),
        caps=tuple(draw(st.lists(cap, max_size=2))) if draw(mostly(False, True)) else (),
    )
