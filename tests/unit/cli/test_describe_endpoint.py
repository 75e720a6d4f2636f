"""What is said of an endpoint fits eighty characters."""

from __future__ import annotations

import click
import pytest

from plenum.cli.describe import _field, _flat, _part
from plenum.cli.describe_endpoint import endpoint_lines, two_ms
from plenum.cli.get import _of_endpoint, _owner
from plenum.cli.kinds import without_subject

POOL = {
    "name": "serve", "ready": 1, "wanted": 2, "min": 1, "max": 12, "starting": 1, "draining": 0,
    "requestsPerS": 12.5, "running": 3, "waiting": 0, "cacheUsed": 0.42,
}  # fmt: skip
LATENCY = {"ttftMsP50": 123.4, "ttftMsP99": 987.6, "tpotMsP50": 12.3, "tpotMsP99": 45.6}
REVISION = {"number": 12, "phase": "replaced", "part": 0.333, "finished": 123_456, "failed": 12, "latency": LATENCY}


def test_the_table_of_revisions_fits_eighty_characters(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status = {"phase": "Updating", "pools": [POOL], "revisions": [REVISION, REVISION | {"phase": "serving"}]}
    status["limits"] = ["prefill and decode have 12 of the 12 GPUs that they may have together (gpuBudget)"]
    endpoint = {"metadata": {"name": "chat", "tenant": "default"}, "spec": {"model": "smollm2"}, "status": status}
    lines = [click.unstyle(line) for line in endpoint_lines(endpoint, 0.0, _field, _flat)]
    assert max(map(len, lines)) <= 80
    assert any("limited" in line and "12 of the 12 GPUs" in line for line in lines)
    assert any("replaced" in line and "123 988 ms" in line for line in lines)


def test_a_replica_over_several_nodes_is_one_line_that_names_them() -> None:
    run = {"id": "1-1-serve-0", "slot": "serve-0", "node": "n0", "nodes": ["n0", "n1"], "phase": "running"}
    status = {"runs": [run | {"replica": "ready", "revision": 1, "pool": "serve"}]}
    endpoint = {"metadata": {"name": "chat", "tenant": "default"}, "spec": {"model": "smollm2"}, "status": status}
    lines = [click.unstyle(line) for line in endpoint_lines(endpoint, 0.0, _field, _flat)]
    assert [line.split()[:4] for line in lines if line.startswith("serve-0")] == [["serve-0", "1", "n0,", "n1"]]


def test_a_promise_is_shown_with_its_unit() -> None:
    spec = {"model": "smollm2", "slo": {"ttft": "500", "tpot": "40ms", "quantile": 0.95}, "idle": 600}
    endpoint = {"metadata": {"name": "chat", "tenant": "default"}, "spec": spec}
    text = "\n".join(click.unstyle(line) for line in endpoint_lines(endpoint, 0.0, _field, _flat))
    assert "ttft 500s, tpot 40ms, quantile 0.95" in text
    assert "600s" in text


@pytest.mark.parametrize(
    ("low", "high", "shown"), [(None, None, ""), (12.0, 34.0, "12 34 ms"), (900.0, 1500.0, "900 ms 1.5 s")]
)
def test_two_durations_have_their_unit_once(low: float | None, high: float | None, shown: str) -> None:
    assert two_ms(low, high) == shown


@pytest.mark.parametrize(
    ("subject", "part"),
    [("endpoint/default/chat", ""), ("job/default/chat-r1", "r1: "), ("job/default/chat-r2-decode", "r2-decode: ")],
)
def test_an_event_of_a_replica_says_of_which_revision(subject: str, part: str) -> None:
    assert _part({"subject": subject}, "endpoint/default/chat") == part


@pytest.mark.parametrize(
    "sentence", ["default/chat waits", "default/chat-r1 waits", "default/chat-r12-decode waits", "waits"]
)
def test_a_sentence_under_a_name_does_not_begin_with_it(sentence: str) -> None:
    assert without_subject(sentence, {"tenant": "default", "name": "chat"}) == "waits"
    assert without_subject("default/chat-r1x waits", {"tenant": "default", "name": "chat"}) == "default/chat-r1x waits"


def test_lists_show_the_endpoint_and_not_the_jobs_that_hold_its_replicas() -> None:
    meta = {"name": "chat-r1", "tenant": "default", "labels": {"endpoint": "chat"}}
    assert _owner({"metadata": meta | {"createdBy": "control"}}) == "default/chat"
    assert _owner({"metadata": meta | {"createdBy": "user/ann"}}) == ""
    shown = ("endpoint/default/chat", "endpoint/default/other")
    assert _of_endpoint("job/default/chat-r12-decode", shown)
    assert not _of_endpoint("job/default/chat", shown)
    assert not _of_endpoint("job/default/mine-r1", shown)
