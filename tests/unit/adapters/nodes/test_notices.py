"""Runs that say themselves when they are ready."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
from tests.patience import PATIENCE_S

from plenum.adapters.nodes import notices
from plenum.adapters.nodes.local import LocalDriver
from plenum.adapters.nodes.notices import STATUS, Notice
from plenum.adapters.nodes.ports import free_port
from plenum.model.process import Process
from plenum.ports.nodes import EXITED, Assignment, Fence, Report, Status

FENCE = Fence(term=1, position=1)
HOST = """
import json, os, pathlib, sys, time
path = pathlib.Path(os.environ["PLENUM_STATUS_FILE"])
def say(**status):
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(status))
    beside.replace(path)
say(ready=False, message="staging weights 42 %")
if "--fail" in sys.argv:
    sys.exit(70)
while not os.path.exists("go"):
    time.sleep(0.01)
url, key = f"https://{os.environ['PLENUM_HOST']}:{os.environ['PLENUM_PORT']}", os.environ["PLENUM_ENGINE_KEY"]
say(ready=True, url=url, weights_digest=key, certificate_sha256="0f")
time.sleep(600)
"""


def order(run: str = "r1", *more: str) -> Assignment:
    process = Process(command=(sys.executable, "-c", HOST, *more), notify=True, restarts=0)
    return Assignment(
        run=run,
        job="default/e",
        uid=1,
        tenant="default",
        node="n0",
        slot="serve-0",
        attempt=1,
        role="serve",
        rank=0,
        process=process,
        secret="its-own",
        address="127.0.0.1",
        master_addr="192.0.2.1",  # of another node of the same replica
    )


def awaited(driver: LocalDriver, test) -> Report:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for report in driver.observe():
            if test(report):
                return report
        time.sleep(0.01)
    raise AssertionError(f"never came: {driver.observe()}")


def test_a_run_that_notifies_is_starting_until_it_says_ready(tmp_path: Path):
    driver = LocalDriver(tmp_path / "node", "n0")
    driver.start(order(), FENCE)
    staging = awaited(driver, lambda report: report.message)
    assert (staging.phase, staging.message, staging.url) == ("starting", "staging weights 42 %", "")
    driver.close()
    again = LocalDriver(tmp_path / "node", "n0")  # another driver takes over in the middle of its start
    assert awaited(again, lambda report: report.message).phase == "starting"
    (tmp_path / "node" / "work" / "1-serve-0" / "go").touch()
    ready = awaited(again, lambda report: report.phase == "running")
    assert ready.url.startswith("https://127.0.0.1:3")
    assert (ready.weights_digest, ready.certificate_sha256) == ("its-own", "0f")
    assert again.stop_all(1.0)
    again.close()


def test_what_it_said_last_is_why_it_ended(tmp_path: Path):
    driver = LocalDriver(tmp_path / "node", "n0")
    driver.start(order("r1", "--fail"), FENCE)
    ended = awaited(driver, lambda report: report.phase == "exited")
    assert (ended.exit_code, ended.message) == (70, "staging weights 42 %")
    driver.close()


def test_two_runs_get_two_ports():
    first = free_port("127.0.0.1", set())
    assert first
    assert free_port("127.0.0.1", {first}) not in (0, first)


def write(folder: Path, text: bytes) -> None:
    beside = folder / "beside"
    beside.write_bytes(text)
    beside.replace(folder / STATUS)


def test_messages_come_at_a_bounded_rate_and_ready_at_once(tmp_path: Path):
    now = [0.0]
    notice = Notice(tmp_path, lambda: now[0])
    assert not notice.look()
    write(tmp_path, msgspec.json.encode(Status(message="one")))
    assert notice.look()
    assert notice.said.message == "one"
    write(tmp_path, msgspec.json.encode(Status(message="two")))
    assert not notice.look()
    now[0] += notices.EVERY_S
    assert notice.look()
    assert notice.said.message == "two"
    write(tmp_path, msgspec.json.encode(Status(ready=True, url="http://x:1")))
    assert notice.look()
    assert notice.said.ready
    write(tmp_path, msgspec.json.encode(Status(message="not any more")))
    now[0] += notices.EVERY_S
    assert not notice.look()


def test_a_run_is_believed_to_answer_at_its_own_port_only(tmp_path: Path):
    notice = Notice(tmp_path, lambda: 0.0, port=30_001)
    write(tmp_path, msgspec.json.encode(Status(ready=True, url="http://127.0.0.1:8470")))
    assert notice.look()
    told = notice.told(Report(run="r1", phase="running"))
    assert (told.url, told.message) == ("", "it answers at another port than 30001, which it was given")


def test_a_file_that_is_no_status_is_no_status(tmp_path: Path):
    notice = Notice(tmp_path, lambda: 0.0)
    write(tmp_path, b'{"ready": "yes"}' + b" " * notices.MAX_BYTES)
    assert notice.look()
    assert not notice.said.ready
    assert "cannot be read" in notice.said.message


def test_what_is_no_text_or_no_file_is_no_status(tmp_path: Path):
    notice = Notice(tmp_path, lambda: 0.0)
    (tmp_path / STATUS).mkdir()
    assert not notice.look()
    (tmp_path / STATUS).rmdir()
    write(tmp_path, b'{"message": "\xff"}')
    assert notice.look()
    assert "cannot be read" in notice.said.message


def test_the_last_words_of_what_ended_are_told_however_soon_they_came(tmp_path: Path):
    notice = Notice(tmp_path, lambda: 0.0)
    write(tmp_path, msgspec.json.encode(Status(message="starting the engine")))
    assert notice.look()
    write(tmp_path, msgspec.json.encode(Status(message="the model does not fit")))

    report = notice.told(Report(run="r", phase=EXITED, exit_code=64))

    assert report.message == "the model does not fit"


def test_a_run_that_answers_nobody_is_ready_without_an_address(tmp_path: Path):
    notice = Notice(tmp_path, lambda: 0.0, port=30_001)
    write(tmp_path, msgspec.json.encode(Status(ready=True, message="ready")))
    assert notice.look()
    told = notice.told(Report(run="r1", phase="running"))
    assert (told.phase, told.url, told.message) == ("running", "", "ready")
