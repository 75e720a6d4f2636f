"""What is asked for: jobs, endpoints and tasks as small graphs of roles, requests and constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from plenum.model.errors import FieldError
from plenum.model.fleet import GPU, MAX_GPUS_PER_NODE, level_id
from plenum.model.units import MAX_QUANTITY

MAX_REPLICAS = 131_072
"""Replicas of one role; a limit so that a typing error cannot ask for the memory of a planet."""

MAX_NODES = 4_096
"""Nodes of one replica."""

MIG_SLICES = {"1g": 1, "2g": 2, "3g": 4, "4g": 4, "7g": 8}
"""Memory eighths that a MIG profile takes of its GPU (NVIDIA MIG user guide, A100/H100 profiles)."""

MIG_STARTS = {"1g": (0, 1, 2, 3, 4, 5, 6), "2g": (0, 2, 4), "3g": (0, 4), "4g": (0,), "7g": (0,)}
"""Memory eighth at which an instance of a profile may start (same source)."""


_OWN_FIELDS = ("cpu_milli", "memory_bytes", "gpu_milli", "pods")
"""Resources that a request asks for by other fields."""


class Kind(Enum):
    """Sort of workload; it decides what is placed all-or-nothing."""

    TRAINING_JOB = "TrainingJob"
    """One gang: every role's replicas start together or not at all."""
    ENDPOINT = "Endpoint"
    """Replicas are placed one by one; fewer than asked is better than none."""
    TASK = "Task"
    """Replicas (usually one) are independent of one another."""


def _check(ok: bool, name: str, sentence: str) -> None:
    if not ok:
        raise FieldError(name, sentence)


def _check_level(level: str) -> None:
    level_id(level, "level")
    _check(
        level not in ("place.numa", "place.pcie"),
        "level",
        f"a replica never leaves its node; for {level} say aligned: {level[6:]} in its request",
    )


