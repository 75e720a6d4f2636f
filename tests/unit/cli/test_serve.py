"""What `plenum serve` asks for, and the lines that it gives to paste."""

from __future__ import annotations

import json
import shlex
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner

from plenum.adapters.manifests.endpoints import parse_served
from plenum.cli.asking import curl, openai_lines
from plenum.cli.describe import _field, _flat
from plenum.cli.describe_endpoint import endpoint_lines
from plenum.cli.logs import slots_of
from plenum.cli.patience import Patience
from plenum.cli.serve import _ready, _tell, command, how_far, manifest_of, name_of
from plenum.cli.top import screen_lines
from plenum.cli.usage import command as usage

KEY = "plk_" + "a" * 12 + "_" + "b" * 32
URL = "http://127.0.0.1:8080"


def manifest(model: str, **given: Any) -> dict[str, Any]:
    """Return the manifest of a command with some options."""
    options = {
        p.name: () if getattr(p, "multiple", False) else None for p in command.params if isinstance(p, click.Option)
    }
    return manifest_of(model, {**options, **given}, "default")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2", "smollm2"),
        ("hf://Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("hf://Qwen/Qwen2.5@main/file.gguf", "file"),
        ("/models/My Model.GGUF", "my-model"),
        ("oci://registry:5000/models/llama:8b", "llama"),
        ("s3://bucket/a/b/", "b"),
        ("/models/___", "model"),
    ],
)
def test_an_endpoint_is_called_after_its_model(model: str, name: str):
    assert name_of(model) == name


def test_what_is_not_said_is_left_to_defaults():
    assert manifest("smollm2")["spec"] == {"model": "smollm2"}


def test_every_option_reads_back_as_an_endpoint():
    value = manifest(
        "hf://Qwen/Qwen2.5-7B", name="chat", engine="vllm", replicas="1-4", slo_ttft="500ms", slo_tpot="40ms", gpu=2.0,
        gpu_models=("H100",), cpu="8", memory="64GiB", tp=2, context_limit=8192, slots=16, routing="session",
        arguments=("--quantization", "fp8"),
    )  # fmt: skip
    endpoint = parse_served(value).endpoint
    (pool,) = endpoint.pools
    assert (pool.min_replicas, pool.max_replicas, pool.request.gpus, pool.parallelism.tp) == (1, 4, 2, 2)
    assert (endpoint.promise.ttft_s, endpoint.promise.tpot_s, endpoint.slots) == (0.5, 0.04, 16)
    assert (endpoint.arguments, endpoint.routing) == (("--quantization", "fp8"), "session")


def test_an_emulated_engine_keeps_somebody_s_timing():
    endpoint = parse_served(manifest("llama", emulate="H100:llama-3.1-8b")).endpoint
    assert (endpoint.engine, endpoint.timing_hardware, endpoint.timing_model) == ("emulated", "H100", "llama-3.1-8b")
    with pytest.raises(click.BadParameter, match="HARDWARE:MODEL"):
        manifest("llama", emulate="H100")


@pytest.mark.parametrize("text", ["x", "1-", "-1", "1-2-3", ""])
def test_replicas_are_a_number_or_two(text: str):
    with pytest.raises(click.BadParameter):
        manifest("smollm2", replicas=text)


def test_the_command_to_paste_is_one_that_a_shell_reads_and_a_terminal_shows():
    text = curl(URL, KEY, "smollm2")
    assert max(map(len, text.splitlines())) <= 80
    words = shlex.split(text)
    assert words[:3] == ["curl", "-N", f"{URL}/v1/chat/completions"]
    body = json.loads(words[words.index("-d") + 1])
    assert (body["model"], body["stream"], body["messages"][0]["role"]) == ("smollm2", True, "user")
    trusting = shlex.split(curl(URL, KEY, "smollm2", ca="/my data/ca.pem"))
    assert trusting[trusting.index("--cacert") + 1] == "/my data/ca.pem"


def test_the_lines_for_python_are_python():
    for ca in ("", "/my data/ca.pem"):
        text = openai_lines(URL, KEY, "smollm2", ca=ca)
        compile(text, "pasted", "exec")
        assert max(map(len, text.splitlines())) <= 80


