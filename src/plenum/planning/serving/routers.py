"""What stands before pools that are apart: the router of each engine as Kubernetes objects, told the address of every instance.

Images and flags as published: ``sglang_router`` in lmsysorg/sgl-model-gateway (docs.sglang.io, "SGLang Model Gateway", prefill-decode
disaggregation), vllm-project/router (README and docs/cli_reference.md: the NIXL connector wants explicit addresses), and
``trtllm-serve disaggregated`` in TensorRT-LLM's own image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SUPPLY = "plenum.dev/to-supply"
"""Annotation that says what a person has to add or check before an object is of use."""

PORT = 8080

BOOTSTRAP_PORT = 8998
"""Where SGLang's prefill instances agree on transfers: its ``--disaggregation-bootstrap-port`` by default."""

LOADING_S = 1800
"""How long routers wait for instances to load their weights: as long as the startup probes of engines do."""

IMAGES = {
    "sglang": "lmsysorg/sgl-model-gateway:v0.3.2",
    "vllm": "vllm/vllm-router:nightly-20260710-b93cbcb",
    "trtllm": "nvcr.io/nvidia/tensorrt-llm/release:1.0.0",
}
"""Engine to the image of its router, at a version: tags on hub.docker.com and catalog.ngc.nvidia.com; vLLM's router has dated ones only."""

FIXED = "the instances are listed here: change the list together with the number of replicas"


def router_objects(model: str, engine: str, prefills: Sequence[str], decodes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the Deployment and the Service of a router.

    Parameters
    ----------
    model
        What names begin with.
    prefills, decodes
        ``host:port`` of every instance.
    """
    name = f"{model}-router"
    labels = {"app": name, "plenum.dev/role": "router"}
    health = {"tcpSocket": {"port": "http"}, "periodSeconds": 10}
    container = {
        "name": "router",
        "image": IMAGES[engine],
        "command": COMMANDS[engine](prefills, decodes),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}},
        "readinessProbe": health,
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": dict(labels), "annotations": {SUPPLY: FIXED}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}},
        },
    }
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    spec = {"selector": {"app": name}, "ports": ports}
    return [deployment, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}]


def _sglang(prefills: Sequence[str], decodes: Sequence[str]) -> list[str]:
    words = ["python3", "-m", "sglang_router.launch_router", "--pd-disaggregation", *_LISTEN]
    for each in prefills:
        words += ["--prefill", f"http://{each}", str(BOOTSTRAP_PORT)]
    for each in decodes:
        words += ["--decode", f"http://{each}"]
    return words


def _vllm(prefills: Sequence[str], decodes: Sequence[str]) -> list[str]:
    words = ["vllm-router", "--vllm-pd-disaggregation", "--kv-connector", "nixl", *_LISTEN]
    for each in prefills:
        words += ["--prefill", f"http://{each}"]
    for each in decodes:
        words += ["--decode", f"http://{each}"]
    return words


def _trtllm(prefills: Sequence[str], decodes: Sequence[str]) -> list[str]:
    lines = ["hostname: 0.0.0.0", f"port: {PORT}", "backend: pytorch"]
    for role, urls in (("context_servers", prefills), ("generation_servers", decodes)):
        lines += [f"{role}:", f"  num_instances: {len(urls)}", "  urls:", *(f"  - {url}" for url in urls)]
    text = "\\n".join(lines)
    return ["sh", "-c", f"printf '{text}\\n' > router.yaml; exec trtllm-serve disaggregated -c router.yaml"]


_LISTEN = ("--host", "0.0.0.0", "--port", str(PORT), "--worker-startup-timeout-secs", str(LOADING_S))

COMMANDS = {"sglang": _sglang, "vllm": _vllm, "trtllm": _trtllm}
"""Engine to what makes the command of its router."""
