"""Every route, as everybody who has no business there: refused, noted in the audit, and nothing of another tenant in any answer."""

import json
import re

import pytest
from starlette.routing import Route as Mounted
from tests.api.lab import Lab, Reader, problem

from plenum.api.routes import ROUTES, Reach, Route

SECRET = "hush"
"""Stands in everything that belongs to tenant vision, and in nothing else."""

IDS = [f"{route.method} {route.path}" for route in ROUTES]

VALUES = {
    "tenant": "vision",
    "name": SECRET,
    "user": f"{SECRET}-user",
    "fleet": "hall",
    "node": "n1",
    "agent": "agent-2",
    "gateway": "edge-2",
}


@pytest.fixture(scope="module")
def busy(lab: Lab) -> Lab:
    """Both tenants have jobs that run and jobs that wait for each other's; vision's all say so by their names."""
    lab.apply_fleet()
    lab.ask("PUT", f"/users/{VALUES['user']}", json={"spec": {"grants": [{"role": "viewer", "tenant": "vision"}]}})
    lab.tokens["hush"] = lab.issue(VALUES["user"], note=SECRET)
    # First the one that needs a node of its own.
    lab.submit(SECRET, "vision", plural="trainingjobs", resources={"gpu": 8}, run={"simulate": {"duration": "1h"}})
    lab.wait_for_phase(f"vision/{SECRET}", "Running")
    for plural in ("trainingjobs", "tasks", "endpoints"):
        spec = {"resources": {"gpu": 2}, "run": {"simulate": {"duration": "1h"}}}
        lab.submit(f"{SECRET}-{plural}", "vision", plural=plural, **spec)
        lab.wait_for_phase(f"vision/{SECRET}-{plural}", "Running")
    lab.submit(f"{SECRET}-model", "vision", plural="endpoints", model="x", engine="vllm", attach=["http://127.0.0.1:9"])
    lab.tokens["hush-key"] = lab.ask("POST", "/tenants/vision/keys", json={"note": SECRET}).json()["metadata"]["name"]
    lab.submit("waits", plural="trainingjobs", resources={"gpu": 8}, run={"simulate": {"duration": "1h"}})
    lab.wait(lambda: lab.service.state.jobs["research/waits"].waiting is not None)
    lab.ask("GET", f"/tenants/vision/trainingjobs/{SECRET}", "max")
    return lab


def path_of(route: Route, lab: Lab) -> str:
    own = {"token": lab.tokens["hush"].split("_")[1], "key": lab.tokens["hush-key"]}
    values = VALUES | own | {"position": str(_decision(lab))}
    return re.sub(r"{(\w+)}", lambda match: values[match[1]], route.path)


def _decision(lab: Lab) -> int:
    """Return the position of a decision that was about a job of vision alone."""
    records = lab.run(lab.service.read(0, 10_000, subject="decisions"))
    return next(r.position for r in records if b'"considered":["vision/' in r.body and b"research/" not in r.body)


