"""What a plan is written as: manifests that the project's own parser takes, shell that a shell takes, Kubernetes objects."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml
from tests.unit.planning.serving_cases import predict, question

from plenum.adapters.manifests.endpoints import ServedResource
from plenum.adapters.manifests.resources import JobManifest, parse_manifests
from plenum.control.endpoints.commands import apply_endpoint
from plenum.control.records import Tenant
from plenum.control.state import State
from plenum.planning.serving.launch import PROGRAMS, launch_script, pool_name, servers_of, vllm_arguments
from plenum.planning.serving.manifests import endpoints_of, kubernetes_of
from plenum.planning.serving.plan import ServingPlan, plan_serving


def plan_for(name: str) -> ServingPlan:
    asked = {
        "together": question(disaggregated=False),
        "apart": question(disaggregated=True, caches=("fp8",)),
        "experts": question("GB200:72", model="DeepSeek-V3", tpot_s=0.05),
        "wide": question("H100:32", model="DeepSeek-V3", ttft_s=2.0, tpot_s=0.05, disaggregated=True),
        "stages": question("H100:32", model="Llama-3.1-405B", weights=("bf16",), ttft_s=10.0, tpot_s=0.5),
    }[name]
    plan = plan_serving(asked, predict)
    assert isinstance(plan, ServingPlan)
    return plan


PLANS = ("together", "apart", "experts", "wide", "stages")


@pytest.mark.parametrize("engine", PROGRAMS)
@pytest.mark.parametrize("name", PLANS)
def test_manifests_are_what_apply_takes(name: str, engine: str) -> None:
    plan = plan_for(name)
    text = yaml.safe_dump_all(endpoints_of(plan.question, plan.recommended, engine=engine, model_folder="/models/m"))
    found = parse_manifests(text)
    pools = plan.recommended.layout.pools
    spread = [servers_of(pool.option.instance) > 1 for pool in pools]
    if any(spread) and engine != "trtllm":
        (served,) = found
        assert isinstance(served, ServedResource)
        asked = [(pool.max_replicas, pool.gpus, pool.nodes) for pool in served.endpoint.pools]
        instances = [(pool.count, pool.option.instance) for pool in sorted(pools, key=lambda p: p.role, reverse=True)]
        assert asked == [(count, instance.devices, servers_of(instance)) for count, instance in instances]
        state = State()
        state.tenants["default"] = Tenant(name="default", version=1, created_at=0.0)
        assert apply_endpoint(served.endpoint, served.manifest).decide(state, 1.0)
        return
    jobs = [job for job in found if isinstance(job, JobManifest)]
    assert {job.kind for job in jobs} == {"TrainingJob" if wide else "Endpoint" for wide in spread}
    assert len(jobs) == sum(pool.count if wide else 1 for pool, wide in zip(pools, spread, strict=True))
    gpus = sum(role.replicas * role.request.gpus for job in jobs for role in job.workload.roles)
    assert gpus == plan.recommended.devices


@pytest.mark.parametrize("engine", PROGRAMS)
@pytest.mark.parametrize("name", PLANS)
def test_scripts_are_shell_and_tell_how_they_are_used(name: str, engine: str) -> None:
    plan = plan_for(name)
    script = launch_script(engine, plan.question, plan.recommended)
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "usage" in told.stderr


def is_router(document: dict[str, Any]) -> bool:
    return document["metadata"].get("labels", {}).get("plenum.dev/role") == "router"


def reached(service: dict[str, Any], sets: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """List the pods that a Service selects, as sets label them, by set and index."""
    found = []
    for each in sets:
        for index in range(each["spec"]["replicas"]):
            labels = dict(each["spec"]["template"]["metadata"]["labels"])
            if each["kind"] == "StatefulSet":
                labels["apps.kubernetes.io/pod-index"] = str(index)
            if service["spec"]["selector"].items() <= labels.items():
                found.append((each["metadata"]["name"], index))
    return found


@pytest.mark.parametrize("engine", PROGRAMS)
@pytest.mark.parametrize("name", PLANS)
def test_kubernetes_objects_fit_together(name: str, engine: str) -> None:
    """What an API server checks and what it cannot: kinds, labels, ports, names, who is reached by which Service."""
    plan = plan_for(name)
    objects = list(
        yaml.safe_load_all(
            yaml.safe_dump_all(kubernetes_of(plan.question, plan.recommended, engine=engine, model_folder="/models/m"))
        )
    )
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", each) for _, each in names)
    versions = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "Service": "v1"}
    assert all(each["apiVersion"] == versions[each["kind"]] for each in objects)
    sets = [each for each in objects if each["kind"] != "Service"]
    services = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Service"}
    for each in sets:
        spec = each["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        others = [other for other in sets if other is not each]
        assert not any(
            spec["selector"]["matchLabels"].items() <= other["spec"]["template"]["metadata"]["labels"].items()
            for other in others
        )
        (container,) = spec["template"]["spec"]["containers"]
        assert re.search(r":[^:/]*[0-9]", container["image"])
        assert "latest" not in container["image"]
        assert [port["name"] for port in container["ports"]] == ["http"]
        if each["kind"] == "StatefulSet":
            headless = services[spec["serviceName"]]["spec"]
            assert headless["clusterIP"] == "None"
            assert headless["publishNotReadyAddresses"] is True
        if not is_router(each):
            assert set(container["resources"]["limits"]) == {"nvidia.com/gpu"}
    for service in services.values():
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
        assert reached(service, sets)
    for pool in plan.recommended.layout.pools:
        answers = next(
            s for n, s in services.items() if n.endswith(pool_name(pool)) and s["spec"].get("clusterIP") != "None"
        )
        found = reached(answers, sets)
        assert len(found) == pool.count
        if servers_of(pool.option.instance) > 1:
            assert {index for _, index in found} == {0}


@pytest.mark.parametrize("engine", PROGRAMS)
@pytest.mark.parametrize("name", ["apart", "wide"])
def test_the_router_is_told_every_instance_by_a_name_that_resolves(name: str, engine: str) -> None:
    plan = plan_for(name)
    objects = kubernetes_of(plan.question, plan.recommended, engine=engine, model_folder="/models/m")
    (router,) = [each for each in objects if each["kind"] == "Deployment" and is_router(each)]
    (container,) = router["spec"]["template"]["spec"]["containers"]
    told = re.findall(r"([a-z0-9-]+)\.([a-z0-9-]+):8000", " ".join(container["command"]))
    sets = {each["metadata"]["name"]: each for each in objects if each["kind"] == "StatefulSet"}
    pools = plan.recommended.layout.pools
    assert len(set(told)) == len(told) == sum(pool.count for pool in pools)
    for pod, service in told:
        owner, _, index = pod.rpartition("-")
        assert int(index) < sets[owner]["spec"]["replicas"]
        assert sets[owner]["spec"]["serviceName"] == service
    assert any("router" in sentence for sentence in plan.reasons)
    assert router["metadata"]["annotations"]


def test_only_rank_0_of_an_instance_is_asked_whether_it_serves() -> None:
    plan = plan_for("stages")
    objects = kubernetes_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    container = next(o for o in objects if o["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    for probe in ("readinessProbe", "startupProbe"):
        command = container[probe]["exec"]["command"]
        codes = [
            subprocess.run(command, env={"PATH": "/usr/bin:/bin", "HOSTNAME": f"m-serve-h100-0-{rank}"}, check=False,
                           capture_output=True).returncode
            for rank in (0, 1)
        ]  # fmt: skip
        assert codes[0] != 0  # nothing listens here
        assert codes[1] == 0


def test_servers_of_a_set_know_their_ranks_and_the_first_of_them() -> None:
    plan = plan_for("stages")
    objects = kubernetes_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    each = next(o for o in objects if o["kind"] == "StatefulSet")
    name, service = each["metadata"]["name"], each["spec"]["serviceName"]
    command = each["spec"]["template"]["spec"]["containers"][0]["command"]
    for rank in ("0", "1"):
        words = run_by_hand(command, HOSTNAME=f"{name}-{rank}")
        assert words[words.index("--master-addr") + 1] == f"{name}-0.{service}"
        assert words[words.index("--node-rank") + 1] == rank


@pytest.mark.parametrize("name", PLANS)
def test_kubernetes_objects_hold_all_devices(name: str) -> None:
    plan = plan_for(name)
    objects = kubernetes_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    sets = [each for each in objects if each["kind"] in ("Deployment", "StatefulSet") and not is_router(each)]
    limits = [s["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for s in sets]
    counts = [s["spec"]["replicas"] for s in sets]
    assert sum(int(gpus) * count for gpus, count in zip(limits, counts, strict=True)) == plan.recommended.devices
    for each in sets:
        assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
    assert "&id" not in yaml.safe_dump_all(objects)


def test_limits_are_those_of_each_rank() -> None:
    plan = plan_for("experts")
    pool = plan.recommended.layout.pools[-1]
    spread, settings = pool.option.instance.parallelism, pool.option.instance.settings
    assert spread.dp > 1
    words = vllm_arguments(pool, 5120)
    assert words[words.index("--data-parallel-size") + 1] == str(spread.dp)
    assert int(words[words.index("--max-num-seqs") + 1]) * spread.dp >= settings.max_sequences


def test_apart_names_who_sends_and_who_takes_the_cache() -> None:
    plan = plan_for("apart")
    sides = []
    for pool in plan.recommended.layout.pools:
        words = vllm_arguments(pool, 5120)
        config = json.loads(words[words.index("--kv-transfer-config") + 1])
        sides.append((config["kv_role"], config.get("kv_load_failure_policy")))
        assert words[words.index("--kv-cache-dtype") + 1] == "fp8"
    assert sides == [("kv_producer", None), ("kv_consumer", "recompute")]
    assert "--pd-disaggregation" in launch_script("sglang", plan.question, plan.recommended)
    assert "context_servers" in launch_script("trtllm", plan.question, plan.recommended)


def test_commands_are_words_again_after_a_shell() -> None:
    plan = plan_for("apart")
    endpoint = endpoints_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")[0]
    command = endpoint["spec"]["run"]["command"]
    assert command[:2] == ["sh", "-c"]
    assert '{"kv_connector":"NixlConnector","kv_role":"kv_producer"}' in shlex.split(command[2].partition("exec ")[2])


def run_by_hand(command: list[str], **environ: str) -> list[str]:
    """Run what a manifest says with an engine that writes down its words."""
    told = subprocess.run(
        ["sh", "-c", 'vllm() { printf "%s\n" "$@"; }; ' + command[2].replace("exec ", "")],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "MODEL": "/m", **environ},
    )  # fmt: skip
    return told.stdout.splitlines()


def test_instances_that_share_a_host_take_ports_of_their_own() -> None:
    plan = plan_for("apart")
    endpoint = endpoints_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")[0]
    ports = set()
    for gpus in ("0,1", "2,3", "6,7"):
        words = run_by_hand(endpoint["spec"]["run"]["command"], CUDA_VISIBLE_DEVICES=gpus)
        ports.add(words[words.index("--port") + 1])
    assert ports == {"8000", "8002", "8006"}


def test_servers_of_one_instance_know_each_other() -> None:
    """Pods of one instance know their ranks and the first of them by their names; the others have no API."""
    plan = plan_for("stages")
    sets = kubernetes_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    command = sets[0]["spec"]["template"]["spec"]["containers"][0]["command"]
    for rank in ("0", "1"):
        words = run_by_hand(command, HOSTNAME=f"llama-0-{rank}")
        assert words[words.index("--master-addr") + 1].startswith("llama-0-0.")
        assert words[words.index("--node-rank") + 1] == rank
        assert ("--headless" in words) == (rank != "0")
        assert "" not in words
    assert "set -- --headless" in launch_script("vllm", plan.question, plan.recommended)


def test_ranks_of_attention_are_dealt_out_over_servers() -> None:
    """DeepSeek-V3 over 16 or more H100: vLLM deals them out, and only the first server has an API."""
    plan = plan_for("wide")
    (pool,) = [pool for pool in plan.recommended.layout.pools if pool.role == "decode"]
    ranks = pool.option.instance.parallelism.dp
    objects = kubernetes_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    (pods,) = [each for each in objects if each["metadata"].get("labels", {}).get("plenum.dev/role") == "decode"]
    servers = pods["spec"]["replicas"]
    assert servers * 8 == ranks
    for rank in range(servers):
        command = pods["spec"]["template"]["spec"]["containers"][0]["command"]
        words = run_by_hand(command, HOSTNAME=f"decode-0-{rank}")
        assert "--data-parallel-start-rank" not in words
        assert words[words.index("--nnodes") + 1] == str(servers)
        assert words[words.index("--node-rank") + 1] == str(rank)
        assert words[words.index("--data-parallel-size") + 1] == str(ranks)
        assert ("--headless" in words) == (rank != 0)


@pytest.mark.parametrize(
    ("hardware", "limits", "image"),
    [
        ("MI300X:8", {"amd.com/gpu"}, "rocm/vllm:rocm7.14.0_cdna_ubuntu24.04_py3.14_pytorch_2.11.0_vllm_0.23.0"),
        ("Gaudi3:8", {"habana.ai/gaudi"}, "replace-with-vllm-for-intel"),
        ("TPU-v6e:8", {"google.com/tpu"}, "vllm/vllm-tpu:v0.12.0"),
        ("Xeon-8480:2", set(), "replace-with-vllm-for-cpu"),
    ],
)
def test_other_vendors_have_other_devices_and_images(hardware: str, limits: set[str], image: str) -> None:
    plan = plan_serving(question(hardware, model="SmolLM2-135M", isl=500, osl=50, weights=("bf16",)), predict)
    assert isinstance(plan, ServingPlan)
    pods = kubernetes_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    container = pods[0]["spec"]["template"]["spec"]["containers"][0]
    assert set(container["resources"]["limits"]) == limits
    assert container["image"] == image
    (document, *_) = endpoints_of(plan.question, plan.recommended, engine="vllm", model_folder="/models/m")
    assert ("gpuModels" in document["spec"]) == bool(limits)
    if not limits:  # sockets: the memory asked for is that of the device itself
        assert document["spec"]["resources"] == {"cpu": 8, "memory": "460GiB"}
