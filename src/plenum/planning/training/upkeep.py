"""What failures and checkpoints cost a long training run, and what it draws and costs in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plenum.planning.training.memory import OPTIMISER_BYTES, WEIGHT_BYTES
from plenum.serving.architecture import Architecture
from plenum.serving.hardware import Accelerator

DEVICE_MTBF_H = 50_000.0
"""Hours between failures of one device and its share of the rest: Llama 3 had 419 unexpected interruptions in 54 days on 16,384 H100
(arXiv 2407.21783, section 3.3.4): one in 50,700 device-hours."""

RESTART_S = 600.0
"""Seconds to notice a failure, replace the node, start and read the checkpoint: Llama 3 kept over 90 % effective time with such."""

PAUSE_S = 5.0
"""Seconds that a checkpoint holds training up besides the copy to the hosts: all ranks wait for one another, and memory is pinned."""

STORE_SHARE = 0.1
"""Part of the time in which a job may keep the checkpoint store busy: others write too."""

STORAGE_BPS = 1.0e12
"""Bytes a second that the checkpoint store takes from all devices together: Llama 3's gives 2 TB/s sustained (section 3.3.1)."""

UTILISED_FRACTION = 0.85
"""Part of the way from idle to TDP that devices draw while they train: POLCA (arXiv 2308.12908) measures training near TDP."""

PUE = 1.2
"""Watts at the meter over watts of the machines: between hyperscalers' 1.1 and the industry's mean of 1.56 (Uptime Institute, 2024)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """Checkpoints and failures.

    Parameters
    ----------
    checkpoint_bytes
        Of one checkpoint: weights and optimiser states.
    write_s, blocked_s
        Seconds to write it, and those of them in which training stands still (it is copied to the hosts, then written beside training).
    mtbf_s
        Seconds between failures of the whole job.
    interval_s
        Between checkpoints, as Daly's estimate has it best.
    available
        Part of the time that goes into progress.
    """

    checkpoint_bytes: float
    write_s: float
    blocked_s: float
    mtbf_s: float
    interval_s: float
    available: float


def upkeep(
    model: Architecture,
    hardware: Accelerator,
    devices: int,
    *,
    device_mtbf_h: float = DEVICE_MTBF_H,
    restart_s: float = RESTART_S,
    storage_bps: float = STORAGE_BPS,
) -> Upkeep:
    """Return what checkpoints and failures cost a job of ``devices``.

    Notes
    -----
    Interval: Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (2006), equation 37; Young's
    (CACM 17, 1974) is its first term. Lost time: half an interval and a restart for each failure, and the writing that cannot hide.
    """
    size = model.parameters * (WEIGHT_BYTES + OPTIMISER_BYTES)
    write = size / storage_bps
    blocked = PAUSE_S + size / devices / hardware.host_bps
    mtbf = device_mtbf_h * 3600.0 / devices
    interval = max(daly_interval_s(blocked, mtbf), write / STORE_SHARE)
    lost = blocked / (interval + blocked) + (interval / 2 + restart_s) / mtbf
    return Upkeep(
        checkpoint_bytes=size,
        write_s=write,
        blocked_s=blocked,
        mtbf_s=mtbf,
        interval_s=interval,
        available=max(0.0, 1.0 - lost),
    )


def daly_interval_s(blocked_s: float, mtbf_s: float) -> float:
    """Return the best seconds between checkpoints that each hold training up for ``blocked_s``."""
    if blocked_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = blocked_s / (2 * mtbf_s)
    return math.sqrt(2 * blocked_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - blocked_s


def watts(hardware: Accelerator, devices: int, *, pue: float = PUE) -> float:
    """Watts at the meter of a training job."""
    device = hardware.idle_w + UTILISED_FRACTION * (hardware.tdp_w - hardware.idle_w)
    return devices * (device + hardware.server_overhead_w / hardware.server_devices) * pue
