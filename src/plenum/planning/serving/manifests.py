"""A plan as manifests: ``Endpoint`` documents that ``plenum apply`` takes, and Kubernetes objects. Plain values; the caller writes YAML."""

from __future__ import annotations

import copy
import re
from typing import Any

from plenum.planning.serving.launch import (
    PORT,
    context_tokens,
    engine_words,
    headless_lines,
    pool_name,
    servers_of,
    servers_words,
    shell_line,
    trtllm_options,
)
from plenum.planning.serving.layout import PoolChoice
from plenum.planning.serving.points import Point
from plenum.planning.serving.question import Question
from plenum.planning.serving.routers import SUPPLY, router_objects
from plenum.planning.serving.spread import is_spread, served_endpoint
from plenum.serving.instance import RUNTIME_FRACTION, Instance

IMAGES = {
    ("vllm", "NVIDIA"): "vllm/vllm-openai:v0.13.0",
    ("vllm", "AMD"): "rocm/vllm:rocm7.14.0_cdna_ubuntu24.04_py3.14_pytorch_2.11.0_vllm_0.23.0",
    ("vllm", "Google"): "vllm/vllm-tpu:v0.12.0",
    ("sglang", "NVIDIA"): "lmsysorg/sglang:v0.5.18",
    ("trtllm", "NVIDIA"): "nvcr.io/nvidia/tensorrt-llm/release:1.0.0",
}
"""Engine and vendor of the devices to the image published for them, at a version: tags on hub.docker.com and catalog.ngc.nvidia.com.

They are versions that have every flag of the launch lines (vLLM's ``--nnodes`` came with 0.12); raise them together with
:mod:`~plenum.planning.serving.launch`.
"""

RESOURCES = {
    "NVIDIA": "nvidia.com/gpu",
    "AMD": "amd.com/gpu",
    "Intel": "habana.ai/gaudi",
    "Google": "google.com/tpu",
}
"""Vendor to what its device plugin for Kubernetes calls a device."""

NO_IMAGE = "replace-with-"
"""What the name of an image starts with that has to be supplied."""

CORES_PER_DEVICE = 8
"""Host cores for each device: tokenisation, scheduling, and a process for each rank."""

HOST_BYTES_OVER_HBM = 1.5
"""Host memory for each byte of device memory: weights pass through the page cache while they load."""

MAX_NAME = 40

RESTARTS = 1000
"""Failures that are made up for: a server has no end at which it is done."""

_OWN_PORTS = (
    f'FIRST="${{CUDA_VISIBLE_DEVICES%%,*}}"; PORT="$(({PORT} + ${{FIRST:-0}}))"; '
    'export VLLM_NIXL_SIDE_CHANNEL_PORT="$((5600 + ${FIRST:-0}))"; '
)
"""Instances that share a host share its ports: each takes those that the number of its first GPU is added to."""

_HEAD = 'export HEAD="$MASTER_ADDR"; '


def endpoints_of(question: Question, point: Point, *, engine: str, model_folder: str) -> list[dict[str, Any]]:
    """Return one ``Endpoint`` manifest for each pool, as plain values; one with all pools where instances span servers.

    An engine that Plenum has no driver for is a gang over its servers: each instance is a ``TrainingJob`` within a leaf of the fabric.
    """
    pools = point.layout.pools
    if is_spread(pools, engine):
        given = {"engine": engine, "model_folder": model_folder, "resources_of": _resources}
        return [served_endpoint(_label(question.model.name), question, pools, **given)]
    documents: list[dict[str, Any]] = []
    for pool in pools:
        document = _endpoint(question, pool, engine, model_folder)
        servers = servers_of(pool.option.instance)
        documents += [document] if servers == 1 else [_gang(document, servers, index) for index in range(pool.count)]
    return documents


def _gang(endpoint: dict[str, Any], servers: int, index: int) -> dict[str, Any]:
    """Return one instance of an endpoint as a job whose replicas start together and know their ranks and the first of them."""
    meta, spec = endpoint["metadata"], endpoint["spec"]
    return endpoint | {
        "kind": "TrainingJob",
        "metadata": meta | {"name": f"{meta['name']}-{index}", "labels": dict(meta["labels"])},
        "spec": copy.deepcopy(spec) | {"replicas": servers, "constraints": [{"together": "fabric.leaf"}]},
    }


