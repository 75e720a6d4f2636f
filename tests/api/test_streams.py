"""Events as they come, logs as they grow: resumed, limited, ended."""

import json
from collections.abc import Iterator

import pytest
from tests.api.lab import Lab, Reader, problem, until

from plenum.api import ApiSettings, Rate
from plenum.control.commands import AbsentError
from plenum.ports.nodes import LogChunk

SETTINGS = ApiSettings(
    watchers=6,
    watchers_each=3,
    follow_pause_s=0.01,
    audit_window_s=0.01,
    failure_rate=Rate(per_s=1e6, burst=10**6),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    laboratory = Lab(SETTINGS)
    laboratory.apply_fleet()
    yield laboratory
    assert laboratory.context.streams == 0, "every stream that began has ended"
    laboratory.close()


# -- events -----------------------------------------------------------------------------------------


def test_events_are_listed_by_subject_type_and_page(lab: Lab) -> None:
    lab.submit("listed", run={"simulate": {"duration": "0.1s"}})
    events = lab.get("/events?subject=job/research/listed", "vera")["items"]
    assert events[0]["type"] == "JobSubmitted"
    assert events[0]["body"]["job"] == "research/listed"
    assert events[0]["actor"] == "user/root"
    only = lab.get("/events?type=TenantApplied&limit=1")
    assert [item["type"] for item in only["items"]] == ["TenantApplied"]
    following = lab.get(f"/events?type=TenantApplied&limit=1&continue={only['metadata']['continue']}")
    assert following["items"][0]["position"] > only["items"][0]["position"]
    parts = lab.get("/events?subject=job/research/listed&fields=type,body.job&limit=1")["items"]
    assert parts == [{"type": "JobSubmitted", "body": {"job": "research/listed"}}]
    one = lab.get(f"/events/{events[0]['position']}", "vera")
    assert one == events[0]


def test_pages_of_events_hold_every_event_once(lab: Lab) -> None:
    whole = [item["position"] for item in lab.get("/events?limit=1000")["items"]]
    found: list[int] = []
    path = "/events?limit=7"
    while True:
        page = lab.get(path)
        found += [item["position"] for item in page["items"]]
        cursor = page["metadata"].get("continue")
        if not cursor or len(found) >= len(whole):
            break
        path = f"/events?limit=7&continue={cursor}"
    assert found[: len(whole)] == whole


def test_somebody_in_several_tenants_gets_their_events_in_order(lab: Lab) -> None:
    two = [{"role": "viewer", "tenant": tenant} for tenant in ("research", "vision")]
    lab.ask("PUT", "/users/both", json={"spec": {"grants": two}})
    token = lab.issue("both")
    for i in range(3):
        lab.submit(f"order-{i}", "vision" if i % 2 else "research")
    items = lab.get("/events?limit=1000", token)["items"]
    positions = [item["position"] for item in items]
    assert positions == sorted(set(positions))
    assert {item["tenant"] for item in items} == {"research", "vision"}


def test_a_watch_resumes_where_it_ended(lab: Lab) -> None:
    async def watch() -> None:
        path = f"/events?watch=true&after={lab.service.state.position}&type=JobSubmitted"  # what ran before may still tell of itself
        async with Reader(lab.app, path, lab.tokens["max"]) as reader:
            assert await reader.start() == 200
            assert reader.headers["content-type"].startswith("text/event-stream")
            await lab.send("PUT", "/tenants/research/tasks/watch-1", json={"spec": {}})
            (first,) = (await reader.events(1))[:1]
        told = json.loads(first["data"])
        assert (first["event"], told["type"], int(first["id"])) == ("JobSubmitted", "JobSubmitted", told["position"])
        await lab.send("PUT", "/tenants/research/tasks/watch-2", json={"spec": {}})
        headers = {"last-event-id": first["id"], "accept": "text/event-stream"}
        async with Reader(lab.app, "/events?after=0&type=JobSubmitted", lab.tokens["max"], headers) as reader:
            await reader.start()
            (second,) = (await reader.events(1))[:1]
            assert json.loads(second["data"])["body"]["job"] == "research/watch-2"

    lab.run(watch())


def test_no_text_in_an_event_can_begin_another(lab: Lab) -> None:
    async def watch() -> None:
        start = lab.service.state.position
        label = "x\n\nid: 99999\nevent: JobEnded\ndata: {}\r\n\n\u2028"
        body = {"spec": {}, "metadata": {"labels": {"l": label}}}
        async with Reader(lab.app, f"/events?watch=true&after={start}&type=JobSubmitted", lab.tokens["max"]) as reader:
            await reader.start()
            answer = await lab.send("PUT", "/tenants/research/tasks/newlines", json=body)
            if answer.status_code == 422:
                return  # the manifests take no such label: so much the better
            (event,) = await reader.events(1)
            assert event["event"] == "JobSubmitted"
            assert json.loads(event["data"])["body"]["manifest"]["metadata"]["labels"]["l"] == label

    lab.run(watch())


@pytest.mark.parametrize("last", ["x", "-1", "1\u0660", "9" * 30])
def test_a_position_that_cannot_be_meant(lab: Lab, last: str) -> None:
    answer = lab.ask("GET", "/events?watch=true", headers={"last-event-id": last.encode("utf-8")})
    assert (answer.status_code, problem(answer)["field"]) == (422, "Last-Event-ID")


def test_there_is_a_limit_on_streams_for_one_token(lab: Lab) -> None:
    async def many() -> None:
        path = "/events?watch=true"
        async with (
            Reader(lab.app, path, lab.tokens["wei"]) as first,
            Reader(lab.app, path, lab.tokens["wei"]) as second,
            Reader(lab.app, path, lab.tokens["wei"]) as third,
        ):
            assert [await reader.start() for reader in (first, second, third)] == [200, 200, 200]
            refused = await lab.send("GET", path, "wei")
            assert (refused.status_code, problem(refused)["code"]) == (429, "rate.limited")
            assert int(refused.headers["retry-after"]) > 0
        await until(lambda: lab.context.streams == 0)

    lab.run(many())


def test_a_reader_who_takes_nothing_is_cut_off() -> None:
    hasty = Lab(ApiSettings(send_timeout_s=0.05), simulate=False)

    async def slow() -> None:
        async with Reader(hasty.app, "/events?watch=true&after=0", hasty.tokens["root"]) as reader:
            # Nothing is read: the server's next piece waits, and then it waits no more.
            await until(reader.task.done)
            assert hasty.context.streams == 0

    try:
        hasty.run(slow())
    finally:
        hasty.close()


def test_a_watch_ends_when_its_token_is_revoked(lab: Lab) -> None:
    async def revoked() -> str:
        token = await lab._issue("max")
        start = lab.service.state.position
        async with Reader(lab.app, f"/events?watch=true&after={start}", token) as reader:
            await reader.start()
            await lab.send("PUT", "/tenants/research/tasks/before", json={"spec": {}})
            await reader.events(1)
            await lab.send("DELETE", f"/tokens/{token.split('_')[1]}", "max")
            await lab.send("PUT", "/tenants/research/tasks/after", json={"spec": {}})
            return await reader.read_until("research/after")

    assert "research/after" not in lab.run(revoked())


def test_a_watch_shows_nothing_more_once_the_role_is_gone(lab: Lab) -> None:
    async def demoted() -> str:
        body = {"spec": {"grants": [{"role": "viewer", "tenant": "research"}, {"role": "viewer", "tenant": "vision"}]}}
        await lab.send("PUT", "/users/shrinks", json=body)
        token = await lab._issue("shrinks")
        start = lab.service.state.position
        async with Reader(lab.app, f"/events?watch=true&after={start}", token) as reader:
            await reader.start()
            body["spec"]["grants"].pop()
            await lab.send("PUT", "/users/shrinks", json=body)
            await lab.send("PUT", "/tenants/vision/tasks/unseen", json={"spec": {}})
            await lab.send("PUT", "/tenants/research/tasks/seen-last", json={"spec": {}})
            return await reader.read_until("research/seen-last")

    assert "unseen" not in lab.run(demoted())


def test_a_stream_has_an_end(lab: Lab) -> None:
    short = Lab(ApiSettings(stream_s=0.05), simulate=False)
    try:
        answer = short.ask("GET", "/events?watch=true")
        assert answer.text.startswith("retry: ")
    finally:
        short.close()


def test_decisions_are_pages_too(lab: Lab) -> None:
    first = lab.get("/decisions?limit=1")
    assert len(first["items"]) == 1
    second = lab.get(f"/decisions?limit=1&continue={first['metadata']['continue']}")
    assert second["items"][0]["position"] > first["items"][0]["position"]
    position = first["items"][0]["position"]
    assert lab.get(f"/decisions/{position}") == first["items"][0]
    assert lab.ask("GET", "/decisions/1").status_code == 404


# -- logs -------------------------------------------------------------------------------------------


class Written:
    """A driver that has nothing but logs, which grow when told to."""

    def __init__(self) -> None:
        self.text = b""
        self.ended = False
        self.asked: list[tuple[str, str]] = []

    def logs(self, run: str, stream: str, offset: int, limit: int) -> LogChunk:
        self.asked.append((run, stream))
        if stream != "stdout":
            raise AbsentError("no such stream")
        start = max(0, len(self.text) + offset) if offset < 0 else min(offset, len(self.text))
        data = self.text[start : start + limit]
        return LogChunk(offset=start, data=data, end=self.ended and start + len(data) == len(self.text))


@pytest.fixture
def written(lab: Lab) -> Iterator[Written]:
    lab.submit("talks", run={"simulate": {"duration": "1h"}})
    lab.wait_for_phase("research/talks", "Running")
    driver, true = Written(), lab.service.embedded["simulated/hall"]
    lab.service.embedded["simulated/hall"] = driver  # pyright: ignore[reportArgumentType]
    yield driver
    lab.service.embedded["simulated/hall"] = true


LOGS = "/tenants/research/tasks/talks/logs"


def test_a_piece_of_a_log(lab: Lab, written: Written) -> None:
    written.text = b"0123456789"
    answer = lab.ask("GET", f"{LOGS}?offset=2&limit=3", "max")
    assert (answer.content, answer.headers["x-plenum-offset"], answer.headers["x-plenum-end"]) == (b"234", "2", "false")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
    last = lab.ask("GET", f"{LOGS}?offset=-4&slot=worker-0", "max")
    assert (last.content, last.headers["x-plenum-offset"]) == (b"6789", "6")
    assert lab.ask("GET", LOGS, "vera").status_code == 403, "what a job writes is for those who work in the tenant"


def test_a_log_is_followed_to_its_end(lab: Lab, written: Written) -> None:
    async def follow() -> str:
        written.text = b"one\n"
        async with Reader(lab.app, f"{LOGS}?follow=true", lab.tokens["max"]) as reader:
            await reader.start()
            await reader.read_until("one\n")
            written.text += b"two\n"
            await reader.read_until("two\n")
            written.text += b"three\n"
            written.ended = True
            return await reader.read_until("never written")

    assert lab.run(follow()) == "one\ntwo\nthree\n"


def test_whoever_follows_and_goes_is_noticed(lab: Lab, written: Written) -> None:
    async def leave() -> None:
        async with Reader(lab.app, f"{LOGS}?follow=true", lab.tokens["max"]) as reader:
            await reader.start()
        await until(lambda: lab.context.streams == 0)

    lab.run(leave())


@pytest.mark.parametrize(
    "query",
    [
        "slot=../../etc/passwd", "slot=worker-0%00", "slot=worker-0/..", "slot=..%2f..-0", "slot=%2e%2e-0/", "stream=../stdout",
        "stream=stdin", "stream=stdout%00", "attempt=0", "attempt=-1", "attempt=1e3", "offset=x", "limit=0", "limit=999999999",
        "follow=yes", "run=../x", "slot=" + "a" * 400 + "-0",
    ],
)  # fmt: skip
def test_tricks_with_names_of_logs_are_refused_and_noted(lab: Lab, written: Written, query: str) -> None:
    before = sum(event.times for _, event in lab.refusals())
    answer = lab.ask("GET", f"{LOGS}?{query}", "max")
    assert (answer.status_code, problem(answer)["code"]) == (422, "request.invalid")
    assert written.asked == []
    assert sum(event.times for _, event in lab.refusals()) == before + 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1alpha1/tenants/research/tasks/../../vision/tasks/x/logs",
        "/v1alpha1/tenants/research/tasks/..%2f..%2fvision/logs",
        "/v1alpha1/tenants/research%00/tasks/talks/logs",
        "/v1alpha1/tenants/research/tasks/%2e%2e/logs",
        "/v1alpha1/tenants/research/tasks/talks%0d%0aX-Evil:%201/logs",
        "/v1alpha1/tenants/RESEARCH/tasks/talks/logs",
        "/v1alpha1/tenants/research/tasks/" + "a" * 5000 + "/logs",
        "/v1alpha1//tenants/research/tasks/talks/logs",
    ],
)
def test_tricks_with_paths_are_refused_and_noted(lab: Lab, path: str) -> None:
    before = sum(event.times for _, event in lab.refusals())
    answer = lab.ask("GET", path, "max")
    assert answer.status_code in (404, 422)
    problem(answer)
    assert "x-evil" not in answer.headers
    assert sum(event.times for _, event in lab.refusals()) == before + 1


