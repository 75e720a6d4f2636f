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
from plenum.serving.instance import RUNTIME_FRACTION, Instance

IMAGES = {
    ("vllm", "NVIDIA"): "vllm/vllm-openai:latest",
    ("vllm", "AMD"): "rocm/vllm:latest",
    ("vllm", "Google"): "vllm/vllm-tpu:latest",
    ("sglang", "NVIDIA"): "lmsysorg/sglang:latest",
    ("trtllm", "NVIDIA"): "nvcr.io/nvidia/tensorrt-llm/release:1.0.0",
}
"""Engine and vendor of the devices to the image that is published for them."""

RESOURCES = {
    "NVIDIA": "nvidia.com/gpu",
    "AMD": "amd.com/gpu",
    "Intel": "habana.ai/gaudi",
    "Google": "google.com/tpu",
}
"""Vendor to what its device plugin for Kubernetes calls a device."""

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
    """Return one ``Endpoint`` manifest for each pool, as plain values.

    Instances over several servers are gangs, whose replicas must find each other: each is a ``TrainingJob`` within a leaf of the fabric.
    """
    documents: list[dict[str, Any]] = []
    for pool in point.layout.pools:
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
        "resources": {
            "gpu": instance.devices // servers,
            "cpu": _cores(instance),
            "memory": f"{_host_gib(instance)}GiB",
        },
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
        del spec["gpuModels"], spec["resources"]["gpu"]
    return {
        "apiVersion": "plenum.dev/v1alpha1",
        "kind": "Endpoint",
        "metadata": {
            "name": _name(question, pool),
            "labels": {"model": _label(question.model.name), "role": pool.role},
        },
        "spec": spec,
    }


def kubernetes_of(question: Question, point: Point, *, engine: str, model_folder: str) -> list[dict[str, Any]]:
    """Return, for each pool, a Deployment (a StatefulSet where an instance spans servers) and a Service, as plain values."""
    documents: list[dict[str, Any]] = []
    for pool in point.layout.pools:
        documents += [_workload(question, pool, engine, model_folder), _service(question, pool)]
    return documents


def _workload(question: Question, pool: PoolChoice, engine: str, model_folder: str) -> dict[str, Any]:
    instance = pool.option.instance
    servers = servers_of(instance)
    labels = {"app": _name(question, pool), "plenum.dev/role": pool.role}
    replicas = pool.count * servers
    spec: dict[str, Any] = {
        "replicas": replicas,
        "selector": {"matchLabels": dict(labels)},
        "template": {"metadata": {"labels": dict(labels)}, "spec": _pod(question, pool, engine, model_folder)},
    }
    if servers > 1:
        spec |= {"serviceName": _name(question, pool), "podManagementPolicy": "Parallel"}
    kind = "StatefulSet" if servers > 1 else "Deployment"
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": _name(question, pool), "labels": labels},
        "spec": spec,
    }


def _pod(question: Question, pool: PoolChoice, engine: str, model_folder: str) -> dict[str, Any]:
    instance = pool.option.instance
    servers = servers_of(instance)
    name = _name(question, pool)
    command = _command(question, pool, engine)
    if servers > 1:  # replicas come in runs of `servers`; the first of a run is its head
        command = (
            f'INDEX="${{HOSTNAME##*-}}"; export NODE_RANK="$((INDEX % {servers}))"; '
            f'export HEAD="{name}-$((INDEX / {servers} * {servers})).{name}"; ' + command
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
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5, "failureThreshold": 3},
        "startupProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10, "failureThreshold": 180},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "models", "mountPath": "/models", "readOnly": True},
        ],
    }
    if servers > 1:  # only the head of an instance answers
        del container["readinessProbe"], container["startupProbe"]
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


def _service(question: Question, pool: PoolChoice) -> dict[str, Any]:
    """Return the Service of a pool; headless where a router or the ranks of an instance look for single pods."""
    name = _name(question, pool)
    spec: dict[str, Any] = {"selector": {"app": name}, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}
    if pool.role != "both" or servers_of(pool.option.instance) > 1:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _command(question: Question, pool: PoolChoice, engine: str, port: str = str(PORT)) -> str:
    words = engine_words(engine, pool, context_tokens(question))
    words[words.index("--port") + 1] = port
    servers = servers_of(pool.option.instance)
    before = ""
    if servers > 1 and engine != "trtllm":
        words += servers_words(engine, pool.option.instance)
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
    return IMAGES.get((engine, vendor), f"replace-with-{engine}-for-{vendor.lower()}")


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
