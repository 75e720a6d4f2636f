"""The gateway as clients see it: OpenAI's dialect, keys and limits, streams that are metered, cancelled, drained and billed once."""

from __future__ import annotations

import contextlib
import json
import signal
import threading

import openai
import pytest
from tests.api.gateway_lab import CHAT, Lab, chat, lab, raw_chat, until
from tests.patience import PATIENCE_S


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """No decision of the control plane's is made here, so nothing needs compiling for one."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("gateway")) as laboratory:
        yield laboratory


@pytest.fixture
def own(tmp_path):
    """A gateway that a test may kill."""
    with lab(tmp_path) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def client(gateway: Lab):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="sk-acme", max_retries=0) as client:
        yield client


def messages(prompt: str):
    return [{"role": "user", "content": prompt}]


def test_openais_client_streams_and_is_told_usage_only_if_it_asked(gateway, client):
    gateway.usage()
    for options, tells in ((openai.omit, False), ({"include_usage": True}, True)):
        stream = client.chat.completions.create(
            model="m", messages=messages("chunks=5 cached=3"), stream=True, stream_options=options
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == " word" * 5
        assert [c.usage.completion_tokens for c in chunks if c.usage] == ([5] if tells else [])
    rows = gateway.usage()
    assert [(r.tenant, r.key, r.endpoint, r.model, r.revision) for r in rows] == [
        ("acme", "acme", "acme/m", "m", 1)
    ] * 2
    assert [(r.prompt_tokens, r.cached_tokens, r.output_tokens, r.outcome) for r in rows] == [(11, 3, 5, "done")] * 2


def test_who_offers_another_protocol_is_served_in_this_one(gateway):
    plain = raw_chat("hello")
    offered = plain.replace(
        b"host: x\r\n", b"host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    )
    body = offered.index(b"\r\n\r\n") + 4
    for cut in (0, 70, body):
        with gateway.connect() as connection:
            connection.sendall(offered[:cut])
            connection.sendall(offered[cut:])
            until(lambda here=connection: b"words" in here.recv(65_536), "an answer")
            connection.sendall(plain)  # and the connection goes on
            until(lambda here=connection: b"words" in here.recv(65_536), "the next")


def test_openais_client_without_a_stream(gateway, client):
    gateway.usage()
    answer = client.chat.completions.create(model="m", messages=messages("hello"), max_tokens=9)
    assert answer.choices[0].message.content == "words"
    assert answer.usage.prompt_tokens == 11
    assert answer._request_id.startswith("req-")
    (row,) = gateway.usage()
    assert (row.request, row.prompt_tokens, row.output_tokens) == (answer._request_id, 11, 4)


def test_models_are_the_tenants_own(gateway, client):
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").owned_by == "acme"
    with gateway.client("sk-other") as other:
        assert [each["id"] for each in other.get("/v1/models").json()["data"]] == ["secret"]
    with gateway.client("sk-bound") as bound:
        assert bound.get("/v1/models").json()["data"] == []


def test_another_tenants_model_does_not_exist(gateway):
    for secret, model in (("sk-acme", "secret"), ("sk-acme", "nothing"), ("sk-bound", "m"), ("sk-other", "m")):
        answer = gateway.ask("x", secret, model=model)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        with gateway.client(secret) as client:
            assert client.get(f"/v1/models/{model}").json()["error"]["code"] == "model_not_found"


def test_each_tenants_prompts_are_salted_apart(gateway):
    gateway.ask("x")
    first = json.loads(gateway.engine_state()["body"])
    gateway.ask("x", "sk-other", model="secret")
    second = json.loads(gateway.engine_state()["body"])
    assert (first["cache_salt"], second["cache_salt"]) == ("salt-a", "salt-o")
    assert first["messages"] == second["messages"]


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "key.missing"),
        ("Bearer sk-forged", "key.unknown"),
        ("Bearer sk-old", "key.expired"),
        ("Basic x", "key.missing"),
    ],
)
def test_without_a_good_key_there_is_nothing(gateway, authorization, code):
    with gateway.client() as client:
        client.headers.pop("authorization")
        for path in ("/v1/models", "/v1/models/m"):
            answer = client.get(path, headers={"authorization": authorization} if authorization else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
            assert answer.json()["error"]["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"


def test_limits_are_told_before_and_when_they_are_reached(gateway):
    first = gateway.ask("x", "sk-few", max_tokens=100)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 9_950
    second = gateway.ask("x", "sk-few", max_tokens=100)
    # The estimate of the first was put right by what it came to.
    assert int(second.headers["x-ratelimit-remaining-tokens"]) > 9_800
    third = gateway.ask("x", "sk-few")
    assert (third.status_code, third.json()["error"]["code"]) == (429, "limit.requests")
    assert third.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(third.headers["retry-after"]) <= 30


def test_requests_at_once_are_limited_and_given_back(gateway):
    with gateway.client("sk-one") as client:
        with client.stream("POST", CHAT, json=chat("chunks=3 delay=30", stream=True)) as stream:
            seen = stream.iter_raw()
            next(seen)
            refused = gateway.ask("x", "sk-one")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "limit.parallel")
        assert until(lambda: gateway.ask("x", "sk-one").status_code == 200, "the place given back")


def test_request_ids(gateway):
    answers = [gateway.ask("x", headers={"x-request-id": "mine-1"}) for _ in range(2)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 2, "who sends an id twice is billed twice"
    assert {answer.headers["x-client-request-id"] for answer in answers} == {"mine-1"}
    for id in ("a b", "x" * 200, "a%0d%0ab", "<script>"):
        answer = gateway.ask("x", headers={"x-request-id": id})
        assert "x-client-request-id" not in answer.headers


def test_an_engines_refusal_is_told_in_openais_shape_and_not_billed(gateway):
    gateway.usage()
    answer = gateway.ask("status=400")
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "as it was asked", "type": "invalid_request_error", "param": None, "code": "engine.refused",
    }  # fmt: skip
    assert gateway.usage() == []


def test_a_client_that_leaves_frees_the_engine_at_once_and_pays_for_what_it_got(gateway):
    gateway.usage()
    left = gateway.engine_state()["left"]
    with (
        gateway.client() as client,
        client.stream("POST", CHAT, json=chat("chunks=1000 delay=0.02", stream=True)) as stream,
    ):
        got, seen = b"", stream.iter_raw()
        while got.count(b" word") < 3:
            got += next(seen)
        id = stream.headers["x-request-id"]
    until(lambda: gateway.engine_state()["left"] == left + 1, "the engine to be left")
    (row,) = until(gateway.usage, "the bill")
    assert (row.request, row.outcome) == (id, "cancelled")
    assert got.count(b" word") <= row.output_tokens < 500
    assert row.prompt_tokens > 0


def test_a_client_that_leaves_before_the_first_byte_frees_it_too(gateway):
    left = gateway.engine_state()["left"]
    connection = gateway.connect()
    connection.sendall(raw_chat("delay=600"))
    until(lambda: gateway.engine_state()["open"], "the engine to begin")
    connection.close()
    until(lambda: gateway.engine_state()["left"] == left + 1, "the engine to be left")
    until(lambda: gateway.engine_state()["open"] == 0, "nothing open")


def test_an_engine_that_breaks_off_is_told_in_the_stream_and_billed_as_far_as_it_came(gateway, client):
    gateway.usage()
    stream = client.chat.completions.create(model="m", messages=messages("chunks=9 delay=0.01 break=4"), stream=True)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)
    (row,) = gateway.billed(1)
    assert (row.outcome, row.output_tokens) == ("broken", 4)


def test_an_engine_that_fails_tells_clients_nothing_of_where_it_is(own):
    own.ask("x")
    own.stop_engine()
    answer = own.ask("x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine.failed")
    assert int(answer.headers["retry-after"]) >= 1
    assert str(own.engine) not in answer.text
    assert f"127.0.0.1:{own.engine}" in own.log()
    assert len(own.usage()) == 1


def test_unknown_addresses_and_methods(gateway):
    with gateway.client() as client:
        assert client.get("/v1/nothing").json()["error"]["code"] == "route.unknown"
        for path, meant in (("/chat/completions", CHAT), ("/v1/v1/models/m", "/v1/models/m")):
            assert f"did you mean {meant}?" in client.get(path).json()["error"]["message"]
        answer = client.get(CHAT)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert client.get("/healthz", headers={"authorization": ""}).json() == {"status": "ok"}
        assert client.get("/readyz", headers={"authorization": ""}).status_code == 200


def test_metrics_are_for_this_host_alone(gateway):
    with gateway.client() as client:
        text = client.get("/metrics").text
        assert 'plenum_gateway_requests_total{endpoint="acme/m",outcome="done"}' in text
        assert "plenum_gateway_refusals_total" in text
        for header in ("x-forwarded-for", "forwarded", "via"):
            assert client.get("/metrics", headers={header: "203.0.113.9"}).status_code == 401


def test_killed_in_the_middle_of_streams_each_is_billed_once_for_what_was_sent(own):
    """The gateway, not the engine, is killed while a hundred streams are open; what its clients had is what they pay."""
    ended = own.ask("chunks=7", stream=True).headers["x-request-id"]
    readers = [Reader(own) for _ in range(100)]
    until(lambda: all(reader.words >= 3 for reader in readers), "a few words in each stream")
    own.kill()
    for reader in readers:
        reader.join()
    own.start()
    rows = {row.request: row for row in own.usage()}
    assert rows.pop(ended).outcome == "done"
    assert len(rows) == 100
    for reader in readers:
        row = rows.pop(reader.id)
        assert row.outcome == "interrupted"
        # A chunk may be lost in the socket of a process that is killed, or sent in the instant before it is counted.
        assert abs(row.output_tokens - reader.words) <= 2
    assert own.usage() == []
    assert own.ask("x").status_code == 200


class Reader(threading.Thread):
    """Reads a stream to whatever end it has."""

    def __init__(self, gateway: Lab) -> None:
        super().__init__(daemon=True)
        self._got = b""
        self._connection = gateway.connect()
        self._connection.sendall(raw_chat("chunks=400 delay=0.1", stream=True))
        self.start()

    @property
    def words(self) -> int:
        """How many have come."""
        return self._got.count(b" word")

    @property
    def id(self) -> str:
        """As the gateway named the request."""
        return self._got.partition(b"x-request-id: ")[2].partition(b"\r")[0].decode()

    def run(self) -> None:
        with self._connection, contextlib.suppress(ConnectionError, TimeoutError):
            while data := self._connection.recv(65_536):
                self._got += data


def refuses(gateway: Lab) -> bool:
    """Whether it takes no new connections: it closes its door just after it has said so."""
    try:
        gateway.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_streams_end_and_takes_nothing_new(own):
    with own.client() as client, client.stream("POST", CHAT, json=chat("chunks=20 delay=0.05", stream=True)) as stream:
        seen = stream.iter_raw()
        got = next(seen)
        own.gateway.send_signal(signal.SIGTERM)
        until(lambda: "Shutting down" in own.log(), "the gateway to drain")
        until(lambda: refuses(own), "connections to be refused")
        got += b"".join(seen)
    assert got.count(b" word") == 20
    assert got.endswith(b"data: [DONE]\n\n")
    assert own.gateway.wait(PATIENCE_S) == 0
    own.kill()
    own.start()
    (row,) = own.usage()
    assert (row.outcome, row.output_tokens) == ("done", 20)
