"""The kinds ``TrainingJob``, ``Endpoint`` and ``Task`` as people write them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from plenum.adapters.manifests.fields import Budgets, Bytes, Cores, Level, Manifest, Name, Seconds, Strict, fail
from plenum.model.errors import FieldError
from plenum.model.fleet import GPU, MAX_GPUS_PER_NODE
from plenum.model.process import MAX_ENV
from plenum.model.workload import MAX_REPLICAS, MIG_SLICES, Kind

MAX_ARGUMENTS = 1024
MAX_ARGUMENT = 32_768
MAX_RESTARTS = 1000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

Replicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
Profile = Literal["1g", "2g", "3g", "4g", "7g"]
assert set(Profile.__args__) == set(MIG_SLICES)


def _read_gpu(value: Any) -> Any:
    """Read GPUs into milli-units: whole ones, or one share."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fail(FieldError("", f"must be whole GPUs such as 8, or one share such as 0.3, not {str(value)[:60]!r}"))
    milli = round(value * GPU)
    if not 0 <= value <= MAX_GPUS_PER_NODE:
        raise fail(FieldError("", f"must be from 0 to {MAX_GPUS_PER_NODE} GPUs of one node, not {value}"))
    if value and milli == 0:
        raise fail(FieldError("", f"a share is at least 0.001 GPU, not {value}"))
    if milli > GPU and milli % GPU:
        raise fail(FieldError("", f"ask for whole GPUs or for one share below 1, not for {value}"))
    return milli


GpuMilli = Annotated[
    int, BeforeValidator(_read_gpu), WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_GPUS_PER_NODE})
]


class Resources(Strict):
    """What one replica takes from its node.

    ``gpu`` is a number of whole GPUs or one share of a GPU; ``mig`` a slice of one instead. ``count`` repeats ``gpu: 1``. ``hbm`` is the
    least memory of each GPU. ``other`` names any further resource, such as ``cxl`` or ``licences``.
    """

    gpu: GpuMilli | None = None
    count: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)] | None = None
    mig: Profile | None = None
    cpu: Cores = 0
    memory: Bytes = 0
    nics: Annotated[int, Field(ge=0, le=64)] = 0
    hbm: Bytes = 0
    other: Budgets = Field(default_factory=dict)

    @model_validator(mode="after")
    def _gpus_agree(self) -> Resources:
        gpu, count = self.gpu, self.count
        sentence = ""
        if self.mig is not None and (gpu is not None or count not in (None, 1)):
            sentence = f"mig: {self.mig} is a slice of exactly one GPU; leave gpu and count out"
        elif count is not None and gpu is not None and gpu < GPU and count > 1:
            sentence = (
                f"a share of {gpu / GPU:g} GPU goes with exactly one GPU, not count: {count}; "
                f"ask for whole GPUs (gpu: {count}) or for one share (gpu: {gpu / GPU:g})"
            )
        elif count is not None and gpu is not None and gpu > GPU:
            sentence = f"gpu: {gpu // GPU} with count: {count} says two numbers; say gpu: {gpu // GPU * count} alone"
        if sentence:
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        return self


class Elastic(Strict):
    """Fewer replicas will do: ``min``, ``min + step``, … up to all."""

    min: Replicas
    step: Replicas = 1


class RoleSpec(Strict):
    """A set of equal replicas."""

    name: Name = "worker"
    replicas: Replicas = 1
    resources: Resources = Field(default_factory=Resources)
    elastic: Elastic | None = None
    gpu_models: list[Name] = Field(default_factory=list)
    traits: list[Name] = Field(default_factory=list)
    aligned: Literal["numa", "pcie"] | None = None


class ParallelismSpec(Strict):
    """How a model is split over GPUs: tensor, pipeline, data and expert parallel."""

    tp: Replicas = 1
    pp: Replicas = 1
    dp: Replicas = 1
    ep: Replicas = 1


class Constraint(Strict):
    """Either ``together`` (all inside one domain of a level) or ``apart`` (at most ``maxPerDomain`` in each).

    ``required: false`` makes it a preference of some ``weight``. ``block`` replicas of consecutive rank must share a domain instead of all.
    """

    together: Level | None = None
    apart: Level | None = None
    required: bool = True
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    block: Replicas | None = None
    max_per_domain: Replicas | None = None
    role: str = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> Constraint:
        sentence = ""
        if (self.together is None) == (self.apart is None):
            sentence = "give either together or apart, each with a level such as fabric.leaf"
        elif self.together is None and self.block is not None:
            sentence = "block goes with together, not with apart"
        elif self.apart is None and self.max_per_domain is not None:
            sentence = "maxPerDomain goes with apart, not with together"
        if sentence:
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        return self


