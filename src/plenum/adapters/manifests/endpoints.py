"""``Endpoint`` manifests with a ``spec.model`` to endpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from plenum.adapters.manifests.document import Document, WrittenByTenant, document_of, plain
from plenum.adapters.manifests.endpoint_types import PoolSpec, ServedManifest, ServedSpec
from plenum.adapters.manifests.fields import check_head, names_in, nearest, validated, written
from plenum.adapters.manifests.workload_types import WorkloadSpec
from plenum.adapters.manifests.workloads import request_of
from plenum.model.endpoint import DECODE, PREFILL, SERVE, Endpoint, Pool, Promise, Rollout
from plenum.model.errors import FieldError
from plenum.model.workload import Parallelism, Request

SMALL = {
    "llamacpp": Request(cpu_milli=1000, memory_bytes=2**30),
    "emulated": Request(cpu_milli=100, memory_bytes=2**29),
}
"""What a replica takes where the manifest does not say, of the engines that need no accelerator."""

_COMMAND = frozenset(names_in(WorkloadSpec))
"""Fields of a spec that may stand beside a command of one's own."""
_EITHER = (*names_in(ServedSpec), *_COMMAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedResource(WrittenByTenant):
    """A model to be served, as a person wrote it."""

    endpoint: Endpoint


def is_served(value: object) -> bool:
    """Return whether a manifest of kind ``Endpoint`` is of a model, not of replicas with a command of their own."""
    spec = value.get("spec") if isinstance(value, dict) and value.get("kind") == "Endpoint" else None
    if not isinstance(spec, dict):
        return False
    if "model" in spec or "run" in spec:
        return "model" in spec
    # A field that is misspelt tells which is meant as well as one that is not.
    return any((name if name in _COMMAND else nearest(str(name), _EITHER) or "run") not in _COMMAND for name in spec)


def parse_served(value: object, *, tenant: str = "default") -> ServedResource:
    """Take an endpoint from plain values, as parsed from JSON.

    Raises
    ------
    FileError
        Not a manifest at all, or beyond a limit of size.
    FieldError
        Something in it cannot be meant; names the field and what would be right.
    """
    return served_of(document_of(value), tenant=tenant)


def served_of(document: Document, *, tenant: str = "default") -> ServedResource:
    """Take an endpoint from a document. See :func:`parse_served`."""
    check_head(document, ("Endpoint",))
    document, version = written(document)
    manifest = validated(ServedManifest, document)
    whose = manifest.metadata.tenant if "tenant" in manifest.metadata.model_fields_set else tenant
    value = plain(document.value)
    value["metadata"]["tenant"] = whose
    try:
        endpoint = _endpoint(document, manifest, whose)
        _check_weights(endpoint)
        _check_timing(endpoint)
    except FieldError as error:
        if error.where.file or error.where.line:
            raise
        steps = error.where.field.removeprefix("spec.").split(".") if error.where.field else []
        raise document.wrong(("spec", *steps), error.sentence) from None
    return ServedResource(endpoint=endpoint, manifest=value, version=version, document=document)


def _endpoint(document: Document, manifest: ServedManifest, tenant: str) -> Endpoint:
    spec = manifest.spec
    slo, rollout = spec.slo, spec.rollout
    return Endpoint(
        name=manifest.metadata.name,
        tenant=tenant,
        model=spec.model,
        served_as=spec.served_as or "",
        engine=spec.engine,
        pools=_pools(document, spec),
        promise=Promise(
            ttft_s=math.inf if slo.ttft is None else slo.ttft,
            tpot_s=math.inf if slo.tpot is None else slo.tpot,
            quantile=slo.quantile,
        ),
        budget_gpus=spec.gpu_budget or 0,
        priority=spec.priority,
        weights_format=spec.format,
        cache_format=spec.cache_format,
        context_tokens=spec.context_limit or 0,
        adapters=tuple((adapter.name, adapter.source) for adapter in spec.adapters),
        slots=spec.slots or 0,
        routing=spec.routing,
        idle_s=spec.idle,
        wake_wait_s=spec.wake_wait,
        prefill_threshold_tokens=spec.prefill_threshold,
        rollout=Rollout(
            canary=rollout.canary,
            hold_s=rollout.hold,
            max_latency_ratio=rollout.max_latency_ratio,
            max_error_ratio=rollout.max_error_ratio,
            max_unavailable=1 if rollout.max_unavailable is None else rollout.max_unavailable,
            may_pause=bool(rollout.max_unavailable),
        ),
        cheaper=spec.cheaper or "",
        attached=tuple(url.rstrip("/") for url in spec.attach or ()),
        arguments=tuple(spec.arguments),
        timing_model=spec.timing.model if spec.timing else "",
        timing_hardware=spec.timing.hardware if spec.timing else "",
    )


def _check_weights(spec: Endpoint) -> None:
    """Raise FieldError where a replica would look for weights that nobody can know of; whether a path is there, its node tells."""
    if spec.attached and spec.engine == "llamacpp" and spec.adapters:
        raise FieldError(
            "adapters", "llama.cpp knows adapters by name only where it is started for you; leave attach out"
        )
    if spec.attached or spec.engine == "emulated":
        return
    from plenum.adapters.weights import WeightsError, read_reference

    named = {"model": spec.model} | {f"adapters.{k}.source": source for k, (_, source) in enumerate(spec.adapters)}
    for name, reference in named.items():
        try:
            read_reference(reference)
        except WeightsError as error:
            raise FieldError(name, error.sentence) from None


def _check_timing(spec: Endpoint) -> None:
    """Raise FieldError where the catalogue lacks what an emulated engine is to keep the timing of; files are of its node."""
    if spec.timing_hardware:
        from plenum.serving.catalogue.accelerators import accelerator_named
        from plenum.serving.catalogue.models import model_named

        accelerator_named(spec.timing_hardware, "timing.hardware")
        if not spec.timing_model.startswith(("/", ".")):
            model_named(spec.timing_model, "timing.model")


def _pools(document: Document, spec: ServedSpec) -> tuple[Pool, ...]:
    if spec.attach:
        return (Pool(name=SERVE, min_replicas=len(spec.attach), max_replicas=len(spec.attach)),)
    if spec.pools is None:
        return (_pool(document, ("spec",), SERVE, spec, spec),)
    pools = ((PREFILL, spec.pools.prefill), (DECODE, spec.pools.decode))
    return tuple(_pool(document, ("spec", "pools", name), name, pool, spec) for name, pool in pools)


def _pool(document: Document, path: tuple[str, ...], name: str, pool: PoolSpec, spec: ServedSpec) -> Pool:
    try:
        request = request_of(pool.resources, pool.gpu_models)
        asked = bool(request.gpus or request.cpu_milli or request.memory_bytes)
        if not asked and spec.engine not in SMALL:
            raise FieldError("resources", f"must say what a replica of {spec.engine} takes, such as {{gpu: 1, cpu: 8}}")
        if not asked:
            request = replace(SMALL[spec.engine], extra=request.extra, traits=request.traits)
        given = pool.parallelism
        parallelism = Parallelism(tp=given.tp, pp=given.pp, dp=given.dp, ep=given.ep)
        return Pool(
            name=name,
            min_replicas=pool.replicas.min,
            max_replicas=pool.replicas.max,
            request=request,
            parallelism=parallelism,
            nodes=given.nodes or _nodes(parallelism, request),
            within=given.within or "",
        )
    except FieldError as error:
        field_name = error.where.field.removeprefix("spec.")
        steps = ("resources",) if field_name in ("gpus", "gpu_milli", "mig", "nics") else tuple(field_name.split("."))
        raise document.wrong((*path, *steps), error.sentence) from None


def _nodes(parallelism: Parallelism, request: Request) -> int:
    """Return over how many nodes a replica is spread that takes so much of each."""
    devices, each = parallelism.gpus, request.gpus
    if not each or devices <= each:
        return 1
    if devices % each:
        raise FieldError(
            "parallelism",
            f"tp x pp x dp takes {devices} GPUs, and nodes give {each} each (resources.gpu); give a part of {devices}",
        )
    return devices // each