def test_an_endpoint_is_described_within_eighty_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("plenum.cli.describe_endpoint.terminal_width", lambda: 80)
    monkeypatch.setattr("plenum.cli.describe.terminal_width", lambda: 80)
    pool = {
        "name": "serve",
        "min": 1,
        "max": 4,
        "wanted": 2,
        "ready": 1,
        "starting": 1,
        "draining": 0,
        "waiting": 3,
        "running": 8,
    }
    revision = {
        "number": 2,
        "phase": "rolled-back",
        "part": 0.0,
        "startedAt": "2026-01-01T00:00:00Z",
        "finished": 120,
        "failed": 7,
    }
    endpoint = {
        "metadata": {"tenant": "default", "name": "chat", "createdAt": "2026-01-01T00:00:00Z", "createdBy": "user/ada"},
        "spec": {"model": "hf://org/a-model-with-a-long-name", "slo": {"ttft": "500ms"}, "arguments": ["--a-long-one"] * 9},
        "status": {
            "phase": "Updating",
            "servedAs": "chat",
            "message": "revision 2 was rolled back: its TTFT is 2.1 times that of revision 1 (p < 0.001), more than 1.5 times",
            "pools": [{**pool, "requestsPerS": 12.34, "cacheUsed": 0.5}],
            "revisions": [{**revision, "why": "TTFT 2.1 times", "latency": {"ttftMsP50": 120.0, "ttftMsP99": 1234.5}}],
            "runs": [
                {"slot": "serve-0", "revision": 1, "node": "a-node-with-a-name", "phase": "running", "replica": "ready",
                 "url": "http://10.0.0.12:30123", "startedAt": "2026-01-01T00:00:00Z"},
            ],
        },
    }  # fmt: skip
    lines = [click.unstyle(line) for line in endpoint_lines(endpoint, 1.8e9, _field, _flat)]
    assert max(map(len, lines)) <= 80, "\n".join(lines)
    assert any("12.3" in line for line in lines)
    assert any("rolled back" in line for line in lines)
    assert any("120 ms" in line for line in lines)
    assert any("1.23 s" in line for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_top_shows_models_with_what_goes_through_them(width: int):
    pool = {
        "name": "serve",
        "wanted": 2,
        "ready": 1,
        "requestsPerS": 12.5,
        "running": 9,
        "waiting": 3,
        "cacheUsed": 0.42,
    }
    status = {"phase": "Degraded", "pools": [pool], "revisions": [{"latency": {"ttftMsP99": 123.4, "tpotMsP99": 8.1}}]}
    model = {"metadata": {"tenant": "default", "name": "chat"}, "status": status}
    use = {"position": 7, "at": "2026-01-01T00:00:00Z", "resources": {}, "jobs": {}, "nodes": {}, "tenants": []}
    lines = [click.unstyle(line) for line in screen_lines(use, [], 1.8e9, models=[model], width=width)]
    row = next(line for line in lines if "default/chat" in line)
    assert row.split() == ["default/chat", "Degraded", "1/2", "12.5", "9", "3", "42", "%", "123", "ms", "8.1", "ms"]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"phase": "Pending"}, "Pending: looking for a place"),
        ({"phase": "Starting"}, "Starting: its engine is being started"),
        ({"phase": "Starting", "message": "staging weights 4 %"}, "Starting: staging weights 4 %"),
        ({"phase": "Pending", "waiting": {"sentence": "no GPU is free"}}, "Pending: no GPU is free"),
    ],
)
def test_what_has_a_place_is_not_said_to_look_for_one(status, says):
    assert how_far(status, {"tenant": "default", "name": "chat"}) == says


class Told:
    """A control plane that says how an endpoint is, one thing after another."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        self._statuses = list(statuses)

    def get(self, path: str) -> dict[str, Any]:
        return {"metadata": {"tenant": "default", "name": "chat"}, "status": self._statuses.pop(0)}


def test_whoever_waits_for_a_place_is_told_once_where_to_ask(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("plenum.cli.serve.POLL_S", 0)
    waits = {"phase": "Pending", "waiting": {"code": "wait.capacity", "sentence": "default/chat-r1 waits: no room."}}
    _ready(cast(Any, Told({"phase": "Pending"}, waits, waits, {"phase": "Ready"})), "/chat", Patience("1m"))
    assert capsys.readouterr().err.splitlines() == [
        "Pending: looking for a place",
        "plenum explain endpoint/chat tells what would let it start.",
        "Pending: no room.",
    ]


def test_an_endpoint_that_is_changed_is_said_to_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    status = {"phase": "Updating", "replicas": {"running": 1, "wanted": 1}}
    _tell({"metadata": {"name": "chat"}, "status": status}, "", KEY, "chat", "")
    assert capsys.readouterr().out.startswith("chat is updating: 1 of 1 replicas ready, while the change is tried; ")


def test_the_replicas_of_an_endpoint_without_any_are_named_after_its_pools() -> None:
    endpoint = {"spec": {"model": "smollm2"}, "status": {"pools": [{"name": "prefill"}, {"name": "decode"}]}}
    assert slots_of(endpoint) == ["prefill-0", "decode-0"]


def test_a_day_that_is_none_is_named_before_anything_is_asked() -> None:
    told = CliRunner().invoke(usage, ["--since", "yesterday"])
    assert told.exit_code == 2
    assert "'yesterday' is no day such as 2026-01-31" in told.output
