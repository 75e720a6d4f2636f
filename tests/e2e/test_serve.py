"""A real model on this machine's own cores, through `plenum up` and `plenum serve`, while parts of it are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from tests.e2e.clouds import EXAMPLES, Cloud, Plenum, cloud_in, until
from tests.patience import PATIENCE_S

LONG = "Write a long story about a lighthouse keeper, with many details."
MODEL = "smollm2"


@dataclass
class Served:
    """A cloud with a model, and how to ask it."""

    cloud: Cloud
    url: str
    key: str
    up: Plenum

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=PATIENCE_S)

    def ask(self, text: str = "Say hello.", tokens: int = 8) -> str:
        answer = self.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=tokens, temperature=0
        )
        return answer.choices[0].message.content or ""

    def stream(self, tokens: int) -> Any:
        return self.client.chat.completions.create(
            model=MODEL, stream=True, messages=[{"role": "user", "content": LONG}], max_tokens=tokens, temperature=0
        )

    def status(self) -> dict[str, Any]:
        return self.cloud.job(MODEL, "Endpoint")

    def answers(self) -> str:
        """Wait until it answers again."""

        def tried() -> str:
            try:
                return self.ask()
            except openai.APIError:
                return ""

        return until(tried, "an answer")

    def gateway(self) -> int:
        """Return the gateway's process."""
        return json.loads((self.cloud.data / "gateway" / "address.json").read_bytes())["pid"]

    def usage(self) -> dict[str, int]:
        """Return requests by outcome."""
        items = self.cloud.ask("/usage")["items"]
        return items[0]["requests"] if items else {}


def plenum(folder: Path, *args: str) -> str:
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    command = [sys.executable, "-m", "plenum", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with cloud_in(folder) as cloud:
        up = cloud.server("--gateway-port", "0", "-f", str(EXAMPLES / "smollm2.yaml"), command="up")
        told = json.loads(plenum(folder, "serve", MODEL, "-o", "json", "--timeout", "2m"))
        assert told["endpoint"]["status"]["phase"] == "Ready"
        yield Served(cloud, told["url"], told["key"], up)


def test_plenum_up_with_the_example_prints_one_curl_that_streams_a_sentence(served: Served):
    curl = served.up.says(r"(?s)is ready\. Ask it:\n\n(curl .*?]}')")[1]
    assert max(map(len, curl.splitlines())) <= 80
    text = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    words = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert len([word for word in words if word]) > 3


def test_openai_s_client_streams_lists_and_is_billed(served: Served):
    assert [model.id for model in served.client.models.list()] == [MODEL]
    chunks = list(served.stream(12))
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 3
    before = served.usage().get("done", 0)
    answer = served.client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    until(lambda: served.usage().get("done", 0) > before, "the bill")
    assert MODEL in plenum(served.cloud.folder, "usage")


def test_responses_and_batches_are_answered_by_the_same_model(served: Served):
    client = served.client
    said = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8)
    assert said.output_text
    request = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": request}
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    done = until(lambda: b if (b := client.batches.retrieve(batch.id)).status == "completed" else None, "the batch")
    assert done.output_file_id
    answer = json.loads(client.files.content(done.output_file_id).read())
    assert answer["custom_id"] == "one"
    assert answer["response"]["body"]["choices"][0]["message"]["content"]


def test_bench_sends_prompts_of_exact_lengths_and_says_what_their_users_saw(served: Served):
    args = ("--rps", "2", "--isl", "60", "--osl", "6", "--limit", "3", "-o", "json")
    found = json.loads(plenum(served.cloud.folder, "bench", MODEL, *args))
    assert found["served"] == 3
    assert (found["isl"], found["osl"], found["exact_prompts"]) == (60, 6, 1)
    assert 0 < found["ttft_s"]["p50"] < found["e2e_s"]["p50"]
    assert served.url.removesuffix("/v1") in plenum(served.cloud.folder, "get", "gateways")


