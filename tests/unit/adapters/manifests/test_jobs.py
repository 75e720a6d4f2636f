"""The ``run`` section, and jobs from YAML and from plain values."""

from __future__ import annotations

import json

import pytest

from plenum.adapters.manifests.workloads import parse_job, parse_jobs, parse_workloads
from plenum.model import FieldError, PlenumError
from plenum.model.process import Process, Simulated

HEAD = {"apiVersion": "plenum.dev/v1alpha1", "kind": "Task", "metadata": {"name": "w"}}


def process(run: str, kind: str = "Task") -> Process:
    (job,) = parse_jobs(
        f"apiVersion: plenum.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: w}}\nspec:\n{run}", "jobs.yaml"
    )
    return job.process


def test_a_command_with_everything() -> None:
    assert process(
        '  run:\n    command: [python, train.py]\n    env: {OMP_NUM_THREADS: "4"}\n    workingDir: /data\n    grace: 1m\n'
        "    nice: 5\n    timeout: 1h30m\n    restarts: 0\n    backoff: 500ms"
    ) == Process(
        command=("python", "train.py"),
        env=(("OMP_NUM_THREADS", "4"),),
        working_dir="/data",
        grace_s=60,
        nice=5,
        timeout_s=5400,
        restarts=0,
        backoff_s=0.5,
    )


@pytest.mark.parametrize(
    ("kind", "run", "expected"),
    [
        ("Task", "  run: {simulate: {duration: 90, start: 2s, exitCode: 3}}", Simulated(duration_s=90, start_s=2, exit_code=3)),
        ("Task", "  run: {simulate: {}}", Simulated(duration_s=60)),
        ("Task", "  replicas: 2", Simulated(duration_s=60)),
        ("Endpoint", "  replicas: 2", Simulated(duration_s=0)),
        ("Endpoint", "  run: {simulate: {duration: 5m}}", Simulated(duration_s=300)),
    ],
)  # fmt: skip
def test_an_imitation(kind: str, run: str, expected: Simulated) -> None:
    assert process(run, kind) == Process(simulated=expected)


RUNS = [
    ("run: {command: [true], simulate: {}}", "spec.run.command[0]", "must be text (put quotes round it), not True"),
    ("run: {command: [a], simulate: {}}", "spec.run", "either command or simulate, not both"),
    ("run: {}", "spec.run", "give command: [program, argument, …]"),
    ("run: {command: []}", "spec.run.command", "of length at least 1"),
    ("run: {command: python train.py}", "spec.run.command", "must be a list"),
    ('run: {command: [""]}', "spec.run", "program is empty"),
    ("run: {command: [a], grace: soon}", "spec.run.grace", "'soon' is not a duration such as 30 (seconds), 500ms"),
    ("run: {command: [a], grace: -1}", "spec.run.grace", "at least 0"),
    ("run: {command: [a], timeout: 99999w}", "spec.run.timeout", "at most ten years"),
    ("run: {command: [a], nice: 20}", "spec.run.nice", "at most 19"),
    ("run: {command: [a], nice: -1}", "spec.run.nice", "at least 0"),
    ("run: {command: [a], restarts: 1.5}", "spec.run.restarts", "must be a whole number"),
    ("run: {command: [a], env: {N: 4}}", "spec.run.env.N", "must be text (put quotes round it), not 4"),
    ("run: {command: [a], env: {A-B: x}}", "spec.run.env", "'A-B' is not a variable"),
    ("run: {command: [a], workingDir: data}", "spec.run", "must be an absolute path, not 'data'"),
    ("run: {comand: [a]}", "spec.run.comand", "did you mean 'command'"),
    ("run: {simulate: {exitCode: 256}}", "spec.run.simulate.exitCode", "at most 255"),
    ('run: {command: ["a\\0b"]}', "spec.run.command", "holds a NUL character"),
]


@pytest.mark.parametrize(("spec", "field", "sentence"), RUNS)
def test_what_is_wrong_is_said_in_yaml_and_in_plain_values(spec: str, field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        process(f"  {spec}")
    assert (caught.value.where.field, caught.value.where.line) == (field, 5)
    assert sentence in caught.value.sentence


@pytest.mark.parametrize(
    ("spec", "field", "sentence"),
    [
        ({"run": {"command": ["a"], "simulate": {}}}, "spec.run", "not both"),
        ({"run": {"command": ["a"], "grace": "soon"}}, "spec.run.grace", "is not a duration"),
        ({"run": {"command": ["a\0"]}}, "spec.run.command[0]", "NUL"),
        ({"run": {"command": ["a"], "env": {"A": "\ud800"}}}, "spec.run.env.A", "surrogate"),
        ({"replica": 2}, "spec.replica", "did you mean 'replicas'"),
        ({"resources": {"gpu": 2.5}}, "spec.resources.gpu", "whole GPUs"),
        ({"constraints": [{"together": "fabric.lef"}]}, "spec.constraints[0].together", "did you mean"),
        ([], "spec", "must be a mapping, not a list"),
    ],
)
def test_plain_values_are_read_as_strictly(spec: object, field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_job({**HEAD, "spec": spec})
    assert (caught.value.where.field, caught.value.where.line) == (field, 0)
    assert sentence in caught.value.sentence


@pytest.mark.parametrize(
    "value", [None, [], "x", 1, {}, {"apiVersion": {}}, {str(i): 1 for i in range(99)}, {"spec": []}]
)
def test_what_is_no_manifest_is_refused(value: object) -> None:
    with pytest.raises(PlenumError):
        parse_job(value)


def test_nesting_ends_in_a_sentence() -> None:
    deep: dict = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(PlenumError, match="nested more than 32 levels"):
        parse_job(deep)


def test_the_manifest_is_plain_and_names_its_tenant() -> None:
    text = "apiVersion: plenum.dev/v1alpha1\nkind: Task\nmetadata: {name: w, labels: {a: b}}\nspec: {resources: {memory: 1TiB}}\n"
    (job,) = parse_jobs(text, tenant="research")
    assert job.manifest == {
        **HEAD,
        "metadata": {"name": "w", "labels": {"a": "b"}, "tenant": "research"},
        "spec": {"resources": {"memory": "1TiB"}},
    }
    assert all(type(part) is dict for part in (job.manifest, job.manifest["metadata"], job.manifest["spec"]))
    assert job.workload.id == "research/w"
    again = parse_job(json.loads(json.dumps(job.manifest)), tenant="other")
    assert again == job


def test_what_only_the_system_writes_is_left_out() -> None:
    read = {
        **HEAD,
        "metadata": {
            "name": "w",
            "tenant": "t",
            "uid": "7",
            "generation": 2,
            "resourceVersion": "41",
            "createdAt": "x",
        },
        "spec": {},
        "status": {"phase": "Running"},
    }
    job = parse_job(read)
    assert job.version == "41"
    assert job.manifest == {**HEAD, "metadata": {"name": "w", "tenant": "t"}, "spec": {}}


def test_workloads_are_still_read_from_manifests_with_run() -> None:
    text = "apiVersion: plenum.dev/v1alpha1\nkind: Task\nmetadata: {name: w}\nspec: {run: {command: [a]}}\n"
    (workload,) = parse_workloads(text)
    assert workload.id == "default/w"


def test_labels_are_limited() -> None:
    with pytest.raises(FieldError, match="65 labels are too many"):
        parse_job({**HEAD, "metadata": {"name": "w", "labels": {f"l{i}": "" for i in range(65)}}, "spec": {}})
