"""A served model: which weights, on which engine, how many replicas in which pools, and what is promised of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from plenum.model.errors import FieldError
from plenum.model.fleet import level_id
from plenum.model.workload import MAX_NODES, MAX_REPLICAS, Parallelism, Request

Engine = Literal["llamacpp", "vllm", "sglang", "emulated"]
ENGINES: tuple[Engine, ...] = ("llamacpp", "vllm", "sglang", "emulated")
"""Engines that there is a driver for."""

SERVE, PREFILL, DECODE = "serve", "prefill", "decode"
"""Names of pools: replicas that do both phases; or the two kinds that do one each, always together."""

if TYPE_CHECKING:
    Seconds = float
else:
    Seconds = float | None  # JSON has no infinity: it is written as null

MAX_ADAPTERS = 64
MAX_CONTEXT_TOKENS = 16_777_216


def _check(ok: bool, name: str, sentence: str) -> None:
    if not ok:
        raise FieldError(name, sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Equal replicas that do the same phases.

    Parameters
    ----------
    name
        ``serve``, ``prefill`` or ``decode``.
    min_replicas, max_replicas
        What scaling may choose from; ``min_replicas`` 0: none while nobody asks, and the first request wakes one.
    request
        What one replica takes from each of its nodes.
    nodes
        Over how many nodes a replica is spread: as many processes, of which the first answers. All have a place or none has.
    within
        Level of which one domain holds all nodes of a replica, such as ``fabric.leaf``; empty: wherever there is room.
    """

    name: str = SERVE
    min_replicas: int = 1
    max_replicas: int = 1
    request: Request = field(default_factory=Request)
    parallelism: Parallelism = field(default_factory=Parallelism)
    nodes: int = 1
    within: str = ""

    def __post_init__(self) -> None:
        if self.within:
            level_id(self.within, "spec.parallelism.within")
        _check(
            self.within not in ("place.numa", "place.pcie"),
            "spec.parallelism.within",
            f"is of the inside of a node, {self.within}; name a level that holds several, such as fabric.leaf",
        )
        _check(
            1 <= self.nodes <= MAX_NODES,
            "spec.parallelism.nodes",
            f"must be from 1 to {MAX_NODES:,}, not {self.nodes}",
        )
        _check(
            self.nodes == 1 or not self.request.gpus or self.nodes * self.request.gpus == self.parallelism.gpus,
            "spec.parallelism.nodes",
            f"{self.nodes} nodes with {self.request.gpus} GPUs each are {self.nodes * self.request.gpus}, and tp x pp x dp takes "
            f"{self.parallelism.gpus}; make them equal",
        )
        _check(
            self.name in (SERVE, PREFILL, DECODE),
            "spec.pools",
            f"a pool is serve, prefill or decode, not {self.name!r}",
        )
        _check(
            0 <= self.min_replicas <= self.max_replicas <= MAX_REPLICAS and self.max_replicas >= 1,
            "spec.replicas",
            f"must be 0 <= min <= max with max at least 1, not {self.min_replicas} to {self.max_replicas}",
        )

    @property
    def gpus(self) -> int:
        """GPUs of one replica, over all its nodes."""
        return self.nodes * self.request.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What tenants are promised of each request; infinity: nothing.

    Parameters
    ----------
    ttft_s, tpot_s
        Time to the first token, and per output token after it.
    quantile
        Part of the requests that it holds for.
    """

    ttft_s: Seconds = math.inf
    tpot_s: Seconds = math.inf
    quantile: float = 0.99

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, math.inf)
            _check(getattr(self, name) > 0, f"spec.slo.{name[:-2]}", "must be above 0")
        _check(0 < self.quantile < 1, "spec.slo.quantile", f"must lie between 0 and 1, not {self.quantile!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a changed endpoint comes into use.

    Parameters
    ----------
    canary
        Part of the requests that the new revision gets until it has proved itself; 0: replicas are replaced one by one without that.
    hold_s
        Seconds of traffic that it is watched for.
    max_latency_ratio
        It goes back if its TTFT or TPOT is surely more than so many times the old revision's.
    max_error_ratio
        It goes back if so much more of its requests (as a part of all) surely fail.
    max_unavailable
        Replicas of each pool by which the old revision may go short where the new one finds no room beside it; it
        never goes to fewer than ``min_replicas`` less these, nor to none unless ``may_pause``.
    may_pause
        Whether the last replica may be among these where nothing else makes room: then nobody serves until its successor is ready,
        and requests wait as for one that wakes.
    """

    canary: float = 0.1
    hold_s: float = 30.0
    max_latency_ratio: float = 1.5
    max_error_ratio: float = 0.05
    max_unavailable: int = 1
    may_pause: bool = False

    def __post_init__(self) -> None:
        _check(
            0 <= self.max_unavailable <= MAX_REPLICAS,
            "spec.rollout.maxUnavailable",
            f"must be from 0 to {MAX_REPLICAS:,} replicas, not {self.max_unavailable}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model behind the gateway.

    Parameters
    ----------
    model
        Weights: a name of the catalogue (``smollm2``), a local folder or GGUF file (absolute path), or ``hf://``, ``s3://``, ``oci://``.
    served_as
        What clients write as ``model``; empty: ``name``.
    engine
        One of :data:`ENGINES`.
    pools
        Either one ``serve`` or one ``prefill`` and one ``decode``.
    budget_gpus
        GPUs that prefill and decode may have together, divided between them by need; 0: as many as their own limits come to.
    priority
        Of its replicas among all workloads, as in :class:`~plenum.model.workload.Workload`.
    weights_format, cache_format
        Number formats; empty: the weights' own and the engine's default.
    context_tokens
        Longest prompt and output together; 0: the model's.
    adapters
        LoRA adapters: name that clients write as ``model``, and where its weights are.
    slots
        Requests that a replica works on at once; 0: the engine's default.
    idle_s
        The last replica goes after so long without requests, where ``min_replicas`` is 0.
    wake_wait_s
        How long a request waits for a first replica to wake.
    prefill_threshold_tokens
        With two pools: prompts with fewer tokens to compute are prefilled where they are decoded.
    cheaper
        Another endpoint of the same tenant that admission may turn to under overload; empty: none.
    attached
        URLs of servers that run already; then nothing is started, and there are as many replicas as URLs.
    arguments
        Added to the engine's own command line, as they are.
    timing_model, timing_hardware
        Of the emulated engine: the catalogue's model and accelerator whose timing it keeps.
    """

    name: str
    tenant: str = "default"
    model: str
    served_as: str = ""
    engine: Engine = "llamacpp"
    pools: tuple[Pool, ...] = (Pool(),)
    promise: Promise = Promise()
    budget_gpus: int = 0
    priority: int = 0
    weights_format: str = ""
    cache_format: str = ""
    context_tokens: int = 0
    adapters: tuple[tuple[str, str], ...] = ()
    slots: int = 0
    routing: str = "prefix-aware"
    idle_s: float = 300.0
    wake_wait_s: float = 60.0
    prefill_threshold_tokens: int = 512
    rollout: Rollout = Rollout()
    cheaper: str = ""
    attached: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    timing_model: str = ""
    timing_hardware: str = ""

    def __post_init__(self) -> None:
        _check(bool(self.model), "spec.model", "must not be empty")
        _check(self.engine in ENGINES, "spec.engine", f"must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        names = tuple(pool.name for pool in self.pools)
        _check(
            names in ((SERVE,), (PREFILL, DECODE)),
            "spec.pools",
            f"give either one pool that serves, or prefill and decode; not {', '.join(names) or 'none'}",
        )
        _check(
            0 <= self.context_tokens <= MAX_CONTEXT_TOKENS,
            "spec.contextLimit",
            f"must be from 0 to {MAX_CONTEXT_TOKENS:,} tokens, not {self.context_tokens}",
        )
        _check(
            self.engine != "llamacpp" or all(pool.nodes == 1 for pool in self.pools),
            "spec.parallelism",
            "llama.cpp has no replicas over several nodes; take engine: vllm or sglang, or one node that has all that it needs",
        )
        _check(self.budget_gpus >= 0, "spec.gpuBudget", f"must not be negative, as {self.budget_gpus} is")
        _check(len(self.adapters) <= MAX_ADAPTERS, "spec.adapters", f"at most {MAX_ADAPTERS}, not {len(self.adapters)}")
        adapters = [name for name, _ in self.adapters]
        _check(len(set(adapters)) == len(adapters), "spec.adapters", f"a name is given twice in {adapters}")

    @property
    def id(self) -> str:
        """``tenant/name``."""
        return f"{self.tenant}/{self.name}"

    @property
    def apart(self) -> bool:
        """Whether prefill and decode have replicas of their own."""
        return len(self.pools) > 1

    @property
    def model_name(self) -> str:
        """What clients write as ``model``."""
        return self.served_as or self.name
