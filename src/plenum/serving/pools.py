"""What serves: pools of equal instances, at sites, with links between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plenum.serving.instance import Instance
from plenum.serving.steps import StepModel

Role = Literal["both", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``count`` equal instances.

    Parameters
    ----------
    instance, steps
        What each is, and how long its iterations take.
    role
        ``both``: aggregated. ``prefill`` instances send the cache of a finished prompt to a ``decode`` instance.
    model
        Index of the model that it serves.
    site
        Name of where it stands; between sites the cache crosses the link of :class:`Serving`.
    cache_tokens
        Tokens of KV cache of one instance; -1: what :func:`plenum.serving.instance.cache_capacity_tokens` says.
    dram_tokens, nvme_tokens
        Tokens of prefix cache in host memory and on its drives; 0: none.
    """

    instance: Instance
    steps: StepModel
    count: int
    role: Role = "both"
    model: int = 0
    site: str = ""
    cache_tokens: int = -1
    dram_tokens: int = 0
    nvme_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Pools that serve together.

    Parameters
    ----------
    pools
        At least one.
    transfer_bps
        Bytes a second of one instance's KV transfer inside a site.
    site_bps
        Bytes a second of the link between two sites, shared by all transfers.
    """

    pools: tuple[Pool, ...]
    transfer_bps: float = 50e9
    site_bps: float = 12.5e9
