"""What ``plenum bench`` is pointed at: an endpoint of a control plane with its promises and its hardware, or any server at a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plenum.cli.asking import gateway_url, key_for
from plenum.cli.cloud import connected, split_job, tenant_of
from plenum.model.errors import FieldError, PlenumError

if TYPE_CHECKING:
    from plenum.adapters.client import Client

DEGREES = ("tp", "pp", "dp", "ep")


def pointed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with what the endpoint itself says filled in where they say nothing.

    Given ``--url``, no control plane is asked. Else the endpoint gives address, key, promises, and (without ``--model``) the model,
    accelerator and parallelism that its prediction is for, as far as the catalogue knows them.

    Raises
    ------
    FieldError
        There is neither a URL nor a gateway that the control plane has heard of.
    PlenumError
        No control plane answers, or it has no such endpoint, or one that is not up.
    """
    if options["url"]:
        return options
    try:
        with connected(options["context"]) as client:
            return _of_endpoint(client, options)
    except PlenumError as error:
        if error.code in ("client.no-context", "client.unreachable"):
            raise FieldError("--url", f"says where to send; no control plane does: {error.sentence}") from None
        raise


def _of_endpoint(client: Client, options: dict[str, Any]) -> dict[str, Any]:
    from plenum.cli.kinds import job_path

    _, whose, name = split_job(options["endpoint"])
    whose = whose or tenant_of(client, options["tenant"])
    endpoint = client.get(job_path("endpoints", whose, name))
    url = gateway_url(client)
    if not url:
        raise FieldError(
            "--url", "says where to send; the control plane has heard of no gateway (plenum gateway runs one)"
        )
    spec, status = endpoint["spec"], endpoint["status"]
    check_up(endpoint)
    found = options | {
        "url": url,
        "key": options["key"] or key_for(client, whose),
        "endpoint": status["servedAs"],
        "slo": options["slo"] or _promises(spec.get("slo") or {}),
    }
    return found if options["model"] else found | _hardware(spec, status)


def check_up(endpoint: dict[str, Any]) -> None:
    """Refuse an endpoint whose requests would wait for a first replica that has no place, and then be refused.

    Raises
    ------
    ProblemError
        It has none on its way; one that starts, or sleeps and is woken, is waited for.
    """
    from plenum.adapters.client import ProblemError
    from plenum.cli.kinds import job_note, without_subject

    meta, status = endpoint["metadata"], endpoint["status"]
    if status["phase"] not in ("Pending", "Failed", "Stopping"):
        return
    note = without_subject(job_note(status), meta).rstrip(".")
    said = f"{meta['tenant']}/{meta['name']} is {status['phase']}{f' ({note})' if note else ''} and answers nobody now"
    sentence = f"{said}; `plenum wait endpoint/{meta['name']}` comes back once it does"
    raise ProblemError(sentence, status=409, code="endpoint.not-ready")


def _promises(slo: dict[str, Any]) -> str:
    percent = 100 * float(slo.get("quantile", 0.99))
    return ",".join(f"{name}-p{percent:g}={slo[name]}" for name in ("ttft", "tpot") if slo.get(name) is not None)


def _hardware(spec: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return model, accelerator and pools as options, or nothing where the catalogue lacks one of them."""
    from plenum.serving.catalogue.accelerators import accelerator_named
    from plenum.serving.catalogue.models import model_named

    first = (spec.get("pools") or {}).get("decode") or spec
    timing = spec.get("timing") or {}
    model, hardware = (
        timing.get("model") or spec["model"],
        timing.get("hardware") or (first.get("gpuModels") or [""])[0],
    )
    model = model.removeprefix("hf://").rpartition("/")[2].partition("@")[0]
    try:
        model_named(model)
        accelerator_named(hardware)
    except FieldError:
        return {}
    counts = {pool["name"]: max(int(pool["ready"]), 1) for pool in status.get("pools", [])}
    spread = first.get("parallelism") or {}
    return {
        "model": model,
        "hardware": hardware,
        **{degree: spread.get(degree) or 1 for degree in DEGREES},
        "weights": spec.get("format") or None,
        "kv_cache": spec.get("cacheFormat") or "bf16",
        "engine": spec["engine"] if spec.get("engine") in ("vllm", "sglang") else "vllm",
        "max_sequences": spec.get("slots") or 256,
        "replicas": counts.get("serve"),
        "prefill": counts.get("prefill"),
        "decode": counts.get("decode"),
    }
