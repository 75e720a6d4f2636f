"""Endpoints of models, keys, usage and what gateways ask, over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.api.lab import SETTINGS, Lab, problem, until

from plenum.api import keys
from plenum.ports.gateway import LoadReport, PoolLoad, Table, Usage, UsageBatch

URL = "http://127.0.0.1:9"
CHAT = {"model": "llama", "engine": "vllm", "attach": [URL], "slo": {"ttft": "500ms"}}


@pytest.fixture
def lab() -> Iterator[Lab]:
    laboratory = Lab(simulate=False)
    yield laboratory
    laboratory.close()


def put(lab: Lab, name: str = "chat", who: str = "max", *, tenant: str = "research", **spec: object):
    return lab.ask("PUT", f"/tenants/{tenant}/endpoints/{name}", who, json={"spec": spec or CHAT})


def table(lab: Lab, version: int = -1) -> Table | None:
    answer = lab.ask("GET", f"/gateways/edge-1/table?version={version}&url=http://edge:8080", "gateway")
    assert answer.status_code in (200, 304), answer.text
    return msgspec.json.decode(answer.content, type=Table) if answer.status_code == 200 else None


def ready(lab: Lab, name: str = "research/chat") -> None:
    lab.wait(lambda: bool(lab.service.state.endpoints[name].serving))


def test_it_is_said_that_nothing_is_placed_while_the_scheduler_is_compiled(lab: Lab):
    lab.service.hold_decisions(True)
    put(lab, model="smollm2")
    lab.wait(lambda: bool(lab.service.state.endpoints["research/chat"].revisions))
    shown = lab.get("/tenants/research/endpoints/chat")["status"]
    assert (shown["phase"], "compiling its loops" in shown["message"]) == ("Pending", True)
    lab.service.hold_decisions(False)
    assert "compiling" not in lab.get("/tenants/research/endpoints/chat")["status"].get("message", "")


def test_until_a_replica_is_ready_nothing_serves_and_its_events_are_those_of_the_endpoint(lab: Lab):
    put(lab, model="smollm2")
    lab.wait(lambda: "research/chat-r1" in lab.service.state.jobs)
    (revision,) = lab.get("/tenants/research/endpoints/chat")["status"]["revisions"]
    assert (revision["phase"], revision.get("part", 0.0)) == ("starting", 0.0)
    for subject in ("endpoint/research/chat", "job/research/chat"):
        events = lab.get(f"/events?subject={subject}&limit=100", "vera")["items"]
        assert {event["subject"] for event in events} == {"endpoint/research/chat", "job/research/chat-r1"}
        positions = [event["position"] for event in events]
        assert positions == sorted(positions)
    put(lab, "server", run={"simulate": {}})
    events = lab.get("/events?subject=endpoint/research/server", "vera")["items"]
    assert {event["subject"] for event in events} == {"job/research/server"}


# -- endpoints --------------------------------------------------------------------------------------


def test_an_endpoint_is_made_shown_listed_changed_and_removed(lab: Lab):
    made = put(lab)
    assert (made.status_code, made.headers["location"]) == (201, "/v1alpha1/tenants/research/endpoints/chat")
    ready(lab)
    shown = lab.get("/tenants/research/endpoints/chat", "vera")
    status = shown["status"]
    assert (shown["kind"], status["phase"], status["servedAs"]) == ("Endpoint", "Ready", "chat")
    assert status["replicas"] == {"wanted": 1, "bound": 1, "running": 1, "succeeded": 0, "failed": 0}
    assert [(run["url"], run["replica"]) for run in status["runs"]] == [(URL, "ready")]
    assert [item["metadata"]["name"] for item in lab.get("/endpoints?phase=Ready")["items"]] == ["chat"]
    assert lab.get("/endpoints?phase=Idle")["items"] == []
    again = put(lab, who="max", **CHAT | {"servedAs": "big"})
    assert (again.status_code, again.json()["status"]["servedAs"]) == (200, "big")
    assert lab.ask("DELETE", "/tenants/research/endpoints/chat", "max").status_code == 200
    lab.wait(lambda: not lab.service.state.endpoints)
    assert lab.ask("GET", "/tenants/research/endpoints/chat").status_code == 404
    gone = lab.ask("DELETE", "/tenants/research/endpoints/chat", headers={"idempotency-key": "twice"})
    assert problem(gone)["detail"] == "there is no Endpoint research/chat"


def test_a_dry_run_writes_nothing(lab: Lab):
    before = lab.service.state.position
    told = lab.ask("PUT", "/tenants/research/endpoints/chat?dryRun=true", "max", json={"spec": CHAT}).json()
    assert [change["type"] for change in told["changes"]] == ["EndpointApplied"]
    assert lab.service.state.position == before


def test_changes_are_guarded_by_versions(lab: Lab):
    etag = put(lab).headers["etag"]
    path = "/tenants/research/endpoints/chat"
    wrong = lab.ask("PUT", path, json={"spec": CHAT | {"servedAs": "x"}}, headers={"if-match": '"1"'})
    assert problem(wrong)["code"] == "resource.changed"
    right = lab.ask("PUT", path, json={"spec": CHAT | {"servedAs": "x"}}, headers={"if-match": etag})
    assert right.status_code == 200
    twice = lab.ask("POST", "/tenants/research/endpoints", json={"metadata": {"name": "chat"}, "spec": CHAT})
    assert problem(twice)["code"] == "resource.conflict"


def test_endpoints_and_jobs_do_not_take_one_another_s_names(lab: Lab):
    put(lab)
    job = lab.ask("PUT", "/tenants/research/endpoints/chat", json={"spec": {"run": {"simulate": {}}}})
    assert problem(job)["code"] == "resource.conflict"
    lab.submit("train", plural="tasks")
    assert problem(put(lab, "train"))["code"] == "resource.conflict"


def test_explain_says_why_a_replica_waits_and_of_what_is_attached_that_there_is_none(lab: Lab):
    put(lab)
    assert lab.ask("GET", "/tenants/research/endpoints/chat/explain").status_code == 404
    put(lab, "big", model="smollm2", resources={"gpu": 8})
    lab.wait(lambda: "research/big-r1" in lab.service.state.waiting)
    told = lab.get("/tenants/research/endpoints/big/explain", "vera")
    assert told["workload"] == "research/big-r1"
    assert [item["metadata"]["name"] for item in lab.get("/endpoints")["items"]] == ["big", "chat"], (
        "children are hidden"
    )


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254", "http://example.com", "http://10.1.2.3:80", "http://[fd00::1]"]
)
def test_nobody_sends_the_gateway_where_the_operator_has_not_allowed(lab: Lab, url: str):
    refused = put(lab, **CHAT | {"attach": [url]})
    assert (refused.status_code, problem(refused)["code"]) == (403, "auth.forbidden")
    assert not lab.service.state.endpoints


def test_an_operator_allows_networks_and_names():
    import dataclasses

    lab = Lab(dataclasses.replace(SETTINGS, attach=("10.1.0.0/16", "gpu.example")), simulate=False)
    try:
        assert put(lab, "a", **CHAT | {"attach": ["http://10.1.2.3:80"]}).status_code == 201
        assert put(lab, "b", **CHAT | {"attach": ["http://GPU.example:80"]}).status_code == 201
        assert put(lab, "c", **CHAT | {"attach": ["http://127.0.0.1:80"]}).status_code == 403
    finally:
        lab.close()


def test_arguments_that_name_what_is_the_node_s_are_an_operator_s_to_give():
    import dataclasses

    lab = Lab(dataclasses.replace(SETTINGS, arguments=("--hf-overrides",)), simulate=False)
    risky = CHAT | {"arguments": ["--max-num-seqs", "8", "--chat-template=/etc/passwd"]}
    try:
        refused = problem(put(lab, **risky))
        assert (refused["code"], "--chat-template" in refused["detail"]) == ("auth.forbidden", True)
        assert put(lab, "a", **CHAT | {"arguments": ["--max-num-seqs", "8", "--hf-overrides", "{}"]}).status_code == 201
        assert put(lab, "b", "root", **risky).status_code == 201
        assert put(lab, "b", **risky | {"slo": {"ttft": "1s"}}).status_code == 200, "what an operator gave may stay"
        assert put(lab, "b", **risky | {"model": "hf://mine/own"}).status_code == 403, "for those weights"
        assert put(lab, "b", **risky | {"adapters": [{"name": "own", "source": "hf://mine/own"}]}).status_code == 403
        timed = {"model": "x", "engine": "emulated", "timing": {"model": "/etc/x", "hardware": "H100"}}
        assert "spec.timing.model" in problem(put(lab, "c", **timed))["detail"]
        assert put(lab, "b", **risky | {"arguments": [*risky["arguments"], "--port=1"]}).status_code == 403
    finally:
        lab.close()


# -- keys -------------------------------------------------------------------------------------------


def test_a_key_s_secret_is_shown_once_and_only_its_hash_is_known(lab: Lab):
    asked = {"models": ["chat"], "requestsPerMinute": 60, "note": "bot", "expiresInS": 60}
    made = lab.ask("POST", "/tenants/research/keys", "max", json=asked, headers={"idempotency-key": "k"})
    assert made.status_code == 201
    key = made.json()
    known = lab.service.state.keys[key["metadata"]["name"]].key
    assert known.hash == hashlib.sha256(key["secret"].encode()).hexdigest()
    assert (known.tenant, known.models, known.requests_per_minute) == ("research", ("chat",), 60)
    again = lab.ask("POST", "/tenants/research/keys", "max", json=asked, headers={"idempotency-key": "k"})
    assert problem(again)["code"] == "token.shown"
    everything = lab.ask("GET", "/keys").text + lab.ask("GET", "/events?limit=1000&type=KeyIssued").text
    assert known.id in everything
    assert known.hash not in everything
    assert key["secret"].split("_", 2)[2] not in everything
    lab.clock.ahead_s += 61
    assert lab.get(f"/tenants/research/keys/{known.id}", "max")["status"]["phase"] == "Expired"
    assert lab.ask("DELETE", f"/tenants/research/keys/{known.id}", "max").status_code == 200
    assert known.id not in lab.service.state.keys


def test_models_of_a_new_key_that_nothing_serves_yet_are_named(lab: Lab):
    put(lab)
    key = lab.ask("POST", "/tenants/research/keys", "max", json={"models": ["chat", "chatt", "zzz"]}).json()
    assert key["status"]["unserved"] == {"chatt": "chat", "zzz": ""}
    assert lab.service.state.keys[key["metadata"]["name"]].key.models == ("chat", "chatt", "zzz")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"tier": "gold"}, "tier"),
        ({"maxParallel": -1}, "max_parallel"),
        ({"models": [""]}, "models"),
        ({"x": 1}, "body"),
    ],
)
def test_keys_that_cannot_be_meant_are_refused(lab: Lab, wrong: dict, field: str):
    answer = lab.ask("POST", "/tenants/research/keys", "max", json=wrong)
    assert (answer.status_code, problem(answer)["field"]) == (422, field)


def test_a_key_of_one_tenant_is_not_there_for_another(lab: Lab):
    key = lab.ask("POST", "/tenants/vision/keys", json={}).json()["metadata"]["name"]
    assert lab.ask("GET", f"/tenants/research/keys/{key}", "max").status_code == 404
    assert lab.ask("DELETE", f"/tenants/research/keys/{key}", "max").status_code == 404
    assert key in lab.service.state.keys


def test_a_new_key_waits_for_gateways_and_names_those_that_do_not_know_it(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    put(lab)
    report = LoadReport(
        gateway="edge-1.a1", seconds=1.0, table=lab.service.state.served_version, url="http://edge:8080"
    )
    told = lab.ask("POST", "/gateways/edge-1/loads", "gateway", content=msgspec.json.encode(report)).json()
    assert told["gateways"] == [{"name": "edge-1.a1", "url": "http://edge:8080"}]

    async def takes_it() -> dict[str, Any]:
        state, before = lab.service.state, len(lab.service.state.keys)
        issuing = asyncio.create_task(lab.send("POST", "/tenants/research/keys", "max", json={}))
        await until(lambda: len(state.keys) > before)
        await lab.send("GET", f"/gateways/edge-1/table?version={state.served_version}", "gateway")
        return (await issuing).json()

    assert lab.run(takes_it())["status"]["unknownTo"] == []
    monkeypatch.setattr(keys, "KNOWN_S", 0.0)
    late = lab.ask("POST", "/tenants/research/keys", "max", json={}).json()
    assert late["status"]["unknownTo"] == ["edge-1.a1"]
    assert late["secret"]


# -- gateways ---------------------------------------------------------------------------------------


def test_a_gateway_gets_its_table_and_the_next_one_when_something_changes(lab: Lab):
    lab.service.controller.engine_secret = "s" * 32
    put(lab)
    key = lab.ask("POST", "/tenants/research/keys", "max", json={}).json()
    ready(lab)
    first = table(lab)
    assert first is not None
    assert [served.spec.id for served in first.served] == ["research/chat"]
    assert [replica.url for replica in first.served[0].replicas] == [URL]
    assert [k.id for k in first.keys] == [key["metadata"]["name"]]
    assert first.engine_secret == "s" * 32
    assert set(first.salts) == {"research"}
    assert table(lab, first.version) is None
    assert lab.get("/gateways", "vera")["items"][0]["url"] == "http://edge:8080"

    async def waited() -> Table:
        path = f"/gateways/edge-1/table?version={first.version}&wait=20"
        asking = asyncio.create_task(lab.send("GET", path, "gateway"))
        await asyncio.sleep(0)
        await lab.send("DELETE", f"/tenants/research/keys/{key['metadata']['name']}", "max")
        return msgspec.json.decode((await asking).content, type=Table)

    second = lab.run(waited())
    assert second.version > first.version
    assert second.keys == ()


def test_only_gateways_are_told_the_secret(lab: Lab):
    for who in ("root", "max", "agent", "join"):
        assert lab.ask("GET", "/gateways/edge-1/table", who).status_code == 403
    assert lab.ask("GET", "/gateways/edge-2/table", "gateway").status_code == 403


def test_a_gateway_s_token_is_the_operators_to_give(lab: Lab):
    asked = {"kind": "gateway", "user": "edge-9"}
    assert lab.ask("POST", "/tokens", "ada", json=asked).status_code == 403
    secret = lab.ask("POST", "/tokens", json=asked).json()["secret"]
    assert lab.ask("GET", "/gateways/edge-9/table", secret).status_code == 200
    assert lab.ask("GET", "/gateways/edge-1/table", secret).status_code == 403


def test_loads_show_and_come_from_oneself_alone(lab: Lab):
    put(lab)
    ready(lab)
    load = PoolLoad(
        endpoint="research/chat", revision=1, pool="serve", arrived=20, running=2, waiting=3, ttft_s=(0.1, 0.2)
    )
    report = LoadReport(gateway="edge-1.a1", seconds=1.0, table=5, pools=(load,))
    body = msgspec.json.encode(report)
    assert lab.ask("POST", "/gateways/edge-1/loads", "gateway", content=body).status_code == 200
    status = lab.get("/tenants/research/endpoints/chat")["status"]
    assert (status["pools"][0]["running"], status["pools"][0]["waiting"]) == (2, 3)
    assert status["revisions"][0]["latency"]["ttftMsP50"] in (100.0, 200.0)
    other = msgspec.json.encode(msgspec.structs.replace(report, gateway="edge-2"))
    assert lab.ask("POST", "/gateways/edge-1/loads", "gateway", content=other).status_code == 403


def batch(number: int, *, tenant: str = "research", tokens: int = 10, key: str = "k", **more: Any) -> bytes:
    row = Usage(
        request=f"r{number}", at=86_400.0 * 20_000, tenant=tenant, key=key, endpoint=f"{tenant}/chat", model="chat",
        revision=1, prompt_tokens=tokens, cached_tokens=1, output_tokens=5, **more,
    )  # fmt: skip
    return msgspec.json.encode(UsageBatch(gateway="edge-1.a1", number=number, rows=(row,)))


def test_usage_counts_once_and_is_summed_up_by_what_is_asked(lab: Lab):
    def send(body: bytes) -> int:
        return lab.ask("POST", "/gateways/edge-1/usage", "gateway", content=body).status_code

    assert [send(batch(1)), send(batch(1)), send(batch(2, tenant="vision")), send(batch(4))] == [200, 200, 200, 412]
    whole = lab.get("/usage")["items"]
    assert [(item["promptTokens"], item["requests"]) for item in whole] == [(20, {"done": 2})]
    told = lab.get("/usage?by=tenant&by=day")["items"]
    assert [(item["tenant"], item["day"], item["promptTokens"]) for item in told] == [
        ("research", "2024-10-04", 10),
        ("vision", "2024-10-04", 10),
    ]
    assert [item["promptTokens"] for item in lab.get("/usage", "vera")["items"]] == [10], "only one's own tenants"
    assert lab.get("/tenants/research/usage?since=2024-10-05", "vera")["items"] == []
    assert send(batch(3, key="judge", estimated=True)) == 200
    told = lab.get("/tenants/research/usage?by=key", "vera")["items"]
    assert [(item["key"], item["promptTokens"], item["estimated"]) for item in told] == [("judge", 10, 1), ("k", 10, 0)]
    assert lab.ask("GET", "/tenants/vision/usage", "vera").status_code == 404
    assert lab.ask("GET", "/usage?since=2024-13-77").status_code == 422
