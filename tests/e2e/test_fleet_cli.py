"""``plenum fleet``, ``plenum schema`` and ``plenum completion`` as their users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

EXAMPLES = Path(__file__).parents[2] / "examples"
LAB, BIG, JOBS = (str(EXAMPLES / name) for name in ("fleet-lab.yaml", "fleet-100k.yaml", "jobs.yaml"))


def plenum(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", "from plenum.cli import main; main()", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=2 * PATIENCE_S, check=False)


def test_a_large_fleet_is_drawn_on_one_screen() -> None:
    shown = plenum("fleet", "show", BIG)
    lines = shown.stdout.splitlines()
    assert shown.returncode == 0
    assert "12,500 nodes, 100,000 GPUs" in lines[0]
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert "… 23 more rows like it" in shown.stdout


@pytest.mark.parametrize(
    ("axis", "text"),
    [("place", "rack nvl-rack0"), ("fabric", "2:1"), ("scaleup", "nvlink nvl-nvlink0"), ("power", "feed A")],
)
def test_every_axis_is_drawn(axis: str, text: str) -> None:
    shown = plenum("fleet", "show", LAB, "--axis", axis)
    assert shown.returncode == 0
    assert text in shown.stdout


def test_levels_and_depth_limit_the_drawing() -> None:
    to_racks = plenum("fleet", "show", LAB, "--level", "rack").stdout
    assert "rack cpu-rack0" in to_racks
    assert "node" not in to_racks.split("\n", 2)[2]
    assert plenum("fleet", "show", LAB, "--depth", "1").stdout.count("\n") == 3


def test_json_lists_every_domain_with_its_numbers() -> None:
    answer = json.loads(plenum("fleet", "show", LAB, "--level", "rack", "-o", "json").stdout)
    racks = {d["domain"]: d for d in answer["domains"]}
    assert racks["place.rack:nvl-rack0"]["gpus"] == 72
    assert racks["place.rack:nvl-rack0"]["parent"] == "place.hall:main"
    assert (answer["nodes"], answer["gpus"]) == (36, 168)


def test_usage_of_placed_workloads_is_drawn() -> None:
    answer = json.loads(plenum("fleet", "show", LAB, "--running", JOBS, "--depth", "1", "-o", "json").stdout)
    assert answer["running"] > 0
    assert answer["domains"][0]["gpu_used_milli"] > 0
    assert "█" in plenum("fleet", "show", LAB, "--running", JOBS).stdout


def test_a_sound_fleet_is_valid() -> None:
    checked = plenum("fleet", "validate", LAB)
    assert (checked.returncode, checked.stdout.strip()) == (0, "lab: 36 nodes, 168 GPUs: no errors, no warnings")


def test_warnings_exit_with_0_and_errors_with_1(tmp_path: Path) -> None:
    head = "apiVersion: plenum.dev/v1alpha1\nkind: Fleet\nmetadata: {name: f}\nspec:\n"
    warned, broken = tmp_path / "warned.yaml", tmp_path / "broken.yaml"
    warned.write_text(head + "  groups: [{name: a, template: l40s, nodes: 2, fabric: {nodesPerLeaf: 1}}]\n")
    broken.write_text(
        head + "  groups: [{name: a, template: l40s, nodes: 2}]\n  overrides: [{nodes: ['a*'], health: down}]\n"
    )
    checked = plenum("fleet", "validate", str(warned))
    assert checked.returncode == 0
    assert f"{warned}: fabric.leaf:a-leaf0: it is a leaf of one node" in checked.stdout
    checked = plenum("fleet", "validate", str(broken), "-o", "json")
    assert checked.returncode == 1
    assert json.loads(checked.stdout)["findings"][0]["code"] == "fleet.closed"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "is empty"),
        (os.urandom(64) + b"\0", "is a binary file"),
        (b"- x\n" * 2_600_000, "is larger than 8 MiB"),
        (b"[" * 4_000_000, "is not a manifest"),
        (b"a: b\n" * 1_000_000, "is given twice"),
        (b"kind: Fleet", "apiVersion: must be plenum.dev/v1alpha1"),
    ],
    ids=["empty", "binary", "10 MB", "deep", "repeated", "no version"],
)
def test_junk_gets_one_sentence_and_2_at_once(tmp_path: Path, raw: bytes, sentence: str) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(raw)
    start = time.monotonic()
    refused = plenum("fleet", "validate", str(path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {path}")
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert time.monotonic() - start < 20


def test_unknown_levels_are_refused() -> None:
    for level, sentence in (("cupboard", "there is no level"), ("fabric.leaf", "is not on the axis place")):
        refused = plenum("fleet", "show", LAB, "--level", level)
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("kind", ["Fleet", "TrainingJob", "Endpoint", "Task"])
def test_schemas_are_json_schema(kind: str) -> None:
    schema = json.loads(plenum("schema", kind).stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    ways = [schema["$defs"][way["$ref"].rpartition("/")[2]] for way in schema.get("anyOf", ())] or [schema]
    assert len(ways) == (2 if kind == "Endpoint" else 1)  # a model that is served, or any server of one's own
    for way in ways:
        assert way["properties"]["kind"]["const"] == kind
        assert way["additionalProperties"] is False


@pytest.mark.parametrize(("shell", "text"), [("bash", "complete -o"), ("zsh", "#compdef plenum"), ("fish", "complete")])
def test_completion_scripts(shell: str, text: str) -> None:
    printed = plenum("completion", shell)
    assert printed.returncode == 0
    assert text in printed.stdout
    assert "_PLENUM_COMPLETE" in printed.stdout
