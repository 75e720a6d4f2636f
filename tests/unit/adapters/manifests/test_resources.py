"""Manifests of any kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plenum.adapters.manifests.resources import (
    FleetResource,
    TenantResource,
    UserResource,
    parse_manifest,
    parse_manifests,
    read_manifests,
)
from plenum.adapters.manifests.workloads import JobManifest
from plenum.model import FieldError
from plenum.ports.policy import Hook, Judge

EXAMPLES = Path(__file__).parents[4] / "examples"
V = "apiVersion: plenum.dev/v1alpha1"
SEVERAL = f"""
{V}
kind: Tenant
metadata: {{name: research, labels: {{floor: "3"}}}}
spec: {{quota: {{gpu: 8, cpu: 64, memory: 1TiB, licences: 2}}, maxJobs: 100}}
---
{V}
kind: User
metadata: {{name: ada}}
spec:
  grants:
  - {{role: admin, tenant: research}}
  - {{role: operator, tenant: "*"}}
---
{V}
kind: Task
metadata: {{name: hello}}
spec: {{run: {{command: [echo, hello]}}}}
"""


def test_several_kinds_in_one_file() -> None:
    tenant, user, task = parse_manifests(SEVERAL, "all.yaml", tenant="research")
    assert isinstance(tenant, TenantResource)
    assert tenant.quota == {"gpu_milli": 8000, "cpu_milli": 64_000, "memory_bytes": 2**40, "licences": 2}
    assert (tenant.name, tenant.tenant, tenant.max_jobs, tenant.labels) == ("research", "", 100, {"floor": "3"})
    assert isinstance(user, UserResource)
    assert user.grants == (("admin", "research"), ("operator", "*"))
    assert isinstance(task, JobManifest)
    assert (task.kind, task.tenant, task.name) == ("Task", "research", "hello")


POLICY = f"""
{V}
kind: Tenant
metadata: {{name: red}}
spec:
  moderation: {{url: "http://127.0.0.1:9/v1/moderations", timeout: 500ms}}
  experiments:
  - name: tone
    model: helper
    goodEnough: 0.7
    judge: {{model: chat}}
    arms:
    - {{name: plain, model: chat, weight: 3, promptPrice: 1, outputPrice: 2}}
    - {{name: kind, model: chat, system: Be kind}}
"""


def test_what_gateways_do_for_a_tenant_is_read() -> None:
    (tenant,) = parse_manifests(POLICY, "red.yaml")
    assert isinstance(tenant, TenantResource)
    (tone,) = tenant.policy.experiments
    assert [(arm.name, arm.model, arm.weight, arm.priced) for arm in tone.arms] == [
        ("plain", "chat", 3.0, True),
        ("kind", "chat", 1.0, False),
    ]
    assert tone.judge == Judge(model="chat")
    assert tenant.policy.moderation == Hook(url="http://127.0.0.1:9/v1/moderations", timeout_s=0.5)


@pytest.mark.parametrize(
    ("given", "instead", "field"),
    [
        ("weight: 3", "weight: 0", "spec.experiments[0].arms[0].weight"),
        ("weight: 3", "weight: .inf", "spec.experiments[0].arms[0].weight"),
        ("name: kind", "name: plain", "spec.experiments[0]"),
        ("name: kind", "name: Kind X", "spec.experiments[0].arms[1].name"),
        (", outputPrice: 2", "", "spec.experiments[0].arms[0]"),
        ("system: Be kind", f"system: {'x' * 20_000}", "spec.experiments[0].arms[1].system"),
        ("system: Be kind", "template: no place", "spec.experiments[0].arms[1].template"),
        ("goodEnough: 0.7", "goodEnough: 70", "spec.experiments[0].goodEnough"),
        ("judge: {model: chat}", "judge: {model: chat, sample: 2}", "spec.experiments[0].judge.sample"),
        ("http://127.0.0.1:9", "http://me:secret@127.0.0.1", "spec.moderation.url"),
    ],
)
def test_what_gateways_cannot_do_is_refused_by_its_field(given: str, instead: str, field: str) -> None:
    with pytest.raises(FieldError) as refused:
        parse_manifests(POLICY.replace(given, instead), "red.yaml")
    assert refused.value.where.field == field


@pytest.mark.parametrize("name", ["fleet-lab.yaml", "jobs.yaml", "experiment.yaml"])
def test_plain_values_mean_what_the_yaml_means(name: str) -> None:
    for resource in read_manifests(EXAMPLES / name):
        again = parse_manifest(json.loads(json.dumps(resource.manifest)))
        assert again.manifest == resource.manifest
        if isinstance(resource, FleetResource):
            assert isinstance(again, FleetResource)
            assert again.fleet.node_home.tolist() == resource.fleet.node_home.tolist()
        else:
            assert again == resource


@pytest.mark.parametrize(
    ("text", "line", "field", "sentence"),
    [
        ("kind: Tenat\nmetadata: {name: a}", 2, "kind", "did you mean 'Tenant'"),
        ("kind: Tenant\nmetadata: {name: a, tenant: b}", 3, "metadata.tenant", "there is no such field"),
        ("kind: Tenant\nmetadata: {name: a}\nspec: {quota: {gpu: -1}}", 4, "spec.quota.gpu", "at least 0"),
        ("kind: Tenant\nmetadata: {name: a}\nspec: {quota: {memory: 8kW}}", 4, "spec.quota.memory", "is not a size"),
        ("kind: User\nmetadata: {name: a}\nspec: {grants: [{role: owner, tenant: a}]}", 4, "spec.grants[0].role", "'admin'"),
        ("kind: User\nmetadata: {name: a}\nspec: {grants: [{role: operator, tenant: a}]}", 4, "spec.grants[0]", "goes with tenant '*'"),
        ("kind: User\nmetadata: {}", 3, "metadata.name", "is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_field(text: str, line: int, field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_manifests(f"{V}\n{text}", "all.yaml")
    where = caught.value.where
    assert (where.file, where.line, where.field) == ("all.yaml", line, field)
    assert sentence in caught.value.sentence


def test_a_resource_is_given_once() -> None:
    with pytest.raises(FieldError, match="research/hello is given twice, first on line"):
        parse_manifests(
            f"{SEVERAL}---\n{V}\nkind: Endpoint\nmetadata: {{name: hello}}\nspec: {{}}\n", tenant="research"
        )


@pytest.mark.parametrize(
    ("written", "meant"), [(".", "{folder}"), ("data", "{folder}/data"), ("../x", "{parent}/x"), ("/srv", "/srv")]
)
def test_a_working_folder_is_meant_from_the_file(tmp_path: Path, written: str, meant: str) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    text = f"{V}\nkind: Task\nmetadata: {{name: a}}\nspec: {{run: {{command: [pwd], workingDir: {written}}}}}\n"
    (folder / "a.yaml").write_text(text)
    (job,) = read_manifests(folder / "a.yaml")
    assert isinstance(job, JobManifest)
    expected = meant.format(folder=folder, parent=tmp_path)
    assert (job.process.working_dir, job.manifest["spec"]["run"]["workingDir"]) == (expected, expected)


def test_a_relative_working_folder_without_a_file_is_refused() -> None:
    with pytest.raises(FieldError, match="must be an absolute path"):
        parse_manifests(f"{V}\nkind: Task\nmetadata: {{name: a}}\nspec: {{run: {{command: [pwd], workingDir: data}}}}")