def test_a_replica_that_never_was(lab: Lab, written: Written) -> None:
    assert lab.ask("GET", f"{LOGS}?slot=worker-9", "max").status_code == 404
    assert lab.ask("GET", f"{LOGS}?slot=worker-0.1", "max").status_code == 404
    assert lab.ask("GET", f"{LOGS}?attempt=7", "max").status_code == 404


def test_what_a_job_without_a_place_writes(lab: Lab) -> None:
    lab.submit("wide", resources={"cpu": 100_000}, replicas=2, run={"simulate": {"duration": "1s"}})
    for query in ("", "?slot=worker-1"):
        answer = lab.ask("GET", f"/tenants/research/tasks/wide/logs{query}", "max")
        assert (answer.status_code, "no place yet" in answer.text) == (404, True), answer.text
    assert "no replica worker-2 so far" in lab.ask("GET", "/tenants/research/tasks/wide/logs?slot=worker-2", "max").text


def test_an_earlier_attempt_is_found_in_the_log(lab: Lab) -> None:
    run = {"simulate": {"duration": "0.1s", "exitCode": 1}, "restarts": 1, "backoff": "0s"}
    lab.submit("fails", run=run)
    lab.wait_for_phase("research/fails", "Failed")
    first = lab.ask("GET", "/tenants/research/tasks/fails/logs?attempt=1", "max")
    last = lab.ask("GET", "/tenants/research/tasks/fails/logs", "max")
    assert first.status_code == last.status_code == 200, (first.text, last.text)
    assert first.headers["x-plenum-run"] != last.headers["x-plenum-run"]
