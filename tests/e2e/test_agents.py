"""Agents on several hosts (here: folders) under one control plane, and what becomes of a gang over them when something dies."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.clouds import EXAMPLES, Cloud, cloud_in, in_order, until
from tests.patience import PATIENCE_S

from plenum.adapters.client import Client
from plenum.bootstrap.tls import credentials

TRAIN = f"{sys.executable} {EXAMPLES / 'data_parallel.py'}"
ENDLESS = f"{TRAIN} --steps 100000 --step-s 0.05"


def gang(commands: str) -> dict[str, Any]:
    """Two ranks that train together; a node of one core has room for one of them."""
    run = {"command": ["sh", "-c", commands], "backoff": "100ms"}
    return {"replicas": 2, "resources": {"cpu": 0.6}, "run": run}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A control plane with the agents a and b, which are not to be harmed for longer than their lease."""
    with cloud_in(tmp_path_factory.mktemp("cloud")) as cloud:
        cloud.server()
        token = cloud.join_token()
        for name in "ab":
            cloud.agent(name, token)
        for name in "ab":
            cloud.node(name, "Ready")
        yield cloud


def ranks(cloud: Cloud) -> dict[str, psutil.Process]:
    """Wait until both ranks run; slot to process."""
    return until(
        lambda: both if len(both := {**cloud.processes("a"), **cloud.processes("b")}) == 2 else None, "two ranks"
    )


def told_running(cloud: Cloud, name: str) -> int:
    """Return how many runs of a job have been told as running: a process may run before its agent has said so."""
    story = cloud.story(f"job/default/{name}")
    return sum(1 for kind, body in story if kind == "RunReported" and body["phase"] == "running")