def _endpoint(question: Question, pool: PoolChoice, engine: str, model_folder: str) -> dict[str, Any]:
    instance = pool.option.instance
    servers = servers_of(instance)
    spread = instance.parallelism
    spec: dict[str, Any] = {
        "replicas": pool.count * servers,
        "resources": _resources(pool),
        "gpuModels": [instance.hardware.name],
        "parallelism": {"tp": spread.tp, "pp": spread.pp, "dp": spread.dp, "ep": spread.ep},
        "run": {
            "command": [
                "sh",
                "-c",
                _OWN_PORTS + _HEAD * (servers > 1) + _command(question, pool, engine, port="$PORT"),
            ],
            "env": {"MODEL": model_folder},
            "grace": 60,
            "restarts": RESTARTS,
        },
    }
    if instance.hardware.is_host:
        del spec["gpuModels"]
    return {
        "apiVersion": "plenum.dev/v1alpha1",
        "kind": "Endpoint",
        "metadata": {
            "name": _name(question, pool),
            "labels": {"model": _label(question.model.name), "role": pool.role},
        },
        "spec": spec,
    }


def _resources(pool: PoolChoice) -> dict[str, Any]:
    """Return what an instance takes of each of its servers."""
    instance = pool.option.instance
    host = {"cpu": _cores(instance), "memory": f"{_host_gib(instance)}GiB"}
    return host if instance.hardware.is_host else {"gpu": instance.devices // servers_of(instance), **host}


def kubernetes_of(question: Question, point: Point, *, engine: str, model_folder: str) -> list[dict[str, Any]]:
    """Return the objects of a plan as plain values: workloads and Services of each pool, and the router where pools are apart.

    An instance on one server is a pod of a Deployment (of a StatefulSet where a router calls it by name); one over several servers is a
    StatefulSet of its own, whose first pod answers. What nobody can know here is in annotations named :data:`SUPPLY`.
    """
    documents: list[dict[str, Any]] = []
    for pool in point.layout.pools:
        documents += _workloads(question, pool, engine, model_folder)
        documents += _services(question, pool)
    if point.layout.disaggregated:
        documents += router_objects(_label(question.model.name), engine, *_addresses(question, point))
    return documents


def _addresses(question: Question, point: Point) -> tuple[list[str], list[str]]:
    """Return host and port of every instance that prefills, and of every one that decodes."""

    def of(role: str) -> list[str]:
        pools = [pool for pool in point.layout.pools if pool.role == role]
        return [f"{host}:{PORT}" for pool in pools for host in _heads(question, pool)]

    return of("prefill"), of("decode")


def _heads(question: Question, pool: PoolChoice) -> list[str]:
    """Return the name under which each instance's first pod is found."""
    name = _name(question, pool)
    if servers_of(pool.option.instance) > 1:
        return [f"{name}-{index}-0.{name}-pods" for index in range(pool.count)]
    return [f"{name}-{index}.{name}-pods" for index in range(pool.count)]


def _workloads(question: Question, pool: PoolChoice, engine: str, model_folder: str) -> list[dict[str, Any]]:
    name, servers = _name(question, pool), servers_of(pool.option.instance)
    if servers == 1:
        return [_workload(question, pool, engine, model_folder, name, pool.count)]
    return [_workload(question, pool, engine, model_folder, f"{name}-{i}", servers) for i in range(pool.count)]


def _workload(
    question: Question, pool: PoolChoice, engine: str, model_folder: str, own: str, replicas: int
) -> dict[str, Any]:
    servers, name = servers_of(pool.option.instance), _name(question, pool)
    labels = {"app": name, "plenum.dev/role": pool.role}
    if servers > 1:
        labels["plenum.dev/instance"] = own
    spec: dict[str, Any] = {
        "replicas": replicas,
        "selector": {"matchLabels": dict(labels)},
        "template": {"metadata": {"labels": dict(labels)}, "spec": _pod(question, pool, engine, model_folder)},
    }
    named = _called_by_name(pool)
    if named:
        spec |= {"serviceName": f"{name}-pods", "podManagementPolicy": "Parallel"}
    metadata: dict[str, Any] = {"name": own, "labels": labels}
    if missing := _missing(pool, engine):
        metadata["annotations"] = {SUPPLY: missing}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet" if named else "Deployment",
        "metadata": metadata,
        "spec": spec,
    }


def _called_by_name(pool: PoolChoice) -> bool:
    return pool.role != "both" or servers_of(pool.option.instance) > 1


def _missing(pool: PoolChoice, engine: str) -> str:
    """Say what has to be supplied before the pods of a pool can run; empty: nothing."""
    if engine == "trtllm" and servers_of(pool.option.instance) > 1:
        return "trtllm-serve spans servers under MPI only: run the command with trtllm-llmapi-launch in an MPIJob of the MPI Operator"
    if _image(pool.option.instance, engine).startswith(NO_IMAGE):
        return f"an image of {engine} for these devices: none is published at a version known here"
    return ""