def test_a_key_is_no_good_elsewhere_or_once_it_is_revoked(served: Served):
    made = json.loads(plenum(served.cloud.folder, "key", "create", "--model", "other", "-o", "json"))
    other = Served(served.cloud, served.url, made["secret"], served.up)

    def refusal() -> str:
        try:
            return other.ask()
        except openai.NotFoundError:
            return "no such model"
        except openai.AuthenticationError:
            return "no such key"

    until(lambda: refusal() == "no such model", "the key to be known, and good for another model alone")
    plenum(served.cloud.folder, "key", "revoke", made["metadata"]["name"])
    until(lambda: refusal() == "no such key", "the key to be forgotten")


def test_a_killed_engine_is_back_without_an_operator(served: Served):
    (host,) = served.cloud.processes("server").values()
    (engine,) = host.children()
    engine.kill()
    until(lambda: any(run.get("attempt", 1) > 1 for run in served.status().get("runs", ())), "another attempt")
    assert served.answers()
    assert served.status()["phase"] == "Ready"


def test_a_killed_gateway_is_back_and_bills_what_it_sent(served: Served):
    before, killed = served.usage().get("interrupted", 0), served.gateway()
    stream = served.stream(300)
    for _ in range(3):
        next(iter(stream))
    os.kill(killed, signal.SIGKILL)
    with pytest.raises((openai.APIError, httpx.TransportError)):
        list(stream)
    assert served.answers()
    assert served.gateway() != killed
    until(lambda: served.usage().get("interrupted", 0) == before + 1, "the bill of what was cut short")


def test_streams_go_on_while_the_control_plane_is_killed_and_started_again(served: Served):
    served.answers()
    run, gateway = served.status()["runs"][0]["id"], served.gateway()
    stream = served.stream(200)
    words = [next(iter(stream))]
    served.cloud.restart()
    words += list(stream)
    assert words[-1].choices[0].finish_reason in ("length", "stop")
    assert served.ask()
    served.cloud.comes_to(MODEL, "Ready", kind="Endpoint")
    assert (served.status()["runs"][0]["id"], served.gateway()) == (run, gateway)
    done = served.usage().get("done", 0)
    served.ask()
    until(lambda: served.usage().get("done", 0) > done, "bills to reach the control plane again")


def test_a_deleted_endpoint_leaves_nothing_and_the_gateway_ends_with_the_cloud(served: Served):
    plenum(served.cloud.folder, "delete", "endpoint", MODEL, "--wait")
    assert not served.cloud.live_runs("server")
    until(lambda: not list(served.client.models.list()), "the gateway to serve it no more")
    with pytest.raises(openai.NotFoundError):
        served.ask()
    gateway = served.gateway()
    assert served.cloud.end() == 0
    until(lambda: not psutil.pid_exists(gateway), "the gateway to end with the cloud")


def test_a_gateway_of_its_own_serves_what_runs_on_another_node(tmp_path: Path):
    with cloud_in(tmp_path) as cloud:
        server = cloud.server()
        cloud.agent("far", cloud.join_token())
        cloud.node("far", "Ready")
        token = cloud.do("POST", "/tokens", {"kind": "gateway", "user": "edge"})["secret"]
        gateway = cloud.start(
            *("gateway", "--server", cloud.context.server, "--ca", cloud.context.ca, "--name", "edge"),
            *("--token", token, "--data", str(tmp_path / "edge"), "--port", "0"),
        )
        url = gateway.says(r"asked at (http\S+)")[1]
        timing = {"model": "llama-3.1-8b", "hardware": "H100"}
        spread = {"tp": 2, "nodes": 2}  # two processes, which this node has room for
        spec = {"model": "llama", "engine": "emulated", "timing": timing, "servedAs": MODEL, "parallelism": spread}
        cloud.apply("chat", spec, kind="Endpoint")
        cloud.comes_to("chat", "Ready", kind="Endpoint")
        key = cloud.do("POST", "/tenants/default/keys", {})["secret"]
        assert Served(cloud, url, key, server).answers()
        assert [run["nodes"] for run in cloud.job("chat", "Endpoint")["runs"]] == [["far", "far"]]
        assert gateway.end() == 0
        assert cloud.ask("/usage")["items"][0]["requests"] == {"done": 1}, "the bill was sent on the way out"
