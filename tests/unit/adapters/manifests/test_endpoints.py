"""Endpoints of models, from YAML and from plain values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plenum.adapters.manifests.endpoint_types import AnyEndpointManifest, Routing
from plenum.adapters.manifests.endpoints import ServedResource, is_served, parse_served
from plenum.adapters.manifests.resources import parse_manifest, parse_manifests, read_manifests
from plenum.adapters.manifests.workloads import JobManifest
from plenum.model import PlenumError
from plenum.model.endpoint import Endpoint, Pool, Promise, Rollout
from plenum.model.workload import Parallelism, Request
from plenum.serving.routing import POLICIES

HEAD = "apiVersion: plenum.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: chat, tenant: team}\nspec:\n"


def endpoint(spec: str) -> Endpoint:
    (resource,) = parse_manifests(HEAD + spec, "chat.yaml")
    assert isinstance(resource, ServedResource)
    return resource.endpoint


def test_a_model_alone_is_enough():
    assert endpoint("  model: smollm2") == Endpoint(
        name="chat",
        tenant="team",
        model="smollm2",
        pools=(Pool(request=Request(cpu_milli=1000, memory_bytes=2**30)),),
    )


def test_everything_is_read():
    text = """
  model: hf://meta/llama
  engine: vllm
  servedAs: llama-70b
  pools:
    prefill: {replicas: 2, resources: {gpu: 8}, gpuModels: [H100], parallelism: {tp: 8}}
    decode: {replicas: {min: 0, max: 4}, resources: {gpu: 4}}
  slo: {ttft: 500ms, tpot: 50ms, quantile: 0.95}
  priority: 10
  format: fp8
  cacheFormat: fp8
  contextLimit: 32768
  adapters: [{name: sql, source: s3://bucket/sql}]
  slots: 64
  routing: session
  idle: 5m
  wakeWait: 30s
  prefillThreshold: 1024
  rollout: {canary: 0.2, hold: 1m, maxLatencyRatio: 2, maxErrorRatio: 0.01, maxUnavailable: 2}
  gpuBudget: 24
  cheaper: small
  arguments: [--enable-chunked-prefill]
"""
    assert endpoint(text) == Endpoint(
        name="chat",
        tenant="team",
        model="hf://meta/llama",
        served_as="llama-70b",
        engine="vllm",
        pools=(
            Pool(
                name="prefill",
                min_replicas=2,
                max_replicas=2,
                request=Request(gpus=8, gpu_models=("H100",)),
                parallelism=Parallelism(tp=8),
            ),
            Pool(name="decode", min_replicas=0, max_replicas=4, request=Request(gpus=4)),
        ),
        promise=Promise(ttft_s=0.5, tpot_s=0.05, quantile=0.95),
        budget_gpus=24,
        priority=10,
        weights_format="fp8",
        cache_format="fp8",
        context_tokens=32768,
        adapters=(("sql", "s3://bucket/sql"),),
        slots=64,
        routing="session",
        idle_s=300,
        wake_wait_s=30,
        prefill_threshold_tokens=1024,
        rollout=Rollout(
            canary=0.2, hold_s=60, max_latency_ratio=2, max_error_ratio=0.01, max_unavailable=2, may_pause=True
        ),
        cheaper="small",
        arguments=("--enable-chunked-prefill",),
    )


def test_servers_that_run_already_are_attached():
    found = endpoint("  model: llama\n  engine: sglang\n  attach: [http://10.0.0.7:30000/, http://10.0.0.8:30000]")
    assert found.attached == ("http://10.0.0.7:30000", "http://10.0.0.8:30000")
    assert found.pools[0].min_replicas == found.pools[0].max_replicas == 2


WRONG = [
    ("engine: vllm", "spec.model", "is missing"),
    ("model: x\n  engine: torch", "spec.engine", "not 'torch'"),
    ("model: x\n  replica: 2", "spec.replica", "did you mean 'replicas'?"),
    ("model: x\n  replicas: {min: 3, max: 2}", "spec.replicas", "min: 3 is more than max: 2"),
    ("model: x\n  replicas: -1", "spec.replicas.min", "at least 0"),
    ("model: x\n  engine: vllm", "spec.resources", "must say what a replica of vllm takes"),
    ("model: http://somewhere/x", "spec.model", "is no place of weights"),
    ("model: smolm2", "spec.model", "nearest: smollm2"),
    ("model: hf://llama", "spec.model", "hf://org/name"),
    ("model: smollm2\n  adapters: [{name: a, source: b}]", "spec.adapters.0.source", "no model 'b'"),
    ("model: x\n  adapters: [{name: a=b, source: /c}]", "spec.adapters[0].name", "a=b"),
    ("model: x\n  adapters: [{name: --api-key, source: /c}]", "spec.adapters[0].name", "--api-key"),
    ("model: meta/llama", "spec.model", "hf://meta/llama"),
    ("model: x\n  pools: {prefill: {}}", "spec.pools.decode", "is missing"),
    ("model: x\n  replicas: 2\n  pools: {prefill: {}, decode: {}}", "spec", "replicas stands beside pools"),
    ("model: x\n  engine: emulated", "spec", "say which: timing"),
    ("model: x\n  timing: {model: a, hardware: b}", "spec", "goes with engine: emulated"),
    (
        "model: x\n  engine: emulated\n  timing: {model: llama-3.1-8b, hardware: H10}",
        "spec.timing.hardware",
        "nearest: H100",
    ),
    (
        "model: x\n  engine: emulated\n  timing: {model: lama-3.1-8b, hardware: H100}",
        "spec.timing.model",
        "lama-3.1-8b",
    ),
    ("model: x\n  slo: {ttft: 0s}", "spec.slo.ttft", "above 0"),
    ("model: x\n  adapters: [{name: a, source: b}, {name: a, source: c}]", "spec.adapters", "given twice"),
    ("model: x\n  attach: [ftp://10.0.0.1]", "spec.attach", "is not an address such as"),
    ("model: x\n  attach: ['http://user@10.0.0.1:80']", "spec.attach", "is not an address such as"),
    ("model: x\n  attach: ['http://10.0.0.1/v1/../admin']", "spec.attach", "is not an address such as"),
    ("model: x\n  attach: ['http://10.0.0.1:99999']", "spec.attach", "is no address"),
    ("model: x\n  attach: [http://a, http://a]", "spec.attach", "twice"),
    ("model: x\n  attach: [http://a]\n  replicas: 2", "spec", "do not go with it"),
    ("model: x\n  run: {command: [a]}", "spec.run", "keep one of the two"),
    ("modle: x", "spec.modle", "did you mean 'model'?"),
    ("replcas: 2", "spec.replcas", "did you mean 'replicas'?"),
    ("model: x\n  replicas: three", "spec.replicas", "a whole number such as 2, or"),
    ("model: x\n  replicas: true", "spec.replicas", "{min: 1, max: 4}, not True"),
    ("model: x\n  slo: fast", "spec.slo", "must be a mapping with ttft, tpot, quantile, not 'fast'"),
    ("model: x\n  gpuModels: H100", "spec.gpuModels", "must be a list such as [H100], not 'H100'"),
    ("model: x\n  idle: soon", "spec.idle", "is not a duration"),
    (
        "model: /x\n  engine: vllm\n  resources: {gpu: 8}\n  parallelism: {tp: 12}",
        "spec.parallelism",
        "12 GPUs, and nodes give 8 each",
    ),
    (
        "model: /x\n  engine: vllm\n  resources: {gpu: 4}\n  parallelism: {tp: 8, nodes: 4}",
        "spec.parallelism.nodes",
        "make them equal",
    ),
    (
        "model: smollm2\n  resources: {gpu: 1}\n  parallelism: {tp: 2}",
        "spec.parallelism",
        "llama.cpp has no replicas over several nodes",
    ),
]


def test_more_gpus_than_a_node_gives_are_of_several_nodes():
    spread = "  resources: {gpu: 8}\n  parallelism: {tp: 8, pp: 2, within: fabric.leaf}"
    (pool,) = endpoint(f"  model: /models/x\n  engine: vllm\n{spread}").pools

    assert (pool.nodes, pool.within, pool.gpus) == (2, "fabric.leaf", 16)


@pytest.mark.parametrize(("spec", "where", "sentence"), WRONG)
def test_what_cannot_be_meant_is_named_with_its_line(spec: str, where: str, sentence: str):
    with pytest.raises(PlenumError) as caught:
        parse_manifests(f"{HEAD}  {spec}", "chat.yaml")
    assert caught.value.where.field == where
    assert caught.value.where.line >= 4
    assert sentence in caught.value.sentence


def test_an_endpoint_with_a_command_stays_what_it_was():
    (job,) = parse_manifests(HEAD + "  replicas: 2\n  run: {command: [serve]}")
    assert isinstance(job, JobManifest)
    assert not is_served({"kind": "Task", "spec": {"model": "x"}})


def test_json_reads_as_yaml_does_and_goes_round():
    value = {
        "apiVersion": "plenum.dev/v1alpha1",
        "kind": "Endpoint",
        "metadata": {"name": "chat", "resourceVersion": "7"},
        "spec": {"model": "smollm2", "replicas": 2},
        "status": {"phase": "Ready"},
    }
    found = parse_manifest(json.loads(json.dumps(value)), tenant="team")
    assert isinstance(found, ServedResource)
    assert (found.version, found.tenant, found.endpoint.pools[0].max_replicas) == ("7", "team", 2)
    assert parse_served(found.manifest).endpoint == found.endpoint


def test_the_schema_knows_both_kinds_of_endpoint():
    schema = AnyEndpointManifest.model_json_schema()
    assert {ref["$ref"].rpartition("/")[2] for ref in schema["anyOf"]} == {"ServedManifest", "EndpointManifest"}


def test_the_policies_of_routing_are_those_that_there_are():
    assert set(Routing.__args__) == set(POLICIES)


def test_the_examples_are_what_the_engines_know():
    from plenum.serving.catalogue.accelerators import accelerator_named
    from plenum.serving.catalogue.models import model_named

    examples = Path(__file__).parents[4] / "examples"
    found = [r for name in ("smollm2.yaml", "endpoints.yaml") for r in read_manifests(examples / name)]
    endpoints = {r.name: r.endpoint for r in found if isinstance(r, ServedResource)}
    assert len(endpoints) == len(found) == 6
    assert endpoints["chat"].cheaper in endpoints
    for endpoint in endpoints.values():
        if endpoint.timing_model:
            assert model_named(endpoint.timing_model)
            assert accelerator_named(endpoint.timing_hardware)
