"""``plenum place`` and ``plenum explain`` as their users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from plenum.cli.root import root

EXAMPLES = Path(__file__).parents[2] / "examples"
FLEET, JOBS = str(EXAMPLES / "fleet-lab.yaml"), str(EXAMPLES / "jobs.yaml")


def run(*args: str):
    return CliRunner().invoke(root, list(args), catch_exceptions=True)


def test_place_prints_a_table_and_the_reasons() -> None:
    result = run("place", "--fleet", FLEET, JOBS)
    assert "workloads placed on lab by plenum" in result.stdout
    assert result.exit_code in (0, 1)


def test_place_json_names_every_replica() -> None:
    result = run("place", "--fleet", FLEET, JOBS, "-o", "json")
    plan = json.loads(result.stdout)
    assert plan["placements"]
    assert all(r["node"] for p in plan["placements"] for r in p["replicas"])
    assert result.exit_code == (1 if plan["reasons"] else 0)


def test_explain_starts_with_the_sentence(tmp_path: Path) -> None:
    job = tmp_path / "giant.yaml"
    job.write_text(
        "apiVersion: plenum.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: giant}\n"
        "spec:\n  roles:\n  - {name: worker, replicas: 1, resources: {gpu: 64}}\n"
    )
    result = run("explain", "giant", "--fleet", FLEET, str(job))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("default/giant can never start on this fleet: no node has 64 GPUs")
    assert (
        json.loads(run("explain", "giant", "--fleet", FLEET, str(job), "-o", "json").stdout)["reason"]["code"]
        == "never.gpus"
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("explain", "nobody", "--fleet", FLEET, JOBS), "nobody is not among the workloads"),
        (("place", "--fleet", FLEET, JOBS, "--policy", "luck"), "there is no policy 'luck'"),
        (("place", "--fleet", FLEET, JOBS, JOBS), "is there twice"),
        (("place", "--fleet", FLEET, JOBS, "--cap", "leaf=8"), "is not LEVEL:RESOURCE=N[@TENANT]"),
        (("place", "--fleet", FLEET, JOBS, "--cap", "fabric.leef:gpu=8"), "there is no level 'fabric.leef'"),
        (("place", "--fleet", "missing.yaml", JOBS), "missing.yaml"),
    ],
)
def test_mistakes_get_one_sentence(args: tuple[str, ...], words: str) -> None:
    result = run(*args)
    assert words in str(result.exception) + result.output