class SimulateSpec(Strict):
    """How an imitated replica behaves: seconds to start, seconds to run (0: until it is stopped), what it exits with.

    Without ``duration`` an ``Endpoint`` runs until it is stopped, anything else for a minute.
    """

    duration: Seconds | None = None
    start: Seconds = 0.0
    exit_code: Annotated[int, Field(ge=0, le=255)] = 0


def _check_env(value: dict[str, str]) -> dict[str, str]:
    sentence = f"{len(value)} variables are too many; at most {MAX_ENV}" if len(value) > MAX_ENV else ""
    for name, text in value.items():
        if not _VARIABLE.fullmatch(name):
            sentence = f"{name[:60]!r} is not a variable: letters, digits and _, not beginning with a digit"
        elif len(text) > MAX_ARGUMENT:
            sentence = f"{name} has {len(text):,} characters; at most {MAX_ARGUMENT:,}"
    if sentence:
        raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
    return value


class RunSpec(Strict):
    """What every replica runs: a command, or with ``simulate`` the imitation of one on simulated nodes.

    ``command`` is a program and its arguments; no shell reads it. ``workingDir`` defaults to a folder of the replica's own, which its
    attempts share. ``grace`` passes between SIGTERM and SIGKILL; ``timeout`` is the longest an attempt may run (0: no limit);
    ``restarts`` is how many failures are made up for, the first after ``backoff``, each further one after twice as long. ``env`` is
    no place for secrets: everybody who may see the job sees it, and it stays in the log.
    """

    command: (
        Annotated[list[Annotated[str, Field(max_length=MAX_ARGUMENT)]], Field(min_length=1, max_length=MAX_ARGUMENTS)]
        | None
    ) = None
    env: Annotated[dict[str, str], AfterValidator(_check_env)] = Field(default_factory=dict)
    working_dir: Annotated[str, Field(max_length=4096)] | None = None
    grace: Seconds = 10.0
    nice: Annotated[int, Field(ge=0, le=19)] = 0
    timeout: Seconds = 0.0
    restarts: Annotated[int, Field(ge=0, le=MAX_RESTARTS)] = 3
    backoff: Seconds = 1.0
    simulate: SimulateSpec | None = None

    @model_validator(mode="after")
    def _one_way(self) -> RunSpec:
        sentence = ""
        if self.command is None and self.simulate is None:
            sentence = "give command: [program, argument, …], or simulate: {duration: 60s} for an imitation of one"
        elif self.command is not None and self.simulate is not None:
            sentence = "give either command or simulate, not both"
        elif self.command is not None and not self.command[0]:
            sentence = "the command's program is empty; write command: [program, argument, …]"
        elif self.working_dir is not None and not self.working_dir.startswith("/"):
            sentence = f"workingDir must be an absolute path, not {self.working_dir[:60]!r}; leave it out for a folder of its own"
        if sentence:
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        return self


class WorkloadSpec(RoleSpec):
    """One role, written straight into the spec, or several under ``roles``; ``run`` says what every replica runs."""

    roles: list[RoleSpec] = Field(default_factory=list)
    priority: Annotated[int, Field(ge=-(10**9), le=10**9)] = 0
    preemptible: bool = False
    parallelism: ParallelismSpec = Field(default_factory=ParallelismSpec)
    constraints: list[Constraint] = Field(default_factory=list)
    run: RunSpec | None = None

    @model_validator(mode="after")
    def _one_way(self) -> WorkloadSpec:
        own = sorted(self.model_fields_set & set(RoleSpec.model_fields))
        if self.roles and own:
            name = WorkloadSpec.model_fields[own[0]].alias or own[0]
            sentence = f"{name} stands beside roles; put it into the roles, or leave roles out"
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        return self


class TrainingJobManifest(Manifest):
    """A gang: every replica of every role starts with the others or not at all."""

    kind: Literal["TrainingJob"]
    spec: WorkloadSpec


class EndpointManifest(Manifest):
    """Replicas of a server, placed one by one: fewer than asked is better than none."""

    kind: Literal["Endpoint"]
    spec: WorkloadSpec


class TaskManifest(Manifest):
    """Independent replicas, usually one."""

    kind: Literal["Task"]
    spec: WorkloadSpec


MANIFESTS: dict[str, type[TrainingJobManifest | EndpointManifest | TaskManifest]] = {
    Kind.TRAINING_JOB.value: TrainingJobManifest,
    Kind.ENDPOINT.value: EndpointManifest,
    Kind.TASK.value: TaskManifest,
}
"""Kind to type."""
