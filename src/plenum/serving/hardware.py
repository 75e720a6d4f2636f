"""What accelerators can do, as data with sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One kind of accelerator (or a CPU socket), and the server it comes in.

    Parameters
    ----------
    name
        As people write it: ``H100``. ``aliases`` are other spellings (``h100_sxm``, ``NVIDIA-H100-80GB-HBM3``).
    peak_flops
        FLOP/s (OP/s for integers) by format name, dense: no structured sparsity. A format that is missing is not computed natively.
    hbm_bytes, hbm_bps
        Capacity of its memory and bytes a second that it reads.
    scaleup_bps, scaleup_size
        Bytes a second one way into the scale-up fabric (NVLink, Infinity Fabric, ICI), and how many devices share it.
    scaleout_bps
        Bytes a second one way into the network, for each device.
    host_bps
        Bytes a second between host memory and the device.
    tdp_w, idle_w
        Watts of the device at most, and doing nothing.
    server_devices, server_overhead_w, server_usd
        Devices in a server; watts of the rest of that server at load (hosts, fans, NICs); price of the whole server, USD.
    usd_per_hour
        Typical on-demand price of one device for an hour.
    sources
        Field name (``peak_flops.fp8`` for one format) to where the value comes from.
    """

    name: str
    vendor: str
    aliases: tuple[str, ...] = ()
    peak_flops: Mapping[str, float]
    hbm_bytes: float
    hbm_bps: float
    scaleup_bps: float
    scaleup_size: int
    scaleout_bps: float
    host_bps: float
    tdp_w: float
    idle_w: float
    server_devices: int
    server_overhead_w: float
    server_usd: float
    usd_per_hour: float
    sources: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def is_host(self) -> bool:
        """Whether it is a CPU socket: its memory is the host's own."""
        return self.host_bps >= self.hbm_bps
