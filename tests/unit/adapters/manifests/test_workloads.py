"""``TrainingJob``, ``Endpoint`` and ``Task`` manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.adapters.manifests.workloads import parse_workloads, read_workloads
from plenum.model import Apart, FieldError, Kind, Parallelism, Request, Role, Together, Workload

EXAMPLES = Path(__file__).parents[4] / "examples"


def one(spec: str, kind: str = "Task") -> Workload:
    text = f"apiVersion: plenum.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: w}}\nspec:\n{spec}"
    (workload,) = parse_workloads(text, "jobs.yaml")
    return workload


def request(resources: str) -> Request:
    return one(f"  resources: {resources}").roles[0].request


def test_the_examples() -> None:
    workloads = read_workloads(EXAMPLES / "jobs.yaml")
    assert [(w.id, w.kind) for w in workloads] == [
        ("research/pretrain-70b", Kind.TRAINING_JOB),
        ("product/chat", Kind.ENDPOINT),
        ("research/notebook", Kind.TASK),
        ("product/embed", Kind.TASK),
        ("research/tokenise", Kind.TASK),
    ]
    job = workloads[0]
    assert job.parallelism == Parallelism(tp=8, pp=2, dp=2)
    assert job.together == (
        Together(level="fabric.leaf"),
        Together(level="place.rack", required=False, weight=10.0),
    )
    assert workloads[1].apart == (Apart(level="place.rack"),)
    assert workloads[4].roles[0].sizes() == (16, 12, 8, 4)
    assert workloads[4].preemptible


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("{gpu: 8}", Request(gpus=8)),
        ("{gpu: 1}", Request(gpus=1)),
        ("{gpu: 0}", Request()),
        ("{gpu: 0.3}", Request(gpus=1, gpu_milli=300)),
        ("{gpu: 0.3, count: 1}", Request(gpus=1, gpu_milli=300)),
        ("{gpu: 1, count: 4}", Request(gpus=4)),
        ("{count: 4}", Request(gpus=4)),
        ("{mig: 3g}", Request(gpus=1, mig="3g")),
        ("{cpu: 500m, memory: 2GiB}", Request(cpu_milli=500, memory_bytes=2**31)),
        ("{gpu: 2, nics: 2, hbm: 80GB}", Request(gpus=2, nics=2, hbm_bytes=80 * 10**9)),
        ("{other: {cxl: 1TiB, licences: 2}}", Request(extra=(("cxl_bytes", 2**40), ("licences", 2)))),
    ],
)
def test_resources(resources: str, expected: Request) -> None:
    assert request(resources) == expected


def test_roles_and_constraints() -> None:
    workload = one(
        "  priority: 5\n  roles:\n"
        "  - {name: head, resources: {cpu: 4}}\n"
        "  - {name: worker, replicas: 4, resources: {gpu: 8}, aligned: numa, gpuModels: [H100], traits: [nvlink],"
        " elastic: {min: 2, step: 2}}\n"
        "  constraints:\n  - {apart: place.rack, maxPerDomain: 2, role: worker, required: false}\n"
        "  - {together: fabric.leaf, block: 2, role: worker}",
        "TrainingJob",
    )
    worker = Request(gpus=8, aligned="numa", gpu_models=("H100",), traits=("nvlink",))
    assert workload.roles == (
        Role(name="head", request=Request(cpu_milli=4000)),
        Role(name="worker", replicas=4, request=worker, min_replicas=2, step=2),
    )
    assert workload.together == (Together(level="fabric.leaf", block=2, role="worker"),)
    assert workload.apart == (Apart(level="place.rack", max_per_domain=2, role="worker", required=False),)
    assert workload.priority == 5


@pytest.mark.parametrize(
    ("spec", "line", "field", "sentence"),
    [
        ("  resources: {gpu: 0.3, count: 4}", 5, "spec.resources", "a share of 0.3 GPU goes with exactly one GPU, not count: 4"),
        ("  resources: {gpu: 2.5}", 5, "spec.resources.gpu", "whole GPUs or for one share"),
        ("  resources: {gpu: 2, count: 2}", 5, "spec.resources", "say gpu: 4 alone"),
        ("  resources: {gpu: -1}", 5, "spec.resources.gpu", "must be from 0 to 64"),
        ("  resources: {gpu: 0.0001}", 5, "spec.resources.gpu", "at least 0.001"),
        ("  resources: {gpu: many}", 5, "spec.resources.gpu", "must be whole GPUs such as 8"),
        ("  resources: {mig: 5g}", 5, "spec.resources.mig", "must be '1g', '2g', '3g', '4g' or '7g'"),
        ("  resources: {mig: 3g, gpu: 2}", 5, "spec.resources", "a slice of exactly one GPU"),
        ("  resources: {memory: -1GiB}", 5, "spec.resources.memory", "at least 0"),
        ("  resources: {other: {cxl: 1kW}}", 5, "spec.resources.other.cxl", "is not a size"),
        ("  resources: {gpu: 8, nics: 4}\n  aligned: pcie", 5, "spec.resources.nics", "every GPU has one NIC"),
        ("  aligned: socket", 5, "spec.aligned", "must be 'numa' or 'pcie'"),
        ("  replica: 2", 5, "spec.replica", "did you mean 'replicas'"),
        ("  replicas: 2\n  elastic: {min: 3}", 6, "spec.elastic.min", "from 0 to 2"),
        ("  constraints:\n  - {together: fabric.lef}", 6, "spec.constraints[0].together", "did you mean 'fabric.leaf'"),
        ("  constraints:\n  - {together: place.numa}", 6, "spec.constraints[0].together", "say aligned: numa"),
        ("  constraints:\n  - {together: place.rack, apart: place.rack}", 6, "spec.constraints[0]", "either together or apart"),
        ("  constraints:\n  - {apart: place.rack, block: 2}", 6, "spec.constraints[0]", "block goes with together"),
        ("  constraints: [{apart: place.rack}, {together: place.rack, role: x}]", 5, "spec.constraints[1].role", "there is no role 'x'"),
        ("  constraints:\n  - {together: place.rack, weight: 0}", 6, "spec.constraints[0].weight", "above 0"),
        ("  replicas: 2\n  roles: [{name: a}]", 4, "spec", "replicas stands beside roles"),
        ("  roles: [{name: a}, {name: a}]", 5, "spec.roles", "two roles share a name"),
        ("  parallelism: {tp: 3, ep: 2}", 5, "spec.parallelism.ep", "must divide"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_field(spec: str, line: int, field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        one(spec)
    where = caught.value.where
    assert (where.file, where.line, where.field) == ("jobs.yaml", line, field)
    assert sentence in caught.value.sentence
    assert "\n" not in str(caught.value)


def test_parallelism_must_use_every_gpu_of_a_job() -> None:
    with pytest.raises(FieldError, match="tp x pp x dp = 4, but the roles ask for 8 GPUs") as caught:
        one("  resources: {gpu: 8}\n  parallelism: {tp: 4}", "TrainingJob")
    assert caught.value.where.line == 6


def test_names_are_unique_in_a_tenant_only() -> None:
    text = "apiVersion: plenum.dev/v1alpha1\nkind: Task\nmetadata: {name: w, tenant: %s}\nspec: {}\n"
    assert len(parse_workloads(text % "a" + "---\n" + text % "b")) == 2
    with pytest.raises(FieldError, match="a/w is given twice, first on line 3"):
        parse_workloads(text % "a" + "---\n" + text % "a")


def test_a_fleet_is_no_workload() -> None:
    with pytest.raises(FieldError, match="must be TrainingJob, Endpoint or Task, not 'Fleet'"):
        read_workloads(EXAMPLES / "fleet-lab.yaml")