def _pod(question: Question, pool: PoolChoice, engine: str, model_folder: str) -> dict[str, Any]:
    instance = pool.option.instance
    servers = servers_of(instance)
    command = _command(question, pool, engine)
    if servers > 1:  # pods of one set are the servers of one instance
        command = (
            'export NODE_RANK="${HOSTNAME##*-}"; '
            f'export HEAD="${{HOSTNAME%-*}}-0.{_name(question, pool)}-pods"; ' + command
        )
    container = {
        "name": "engine",
        "image": _image(instance, engine),
        "command": ["sh", "-c", command],
        "env": [{"name": "MODEL", "value": model_folder}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {
            "requests": {"cpu": str(_cores(instance)), "memory": f"{_host_gib(instance)}Gi"},
            "limits": _limits(instance),
        },
        "readinessProbe": {**_asked(servers), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "startupProbe": {**_asked(servers), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 180},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "models", "mountPath": "/models", "readOnly": True},
        ],
    }
    pod: dict[str, Any] = {
        "containers": [container],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
            {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        ],
        "terminationGracePeriodSeconds": 60,
    }
    product = next((alias for alias in instance.hardware.aliases if alias.upper().startswith("NVIDIA-")), "")
    if product:
        pod["nodeSelector"] = {"nvidia.com/gpu.product": product}
    return pod


def _asked(servers: int) -> dict[str, Any]:
    """Return how a pod is asked whether it serves; of an instance over several servers only rank 0 has an API, the others pass."""
    if servers == 1:
        return {"httpGet": {"path": "/health", "port": "http"}}
    ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/health', timeout=4)"
    return {"exec": {"command": ["sh", "-c", f'[ "${{HOSTNAME##*-}}" != 0 ] || exec python3 -c "{ask}"']}}


def _services(question: Question, pool: PoolChoice) -> list[dict[str, Any]]:
    """Return the Service that answers for a pool, and the headless one that names its pods where they are called by name.

    Pods of one instance find each other before any of them is ready; requests reach those of rank 0 alone.
    """
    name = _name(question, pool)
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    whom = {"app": name}
    found = []
    if _called_by_name(pool):
        spec = {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": dict(whom),
            "ports": copy.deepcopy(ports),
        }
        found.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-pods"}, "spec": spec})
    if servers_of(pool.option.instance) > 1:
        whom["apps.kubernetes.io/pod-index"] = "0"  # set by StatefulSets since Kubernetes 1.28
    spec = {"selector": whom, "ports": ports}
    return [*found, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}]


def _command(question: Question, pool: PoolChoice, engine: str, port: str = str(PORT)) -> str:
    words = engine_words(engine, pool, context_tokens(question))
    words[words.index("--port") + 1] = port
    servers = servers_of(pool.option.instance)
    before = ""
    if servers > 1 and engine != "trtllm":
        words += servers_words(engine, servers)
        before = "".join(f"{line}; " for line in headless_lines(engine))
    if engine == "trtllm":
        text = "\\n".join(trtllm_options(pool))
        before = f"printf '{text}\\n' > {pool_name(pool)}.yaml; "
    if engine == "vllm" and pool.role != "both":
        before += 'export VLLM_NIXL_SIDE_CHANNEL_HOST="$(hostname -i)"; '
    return before + "exec " + shell_line(words).replace(" \\\n  ", " ")


def _cores(instance: Instance) -> int:
    return CORES_PER_DEVICE * instance.devices // servers_of(instance)


def _host_gib(instance: Instance) -> int:
    devices = instance.devices // servers_of(instance)
    part = RUNTIME_FRACTION if instance.hardware.is_host else HOST_BYTES_OVER_HBM
    return int(part * devices * instance.hardware.hbm_bytes / 2**30)


def _image(instance: Instance, engine: str) -> str:
    """Return the image, or a name that says which one to put there where no project publishes one."""
    vendor = "cpu" if instance.hardware.is_host else instance.hardware.vendor
    return IMAGES.get((engine, vendor), f"{NO_IMAGE}{engine}-for-{vendor.lower()}")


def _limits(instance: Instance) -> dict[str, str]:
    """Return the devices of a pod; none where the engine runs on the host's own sockets."""
    hardware = instance.hardware
    if hardware.is_host:
        return {}
    name = RESOURCES.get(hardware.vendor, f"{hardware.vendor.lower()}.com/device")
    return {name: str(instance.devices // servers_of(instance))}


def _name(question: Question, pool: PoolChoice) -> str:
    return f"{_label(question.model.name)}-{pool_name(pool)}"


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME].rstrip("-")