def test_the_table_is_the_application(lab: Lab) -> None:
    mounted = {
        (method, route.path) for route in lab.app.routes if isinstance(route, Mounted) for method in route.methods or ()
    }
    declared = {(route.method, route.path) for route in ROUTES}
    assert mounted == declared | {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json")}


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
@pytest.mark.parametrize("who", [None, "expired", "revoked", "forged"])
def test_who_cannot_prove_who_they_are_is_refused_everywhere(busy: Lab, route: Route, who: str | None) -> None:
    before = _times(busy, route, "auth.")
    answer = busy.ask(route.method, path_of(route, busy), who)
    assert answer.status_code == 401
    told = problem(answer)
    assert told["code"] == {None: "auth.required", "expired": "auth.expired"}.get(who, "auth.invalid")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert _times(busy, route, "auth.") == before + 1


MAY_VIEW = {
    "jobs:read",
    "tenants:read",
    "self:read",
    "events:read",
    "decisions:read",
    "usage:read",
    "keys:read",
    "users:read",
    "tokens:read",
}


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
def test_a_viewer_changes_nothing_in_their_own_tenant(busy: Lab, route: Route) -> None:
    own = path_of(route, busy).replace("/vision", "/research").replace(SECRET, "waits")
    before = busy.service.state.position
    answer = busy.ask(route.method, own, "vera", json=_body(route) if route.method != "GET" else None)
    if route.action in MAY_VIEW:
        assert answer.status_code in (200, 404), answer.text
        return
    assert answer.status_code in (403, 404), (answer.status_code, answer.text)
    assert _about(busy, "user/vera", route), "the refusal is not in the audit"
    changed = [r for r in busy.run(busy.service.read(before, 1000)) if r.actor == "user/vera" and r.type != "Refused"]
    assert not changed


def _body(route: Route) -> dict:
    bodies = {
        "putTenant": {"spec": {}},
        "putUser": {"spec": {"grants": [{"role": "admin", "tenant": "research"}]}},
        "createToken": {"user": VALUES["user"]},
        "putFleet": {"spec": {"nodes": [{"name": "n9", "template": "dgx-h100"}]}},
        "joinAgent": {"agent": "agent-2", "address": "127.0.0.1", "manifest": "kind: Fleet"},
        "syncAgent": {"agent": "agent-2"},
        "createKey": {"note": "sneaky"},
    }
    if route.name.startswith("create") and route.name not in ("createToken", "createKey"):
        return {"metadata": {"name": "sneaky"}, "spec": {}}
    return bodies.get(route.name, {"spec": {}} if route.name.startswith("put") else {})


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
@pytest.mark.parametrize("who", ["max", "ada", "noel"])
def test_the_wrong_tenant_sees_and_does_nothing(busy: Lab, route: Route, who: str) -> None:
    if (who, route.name) == ("ada", "putUser"):
        pytest.skip("an admin may give anybody a role in their own tenant; see test_people.py")
    before = busy.service.state.position
    path, body = path_of(route, busy), json.dumps(_body(route) if route.method != "GET" else None)
    answer = busy.ask(route.method, path, who, content=body)
    if "{" in route.path or route.method != "GET":
        like = busy.ask(route.method, _absent(path, busy), who, content=_absent(body, busy))
        assert _absent(answer.text, busy) == like.text, "what is another tenant's must look as what is not there"
    if route.reach is Reach.SELF or (
        route.reach in (Reach.EACH, Reach.ACCOUNT) and "{" not in route.path and route.method == "GET"
    ):
        assert answer.status_code == 200
    else:
        assert answer.status_code in (403, 404), (answer.status_code, answer.text)
    if route.reach in (Reach.TENANT, Reach.CLUSTER, Reach.AGENT, Reach.JOIN, Reach.GATEWAY):
        assert _about(busy, f"user/{who}", route), "the refusal is not in the audit"
    written = busy.run(busy.service.read(before, 1000))
    assert not [r for r in written if r.actor == f"user/{who}" and r.type != "Refused"]


def _absent(text: str, lab: Lab) -> str:
    """Return a text with other names of the same length, which nothing has, for all that belongs to vision."""
    text = (
        text.replace("vision", "visiun")
        .replace(lab.tokens["hush"].split("_")[1], "nosuchtoken1")
        .replace(lab.tokens["hush-key"], "nosuchkey123")
        .replace(SECRET, "hosh")
    )
    return re.sub(rf"((decisions|events)/|at ){_decision(lab)}\b", r"\g<1>999999", text)


def test_an_absent_tenant_and_a_foreign_one_look_the_same(busy: Lab) -> None:
    foreign = busy.ask("GET", f"/tenants/vision/tasks/{SECRET}-tasks", "max").json()
    absent = busy.ask("GET", f"/tenants/nobody/tasks/{SECRET}-tasks", "max").json()
    same = {key: absent[key] for key in ("type", "title", "status", "code")}
    assert same == {key: foreign[key] for key in same}
    assert foreign["detail"].replace("vision", "nobody") == absent["detail"]


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
@pytest.mark.parametrize("who", ["agent", "join", "gateway"])
def test_tokens_of_machines_open_their_own_doors_alone(busy: Lab, route: Route, who: str) -> None:
    if (who, route.name) == ("join", "joinAgent"):
        return
    answer = busy.ask(route.method, path_of(route, busy), who, json=_body(route) if route.method != "GET" else None)
    assert answer.status_code == 403, answer.text
    assert _about(busy, {"agent": "agent/agent-1", "gateway": "gateway/edge-1"}.get(who, "join/"), route)


@pytest.mark.parametrize("who", ["max", "ada", "noel"])
@pytest.mark.parametrize(
    "path",
    [
        "/tasks", "/trainingjobs", "/endpoints", "/events?limit=1000", "/decisions?limit=1000", "/tenants", "/users", "/tokens",
        "/utilisation", "/keys", "/usage", "/gateways",
    ],
)  # fmt: skip
def test_lists_show_nothing_of_the_other_tenant(busy: Lab, path: str, who: str) -> None:
    answer = busy.ask("GET", path, who)
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert "vision" not in answer.text


def test_explanations_do_not_name_the_other_tenant_s_jobs(busy: Lab) -> None:
    path = "/tenants/research/trainingjobs/waits"
    operator = busy.ask("GET", f"{path}/explain").text
    assert f"vision/{SECRET}" in operator, "the job must wait for one of the other tenant, or nothing is tested"
    for what in ("", "/explain", "/why"):
        answer = busy.ask("GET", path + what, "vera")
        assert answer.status_code == 200
        assert SECRET not in answer.text
        assert "vision" not in answer.text
    assert "another tenant's job" in busy.ask("GET", f"{path}/explain", "vera").text


def test_a_watch_shows_nothing_of_the_other_tenant(busy: Lab) -> None:
    async def watched() -> str:
        async with Reader(busy.app, "/events?watch=true", busy.tokens["max"]) as reader:
            assert await reader.start() == 200
            await busy.send("PUT", f"/tenants/vision/tasks/{SECRET}-new", "wei", json={"spec": {}})
            await busy.send("PUT", "/tenants/research/tasks/seen", "max", json={"spec": {}})
            return await reader.read_until('"job":"research/seen"')

    text = busy.run(watched())
    assert "research/seen" in text
    assert SECRET not in text
    assert "vision" not in text


def test_decisions_are_cut_to_one_s_own_jobs(busy: Lab) -> None:
    considered = [
        job for item in busy.get("/decisions?limit=1000", "vera")["items"] for job in item.get("considered", ())
    ]
    assert considered
    assert all(job.startswith("research/") for job in considered)
    everything = json.dumps(busy.get("/decisions?limit=1000"))
    assert f"vision/{SECRET}" in everything


def test_the_log_never_shows_a_token_s_hash(busy: Lab) -> None:
    hashes = list(busy.service.state.token_by_hash)
    text = busy.ask("GET", "/events?limit=1000&type=TokenIssued").text + busy.ask("GET", "/tokens?limit=1000").text
    assert "TokenIssued" in text
    assert not [h for h in hashes if h in text]
    dry = busy.ask("POST", "/tokens?dryRun=true", json={"user": "max"})
    assert "hash" not in dry.text


def _times(lab: Lab, route: Route, code: str) -> int:
    return sum(
        refused.times
        for _, refused in lab.refusals()
        if refused.verb == route.method and refused.path == path_of(route, lab) and refused.code.startswith(code)
    )


def _about(lab: Lab, actor: str, route: Route) -> bool:
    pattern = re.sub(r"{\w+}", "[^/]+", route.path)
    return any(
        who.startswith(actor) and refused.verb == route.method and re.fullmatch(pattern, refused.path)
        for who, refused in lab.refusals()
    )
