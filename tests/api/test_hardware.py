"""Fleets, nodes and agents over HTTP."""

import asyncio

import msgspec
import pytest
from tests.api.lab import FLEET, Lab, problem

from plenum.control.protocol import SyncRequest, SyncResponse

HOST = "apiVersion: plenum.dev/v1alpha1\nkind: Fleet\nmetadata: {name: host-%s}\nspec:\n  nodes:\n    - {name: %s, template: t}\n  templates:\n    t: {budgets: {cpu: 4, memory: 8GiB}}\n"  # noqa: E501


@pytest.fixture(scope="module", autouse=True)
def fleet(lab: Lab) -> None:
    lab.apply_fleet()


def test_a_fleet_is_shown_as_it_was_written(lab: Lab) -> None:
    shown = lab.get("/fleets/hall")
    assert shown["spec"]["nodes"] == [{"names": ["n1", "n2"], "template": "box"}]
    assert (shown["status"]["driver"], shown["status"]["nodes"]) == ("simulated", 2)
    lab.wait(lambda: lab.service.state.nodes["n1"].phase == "Ready")
    (item,) = lab.get("/fleets")["items"]
    assert (item["status"]["ready"], "spec" in item) == (2, False)


def test_a_fleet_is_the_same_from_json_and_from_yaml(lab: Lab) -> None:
    before = lab.get("/fleets/hall")
    answer = lab.ask("PUT", "/fleets/hall", json=before)
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_dry_run_of_a_fleet_tells_what_differs(lab: Lab) -> None:
    text = FLEET.replace("[n1, n2]", "[n1, n2, n3]")
    told = lab.ask("PUT", "/fleets/hall?dryRun=true", content=text, headers={"content-type": "application/yaml"}).json()
    assert [change["type"] for change in told["changes"]] == ["FleetApplied"]
    assert told["diff"][0]["path"] == "spec.nodes"
    assert "n3" not in lab.service.state.nodes


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: *a\n",
        "spec: !!python/object/apply:os.system [id]\n",
        "{" * 200,
        "spec: {nodes: []}\n",
        "spec: {nodes: [{name: n1, template: nothing}]}\n",
        "kind: Task\nspec: {}\n",
        "---\nspec: {}\n---\nspec: {}\n",
        "spec: {nodes: [{name: n1, template: box, surprise: 1}]}\n",
        "metadata: {name: other}\nspec: {nodes: [{name: x1, template: dgx-h100}]}\n",
        "- a\n- b\n",
        "spec: [unclosed\n",
        "\x00",
    ],
)
def test_yaml_that_is_no_fleet(lab: Lab, text: str) -> None:
    answer = lab.ask("PUT", "/fleets/hall", content=text, headers={"content-type": "application/yaml"})
    assert answer.status_code in (400, 422), answer.text
    problem(answer)


def test_a_fleet_that_yaml_could_not_hold_never_reaches_the_log(lab: Lab) -> None:
    body = {"metadata": {"labels": {"x": "\x7f\x85"}}, "spec": {"nodes": [{"name": "z1", "template": "dgx-h100"}]}}
    answer = lab.ask("PUT", "/fleets/odd", json=body)
    assert answer.status_code in (201, 400, 422)
    if answer.status_code == 201:
        assert lab.get("/fleets/odd")["metadata"]["labels"] == {"x": "\x7f\x85"}


def test_nodes_are_listed_cordoned_and_drained(lab: Lab) -> None:
    lab.submit("on-a-node", resources={"gpu": 1}, run={"simulate": {"duration": "1h"}})
    lab.wait_for_phase("research/on-a-node", "Running")
    node = lab.get("/tenants/research/tasks/on-a-node")["status"]["runs"][0]["node"]
    seen = lab.get(f"/nodes/{node}")
    assert [run["job"] for run in seen["status"]["running"]] == ["research/on-a-node"]
    cordoned = lab.ask("POST", f"/nodes/{node}/cordon", json={"why": "fans", "drain": True})
    assert cordoned.json()["status"]["draining"] is True
    assert [item["metadata"]["name"] for item in lab.get("/nodes?cordoned=true")["items"]] == [node]
    lab.wait(lambda: not lab.service.state.by_node[node])
    lab.wait_for_phase("research/on-a-node", "Running")
    assert lab.ask("POST", f"/nodes/{node}/uncordon").json()["status"]["cordoned"] is False
    assert lab.ask("POST", "/nodes/nowhere/cordon").status_code == 404
    assert lab.ask("POST", f"/nodes/{node}/cordon", json={"why": "\n"}).status_code == 422
    assert problem(lab.ask("DELETE", "/fleets/hall"))["code"] == "resource.conflict"


