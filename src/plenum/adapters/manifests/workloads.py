"""``TrainingJob``, ``Endpoint`` and ``Task`` manifests to workloads, and to jobs: a workload and what each replica runs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plenum.adapters.manifests.document import Document, WrittenByTenant, document_of, load_documents, plain, read_text
from plenum.adapters.manifests.fields import check_head, one_of, validated, written
from plenum.adapters.manifests.workload_types import (
    MANIFESTS,
    Constraint,
    EndpointManifest,
    Resources,
    RoleSpec,
    RunSpec,
    SimulateSpec,
    TaskManifest,
    TrainingJobManifest,
    WorkloadSpec,
)
from plenum.model.errors import FieldError
from plenum.model.fleet import GPU
from plenum.model.process import Process, Simulated
from plenum.model.workload import Apart, Kind, Parallelism, Request, Role, Together, Workload

_FIELDS = {
    "gpus": "resources.gpu",
    "gpu_milli": "resources.gpu",
    "cpu_milli": "resources.cpu",
    "memory_bytes": "resources.memory",
    "hbm_bytes": "resources.hbm",
    "mig": "resources.mig",
    "nics": "resources.nics",
    "gpu_models": "gpuModels",
    "min_replicas": "elastic.min",
    "step": "elastic.step",
}
"""Field of the model to the field of a manifest that it comes from."""


def read_workloads(path: pathlib.Path | str) -> tuple[Workload, ...]:
    """Read the workloads of a file of one or more YAML documents, in their order.

    Raises
    ------
    FileError
        The file cannot be read or is not YAML.
    FieldError
        Something in it cannot be meant; names file, line and field.
    """
    return parse_workloads(read_text(path), str(path))


def parse_workloads(text: str, file: str = "") -> tuple[Workload, ...]:
    """Read workloads from text; ``file`` is used in errors. See :func:`read_workloads`."""
    return tuple(job.workload for job in parse_jobs(text, file))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobManifest(WrittenByTenant):
    """A job as a person wrote it.

    Parameters
    ----------
    workload, process
        What is placed, and what each replica of it runs; without a ``run`` section, an imitation.
    """

    workload: Workload
    process: Process


def read_jobs(path: pathlib.Path | str, *, tenant: str = "default") -> tuple[JobManifest, ...]:
    """Read the jobs of a file of one or more YAML documents, in their order.

    Parameters
    ----------
    tenant
        Whose a job is that names no tenant.

    Raises
    ------
    FileError, FieldError
        See :func:`read_workloads`.
    """
    return parse_jobs(read_text(path), str(path), tenant=tenant)


def parse_jobs(text: str, file: str = "", *, tenant: str = "default") -> tuple[JobManifest, ...]:
    """Read jobs from text; ``file`` is used in errors. See :func:`read_jobs`."""
    seen: dict[str, int] = {}
    jobs = []
    for document in load_documents(text, file):
        job = job_of(document, tenant=tenant)
        name = job.workload.id
        if name in seen:
            sentence = f"{name} is given twice, first on line {seen[name]}; names are unique in a tenant"
            raise document.wrong(("metadata", "name"), sentence)
        seen[name] = document.line_of(("metadata", "name"))
        jobs.append(job)
    return tuple(jobs)


def parse_job(value: object, *, tenant: str = "default") -> JobManifest:
    """Take a job from plain values, as parsed from JSON; as strict as :func:`parse_jobs`, without lines.

    Raises
    ------
    FileError
        Not a manifest at all, or beyond a limit of size.
    FieldError
        Something in it cannot be meant; names the field and what would be right.
    """
    return job_of(document_of(value), tenant=tenant)


def job_of(document: Document, *, tenant: str = "default") -> JobManifest:
    """Take a job from a document. See :func:`parse_jobs`."""
    check_head(document, MANIFESTS)
    document, version = written(document)
    manifest = validated(MANIFESTS[document.kind], document)
    whose = manifest.metadata.tenant if "tenant" in manifest.metadata.model_fields_set else tenant
    value = plain(document.value)
    value["metadata"]["tenant"] = whose
    return JobManifest(
        workload=_workload(document, manifest, whose),
        process=_process(document, manifest),
        manifest=value,
        version=version,
        document=document,
    )


def _process(document: Document, manifest: TrainingJobManifest | EndpointManifest | TaskManifest) -> Process:
    run = manifest.spec.run or RunSpec.model_construct()
    try:
        return Process(
            command=tuple(run.command or ()),
            env=tuple(run.env.items()),
            working_dir=run.working_dir or "",
            grace_s=run.grace,
            nice=run.nice,
            timeout_s=run.timeout,
            restarts=run.restarts,
            backoff_s=run.backoff,
            simulated=None if run.command else _simulated(run, manifest.kind),
        )
    except FieldError as error:
        raise _located(document, (), error) from None


def _simulated(run: RunSpec, kind: str) -> Simulated:
    given = run.simulate or SimulateSpec()
    # A server that stopped by itself would be no server.
    by_default = 0.0 if kind == Kind.ENDPOINT.value else Simulated().duration_s
    return Simulated(
        duration_s=by_default if given.duration is None else given.duration,
        start_s=given.start,
        exit_code=given.exit_code,
    )


def _workload(
    document: Document, manifest: TrainingJobManifest | EndpointManifest | TaskManifest, tenant: str
) -> Workload:
    spec = manifest.spec
    roles = _roles(document, spec)
    role_names = [role.name for role in roles]
    for i, constraint in enumerate(spec.constraints):
        if constraint.role not in ("", *role_names):
            raise document.wrong(("spec", "constraints", i, "role"), one_of(constraint.role, role_names, "role"))
    constraints = [_constraint(document, c, i) for i, c in enumerate(spec.constraints)]
    try:
        return Workload(
            name=manifest.metadata.name,
            tenant=tenant,
            kind=Kind(manifest.kind),
            priority=spec.priority,
            preemptible=spec.preemptible,
            roles=roles,
            parallelism=_parallelism(document, spec),
            together=tuple(c for c in constraints if isinstance(c, Together)),
            apart=tuple(c for c in constraints if isinstance(c, Apart)),
        )
    except FieldError as error:
        raise _located(document, (), error) from None


def _roles(document: Document, spec: WorkloadSpec) -> tuple[Role, ...]:
    if not spec.roles:
        return (_role(document, ("spec",), spec),)
    return tuple(_role(document, ("spec", "roles", i), role) for i, role in enumerate(spec.roles))


def _role(document: Document, path: tuple[int | str, ...], spec: RoleSpec) -> Role:
    try:
        return Role(
            name=spec.name,
            replicas=spec.replicas,
            request=request_of(spec.resources, spec.gpu_models, spec.traits, spec.aligned),
            min_replicas=spec.elastic.min if spec.elastic else 0,
            step=spec.elastic.step if spec.elastic else 1,
        )
    except FieldError as error:
        raise _located(document, path, error) from None


def request_of(
    resources: Resources,
    gpu_models: Sequence[str] = (),
    traits: Sequence[str] = (),
    aligned: Literal["numa", "pcie"] | None = None,
) -> Request:
    """Return what one replica asks of its node.

    Raises
    ------
    FieldError
        It contradicts itself.
    """
    gpu_milli = resources.gpu or 0
    if resources.mig or (resources.count and resources.gpu is None):
        gpu_milli = GPU
    count = resources.count or 1
    shared = 0 < gpu_milli < GPU
    return Request(
        gpus=1 if shared else gpu_milli // GPU * count,
        gpu_milli=gpu_milli if shared else GPU,
        mig=resources.mig or "",
        cpu_milli=resources.cpu,
        memory_bytes=resources.memory,
        nics=resources.nics,
        hbm_bytes=resources.hbm,
        extra=tuple(resources.other.items()),
        gpu_models=tuple(gpu_models),
        traits=tuple(traits),
        aligned=aligned or "",
    )


def _constraint(document: Document, spec: Constraint, i: int) -> Together | Apart:
    try:
        if spec.together is not None:
            return Together(
                level=spec.together,
                required=spec.required,
                weight=spec.weight,
                block=spec.block or 0,
                role=spec.role,
            )
        return Apart(
            level=spec.apart or "",
            required=spec.required,
            weight=spec.weight,
            max_per_domain=spec.max_per_domain or 1,
            role=spec.role,
        )
    except FieldError as error:
        word = "together" if spec.together is not None else "apart"
        raise document.wrong(("spec", "constraints", i, word), error.sentence) from None


def _parallelism(document: Document, spec: WorkloadSpec) -> Parallelism:
    given = spec.parallelism
    try:
        return Parallelism(tp=given.tp, pp=given.pp, dp=given.dp, ep=given.ep)
    except FieldError as error:
        raise _located(document, ("spec", "parallelism"), error) from None


def _located(document: Document, path: tuple[int | str, ...], error: FieldError) -> FieldError:
    """Return one of the model's errors with the manifest's field, file and line."""
    name_of_it = _FIELDS.get(error.where.field, error.where.field)
    steps: list[int | str] = []
    for step in name_of_it.split("."):
        name, _, index = step.partition("[")
        steps += [name] if not index else [name, int(index.rstrip("]"))]
    return document.wrong((*path, *steps), error.sentence)
