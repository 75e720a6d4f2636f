"""What people see of objects that the API gave, recorded from a running control plane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from plenum.cli.apply import diff_lines
from plenum.cli.describe import job_lines, node_lines, ranges
from plenum.cli.explain import _reason
from plenum.cli.get import columns_of
from plenum.cli.kinds import KIND_BY_WORD, KINDS, gpus_text, kind_and_names, kind_named, replicas_text
from plenum.cli.story import told
from plenum.cli.tables import table_lines
from plenum.cli.times import age, moment, rfc3339, seconds_of
from plenum.cli.top import screen_lines
from plenum.cli.wait import judged
from plenum.control.events import EVENTS
from plenum.model.errors import FieldError

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded.json").read_text())
NOW = seconds_of(RECORDED["pending"]["metadata"]["createdAt"]) + 200


def table(kind: str, *items: dict, width: int | None = None, wide: bool = False) -> list[str]:
    columns, rows = columns_of(kind_named(kind), items, NOW, wide=wide, tenants=True)
    return [click.unstyle(line).rstrip() for line in table_lines(columns, rows, width=width)]


def test_jobs() -> None:
    lines = table("jobs", RECORDED["pending"], RECORDED["endpoint"], RECORDED["succeeded"])
    assert lines[0].split() == ["TENANT", "NAME", "KIND", "PHASE", "REPLICAS", "GPUS", "AGE", "NOTE"]
    assert lines[1].split()[:7] == ["research", "giant", "TrainingJob", "Pending", "0/1", "64", "3m"]
    assert "waits because of the quota of tenant research" in lines[1]
    assert lines[2].split()[:6] == ["product", "chat", "Endpoint", "Running", "3/3", "6"]
    assert lines[3].split()[:5] == ["research", "hello", "Task", "Succeeded", "2/2"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("jobs", "pending"), ("nodes", "node"), ("fleets", "fleet"), ("tenants", "tenant"), ("users", "user"), ("tokens", "token"),
     ("decisions", "decision")],
)  # fmt: skip
def test_every_table_fits(kind: str, name: str, width: int, wide: bool) -> None:
    lines = table(kind, RECORDED[name], width=width, wide=wide)
    assert len(lines) >= 2
    assert max(map(len, lines)) <= width


def test_events_fit() -> None:
    lines = table("events", *RECORDED["events"], width=80)
    assert max(map(len, lines)) <= 80
    assert any("quota" in line for line in lines)


@pytest.mark.parametrize("event", RECORDED["events"], ids=lambda e: f"{e['type']}-{e['position']}")
def test_every_event_is_told_in_a_sentence(event: dict[str, Any]) -> None:
    sentence = told(event)
    assert sentence != event["type"]
    assert "None" not in sentence
    assert "user/" not in sentence


def test_every_type_of_event_is_told() -> None:
    # What is told of each is recorded, or plain; a new type must be given its words.
    from plenum.cli.story import _TELL

    assert set(_TELL) == set(EVENTS)


def test_the_story_of_a_job() -> None:
    stories = [told(e) for e in RECORDED["events"] if e.get("subject", "").startswith("job/")]
    assert "submitted by operator" in stories
    assert any("placed on" in s and "16 GPUs" in s for s in stories)
    assert any(s.endswith("it is tried again (attempt 1)") or "tried again" in s for s in stories)


def test_an_event_of_a_newer_control_plane_is_shown_by_its_type() -> None:
    assert told({"type": "SomethingNew", "body": {"x": 1}}) == "SomethingNew"


def test_a_job_described() -> None:
    text = "\n".join(click.unstyle(line) for line in job_lines(RECORDED["pending"], NOW))
    assert text.startswith("TrainingJob research/giant")
    for words in (
        "phase:      Pending",
        "quota of tenant research",
        "code quota.exceeded",
        "submitted:",
        "by operator",
        "GPUs:       64",
    ):
        assert words in text
    text = "\n".join(click.unstyle(line) for line in job_lines(RECORDED["succeeded"], NOW))
    assert "ran:" in text
    assert "command:    sh -c" in text
    assert "worker-1" in text


def test_a_node_described() -> None:
    text = "\n".join(click.unstyle(line) for line in node_lines(RECORDED["node"], NOW))
    assert text.startswith("Node nvl-01")
    assert "GPUs:       4 GB200, 1.2 kW each when busy" in text


@pytest.mark.parametrize("width", [80, 120])
def test_top_fits_the_screen(width: int) -> None:
    queue = [RECORDED["pending"]] * 60
    lines = [click.unstyle(line) for line in screen_lines(RECORDED["utilisation"], queue, NOW, width=width, height=24)]
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for words in ("GPUs", "cores", "memory", "power", "research", "research/giant", "more"):
        assert words in text


def test_top_of_a_tenant_shows_what_it_may() -> None:
    use = {k: v for k, v in RECORDED["utilisation"].items() if k not in ("resources", "nodes")}
    text = "\n".join(screen_lines(use, [], NOW, width=80))
    assert "%" not in text
    assert "research" in text


def test_an_explanation_is_the_noun_again() -> None:
    reason = _reason(RECORDED["explain"])
    assert reason.workload == "research/giant"
    assert reason.sentence.startswith("research/giant")


def test_how_far_a_job_has_got() -> None:
    pending, running, done = RECORDED["pending"], RECORDED["endpoint"], RECORDED["succeeded"]
    assert judged(pending, "Running") is None
    assert judged(running, "Running") is True
    assert judged(done, "Running") is True
    assert judged(done, "ended") is True
    assert judged(done, "Failed") is False
    assert judged(pending, "Succeeded") is None
    assert judged(done, "deleted") is None
    assert judged(running, "Ready") is judged({"status": {"phase": "Ready"}}, "Running") is True
    assert judged({"status": {"phase": "Pending", "failed": 2}}, "Ready") is False, (
        "rolled back, with nothing else to serve"
    )


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, ""),
        ({"resources": {"gpu": 0.3}, "replicas": 3}, "0.9"),
        ({"resources": {"count": 4}}, "4"),
        ({"resources": {"mig": "3g"}}, "3g slices"),
        ({"model": "m", "resources": {"gpu": 2}, "replicas": {"min": 1, "max": 4}}, "8"),
        ({"pools": {"prefill": {"resources": {"gpu": 8}}, "decode": {"resources": {"gpu": 4}, "replicas": 2}}}, "16"),
        ({"roles": [{"replicas": 2, "resources": {"gpu": 8}}, {"resources": {"cpu": 1}}]}, "16"),
    ],
)
def test_gpus_of_a_manifest(spec: dict, text: str) -> None:
    assert gpus_text(spec) == text


def test_replicas_through_count_beside_those_that_run() -> None:
    counts = {"wanted": 5, "bound": 2, "running": 2, "succeeded": 3, "failed": 0}
    assert replicas_text({"phase": "Running", "replicas": counts}) == "5/5"
    assert replicas_text({"phase": "Failed", "replicas": {**counts, "running": 0}}) == "3/5"


def test_kinds_have_names_of_their_own() -> None:
    assert len(KIND_BY_WORD) == sum(1 + len(kind.words) for kind in KINDS)
    with pytest.raises(click.BadParameter, match="did you mean 'nodes'"):
        kind_named("nodess")


@pytest.mark.parametrize(
    ("word", "names", "meant"),
    [
        ("node", ("n1", "n2"), ("n1", "n2")),
        ("node/n1", (), ("n1",)),
        ("nodes/n1", ("node/n2", "n3"), ("n1", "n2", "n3")),
        ("node", ("job/n1",), ("job/n1",)),
    ],
)
def test_kind_and_name_may_be_one_word_as_commands_print_it(word, names, meant) -> None:
    kind, found = kind_and_names(word, names)
    assert (kind.plural, found) == ("nodes", meant)
    assert kind_and_names("ep/acme/chat", ())[1] == ("acme/chat",)
    with pytest.raises(click.BadParameter, match="no kind 'nodez'"):
        kind_and_names("nodez/n1", ())


def test_a_difference_by_field() -> None:
    diff = [
        {"path": "spec.run.command", "from": ["a"], "to": ["a", "b"]},
        {"path": "spec.replicas", "from": None, "to": 4},
    ]
    assert [click.unstyle(line) for line in diff_lines(diff)] == [
        "+ spec.replicas: 4",
        '- spec.run.command: ["a"]',
        '+ spec.run.command: ["a", "b"]',
    ]
    new = [
        {
            "path": "",
            "from": None,
            "to": {"kind": "Task", "metadata": {"name": "x", "labels": {}}, "spec": {"replicas": 2}},
        }
    ]
    assert [click.unstyle(line) for line in diff_lines(new)] == ["+ metadata.name: x", "+ spec.replicas: 2"]


def test_ranges() -> None:
    assert ranges([0, 1, 2, 3, 6, 8, 9]) == "0-3,6,8-9"
    assert ranges([]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d"), (-5, "0s")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age(rfc3339(1_000_000_000), 1_000_000_000 + seconds) == text


def test_moments() -> None:
    assert moment("-10m", "--at", 1_000_000_600) == moment("10m", "--at", 1_000_000_600) == "2001-09-09T01:46:40.000Z"
    assert moment("2001-09-09T01:46:40Z", "--at", 0) == "2001-09-09T01:46:40.000Z"
    assert moment("2001-09-09T03:46:40+02:00", "--at", 0) == "2001-09-09T01:46:40.000Z"
    for wrong in ("soon", "-", "10", "2001-99-99"):
        with pytest.raises(FieldError):
            moment(wrong, "--at", 0)


def test_the_readme_lists_the_exit_codes() -> None:
    from plenum.cli.exits import MEANINGS

    readme = (Path(__file__).parents[3] / "README.md").read_text()
    for code, meaning in MEANINGS:
        assert f"| {code} | {meaning} |" in readme
