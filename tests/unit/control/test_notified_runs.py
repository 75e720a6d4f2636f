"""Runs that say themselves how far they are: what of it becomes a fact, and what they are given that no log holds."""

from __future__ import annotations

import hashlib
import re

import msgspec
import pytest
from tests.unit.control.cloud import Cloud, job

from plenum.control import commands as c
from plenum.control.controller import NOTE_EVERY_S
from plenum.control.protocol import SyncRequest
from plenum.control.state import State
from plenum.model.process import Process, Simulated
from plenum.ports.gateway import engine_key
from plenum.ports.nodes import Report
from plenum.ports.store import Snapshot


@pytest.fixture
def cloud() -> Cloud:
    """One run, bound and not reported yet, of a process that notifies."""
    cloud = Cloud(2)
    cloud.run(1)
    process = Process(simulated=Simulated(start_s=1e6, duration_s=0), notify=True)
    cloud.execute(c.apply_job(job(), process, {"name": "j"}).by("ann"))
    cloud.controller.step()
    return cloud


def run_of(cloud: Cloud) -> str:
    (run,) = cloud.state.orders["a"]
    return run


def tell(cloud: Cloud, **said: str) -> list[dict]:
    """Let the agent say something of the run; returns what was written."""
    report = Report(run=run_of(cloud), **{"phase": "starting", **said})
    records = cloud.controller.reported(SyncRequest(agent="a", nodes=("n0", "n1"), reports=(report,)))
    cloud.controller.append(records)
    return [msgspec.json.decode(record.body) for record in records if record.type == "RunReported"]


def test_how_far_it_is_becomes_a_fact_when_it_changes_and_not_too_often(cloud: Cloud):
    assert tell(cloud)
    cloud.clock.advance(NOTE_EVERY_S)
    assert tell(cloud, message="staging 1 %")[0]["message"] == "staging 1 %"
    assert not tell(cloud, message="staging 2 %"), "too soon"
    cloud.clock.advance(NOTE_EVERY_S)
    assert not tell(cloud, message="staging 1 %"), "nothing new"
    assert tell(cloud, message="staging 3 %")
    assert tell(cloud, phase="running", url="http://127.0.0.1:30000"), "readiness never waits"
    cloud.clock.advance(NOTE_EVERY_S)
    assert not tell(cloud, message="staging 4 %"), "there is no way back"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:30000", "http://127.0.0.1:30000"),
        ("http://127.0.0.1:30000/", "http://127.0.0.1:30000"),
        ("http://169.254.169.254:80", ""),
        ("http://127.0.0.1", ""),
        ("http://127.0.0.1:30000/admin", ""),
        ("http://u@127.0.0.1:30000", ""),
        ("ftp://127.0.0.1:30000", ""),
        ("http://127.0.0.1:99999", ""),
        ("http://[::1", ""),
        ("http://127.0.0.1:30000/" + "/" * 400, ""),
    ],
)
def test_nobody_is_sent_anywhere_but_to_the_node_itself(cloud: Cloud, url: str, kept: str):
    (fact,) = tell(cloud, phase="running", url=url)
    assert fact.get("url", "") == kept


def test_the_key_of_an_engine_goes_to_its_node_and_into_no_log(cloud: Cloud):
    cloud.controller.engine_secret = "a secret of the control plane"
    answer = cloud.controller.answer(SyncRequest(agent="a", nodes=("n0", "n1")))
    assert answer.orders is not None
    order = answer.orders[run_of(cloud)]
    assert order.secret == engine_key("a secret of the control plane", order.run)
    assert cloud.state.orders["a"][order.run].secret == ""
    kept = cloud.state.snapshot().data + b"".join(record.body for record in cloud.store.read(0, 10_000))
    assert order.secret.encode() not in kept


def test_other_runs_get_no_key(cloud: Cloud):
    cloud.controller.engine_secret = "a secret of the control plane"
    cloud.execute(c.apply_job(job("k"), Process(simulated=Simulated()), {"name": "k"}).by("ann"))
    cloud.controller.step()
    answer = cloud.controller.answer(SyncRequest(agent="a", nodes=("n0", "n1")))
    assert answer.orders is not None
    assert sorted(bool(order.secret) for order in answer.orders.values()) == [False, True]


_HEX = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("digest", "kept"),
    [
        (_HEX, True),
        (f"{_HEX}+{'b' * 24}", True),
        ("sha256:../../../etc/x", False),
        (f"{_HEX}+../../x", False),
        (_HEX.upper(), False),
        ("x" * 100, False),
    ],
)
def test_only_digests_are_taken_for_digests_for_other_nodes_look_for_files_under_them(
    cloud: Cloud, digest: str, kept: bool
):
    (told,) = tell(cloud, phase="running", weights_digest=digest)
    assert told.get("weights_digest", "") == (digest if kept else "")


@pytest.mark.parametrize(
    ("sha256", "kept"), [("0f" * 32, True), ("0f" * 16, False), ("0F" * 32, False), ("\n" * 64, False)]
)
def test_a_certificate_is_taken_by_its_fingerprint_and_older_snapshots_have_none(cloud: Cloud, sha256: str, kept: bool):
    (told,) = tell(cloud, phase="running", url="https://127.0.0.1:30000", certificate_sha256=sha256)
    assert told.get("certificate_sha256", "") == (sha256 if kept else "")
    ((name, its),) = cloud.state.jobs.items()
    (run,) = its.runs()
    assert run.certificate_sha256 == told.get("certificate_sha256", "")

    older = re.sub(rb',?"certificate_sha256":"[^"]*"', b"", cloud.state.snapshot().data)
    snapshot = Snapshot(position=cloud.state.position, data=older, digest=hashlib.sha256(older).hexdigest())
    (run,) = State.from_snapshot(snapshot).jobs[name].runs()
    assert (run.url, run.certificate_sha256) == ("https://127.0.0.1:30000", "")