def test_a_gang_over_two_nodes_goes_on_from_its_checkpoint_when_a_rank_dies(cloud: Cloud) -> None:
    # The first attempt ends by being killed, however long that takes; the second has nothing to wait for.
    cloud.apply("gang", gang(f"[ $PLENUM_ATTEMPT = 1 ] && exec {ENDLESS}; exec {TRAIN} --steps 800"))
    both = ranks(cloud)
    until(lambda: told_running(cloud, "gang") == 2, "both ranks told as running")
    until(lambda: re.search(r"^step 1\d ", cloud.log_of("gang"), re.MULTILINE), "ten steps")
    both["worker-1"].send_signal(signal.SIGKILL)

    status = cloud.comes_to("gang", "Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    assert {run["node"] for run in status["runs"]} == {"a", "b"}
    resumed = re.match(r"resumed from step (\d+)\nstep (\d+) loss", log := cloud.log_of("gang"))
    assert resumed
    assert int(resumed[2]) == int(resumed[1]) + 1 >= 6
    assert "step 800 loss" in log
    story = cloud.story("job/default/gang")
    first = next(body for kind, body in story if kind == "UnitBound")
    of_1, of_0 = (next(b["run"] for b in first["bindings"] if b["rank"] == rank) for rank in (1, 0))
    in_order(
        story,
        ("JobSubmitted", {}),
        ("UnitBound", {"attempt": 1}),
        ("RunReported", {"run": of_1, "phase": "running"}),
        ("RunReported", {"run": of_1, "phase": "exited", "exit_code": 137}),
        ("UnitReleased", {"attempt": 1, "outcome": "failed", "again": True}),
        ("UnitBound", {"attempt": 2}),
        ("UnitReleased", {"attempt": 2, "outcome": "succeeded"}),
        ("JobEnded", {"phase": "Succeeded"}),
    )
    # The last end makes the gang free. Which is heard of first is up to the agents: it makes the gang stop, unless both come together;
    # so rank 0 has noticed that it is alone, or was told to stop before that.
    kinds = [kind for kind, _ in story]
    ended = {
        body["run"]: (i, body["exit_code"])
        for i, (kind, body) in enumerate(story[: kinds.index("UnitReleased")])
        if kind == "RunReported" and body["phase"] == "exited"
    }
    stopped = [i for i, kind in enumerate(kinds) if kind == "UnitStopped"]
    assert all(min(ended.values())[0] < i < kinds.index("UnitReleased") for i in stopped)
    assert ended[of_0][1] in ((1, 143) if stopped else (1,))


def test_a_replica_over_two_nodes_is_started_anew_when_one_dies(cloud: Cloud) -> None:
    spec = {
        "model": "llama",
        "engine": "emulated",
        "timing": {"model": "llama-3.1-8b", "hardware": "H100"},
        "resources": {"cpu": 0.6},
        "parallelism": {"tp": 2, "nodes": 2},
    }
    cloud.apply("wide", spec, kind="Endpoint")
    cloud.comes_to("wide", "Ready", kind="Endpoint")
    (replica,) = cloud.job("wide", "Endpoint")["runs"]
    assert (replica["slot"], set(replica["nodes"])) == ("serve-0", {"a", "b"})
    ranks(cloud)["serve-0.1"].send_signal(signal.SIGKILL)

    again = until(lambda: whole(cloud, attempt=2), "the replica to be back")
    assert set(again["nodes"]) == {"a", "b"}
    cloud.do("DELETE", "/tenants/default/endpoints/wide")
    until(lambda: not (cloud.processes("a") or cloud.processes("b")), "all of it to be gone")


def whole(cloud: Cloud, attempt: int) -> dict[str, Any] | None:
    """Return the endpoint's replica if it is ready in an attempt."""
    runs = cloud.job("wide", "Endpoint").get("runs", [])
    return next((run for run in runs if (run.get("replica"), run.get("attempt")) == ("ready", attempt)), None)


def test_neither_agents_nor_the_control_plane_take_what_runs_with_them(cloud: Cloud) -> None:
    agents = {name: cloud.agents[name] for name in "ab"}
    go = cloud.folder / "go"
    cloud.apply(
        "steady",
        gang(f"{TRAIN} --steps 60 --step-s 0.05; while [ ! -e {go} ]; do sleep 0.05; done; exec {TRAIN} --steps 100"),
    )
    before = {slot: process.pid for slot, process in ranks(cloud).items()}
    cloud.comes_to("steady", "Running")
    agents["a"].end(signal.SIGKILL)
    cloud.agent("a").says("has joined")
    cloud.restart()
    assert {slot: process.pid for slot, process in ranks(cloud).items()} == before
    go.touch()

    with Client(cloud.context) as client:
        path = "/tenants/default/trainingjobs/steady/logs"
        followed = b"".join(client.followed_log(path, slot="worker-0")).decode()
    assert re.findall(r"^step (\d+) ", followed, re.MULTILINE) == [str(step) for step in range(1, 101)]
    assert cloud.comes_to("steady", "Succeeded")["attempt"] == 1
    story = cloud.story("job/default/steady")
    assert [kind for kind, _ in story].count("UnitBound") == 1


def test_who_may_not_join_is_told_why(cloud: Cloud, tmp_path: Path) -> None:
    token = cloud.join_token()
    strangers = credentials(tmp_path / "tls", ["localhost"])
    expired = cloud.join_token(expires_s=0.01)
    shutil.copytree(cloud.folder / "a", cloud.folder / "copy", ignore=shutil.ignore_patterns("*.lock", "wake", "runs"))
    tried = {
        "is not certified by the authority": cloud.agent("c", token, ca=strangers.ca),
        "the token is not valid here": cloud.agent("c", token[:-5] + "AAAAA", data="forged"),
        "the token has expired": cloud.agent("c", expired, data="late"),
        "has not joined yet": cloud.agent("c", data="tokenless"),
        "a has joined already": cloud.agent("a", token, data="namesake"),
        "does not allow": cloud.agent("c", cloud.join_token(agent="d"), data="bound"),
        "another agent of the name a serves its nodes": cloud.agent("a", data="copy"),
        "another driver is at work": cloud.agent("a", data="a"),
    }
    for sentence, agent in tried.items():
        assert agent.ended() == 2, agent.said
        assert sentence in agent.said
    assert {node["metadata"]["name"] for node in cloud.ask("/nodes")["items"]} == {"a", "b"}
    assert cloud.node("a", "Ready")


def test_work_ends_with_its_lease_and_goes_on_where_it_may(tmp_path: Path) -> None:
    with cloud_in(tmp_path) as cloud:
        cloud.server("--lease", "3s")
        token = cloud.join_token()
        agents = {name: cloud.agent(name, token) for name in "ab"}
        cloud.apply("gang", gang(f"exec {ENDLESS}"))
        of_b = until(lambda: list(cloud.processes("b").values()), "a rank on b")[0]
        until(lambda: "step 6 " in cloud.log_of("gang"), "a checkpoint")
        agents["b"].end(signal.SIGKILL)

        of_b.wait(PATIENCE_S)  # its supervisor ends it, though nobody tells it to
        cloud.node("b", "Lost")
        waiting = until(lambda: cloud.job("gang").get("waiting"), "the gang to wait with a reason")
        assert waiting["sentence"]
        assert [kind for kind, _ in cloud.story("node/b")] == ["NodeReady", "NodeLost"]

        cloud.agent("b")
        cloud.node("b", "Ready")
        ranks(cloud)
        until(lambda: cloud.log_of("gang").startswith("resumed from step"), "the gang to go on from its checkpoint")
        lost = [body for kind, body in cloud.story("job/default/gang") if kind == "UnitReleased"]
        assert {body["outcome"] for body in lost} <= {"lost", "failed"}

        tokens = cloud.ask("/tokens")["items"]
        (of_a,) = [t for t in tokens if t["spec"]["kind"] == "agent" and t["spec"]["user"] == "a"]
        (rank,) = cloud.processes("a").values()
        cloud.do("DELETE", f"/tokens/{of_a['metadata']['name']}")
        assert agents["a"].ended() == 2
        assert "refuses this agent" in agents["a"].said
        rank.wait(PATIENCE_S)