def test_utilisation_is_cut_to_one_s_tenants(lab: Lab) -> None:
    everything, own = lab.get("/utilisation"), lab.get("/utilisation", "vera")
    assert everything["resources"]["gpu_milli"]["total"] == 16_000
    assert [row["name"] for row in own["tenants"]] == ["research"]
    assert "resources" not in own


# -- agents -----------------------------------------------------------------------------------------


def join(lab: Lab, who: str, agent: str, address: str = "127.0.0.1", manifest: str = ""):
    body = {"agent": agent, "address": address, "manifest": manifest or HOST % (agent, agent)}
    return lab.ask("POST", "/agents", who, json=body)


def test_an_agent_joins_and_speaks(lab: Lab) -> None:
    joined = join(lab, "join", "host-1")
    assert joined.status_code == 201, joined.text
    token = joined.json()["token"]
    assert lab.service.state.fleets["host-host-1"].agent == "host-1"
    request = msgspec.json.encode(SyncRequest(agent="host-1", nodes=("host-1",)))
    answer = lab.ask("POST", "/agents/host-1/sync", token, content=request)
    assert answer.status_code == 200, answer.text
    assert msgspec.json.decode(answer.content, type=SyncResponse).orders == {}
    lab.wait(lambda: lab.service.state.nodes["host-1"].phase == "Ready")
    assert lab.ask("POST", "/agents/host-2/sync", token, content=request).status_code == 403
    assert problem(lab.ask("POST", "/agents/host-1/sync", token, json={"agent": "host-2"}))["field"] == "agent"
    assert lab.ask("POST", "/agents/host-1/sync", "root", content=request).status_code == 403
    for body in (b"", b"{", b"[]", b'{"agent":1}', b'{"agent":"host-1","reports":[{}]}'):
        assert lab.ask("POST", "/agents/host-1/sync", token, content=body).status_code in (400, 422)


def test_a_join_token_does_not_let_anybody_pass_for_an_agent_that_is_there(lab: Lab) -> None:
    first = join(lab, "join", "host-3")
    again = join(lab, "join", "host-3")
    assert (first.status_code, again.status_code) == (201, 409)
    bound = lab.ask("POST", "/tokens", json={"kind": "join", "user": "host-3"}).json()["secret"]
    assert join(lab, bound, "host-3").status_code == 201
    assert join(lab, bound, "host-4").status_code == 403


def test_an_agent_says_anew_what_its_host_is_with_its_own_token(lab: Lab) -> None:
    token = join(lab, "join", "host-6").json()["token"]
    before = len(lab.service.state.tokens)
    again = join(lab, token, "host-6", "192.0.2.6", HOST % ("host-6", "host-6b"))
    assert (again.status_code, again.json()["token"]) == (201, "")
    assert len(lab.service.state.tokens) == before
    fleet = lab.service.state.fleets["host-host-6"]
    assert (fleet.nodes, fleet.address) == (("host-6b",), "192.0.2.6")
    assert join(lab, token, "host-7").status_code == 403


def test_of_two_who_join_at_once_under_one_name_one_is_let_in(lab: Lab) -> None:
    body = {"agent": "host-5", "address": "127.0.0.1", "manifest": HOST % ("host-5", "host-5")}

    async def both() -> list[int]:
        answers = await asyncio.gather(*(lab.send("POST", "/agents", "join", json=body) for _ in range(2)))
        return sorted(answer.status_code for answer in answers)

    assert lab.run(both()) == [201, 409]


def test_a_join_token_takes_nobody_s_fleet(lab: Lab) -> None:
    answer = join(lab, "join", "thief", manifest=FLEET)
    assert (answer.status_code, problem(answer)["code"]) == (409, "resource.conflict")
    assert lab.service.state.fleets["hall"].agent == "simulated/hall"


@pytest.mark.parametrize(
    ("agent", "address", "manifest"),
    [
        ("../x", "127.0.0.1", ""),
        ("good", "127.0.0.1; rm", ""),
        ("good", "a\nb", ""),
        ("good", "", ""),
        ("good", "127.0.0.1", "kind: Fleet"),
        ("good", "127.0.0.1", "x: &a 1\ny: *a"),
        ("good", "127.0.0.1", HOST % ("a", "a") + "---\n" + HOST % ("b", "b")),
    ],
)
def test_a_join_that_cannot_be_meant(lab: Lab, agent: str, address: str, manifest: str) -> None:
    answer = join(lab, "join", agent, address, manifest)
    assert answer.status_code in (400, 422), answer.text
    assert not [t for t in lab.service.state.tokens.values() if t.user == agent]
