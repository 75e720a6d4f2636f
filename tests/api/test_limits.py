"""What keeps the API up and the audit readable: sizes, rates, faults, floods."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from tests.api.lab import MANY, Lab, problem

from plenum.api import ApiSettings, Rate
from plenum.api.parameters import MAX_INTEGER, Parameter
from plenum.api.rates import MAX_SOURCES, Rates
from plenum.api.redact import OTHERS, body_for, text_for
from plenum.bootstrap.server import http_server
from plenum.control.events import JobWaiting, TokenIssued, record_of
from plenum.ports.store import StoreError

TASK = "/tenants/research/tasks/x"


# -- bodies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "limit"), [(TASK, 2**20), ("/fleets/big", 8 * 2**20), ("/tokens", 2**20)])
def test_a_body_that_is_too_large_is_not_read(lab: Lab, path: str, limit: int) -> None:
    read = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(20):
            read += 2**20
            yield b" " * 2**20

    method = "POST" if path == "/tokens" else "PUT"
    announced = lab.ask(method, path, content=b" " * (limit + 1))
    assert (announced.status_code, problem(announced)["code"]) == (413, "body.too-large")
    chunked = lab.ask(method, path, content=parts(), headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    assert read <= limit + 2 * 2**20
    assert [event for _, event in lab.refusals() if event.code == "body.too-large" and event.path.endswith(path)]


@pytest.mark.parametrize(
    "kind", ["application/xml", "multipart/form-data; boundary=x", "text/plain", "", "json", "a" * 500]
)
def test_a_body_of_another_type_is_not_read(lab: Lab, kind: str) -> None:
    answer = lab.ask("PUT", TASK, content=b"{}", headers={"content-type": kind})
    assert (answer.status_code, problem(answer)["code"]) == (415, "body.type")


def test_a_compressed_body_is_not_read(lab: Lab) -> None:
    answer = lab.ask("PUT", TASK, content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize("length", ["-1", "1e9", "0x10", " ", "9" * 30])
def test_a_length_that_makes_no_sense(lab: Lab, length: str) -> None:
    answer = lab.ask("PUT", TASK, content=b"{}", headers={"content-length": length})
    assert answer.status_code in (413, 422)


def test_a_body_that_does_not_come_is_not_waited_for(lab: Lab) -> None:
    hasty = Lab(ApiSettings(body_timeout_s=0.05), simulate=False)

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    try:
        answer = hasty.ask("PUT", TASK, content=parts())
        assert (answer.status_code, problem(answer)["code"]) == (408, "body.timeout")
    finally:
        hasty.close()


def test_a_bomb_of_aliases_is_refused(lab: Lab) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x]"]
    lines += [
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    answer = lab.ask("PUT", TASK, content="\n".join(lines), headers={"content-type": "application/yaml"})
    assert answer.status_code == 422


# -- who asks too often -----------------------------------------------------------------------------


def test_a_rate_allows_a_burst_and_then_so_many_a_second() -> None:
    now = 100.0
    rates = Rates(Rate(per_s=2.0, burst=3), lambda: now)
    assert [rates.take("a") > 0 for _ in range(4)] == [False, False, False, True]
    assert rates.take("b") == 0
    wait_s = rates.take("a")
    now += wait_s
    assert rates.take("a") == 0
    assert rates.take("a") == pytest.approx(0.5)
    now += 1000
    assert [rates.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_the_memory_for_rates_is_bounded() -> None:
    rates = Rates(Rate(per_s=1.0, burst=1), lambda: 0.0)
    for i in range(MAX_SOURCES + 10):
        rates.take(str(i))
    assert len(rates._full_at) == MAX_SOURCES


def test_a_token_that_asks_too_often_waits_and_others_do_not() -> None:
    lab = Lab(ApiSettings(rate=Rate(per_s=0.001, burst=2), audit_window_s=0.01), simulate=False)
    try:
        codes = [lab.ask("GET", "/whoami", "max").status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        refused = lab.ask("GET", "/whoami", "max")
        assert int(refused.headers["retry-after"]) > 1
        assert lab.ask("GET", "/whoami", "ada").status_code == 200
        assert [(who, event.times) for who, event in lab.refusals() if event.code == "rate.limited"]
    finally:
        lab.close()


def test_an_address_that_only_fails_is_told_to_wait() -> None:
    lab = Lab(ApiSettings(failure_rate=Rate(per_s=0.001, burst=2), audit_window_s=0.01), simulate=False)
    try:
        assert [lab.ask("GET", "/whoami", None).status_code for _ in range(4)] == [401, 401, 429, 429]
        assert lab.ask("GET", "/whoami", "max").status_code == 200, "others behind the same address go on"
    finally:
        lab.close()


def test_too_many_requests_at_once_are_turned_away() -> None:
    lab = Lab(ApiSettings(in_flight=1), simulate=False)

    async def both() -> list[int]:
        answers = await asyncio.gather(*(lab.send("PUT", TASK, json={"spec": {}}) for _ in range(3)))
        return sorted(answer.status_code for answer in answers)

    try:
        assert lab.run(both())[-1] == 503
        assert lab.ask("GET", "/whoami").status_code == 200
    finally:
        lab.close()


# -- the audit --------------------------------------------------------------------------------------


@pytest.fixture
def flooded() -> Iterator[Lab]:
    # All of a flood falls into one window, however long the machine takes for it.
    lab = Lab(ApiSettings(audit_window_s=600.0, audit_most=5, failure_rate=MANY), simulate=False)
    yield lab
    lab.close()


def test_equal_refusals_share_a_record(flooded: Lab) -> None:
    async def many() -> None:
        for i in range(200):
            await flooded.send("GET", f"/tenants/vision/tasks/job-{i}", "max")

    flooded.run(many())
    found = [(who, event) for who, event in flooded.refusals() if event.code == "resource.absent"]
    assert sum(event.times for _, event in found) == 200
    assert len(found) < 5
    assert {who for who, _ in found} == {"user/max"}
    assert {event.source for _, event in found} == {"192.0.2.7"}


def test_different_refusals_cannot_flood_the_log(flooded: Lab) -> None:
    async def many() -> None:
        context = flooded.context
        await context.refusals.flush()
        before = flooded.service.state.position
        for method in ("GET", "PUT", "POST", "DELETE"):
            for path in ("/tasks", "/fleets", "/nodes", "/tokens", "/users", "/whoami", "/version"):
                await flooded.send(method, path, "forged")
        await context.refusals.flush()
        records = await flooded.service.read(before, 1000)
        assert {record.type for record in records} == {"Refused"}
        written = sum(json.loads(record.body)["times"] for record in records)
        assert written == 28
        assert len(records) < 28

    flooded.run(many())


def test_one_source_cannot_fill_the_log_over_time() -> None:
    lab = Lab(
        ApiSettings(audit_window_s=0.01, audit_rate=Rate(per_s=1e-6, burst=10), failure_rate=MANY), simulate=False
    )

    async def long() -> None:
        refusals = lab.context.refusals
        before = lab.service.state.position
        for i in range(60):
            await lab.send(("GET", "PUT", "POST")[i % 3], f"/tenants/{i}/tasks/x", "forged")
            await refusals.flush()
        await refusals.flush(sums=True)
        records = await lab.service.read(before, 1000)
        assert sum(json.loads(record.body)["times"] for record in records) == 60
        assert len(records) <= 13

    try:
        lab.run(long())
    finally:
        lab.close()


def test_refusals_wait_while_they_cannot_be_written(flooded: Lab, caplog: pytest.LogCaptureFixture) -> None:
    flooded.context.refusals._window_s = 0.01
    with caplog.at_level(logging.CRITICAL):
        flooded.store.fault = lambda name: "before" if name == "append" else ""
        flooded.ask("GET", "/whoami", "forged")
        flooded.run(asyncio.sleep(0.05))
        flooded.store.fault = None
        flooded.wait(lambda: flooded.service.leading)
    flooded.wait(lambda: bool(flooded.context.refusals._waiting) is False)
    assert sum(event.times for _, event in flooded.refusals() if event.code == "auth.invalid") == 1


def test_no_refusal_holds_the_secret_that_was_sent(flooded: Lab) -> None:
    flooded.ask("GET", f"/whoami?token={flooded.tokens['forged']}", "forged")
    flooded.ask("POST", "/tokens", "forged", json={"user": flooded.tokens["forged"]})
    flooded.refusals()
    records = flooded.run(flooded.service.read(0, 1000))
    assert not [record for record in records if flooded.tokens["forged"].encode() in record.body]


# -- faults -----------------------------------------------------------------------------------------


def test_a_fault_of_ours_tells_nothing_of_itself(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    true = lab.service.utilisation
    lab.service.utilisation = lambda: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with caplog.at_level(logging.ERROR):
            answer = lab.ask("GET", "/utilisation")
    finally:
        lab.service.utilisation = true  # pyright: ignore[reportAttributeAccessIssue]
    assert (answer.status_code, problem(answer)["code"]) == (500, "internal")
    assert "Zero" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    assert lab.tokens["root"] not in caplog.text


def test_a_store_that_does_not_answer_is_not_our_fault(lab: Lab) -> None:
    async def read(after: int, limit: int, **more: object) -> list:
        raise StoreError("the disk is gone")

    true = lab.service.read
    lab.service.read = read  # pyright: ignore[reportAttributeAccessIssue]
    try:
        answer = lab.ask("GET", "/events")
    finally:
        lab.service.read = true  # pyright: ignore[reportAttributeAccessIssue]
    assert (answer.status_code, problem(answer)["code"]) == (503, "store.unavailable")
    assert answer.headers["retry-after"] == "1"


def test_a_replica_that_does_not_lead_says_who_does() -> None:
    lab = Lab(simulate=False)
    try:
        lab.run(asyncio.to_thread(lab.store.release, "control"))
        lab.run(asyncio.to_thread(lab.store.acquire, "other", 60.0, "https://other.test:7443"))
        lab.wait(lambda: not lab.service.leading)
        answer = lab.ask("PUT", TASK, json={"spec": {}})
        assert (answer.status_code, problem(answer)["code"]) == (503, "control.not-leader")
        assert lab.ask("GET", "/readyz", None).json()["leading"] is False
        assert lab.ask("GET", "/whoami").status_code == 200, "reading goes on"
    finally:
        lab.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1alpha1/nothing", 404),
        ("GET", "/v1alpha1/tasks/", 404),
        ("GET", "//evil.example.org/", 404),
        ("PATCH", "/v1alpha1/tasks", 405),
        ("OPTIONS", "/v1alpha1/tasks", 405),
        ("HEAD", "/v1alpha1/whoami", 405),
        ("DELETE", "/healthz", 405),
        ("BREW", "/v1alpha1/tasks", 405),
    ],
)
def test_what_is_not_there_is_a_problem_too(lab: Lab, method: str, path: str, status: int) -> None:
    answer = lab.ask(method, path, None)
    assert answer.status_code == status
    if method != "HEAD":
        problem(answer)
    if status == 405:
        assert answer.headers["allow"]
    assert "location" not in answer.headers


def test_every_answer_tells_browsers_to_keep_away(lab: Lab) -> None:
    for path, who in (("/whoami", "root"), ("/whoami", None), ("/healthz", None), ("/nothing", None)):
        headers = lab.ask("GET", path, who).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Basic cm9vdDpyb290", "plm_x", "Bearer plm_x", "Bearer a b", "Bearer \u00ff",
        "Bearer " + "x" * 100_000, "bearer plm_" + "a" * 12 + "_" + "b" * 43,
    ],
)  # fmt: skip
def test_a_header_that_is_no_token(lab: Lab, header: str) -> None:
    answer = lab.ask("GET", "/whoami", None, headers={"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    problem(answer)


def test_two_tokens_are_none(lab: Lab) -> None:
    headers = [("authorization", f"Bearer {lab.tokens[who]}") for who in ("max", "root")]

    async def ask() -> int:
        return (await lab._client.get("/v1alpha1/whoami", headers=headers)).status_code

    assert lab.run(ask()) == 401


@pytest.mark.parametrize("key", ["a b", "x" * 201, "\u00e9", "a\tb"])
def test_an_idempotency_key_that_cannot_be_meant(lab: Lab, key: str) -> None:
    answer = lab.ask("PUT", TASK, json={"spec": {}}, headers={"idempotency-key": key.encode("latin-1")})
    assert (answer.status_code, problem(answer)["field"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize(
    "trace", ["", "junk", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-" + "g" * 32 + "-" + "1" * 16 + "-01"]
)
def test_a_trace_that_is_none_is_replaced(lab: Lab, trace: str) -> None:
    name = f"trace-{abs(hash(trace))}"
    answer = lab.ask("PUT", f"/tenants/research/tasks/{name}", json={"spec": {}}, headers={"traceparent": trace})
    assert answer.status_code == 201, answer.text
    trace_id = answer.json()["metadata"]["traceId"]
    assert len(trace_id) == 32
    assert int(trace_id, 16)


# -- what is not one's own --------------------------------------------------------------------------


def test_texts_lose_the_names_of_others_jobs(lab: Lab) -> None:
    lab.apply_fleet()
    state, mine = lab.service.state, frozenset({"research"})
    text = "research/a waits for gpus: rack r1 on n1/numa0; it starts when vision/b, gone/c#worker-3 and 3 others end."
    told = text_for(text, mine, state)
    assert (
        told == f"research/a waits for gpus: rack r1 on n1/numa0; it starts when {OTHERS}, {OTHERS} and 3 others end."
    )
    assert text_for(text, None, state) == text


def test_facts_lose_them_too_and_hashes_go_for_everybody(lab: Lab) -> None:
    waiting = JobWaiting(job="research/a", code="wait.gpus", sentence="it starts when vision/b ends")
    record = record_of(waiting, 0.0, "control")
    assert b"vision" not in body_for(record, frozenset({"research"}), lab.service.state)
    assert b"vision/b" in body_for(record, None, lab.service.state)
    issued = record_of(TokenIssued(id="x", user="max", hash="secret"), 0.0, "user/root")
    assert b"secret" not in body_for(issued, None, lab.service.state)


def test_numbers_are_read_without_surprises() -> None:
    whole = Parameter(name="n", about="", kind="integer", low=-5, high=MAX_INTEGER)
    assert whole.read("-5") == -5
    for text in ("", "+1", "1.0", "1e3", " 1", "0x1", "\u0661", "1" * 5000, "-6", "1_000"):
        with pytest.raises(Exception, match="whole number"):
            whole.read(text)
    number = Parameter(name="x", about="", kind="number", high=10)
    for text in ("nan", "inf", "-1", "11", "1" * 50, "", "x"):
        with pytest.raises(Exception, match="number"):
            number.read(text)


# -- connections ------------------------------------------------------------------------------------


def test_connections_that_ask_for_nothing_end_and_others_are_served() -> None:
    settings = ApiSettings(headers_s=1.0)
    lab = Lab(settings, simulate=False)

    async def go() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        server = http_server(lab.app, settings, None)
        serving = asyncio.create_task(server.serve([listening]))
        place = listening.getsockname()
        async with asyncio.timeout(60.0):
            silent = [await asyncio.open_connection(*place) for _ in range(3)]
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{place[1]}/healthz")
            assert answer.status_code == 200
            server.should_exit = True
            await serving

    try:
        lab.run(go())
        assert b'connections_dropped_total{why="slow-head"} 3.0' in lab.context.metrics.exposition()
    finally:
        lab.close()
