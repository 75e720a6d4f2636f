"""``TrainingJob``, ``Endpoint`` and ``Task`` manifests to workloads."""

from __future__ import annotations

import pathlib

from plenum.adapters.manifests.document import Document, load_documents, read_text
from plenum.adapters.manifests.fields import check_head, one_of, validated
from plenum.adapters.manifests.workload_types import MANIFESTS, Constraint, Resources, RoleSpec, WorkloadSpec
from plenum.model.errors import FieldError
from plenum.model.fleet import GPU
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
    seen: dict[str, int] = {}
    workloads = []
    for document in load_documents(text, file):
        workload = _workload(document)
        line = document.line_of(("metadata", "name"))
        if workload.id in seen:
            sentence = f"{workload.id} is given twice, first on line {seen[workload.id]}; names are unique in a tenant"
            raise document.wrong(("metadata", "name"), sentence)
        seen[workload.id] = line
        workloads.append(workload)
    return tuple(workloads)


def _workload(document: Document) -> Workload:
    check_head(document, MANIFESTS)
    manifest = validated(MANIFESTS[document.kind], document)
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
            tenant=manifest.metadata.tenant,
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
            request=_request(spec, spec.resources),
            min_replicas=spec.elastic.min if spec.elastic else 0,
            step=spec.elastic.step if spec.elastic else 1,
        )
    except FieldError as error:
        raise _located(document, path, error) from None


def _request(spec: RoleSpec, resources: Resources) -> Request:
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
        gpu_models=tuple(spec.gpu_models),
        traits=tuple(spec.traits),
        aligned=spec.aligned or "",
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
    field = _FIELDS.get(error.where.field, error.where.field)
    steps: list[int | str] = []
    for step in field.split("."):
        name, _, index = step.partition("[")
        steps += [name] if not index else [name, int(index.rstrip("]"))]
    return document.wrong((*path, *steps), error.sentence)
