"""What serving needs around its accelerators: host cores and memory, drives, network, watts and racks.

Way in: :func:`surroundings`. Every need is set beside what a usual server brings, and the resource that is used up first is named. The
constants are of three kinds, and say which: documentation, measurement, or an estimate to be replaced by one's own figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plenum.model.errors import FieldError
from plenum.serving.fit import model_bytes
from plenum.serving.formats import FORMATS
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import Instance

ENGINE_CORES = 2
"""Physical cores of one engine besides one for each device: API server and scheduler loop (vLLM documentation, "CPU Resources for GPU
Deployments": at least 2 + N)."""

TOKENISED_PER_CORE_S = 500_000.0
"""Prompt tokens a core turns into ids in a second: measured 220 ms for 100,000 with vLLM 0.19 (AMD, agentic inference on MI300X, 2026);
the Rust tokenizers reach 4 MiB/s of text, about twice that."""

STREAMED_PER_CORE_S = 50_000.0
"""Answer tokens a core decodes, wraps and writes to clients in a second. Estimate: 20 us each for one server-sent event."""

ROUTED_PER_CORE_S = 1_000.0
"""Requests a core of gateway and router handles in a second. Estimate: TLS, authentication, prefix hashing, one decision."""

SYSTEM_CORES = 4.0
"""Cores of each server for its operating system, NICs, agents and exporters. Estimate."""

CORES_HEADROOM = 1.3
"""Cores planned over cores busy: a scheduler loop that waits for a core stalls every sequence of its batch."""

SYSTEM_RAM_BYTES = 32e9
PINNED_RAM_BYTES = 16e9
"""Of each server for its system, and of each device for pinned buffers and worker processes. Estimates."""

IMAGE_BYTES = 100e9
"""Of each server's drives for system, container images (10 to 20 GB each) and logs. Estimate."""

CORES_PER_DEVICE = 14.0
RAM_BYTES_PER_DEVICE = 256e9
DRIVE_BYTES_PER_DEVICE = 3.84e12
STORE_BPS_PER_DEVICE = 6.25e9
"""What servers bring for each device: DGX H100 data sheet: 112 cores, 2 TB, 8 x 3.84 TB of NVMe, 400 Gb/s for storage, for eight."""

PUE = 1.2
"""Watts at the meter over watts of the machines: between hyperscalers' 1.1 and the industry's mean of 1.56 (Uptime Institute, 2024)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """``count`` equal instances, with tiers of prefix cache on their hosts in tokens; 0: none."""

    instance: Instance
    count: int
    dram_tokens: int = 0
    nvme_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Traffic: requests, prompt tokens and answer tokens a second, and the part of the time in which devices work."""

    rate_rps: float
    prompt_tokens_s: float
    output_tokens_s: float
    busy: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is promised of operations.

    Parameters
    ----------
    load_s
        Seconds in which one instance has its weights, from the store.
    update_s
        Seconds in which a new version has reached every instance.
    drain_s
        Seconds that an instance takes to finish what it serves before it is replaced.
    versions
        Versions of the weights kept on each server's drives.
    rack_w
        Watts of one rack.
    pue
        See :data:`PUE`.
    """

    load_s: float = 120.0
    update_s: float = 1800.0
    drain_s: float = 120.0
    versions: int = 2
    rack_w: float = 40_000.0
    pue: float = PUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One resource: what the busiest server needs of it and what such servers bring, in ``unit``."""

    resource: str
    needed: float
    brought: float
    unit: str
    why: str

    @property
    def share(self) -> float:
        """Part of what there is that is needed; above 1 it does not suffice."""
        return self.needed / self.brought if self.brought > 0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is needed around the accelerators.

    Parameters
    ----------
    servers, racks
        How many of them; 0 racks: a server draws more than a rack may.
    cores
        Physical cores of all servers, headroom included; ``cores_by_use`` without it.
    ram_bytes, drive_bytes
        Of all servers together.
    load_bps, update_bps
        Bytes a second into one server while an instance starts, and out of the store while all are updated.
    update_at_once
        Instances that are replaced at the same time to be done in time; ``spare_devices`` keep capacity whole meanwhile.
    it_w, peak_w, meter_w
        Watts of the machines at the given load and with every device at its most; at the meter, at the given load.
    needs
        By resource, the scarcest first.
    binding
        The scarcest in a sentence.
    """

    servers: int
    racks: int
    cores: float
    cores_by_use: dict[str, float]
    ram_bytes: float
    drive_bytes: float
    load_bps: float
    update_bps: float
    update_at_once: int
    spare_devices: int
    it_w: float
    peak_w: float
    meter_w: float
    needs: tuple[Need, ...]
    binding: str


def surroundings(served: Sequence[Served], demand: Demand, limits: Limits | None = None) -> Surroundings:
    """Return what serving ``demand`` with ``served`` needs around the accelerators.

    Raises
    ------
    FieldError
        Nothing is served, or a number cannot be meant.
    """
    promised = limits or Limits()
    _check(served, demand, promised)
    servers = sum(_servers(pool) for pool in served)
    by_use = _cores(served, demand, servers)
    cores = sum(by_use.values()) * CORES_HEADROOM
    hottest = max(served, key=lambda pool: pool.instance.hardware.tdp_w * _per_server(pool))
    peak_server_w = _server_w(hottest.instance.hardware, 1.0, _per_server(hottest))
    in_rack = math.floor(promised.rack_w / peak_server_w)
    heaviest = max(served, key=_weights)
    load_bps = _load_bps(heaviest, promised)
    at_once, spare = _update(served, promised)
    it_w = sum(_servers(p) * _server_w(p.instance.hardware, demand.busy, _per_server(p)) for p in served)
    needs = sorted(
        (
            _of_cores(served, by_use, servers),
            max((_of_ram(pool) for pool in served), key=lambda need: need.share),
            max((_of_drives(pool, promised) for pool in served), key=lambda need: need.share),
            _of_network(heaviest, load_bps),
            Need(
                resource="rack power", needed=peak_server_w, brought=promised.rack_w, unit="W",
                why=f"a server of {_per_server(hottest)} {hottest.instance.hardware.name} at its most",
            ),
        ),
        key=lambda need: (-need.share, need.resource),
    )  # fmt: skip
    return Surroundings(
        servers=servers,
        racks=math.ceil(servers / in_rack) if in_rack else 0,
        cores=cores,
        cores_by_use=by_use,
        ram_bytes=sum(_of_ram(pool).needed * _servers(pool) for pool in served),
        drive_bytes=sum(_of_drives(pool, promised).needed * _servers(pool) for pool in served),
        load_bps=load_bps,
        update_bps=sum(_weights(pool) * pool.count for pool in served) / promised.update_s,
        update_at_once=at_once,
        spare_devices=spare,
        it_w=it_w,
        peak_w=sum(_servers(p) * _server_w(p.instance.hardware, 1.0, _per_server(p)) for p in served),
        meter_w=it_w * promised.pue,
        needs=tuple(needs),
        binding=_binding(needs[0]),
    )


def shown(amount: float, unit: str) -> str:
    """Return an amount of a need as people read it."""
    if unit in ("bytes", "bytes/s"):
        return f"{amount / 1e9:,.1f} G{'B' if unit == 'bytes' else 'B/s'}"
    return f"{amount / 1e3:,.1f} kW" if unit == "W" else f"{amount:,.1f} {unit}"


def _check(served: Sequence[Served], demand: Demand, limits: Limits) -> None:
    if not served or any(pool.count < 1 for pool in served):
        raise FieldError("served", "must be at least one instance")
    for name in ("rate_rps", "prompt_tokens_s", "output_tokens_s"):
        if not 0 <= getattr(demand, name) < 1e15:
            raise FieldError(name, "must be at least 0")
    if not 0 <= demand.busy <= 1:
        raise FieldError("busy", "must be from 0 to 1")
    for name in ("load_s", "update_s", "versions", "rack_w", "pue"):
        if not 0 < getattr(limits, name) < 1e15:
            raise FieldError(name, "must be above 0")


def _weights(pool: Served) -> float:
    return model_bytes(pool.instance.model, pool.instance.precision)


def _per_server(pool: Served) -> int:
    """Devices of a server that are put to use: servers are bought whole, and an instance may span several."""
    return min(pool.instance.hardware.server_devices, pool.instance.devices * pool.count)


def _servers(pool: Served) -> int:
    return math.ceil(pool.instance.devices * pool.count / pool.instance.hardware.server_devices)


def _instances_per_server(pool: Served) -> float:
    return pool.count / _servers(pool)


def _cores(served: Sequence[Served], demand: Demand, servers: int) -> dict[str, float]:
    return {
        "engines": float(sum(pool.count * (ENGINE_CORES + pool.instance.devices) for pool in served)),
        "tokenising": demand.prompt_tokens_s / TOKENISED_PER_CORE_S,
        "streaming": demand.output_tokens_s / STREAMED_PER_CORE_S,
        "routing": demand.rate_rps / ROUTED_PER_CORE_S,
        "system": servers * SYSTEM_CORES,
    }


def _of_cores(served: Sequence[Served], by_use: dict[str, float], servers: int) -> Need:
    brought = sum(_servers(pool) * pool.instance.hardware.server_devices for pool in served) * CORES_PER_DEVICE
    largest = max(by_use, key=lambda use: by_use[use])
    return Need(
        resource="host cores", needed=sum(by_use.values()) * CORES_HEADROOM / servers, brought=brought / servers,
        unit="cores", why=f"most of them for {largest}",
    )  # fmt: skip


def _of_ram(pool: Served) -> Need:
    hardware = pool.instance.hardware
    cache = pool.dram_tokens * _token_bytes(pool.instance) * _instances_per_server(pool)
    weights = _weights(pool) * min(1.0, hardware.server_devices / pool.instance.devices)  # kept in the page cache once
    needed = SYSTEM_RAM_BYTES + hardware.server_devices * PINNED_RAM_BYTES + weights + cache
    why = "prefix cache in host memory" if cache > weights else "weights in the page cache, and pinned buffers"
    brought = hardware.server_devices * RAM_BYTES_PER_DEVICE
    return Need(resource="host memory", needed=needed, brought=brought, unit="bytes", why=why)


def _of_drives(pool: Served, limits: Limits) -> Need:
    cache = pool.nvme_tokens * _token_bytes(pool.instance) * _instances_per_server(pool)
    weights = _weights(pool) * limits.versions
    return Need(
        resource="local drives", needed=IMAGE_BYTES + weights + cache,
        brought=pool.instance.hardware.server_devices * DRIVE_BYTES_PER_DEVICE, unit="bytes",
        why="prefix cache on drives" if cache > weights else f"{limits.versions} versions of the weights, and images",
    )  # fmt: skip


def _token_bytes(instance: Instance) -> float:
    return instance.model.cache_values_per_token * FORMATS[instance.precision.kv_cache].bytes


def _load_bps(pool: Served, limits: Limits) -> float:
    """Bytes a second that a server must read to have an instance's weights in time; what the host link takes goes off."""
    spread = pool.instance.devices
    copied_s = _weights(pool) / spread / pool.instance.hardware.host_bps
    left = limits.load_s - copied_s
    share = min(
        1.0, pool.instance.hardware.server_devices / spread
    )  # an instance over several servers loads its parts at once
    return _weights(pool) * share / left if left > 0 else math.inf


def _of_network(pool: Served, load_bps: float) -> Need:
    return Need(
        resource="storage network", needed=load_bps,
        brought=pool.instance.hardware.server_devices * STORE_BPS_PER_DEVICE, unit="bytes/s",
        why=f"{_weights(pool) / 1e9:,.0f} GB of weights in time",
    )  # fmt: skip


def _update(served: Sequence[Served], limits: Limits) -> tuple[int, int]:
    """Return the instances to replace at once, and the devices that keep capacity whole meanwhile."""
    turns = max(1, math.floor(limits.update_s / (limits.load_s + limits.drain_s)))
    at_once = [math.ceil(pool.count / turns) for pool in served]
    return sum(at_once), sum(n * pool.instance.devices for n, pool in zip(at_once, served, strict=True))


def _server_w(hardware: Accelerator, busy: float, devices: int) -> float:
    device = hardware.idle_w + busy * (hardware.tdp_w - hardware.idle_w)
    idle = (hardware.server_devices - devices) * hardware.idle_w
    return devices * device + idle + hardware.server_overhead_w


def _binding(need: Need) -> str:
    amounts = f"{shown(need.needed, need.unit)} of {shown(need.brought, need.unit)} a server"
    if need.share > 1:
        return f"short of {need.resource}: {amounts}; {need.why}"
    return f"scarcest is {need.resource}: {amounts}; {need.why}"
