"""The client of the API, against a fake server that answers as scripted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from plenum.adapters.client import Client, Message, ProblemError, UnreachableError, part
from plenum.adapters.contexts import Context
from plenum.model.errors import FileError

HOME = "http://127.0.0.1:7070"


def problem(status: int, code: str, detail: str = "no", **more: str) -> httpx.Response:
    headers = {"content-type": "application/problem+json", "retry-after": "2"}
    return httpx.Response(status, json={"status": status, "code": code, "detail": detail, **more}, headers=headers)


class ScriptedServer(httpx.BaseTransport):
    """Answers each request with the next of its answers, and remembers what it was asked; after the last it repeats that."""

    def __init__(self, *answers: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer


class Breaking(httpx.SyncByteStream):
    """A body that breaks off after its pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self):
        yield from self._pieces
        raise httpx.ReadError("connection reset")


def client_of(
    server: ScriptedServer, *, pauses: list[float] | None = None, url: str = HOME, token: str = "plm_x"
) -> Client:
    noted = pauses if pauses is not None else []
    context = Context(server=url, token=token)
    return Client(context, pause=noted.append, rng=random.Random(0), transport=server)


def test_a_request_carries_the_token_and_no_empty_parameters() -> None:
    server = ScriptedServer(httpx.Response(200, json={"a": 1}))
    with client_of(server) as client:
        assert client.get(
            "/tenants/x", phase=("Pending", "Running"), label=(), limit=None, dryRun=True, watch=False
        ) == {"a": 1}
    (asked,) = server.asked
    assert str(asked.url) == f"{HOME}/v1alpha1/tenants/x?phase=Pending&phase=Running&dryRun=true"
    assert asked.headers["authorization"] == "Bearer plm_x"
    assert "idempotency-key" not in asked.headers


def test_a_change_is_sent_again_with_the_same_key() -> None:
    server = ScriptedServer(problem(503, "store.error"), httpx.ReadTimeout("slow"), httpx.Response(200, json={}))
    pauses: list[float] = []
    with client_of(server, pauses=pauses) as client:
        client.put("/tenants/x", {"kind": "Tenant"}, version="7")
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1
    assert server.asked[0].headers["if-match"] == '"7"'
    assert json.loads(server.asked[2].content) == {"kind": "Tenant"}
    assert pauses[0] >= 2, "as long as the server asked for"


def test_two_changes_have_two_keys() -> None:
    server = ScriptedServer(httpx.Response(200, json={}))
    with client_of(server) as client:
        client.post("/tokens", {})
        client.post("/tokens", {})
    assert server.asked[0].headers["idempotency-key"] != server.asked[1].headers["idempotency-key"]


def test_trying_again_has_an_end() -> None:
    server = ScriptedServer(problem(503, "store.error", "the store is away"))
    pauses: list[float] = []
    with client_of(server, pauses=pauses) as client, pytest.raises(ProblemError, match="the store is away"):
        client.get("/tenants")
    assert len(server.asked) == 6
    assert max(pauses) <= 10


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    server = ScriptedServer(problem(status, "some.code", "what is wrong", field="spec.replicas"))
    with client_of(server) as client, pytest.raises(ProblemError) as caught:
        client.get("/tenants")
    assert len(server.asked) == 1
    error = caught.value
    assert (error.status, error.code, error.where.field) == (status, "some.code", "spec.replicas")
    assert str(error) == "spec.replicas: what is wrong"


def test_nobody_there_is_said_soon_and_plainly() -> None:
    server = ScriptedServer(httpx.ConnectError("refused"))
    with client_of(server) as client, pytest.raises(UnreachableError) as caught:
        client.get("/tenants")
    assert str(caught.value) == f"no control plane answers at {HOME}; start one with `plenum up`"
    assert len(server.asked) == 2


def test_what_is_no_control_plane_is_said() -> None:
    server = ScriptedServer(httpx.Response(404, text="<html>"))
    with client_of(server) as client, pytest.raises(ProblemError, match="is it a control plane"):
        client.get("/tenants")
    server = ScriptedServer(httpx.Response(200, text="<html>"))
    with client_of(server) as client, pytest.raises(ProblemError, match="is it a control plane"):
        client.get("/tenants")


def test_a_follower_names_the_leader() -> None:
    server = ScriptedServer(
        problem(503, "control.not-leader", leader="http://127.0.0.1:7071"), httpx.Response(200, json={})
    )
    pauses: list[float] = []
    with client_of(server, pauses=pauses) as client:
        client.put("/tenants/x", {})
        assert client.server == "http://127.0.0.1:7071"
    assert [asked.url.port for asked in server.asked] == [7070, 7071]
    assert server.asked[0].headers["idempotency-key"] == server.asked[1].headers["idempotency-key"]
    assert pauses == []


def test_a_leader_that_is_gone_is_left() -> None:
    server = ScriptedServer(
        problem(503, "control.not-leader", leader="http://127.0.0.1:7071"),
        httpx.ConnectError("refused"),
        httpx.Response(200, json={}),
    )
    with client_of(server) as client:
        client.get("/tenants")
    assert [asked.url.port for asked in server.asked] == [7070, 7071, 7070]


@pytest.mark.parametrize("leader", ["http://127.0.0.1:7071", "ftp://x", "https://user@h/", "nonsense with spaces/"])
def test_a_token_never_follows_to_less_protection(leader: str) -> None:
    server = ScriptedServer(problem(503, "control.not-leader", leader=leader))
    with client_of(server, url="https://127.0.0.1:7070") as client, pytest.raises(ProblemError):
        client.get("/tenants")
    assert {asked.url.port for asked in server.asked} == {7070}
    assert {asked.url.scheme for asked in server.asked} == {"https"}


