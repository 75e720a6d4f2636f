"""The kind ``Endpoint`` of a model that is served, as people write it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, RootModel, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from plenum.adapters.manifests.fields import Level, Manifest, Name, Seconds, Strict
from plenum.adapters.manifests.workload_types import (
    MAX_ARGUMENT,
    MAX_ARGUMENTS,
    EndpointManifest,
    ParallelismSpec,
    Resources,
)
from plenum.model.endpoint import MAX_ADAPTERS, MAX_CONTEXT_TOKENS
from plenum.model.workload import MAX_NODES, MAX_REPLICAS

MAX_SLOTS = 4_096
MAX_URLS = 256
MAX_REFERENCE = 1_000
MAX_WAIT_S = 3_600.0

Routing = Literal[
    "round-robin", "random", "least-loaded", "prefix-aware", "kv-aware", "predicted-latency", "session", "mooncake"
]
Engine = Literal["llamacpp", "vllm", "sglang", "emulated"]


def _wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})


def _check_text(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise _wrong("must be printable text without spaces around it")
    return value


def url_problem(url: str) -> str:
    """Return what is wrong with the address of a server that is attached; empty: nothing."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return f"{url[:80]!r} is no address"
    plain = url.isascii() and url.isprintable() and not any(c in url for c in " \\@?#%")
    if not (fine and plain and parts.path in ("", "/")):
        return f"{url[:80]!r} is not an address such as http://10.0.0.7:8000, without a path, a user or anything else"
    return ""


def _check_urls(value: list[str]) -> list[str]:
    if problem := next(filter(None, map(url_problem, value)), ""):
        raise _wrong(problem)
    if len(set(value)) < len(value):
        raise _wrong("an address is given twice")
    return value


Source = Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE), AfterValidator(_check_text)]
Words = Annotated[str, Field(max_length=MAX_ARGUMENT)]
ModelName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
"""What clients write as ``model``; engines are told adapters as ``NAME=PLACE``."""


class ReplicasSpec(Strict):
    """From how many to how many; ``min: 0`` lets the last one go while nobody asks, and the first request wakes one."""

    min: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    max: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1

    @model_validator(mode="after")
    def _in_order(self) -> ReplicasSpec:
        if self.min > self.max:
            raise _wrong(f"min: {self.min} is more than max: {self.max}")
        return self


def _read_replicas(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"min": value, "max": max(value, 1)}
    if not isinstance(value, (dict, ReplicasSpec)):
        raise _wrong(
            f"must be a whole number such as 2, or from how many to how many, {{min: 1, max: 4}}, not {value!r:.60}"
        )
    return value


Replicas = Annotated[
    ReplicasSpec,
    BeforeValidator(_read_replicas),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_REPLICAS},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {name: {"type": "integer", "minimum": 0} for name in ("min", "max")},
                },
            ]
        }
    ),
]


class SpreadSpec(ParallelismSpec):
    """How a replica's model is split over GPUs; beyond those of one node (``resources.gpu``) it takes several, all or none.

    ``nodes`` is how many; it follows from the GPUs where these are given. ``within`` is the level of which one domain holds them all.
    """

    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] | None = None
    within: Level | None = None


class PoolSpec(Strict):
    """Equal replicas; ``replicas`` is a number, or ``{min, max}`` to scale between; each takes ``resources`` of each of its nodes."""

    replicas: Replicas = Field(default_factory=ReplicasSpec)
    resources: Resources = Field(default_factory=Resources)
    gpu_models: list[Name] = Field(default_factory=list)
    parallelism: SpreadSpec = Field(default_factory=SpreadSpec)


class PoolsSpec(Strict):
    """Replicas of their own for prefill and for decode."""

    prefill: PoolSpec
    decode: PoolSpec


