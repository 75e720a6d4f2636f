"""What a benchmark run says: one point of what it ran, and what it measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from plenum.serving.formats import Precision
from plenum.serving.instance import Parallelism

Mode = Literal["aggregated", "disaggregated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Equal workers.

    Parameters
    ----------
    parallelism
        How each is spread over devices.
    count
        How many there are; 0: not stated.
    """

    parallelism: Parallelism
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured point. NaN: not measured, or not stated.

    Parameters
    ----------
    id
        What the source calls it.
    model, hardware
        As the source spells them; resolved by the catalogue.
    engine, engine_version
        ``vllm``, ``sglang``, ``trtllm`` …, and the version as the source writes it; empty: not stated.
    precision
        None: not stated, so what the model is published in. An empty ``kv_cache``: not stated.
    mode
        ``aggregated``: ``workers`` do everything. ``disaggregated``: ``prefill`` computes prompts and ``workers`` decode.
    workers, prefill
        See ``mode``; None: not stated.
    concurrency
        Requests in flight in a closed loop, over all workers of the deployment (one replica where aggregated).
    rate_rps
        Requests a second of an open loop; NaN in a closed loop.
    isl, osl
        Mean tokens of prompts and of answers.
    ttft_s, tpot_s
        Seconds to the first token (queueing included) and between later ones, means or medians over requests.
    prompt_s, token_s
        Seconds of one prefill iteration and of one decode iteration at batch ``concurrency``, where a kernel benchmark says so.
    peak_w, average_w
        Watts of one device.
    source
        Where it comes from.
    """

    id: str = ""
    model: str
    hardware: str
    engine: str
    engine_version: str = ""
    precision: Precision | None = None
    mode: Mode = "aggregated"
    workers: Workers | None = None
    prefill: Workers | None = None
    concurrency: float = math.nan
    rate_rps: float = math.nan
    isl: float = math.nan
    osl: float = math.nan
    ttft_s: float = math.nan
    tpot_s: float = math.nan
    prompt_s: float = math.nan
    token_s: float = math.nan
    peak_w: float = math.nan
    average_w: float = math.nan
    source: str = ""

    @property
    def stated(self) -> bool:
        """Whether enough is said to predict it: who works, how many they are, how much traffic of what lengths."""
        pools = [self.workers, self.prefill] if self.mode == "disaggregated" else [self.workers]
        known = all(pool is not None and pool.count > 0 for pool in pools)
        load = self.concurrency > 0 or self.rate_rps > 0
        return known and load and self.isl > 0 and self.osl > 0