def test_leaders_that_name_each_other_do_not_go_on_for_ever() -> None:
    def other(request: httpx.Request) -> httpx.Response:
        return problem(503, "control.not-leader", leader=f"http://127.0.0.1:{7141 - (request.url.port or 0)}")

    server = ScriptedServer(other)
    with client_of(server) as client, pytest.raises(ProblemError):
        client.get("/tenants")
    assert len(server.asked) < 12


def test_a_list_is_read_page_by_page() -> None:
    def page(*names: str, more: str = "") -> httpx.Response:
        meta = {"resourceVersion": "9", **({"continue": more} if more else {})}
        return httpx.Response(200, json={"kind": "TaskList", "metadata": meta, "items": [{"n": n} for n in names]})

    server = ScriptedServer(page("a", "b", more="X"), page("c"))
    with client_of(server) as client:
        listing = client.listed("/tasks", phase="Running")
    assert [item["n"] for item in listing["items"]] == ["a", "b", "c"]
    assert listing["metadata"] == {"resourceVersion": "9"}
    assert [dict(asked.url.params).get("continue") for asked in server.asked] == [None, "X"]
    assert all(asked.url.params["phase"] == "Running" for asked in server.asked)


# -- streams ----------------------------------------------------------------------------------------


def sse(*positions: int) -> bytes:
    return b"".join(b'id: %d\nevent: JobEnded\ndata: {"position": %d}\n\n' % (p, p) for p in positions)


def test_events_go_on_where_they_broke_off() -> None:
    first = httpx.Response(200, stream=Breaking(b"retry: 2000\n\n", sse(5, 6)[:-20], sse(5, 6)[-20:], b"id: 7\nda"))
    second = httpx.Response(200, content=b": at 6\r\n\r\n" + sse(7).replace(b"\n", b"\r\n"))
    server = ScriptedServer(first, problem(503, "api.busy"), second)
    seen: list[Message | None] = []
    with client_of(server) as client:
        for message in client.events(4, subject="job/a/b"):
            seen.append(message)
            if message is not None and message.id == "7":
                break
    assert [m.data["position"] if m else None for m in seen] == [5, 6, None, 7]
    assert [asked.headers.get("last-event-id") for asked in server.asked] == ["4", "6", "6"]
    assert all(asked.url.params["subject"] == "job/a/b" for asked in server.asked)


def test_text_with_other_line_separators_stays_whole() -> None:
    data = json.dumps({"position": 1, "text": "a\u2028b\x85c"}, ensure_ascii=False).encode()
    server = ScriptedServer(httpx.Response(200, content=b"id: 1\ndata: " + data + b"\n\n"))
    with client_of(server) as client:
        message = next(iter(client.events()))
    assert message is not None
    assert message.data["text"] == "a\u2028b\x85c"


def test_a_stream_that_is_refused_is_not_taken_up_again() -> None:
    server = ScriptedServer(problem(403, "auth.forbidden", "not yours"))
    with client_of(server) as client, pytest.raises(ProblemError, match="not yours"):
        list(client.events())
    assert len(server.asked) == 1


def test_a_stream_whose_server_stays_away_is_given_up() -> None:
    server = ScriptedServer(httpx.ConnectError("refused"))
    with client_of(server) as client, pytest.raises(UnreachableError):
        list(client.events())
    assert 2 < len(server.asked) <= 30


class FakeLog:
    """A log of a run that has ended, served with its headers; the first connection breaks off."""

    def __init__(self, text: bytes, breaks_at: int) -> None:
        self.text, self.breaks_at = text, breaks_at

    def __call__(self, request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params.get("offset", 0))
        offset = max(len(self.text) + offset, 0) if offset < 0 else offset
        headers = {"x-plenum-offset": str(offset), "x-plenum-end": "true"}
        if "follow" in request.url.params and self.breaks_at:
            piece, self.breaks_at = self.text[offset : self.breaks_at], 0
            return httpx.Response(200, headers=headers, stream=Breaking(piece))
        return httpx.Response(200, headers=headers, content=self.text[offset:])


@pytest.mark.parametrize("start", [0, -20])
def test_a_followed_log_is_whole_and_ends_with_its_run(start: int) -> None:
    text = b"".join(b"line %d\n" % i for i in range(10))
    with client_of(ScriptedServer(FakeLog(text, 60))) as client:
        assert b"".join(client.followed_log("/x/logs", offset=start, slot="worker-0")) == text[start:]


# -- downloads --------------------------------------------------------------------------------------


def test_a_download_is_whole_private_and_overwrites_nothing(tmp_path: Path) -> None:
    headers = {"x-plenum-bytes": "5", "x-plenum-position": "17"}
    server = ScriptedServer(lambda request: httpx.Response(200, headers=headers, content=b"12345"))
    file = tmp_path / "b"
    with client_of(server) as client:
        assert client.download("/admin/backup", file) == 17
        assert file.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileError, match="exists already"):
            client.download("/admin/backup", file)
    assert file.read_bytes() == b"12345"


@pytest.mark.parametrize("stream", [Breaking(b"123"), httpx.ByteStream(b"123")])
def test_half_a_download_leaves_nothing(tmp_path: Path, stream: httpx.SyncByteStream) -> None:
    server = ScriptedServer(httpx.Response(200, headers={"x-plenum-bytes": "5"}, stream=stream))
    with client_of(server) as client, pytest.raises(UnreachableError):
        client.download("/admin/backup", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_one_part_of_a_path() -> None:
    assert part("../a b?c#d") == "..%2Fa%20b%3Fc%23d"
