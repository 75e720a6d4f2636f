"""What NVIDIA's management library (NVML) says of the GPUs of this host, through ``nvidia-ml-py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
MAX_LINKS = 36
"""NVLinks that are asked for; NVML defines 18 a GPU today."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlGpu:
    """One GPU.

    Parameters
    ----------
    pci
        Address as sysfs writes it: ``0000:1b:00.0``.
    memory_bytes, power_w
        Memory and power limit; 0 where NVML does not say.
    links
        PCI addresses at the far ends of its active NVLinks: GPUs or switches.
    mig
        Whether MIG mode is on.
    """

    pci: str
    name: str
    memory_bytes: int = 0
    power_w: int = 0
    links: frozenset[str] = frozenset()
    mig: bool = False


def read_gpus() -> tuple[NvmlGpu, ...] | None:
    """Return the GPUs in the order of NVML; None where there is no NVML, no driver, or no permission."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        count = _ask(pynvml, pynvml.nvmlDeviceGetCount, 0)
        return tuple(gpu for i in range(count) if (gpu := _read_gpu(pynvml, i)) is not None)
    finally:
        _ask(pynvml, pynvml.nvmlShutdown, None)


def _read_gpu(nvml: Any, index: int) -> NvmlGpu | None:
    """Return a GPU, or None where it has fallen off the bus."""
    handle = _ask(nvml, lambda: nvml.nvmlDeviceGetHandleByIndex(index), None)
    pci = handle and _ask(nvml, lambda: _address(nvml.nvmlDeviceGetPciInfo(handle).busId), "")
    if not pci:
        return None
    limit_mw = _ask(nvml, lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle), 0)
    return NvmlGpu(
        pci=pci,
        name=_text(_ask(nvml, lambda: nvml.nvmlDeviceGetName(handle), "")),
        memory_bytes=int(_ask(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total, 0)),
        power_w=int(limit_mw) // 1000,
        links=frozenset(filter(None, (_peer(nvml, handle, link) for link in range(MAX_LINKS)))),
        mig=_ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0) == 1,
    )


def _peer(nvml: Any, handle: Any, link: int) -> str:
    """Return the address at the far end of a link; empty where there is no such link, or it is down."""
    if not _ask(nvml, lambda: nvml.nvmlDeviceGetNvLinkState(handle, link), 0):
        return ""
    return _ask(nvml, lambda: _address(nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId), "")


def _ask(nvml: Any, question: Callable[[], T], default: T) -> T:
    """Return an answer, or the default where the driver or the GPU cannot give it."""
    try:
        return question()
    except nvml.NVMLError:
        return default


def _address(bus_id: str | bytes) -> str:
    """Return a PCI address as sysfs writes it: NVML pads the domain to eight digits."""
    domain, _, rest = _text(bus_id).lower().partition(":")
    return f"{domain[-4:]}:{rest}" if domain.startswith("0000") else f"{domain}:{rest}"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
