"""Rollouts under load, with processes: emulated engines, a gateway, and clients that count every request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.e2e.clouds import Cloud, cloud_in, until
from tests.e2e.test_serve import plenum
from tests.patience import PATIENCE_S

FAST, SLOW = "H100", "L40S"
"""Accelerators whose timing is kept; one token takes about four times as long on the second."""


def spec(hardware: str, *, replicas: int = 2, **rollout: Any) -> dict[str, Any]:
    return {
        "model": "Llama-3.1-8B",
        "engine": "emulated",
        "timing": {"model": "Llama-3.1-8B", "hardware": hardware},
        "replicas": replicas,
        "rollout": {"hold": "5s", **rollout},
    }


class Load:
    """Clients that ask one thing after another, each waiting for its answer."""

    def __init__(self, url: str, key: str, clients: int) -> None:
        self.url, self.key = url, key
        self.codes: list[int] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 16, "stream": True}
        headers = {"authorization": f"Bearer {self.key}"}
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not self._ended.is_set():
                answer = client.post(f"{self.url}/chat/completions", json=body, headers=headers)
                whole = answer.status_code == 200 and answer.text.rstrip().endswith("[DONE]")
                self.codes.append(200 if whole else answer.status_code or -1)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud_in(tmp_path_factory.mktemp("rollouts")) as cloud:
        cloud.server("--gateway-port", "0", command="up")
        yield cloud


@contextmanager
def loaded(cloud: Cloud, clients: int = 6) -> Iterator[Load]:
    """Ask an endpoint of the fast kind all the time."""
    cloud.apply("chat", spec(FAST), kind="Endpoint")
    cloud.comes_to("chat", "Ready", kind="Endpoint")
    address = until(lambda: found[0] if (found := cloud.ask("/gateways")["items"]) else None, "a gateway")
    key = json.loads(plenum(cloud.folder, "key", "create", "-o", "json"))
    cloud.takes(address["url"], key["secret"])
    with Load(f"{address['url']}/v1", key["secret"], clients) as load:
        until(lambda: load.codes.count(200) > 20, "requests to be answered")
        yield load


def test_a_canary_that_is_slower_is_rolled_back_by_itself(cloud: Cloud) -> None:
    with loaded(cloud):
        cloud.apply("chat", spec(SLOW, canary=0.3, hold="60s"), kind="Endpoint")
        back = cloud.happened("endpoint/default/chat", "RevisionRolledBack")
        assert back["why"] in ("slower-ttft", "slower-tpot")
        assert "times that of the revision before" in back["sentence"]
        status = cloud.comes_to("chat", "Ready", kind="Endpoint")
        assert status["revision"] == 1


def test_a_rolling_update_under_load_drops_no_request(cloud: Cloud) -> None:
    with loaded(cloud) as load:
        before = cloud.job("chat", kind="Endpoint")["revision"]
        cloud.apply("chat", {**spec(FAST, canary=0), "slots": 7}, kind="Endpoint")

        def replaced() -> bool:
            status = cloud.job("chat", kind="Endpoint")
            return status["revision"] > before and status["phase"] == "Ready"

        until(replaced, "the next revision to take over")
        seen = len(load.codes)
        until(lambda: len(load.codes) > seen + 20, "requests to be answered by it")
    assert set(load.codes) == {200}