class SloSpec(Strict):
    """What is promised of ``quantile`` of the requests: time to the first token, time per output token after it."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99


class AdapterSpec(Strict):
    """A LoRA adapter: the name that clients write as ``model``, and where its weights are."""

    name: ModelName
    source: Source


class RolloutSpec(Strict):
    """How a changed endpoint comes into use.

    ``canary`` is the part of the requests that goes to the new revision while it is watched for ``hold``. It goes back by itself if its
    latency is surely more than ``maxLatencyRatio`` times the old one's, or ``maxErrorRatio`` more of its requests surely fail. Where there
    is no room for it beside the old one, up to ``maxUnavailable`` replicas of each pool make way first. Unsaid it is 1, and a last replica
    stays; said, and at least 1, it holds for a last one too: until its successor is ready, requests wait for at most ``wakeWait``.
    """

    canary: Annotated[float, Field(ge=0, le=1)] = 0.1
    hold: Seconds = 30.0
    max_latency_ratio: Annotated[float, Field(gt=1, le=100)] = 1.5
    max_error_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    max_unavailable: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None


class TimingSpec(Strict):
    """Of the emulated engine: the model and the accelerator of the catalogue whose timing it keeps."""

    model: Name
    hardware: Name


class ServedSpec(PoolSpec):
    """A model, on which engine, how many replicas of it, and what is promised.

    ``attach`` names servers that run already: then nothing is started. ``gpuBudget`` is how many GPUs prefill and decode may have
    together. ``cheaper`` is another endpoint that may answer instead under overload. ``arguments`` are added to the
    engine's own command line.
    """

    model: Source
    engine: Engine = "llamacpp"
    served_as: ModelName | None = None
    pools: PoolsSpec | None = None
    gpu_budget: Annotated[int, Field(ge=1, le=8 * MAX_REPLICAS)] | None = None
    slo: SloSpec = Field(default_factory=SloSpec)
    priority: Annotated[int, Field(ge=-(10**9), le=10**9)] = 0
    format: Annotated[str, Field(max_length=64)] = ""
    cache_format: Annotated[str, Field(max_length=64)] = ""
    context_limit: Annotated[int, Field(ge=1, le=MAX_CONTEXT_TOKENS)] | None = None
    adapters: Annotated[list[AdapterSpec], Field(max_length=MAX_ADAPTERS)] = Field(default_factory=list)
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] | None = None
    routing: Routing = "prefix-aware"
    idle: Seconds = 300.0
    wake_wait: Annotated[Seconds, Field(le=MAX_WAIT_S)] = 60.0
    prefill_threshold: Annotated[int, Field(ge=0, le=MAX_CONTEXT_TOKENS)] = 512
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    cheaper: Name | None = None
    attach: Annotated[list[str], Field(min_length=1, max_length=MAX_URLS), AfterValidator(_check_urls)] | None = None
    arguments: Annotated[list[Words], Field(max_length=MAX_ARGUMENTS)] = Field(default_factory=list)
    timing: TimingSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, data: Any) -> Any:
        if isinstance(data, dict) and "run" in data:
            sentence = "is of a server of your own, and model has one started for you; keep one of the two"
            raise PydanticCustomError("unknown_field", "{sentence}", {"sentence": sentence, "key": "run"})
        return data

    @model_validator(mode="after")
    def _agree(self) -> ServedSpec:
        own = sorted(self.model_fields_set & set(PoolSpec.model_fields))
        sentence = ""
        if self.pools is not None and own:
            name = PoolSpec.model_fields[own[0]].alias or own[0]
            sentence = f"{name} stands beside pools; put it into prefill and decode, or leave pools out"
        elif self.attach is not None and (own or self.pools is not None):
            sentence = "attach names servers that run already: replicas, resources and pools do not go with it"
        elif self.timing is not None and self.engine != "emulated":
            sentence = f"timing goes with engine: emulated, not with {self.engine}"
        elif self.engine == "emulated" and self.timing is None and self.attach is None:
            sentence = (
                "engine: emulated keeps some model's timing; say which: timing: {model: llama-3.1-8b, hardware: H100}"
            )
        if sentence:
            raise _wrong(sentence)
        return self


class ServedManifest(Manifest):
    """A model behind the gateway: replicas of an engine, started, watched, scaled and replaced for you."""

    kind: Literal["Endpoint"]
    spec: ServedSpec


class AnyEndpointManifest(RootModel[ServedManifest | EndpointManifest]):
    """An ``Endpoint``: with ``spec.model``, a model that is served; with ``spec.run``, replicas of any server of your own."""