def _check_int(value: object, name: str, low: int, high: int) -> None:
    # Told apart before a sentence is made: this runs dozens of times for each job that is submitted.
    if not (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
        raise FieldError(name, f"must be a whole number from {low} to {high}, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one replica takes from its node.

    Parameters
    ----------
    gpus
        GPUs of one node.
    gpu_milli
        Thousandths of each GPU: 1000, or less for exactly one shared GPU.
    mig
        MIG profile (``1g`` … ``7g``) instead of a share; then ``gpus`` is 1 and ``gpu_milli`` follows from it. Where any node of the
        fleet has the trait ``mig``, only nodes that have it qualify.
    cpu_milli, memory_bytes, nics
        Cores in thousandths, bytes, whole NICs.
    extra
        Any other resource by name, for example ``(("cxl_bytes", 2**40),)``; some domain above the node must have a budget of it.
    hbm_bytes
        Least HBM of each GPU.
    gpu_models
        Any of these models, each by its name or its family: ``H100`` takes ``H100-80GB-HBM3`` too. Empty: any.
    traits
        All of these must be on the node.
    aligned
        ``numa``: GPUs, NICs and cores on as few NUMA nodes as can hold them; ``pcie``: besides, each GPU has a NIC under its
        own PCIe switch.
    """

    gpus: int = 0
    gpu_milli: int = GPU
    mig: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    nics: int = 0
    extra: tuple[tuple[str, int], ...] = ()
    hbm_bytes: int = 0
    gpu_models: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    aligned: Literal["", "numa", "pcie"] = ""

    def __post_init__(self) -> None:
        _check_int(self.gpus, "gpus", 0, MAX_GPUS_PER_NODE)
        _check_int(self.gpu_milli, "gpu_milli", 1, GPU)
        for name in ("cpu_milli", "memory_bytes", "hbm_bytes"):
            _check_int(getattr(self, name), name, 0, MAX_QUANTITY)
        _check_int(self.nics, "nics", 0, 64)
        names = [name for name, _ in self.extra]
        _check(len(set(names)) == len(names), "extra", f"a resource is named twice in {names}")
        for name, amount in self.extra:
            _check(name not in _OWN_FIELDS, name, "has a field of its own; do not ask for it as an extra resource")
            _check_int(amount, name, 0, MAX_QUANTITY)
        _check(
            self.gpus == 1 or self.gpu_milli == GPU,
            "gpu_milli",
            f"a share of {self.gpu_milli / GPU:g} GPU goes with exactly one GPU, not {self.gpus}; ask for whole GPUs or for one share",
        )
        if self.mig:
            _check(
                self.mig in MIG_SLICES,
                "mig",
                f"there is no profile {self.mig!r}; the profiles are {', '.join(MIG_SLICES)}",
            )
            _check(self.gpus == 1, "mig", f"a MIG slice goes with exactly one GPU, not {self.gpus}")
            object.__setattr__(self, "gpu_milli", MIG_SLICES[self.mig] * GPU // 8)
        _check(self.aligned in ("", "numa", "pcie"), "aligned", f"must be numa or pcie, not {self.aligned!r}")
        _check(
            self.aligned != "pcie" or self.nics == 0 or self.nics == self.gpus,
            "nics",
            "aligned to pcie, every GPU has one NIC of its own",
        )
        if not (self.gpus or self.nics or self.cpu_milli):
            object.__setattr__(self, "aligned", "")  # there is nothing to align
        object.__setattr__(self, "gpu_models", tuple(sorted(set(self.gpu_models))))
        object.__setattr__(self, "traits", tuple(sorted(set(self.traits))))
        object.__setattr__(self, "extra", tuple(sorted(self.extra)))

    def accepts(self, model: str) -> bool:
        """Whether GPUs of a model will do."""
        return not self.gpu_models or any(model == name or model.startswith(f"{name}-") for name in self.gpu_models)

    @property
    def total_gpu_milli(self) -> int:
        """Milli-GPU of one replica over all its GPUs."""
        return self.gpus * self.gpu_milli


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A set of identical replicas.

    Parameters
    ----------
    replicas
        How many are wanted.
    min_replicas, step
        Elastic: as few as ``min_replicas`` will do (0: all are needed), the number then being ``min_replicas + k * step``.
    nodes
        Of replicas that are independent of one another: the requests that each consists of, which are placed, started, stopped and
        restarted as one.
    """

    name: str = "worker"
    replicas: int = 1
    request: Request = field(default_factory=Request)
    min_replicas: int = 0
    step: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        _check(bool(self.name), "name", "must not be empty")
        _check_int(self.replicas, "replicas", 1, MAX_REPLICAS)
        _check_int(self.min_replicas, "min_replicas", 0, self.replicas)
        _check_int(self.step, "step", 1, MAX_REPLICAS)
        _check_int(self.nodes, "nodes", 1, MAX_NODES)

    def sizes(self) -> tuple[int, ...]:
        """Return the acceptable replica counts, largest first; at most 64 of them, the smallest always among them."""
        if not self.min_replicas:
            return (self.replicas,)
        counts = list(range(self.min_replicas, self.replicas + 1, self.step))[::-1]
        return tuple(counts) if len(counts) <= 64 else (*counts[:: -(-len(counts) // 63)], counts[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """All replicas (of one role, or of the workload) inside one domain of a level.

    Parameters
    ----------
    level
        ``axis.level``, for example ``fabric.leaf``.
    required
        False: as low as this level if that can be had, else degrade upwards.
    weight
        How much a preferred level counts against others.
    block
        Replicas that must share a domain, counted in consecutive ranks; 0: all of them. A block of 2 keeps each tensor-parallel
        group of two nodes together without asking the same of the whole job.
    role
        Name of the role it holds for; empty: the whole workload.
    """

    level: str
    required: bool = True
    weight: float = 1.0
    block: int = 0
    role: str = ""

    def __post_init__(self) -> None:
        _check_level(self.level)
        _check(0 < self.weight <= 1e6, "weight", f"must be above 0 and at most 1e6, not {self.weight!r}")
        _check_int(self.block, "block", 0, MAX_REPLICAS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """At most ``max_per_domain`` replicas in any one domain of a level: 1 spreads them over failure domains."""

    level: str
    required: bool = True
    weight: float = 1.0
    max_per_domain: int = 1
    role: str = ""

    def __post_init__(self) -> None:
        _check_level(self.level)
        _check(0 < self.weight <= 1e6, "weight", f"must be above 0 and at most 1e6, not {self.weight!r}")
        _check_int(self.max_per_domain, "max_per_domain", 1, MAX_REPLICAS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a training job or replica splits its model; GPUs = tp x pp x dp, ep dividing dp x tp.

    Ranks are numbered the way Megatron-LM numbers them by default: tp fastest, then dp (ep inside it), then pp.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "ep"):
            _check_int(getattr(self, name), name, 1, MAX_REPLICAS)
        _check(
            (self.tp * self.dp) % self.ep == 0,
            "ep",
            f"must divide tp x dp = {self.tp * self.dp}, and {self.ep} does not",
        )

    @property
    def gpus(self) -> int:
        """GPUs of the whole job."""
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One thing that a tenant asks for.

    Parameters
    ----------
    submitted_s
        Seconds; earlier goes first among equal priorities.
    priority
        Higher goes first.
    """

    name: str
    kind: Kind = Kind.TASK
    tenant: str = "default"
    priority: int = 0
    submitted_s: float = 0.0
    roles: tuple[Role, ...] = (Role(),)
    together: tuple[Together, ...] = ()
    apart: tuple[Apart, ...] = ()
    parallelism: Parallelism = Parallelism()
    preemptible: bool = False

    def __post_init__(self) -> None:
        _check(bool(self.name), "metadata.name", "must not be empty")
        _check(math.isfinite(self.submitted_s), "submitted_s", f"must be a number of seconds, not {self.submitted_s!r}")
        _check_int(self.priority, "spec.priority", -(10**9), 10**9)
        _check(len(self.roles) > 0, "spec.roles", "at least one role is needed")
        names = [role.name for role in self.roles]
        _check(len(set(names)) == len(names), "spec.roles", f"two roles share a name in {names}")
        for i, constraint in enumerate((*self.together, *self.apart)):
            _check(
                constraint.role in ("", *names),
                f"spec.constraints[{i}].role",
                f"there is no role {constraint.role!r}; the roles are {', '.join(names)}",
            )
        self._check_blocks(names)
        _check(
            not self.gang or all(role.nodes == 1 for role in self.roles),
            "spec.roles",
            "a gang's replicas are its nodes; give it as many replicas",
        )
        gpus = sum(role.replicas * role.request.gpus for role in self.roles)
        _check(
            self.parallelism.gpus == 1 or self.kind is not Kind.TRAINING_JOB or self.parallelism.gpus == gpus,
            "spec.parallelism",
            f"tp x pp x dp = {self.parallelism.gpus}, but the roles ask for {gpus} GPUs; make them equal",
        )

    def _check_blocks(self, names: list[str]) -> None:
        blocked = [(i, t) for i, t in enumerate(self.together) if t.block]
        for i, constraint in blocked:
            field_name = f"spec.constraints[{i}].block"
            _check(bool(constraint.role) or len(names) == 1, field_name, "with several roles, a block needs a role")
            same = [t for _, t in blocked if t.role == constraint.role or len(names) == 1]
            _check(len(same) == 1, field_name, "one block a role is supported")
            for role in self.roles:
                if constraint.role in ("", role.name):
                    _check(
                        all(k % constraint.block == 0 for k in (role.sizes() if self.gang else (role.replicas,))),
                        field_name,
                        f"blocks of {constraint.block} must divide the {role.replicas} replicas of role {role.name}",
                    )

    @property
    def id(self) -> str:
        """``tenant/name``, unique in a view."""
        return f"{self.tenant}/{self.name}"

    @property
    def gang(self) -> bool:
        """Whether all replicas start together or not at all."""
        return self.kind is Kind.TRAINING_JOB

    @property
    def replicas(self) -> int:
        """Replicas over all roles."""
        return sum(role.replicas for role in self.roles)

    @property
    def total_gpu_milli(self) -> int:
        """Milli-GPU over all replicas."""
        return sum(role.replicas * role.nodes * role.request.total_gpu_milli for role in self.roles)
