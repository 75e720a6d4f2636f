"""Tenants, users and tokens: who may give what to whom."""

from pathlib import Path

import pytest
from tests.api.lab import Lab, problem

from plenum.bootstrap.apply import apply_files


def grants(*pairs: tuple[str, str]) -> dict:
    return {"spec": {"grants": [{"role": role, "tenant": tenant} for role, tenant in pairs]}}


def test_an_operator_makes_a_tenant_and_changes_it(lab: Lab) -> None:
    body = {"spec": {"quota": {"gpu": 8, "memory": "1TiB"}, "maxJobs": 5}, "metadata": {"labels": {"floor": "2"}}}
    made = lab.ask("PUT", "/tenants/sales", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["spec"] == {"quota": {"gpu_milli": 8000, "memory_bytes": 2**40}, "maxJobs": 5}
    etag = made.headers["etag"]
    told = lab.ask("PUT", "/tenants/sales?dryRun=true", json={"spec": {"maxJobs": 6}}).json()
    assert {"path": "spec.maxJobs", "from": 5, "to": 6} in told["diff"]
    assert lab.ask("PUT", "/tenants/sales", json={"spec": {}}, headers={"if-match": etag}).status_code == 200
    assert lab.ask("PUT", "/tenants/sales", json={"spec": {}}, headers={"if-match": etag}).status_code == 412
    assert lab.ask("DELETE", "/tenants/sales").status_code == 200
    assert lab.ask("GET", "/tenants/sales").status_code == 404


def test_an_admin_sets_their_tenants_experiments_and_nothing_else_of_it(lab: Lab) -> None:
    attached = {"model": "x", "engine": "vllm", "attach": ["http://127.0.0.1:9"]}
    lab.submit("chat", plural="endpoints", **attached)
    tone = {"name": "tone", "model": "helper", "goodEnough": 0.7, "arms": [{"name": "plain", "model": "chat"}]}
    moderation = {"url": "http://127.0.0.1:9/v1/moderations"}
    assert lab.ask("PUT", "/tenants/research", json={"spec": {"quota": {"gpu": 8}}}).status_code == 200
    spec = lab.get("/tenants/research")["spec"]

    changed = lab.ask("PUT", "/tenants/research", "ada", json={"spec": {**spec, "experiments": [tone]}})

    assert changed.status_code == 200, changed.text
    assert changed.json()["spec"] == {**spec, "experiments": [tone]}
    for more in ({"maxJobs": 9}, {"quota": {}}, {"moderation": moderation}):
        refused = lab.ask("PUT", "/tenants/research", "ada", json={"spec": {**spec, "experiments": [tone], **more}})
        assert (refused.status_code, problem(refused)["code"]) == (403, "auth.forbidden")
    assert lab.ask("PUT", "/tenants/research", "max", json={"spec": spec}).status_code == 403
    refused = problem(lab.ask("PUT", "/tenants/research", "max", json={"spec": spec}))
    assert "a change of the tenant itself; its admins change its spec.experiments" in refused["detail"]
    assert lab.ask("PUT", "/tenants/vision", "ada", json={"spec": {"experiments": [tone]}}).status_code == 404
    moderated = lab.ask("PUT", "/tenants/research", json={"spec": {**spec, "moderation": moderation}}).json()["spec"]
    assert moderated == {**spec, "moderation": moderation}
    wrong = {**tone, "arms": [{"name": "a", "model": "gone"}]}
    refused = lab.ask("PUT", "/tenants/research", "ada", json={"spec": {**moderated, "experiments": [wrong]}})
    assert problem(refused)["field"] == "spec.experiments[0].arms[0].model"


TOGETHER = """
apiVersion: plenum.dev/v1alpha1
kind: Tenant
metadata: {name: green}
spec:
  maxJobs: 3
  experiments: [{name: tone, model: helper, arms: [{name: plain, model: chat}]}]
---
apiVersion: plenum.dev/v1alpha1
kind: Endpoint
metadata: {name: chat, tenant: green}
spec: {model: x, engine: vllm, attach: ["http://127.0.0.1:9"]}
"""


def test_a_tenant_s_experiments_come_with_the_endpoints_that_they_name(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "green.yaml"
    file.write_text(TOGETHER)
    assert lab.run(apply_files(lab.service, (str(file),), "root")) == ["Tenant green", "Endpoint chat", "Tenant green"]
    spec = lab.get("/tenants/green")["spec"]
    assert (spec["maxJobs"], spec["experiments"][0]["name"]) == (3, "tone")
    assert lab.run(apply_files(lab.service, (str(file),), "root")) == [], (
        "experiments that run are not ended for a while"
    )


def test_a_tenant_with_live_jobs_stays(lab: Lab) -> None:
    lab.ask("PUT", "/tenants/full", json={"spec": {}})
    lab.submit("job", "full")
    assert problem(lab.ask("DELETE", "/tenants/full"))["code"] == "resource.conflict"


def test_a_limit_on_jobs_is_kept(lab: Lab) -> None:
    lab.ask("PUT", "/tenants/small", json={"spec": {"maxJobs": 1}})
    lab.submit("one", "small")
    answer = lab.ask("PUT", "/tenants/small/tasks/two", json={"spec": {}})
    assert (answer.status_code, problem(answer)["code"]) == (429, "limit.reached")


def test_an_admin_gives_roles_in_their_own_tenants_alone(lab: Lab) -> None:
    assert lab.ask("PUT", "/users/new", "ada", json=grants(("viewer", "research"))).status_code == 201
    assert lab.ask("PUT", "/users/new", "ada", json=grants(("admin", "research"))).status_code == 200
    for wrong in (("viewer", "vision"), ("operator", "*")):
        answer = lab.ask("PUT", "/users/new", "ada", json=grants(("viewer", "research"), wrong))
        assert answer.status_code == 404, answer.text
    assert lab.ask("PUT", "/users/newer", "max", json=grants(("viewer", "research"))).status_code == 404
    assert lab.ask("PUT", "/users/ada", "ada", json=grants(("operator", "*"))).status_code == 404


def test_an_admin_leaves_grants_elsewhere_as_they_are_and_does_not_see_them(lab: Lab) -> None:
    lab.ask("PUT", "/users/both", json=grants(("member", "vision"), ("viewer", "research")))
    changed = lab.ask("PUT", "/users/both", "ada", json=grants(("member", "research")))
    assert changed.json()["spec"]["grants"] == [{"role": "member", "tenant": "research"}]
    seen = lab.get("/users/both")["spec"]["grants"]
    assert seen == [{"role": "member", "tenant": "research"}, {"role": "member", "tenant": "vision"}]
    assert lab.ask("DELETE", "/users/both", "ada").status_code == 404, "more than theirs goes with it"
    assert lab.ask("PUT", "/users/both", "ada", json=grants()).status_code == 200
    assert lab.ask("GET", "/users/both", "ada").status_code == 404


def test_tokens_that_are_worth_more_than_the_admin_are_not_theirs_to_issue(lab: Lab) -> None:
    lab.ask("PUT", "/users/wide", json=grants(("viewer", "research"), ("viewer", "vision")))
    lab.ask("PUT", "/users/empty", json=grants())
    for user in ("wide", "empty", "root", "wei", "nobody"):
        answer = lab.ask("POST", "/tokens", "ada", json={"user": user})
        assert answer.status_code == 404, (user, answer.text)
    assert lab.ask("POST", "/tokens", "ada", json={"user": "vera"}).status_code == 201
    assert lab.ask("POST", "/tokens", "ada", json={"kind": "join"}).status_code == 403


def test_a_token_is_shown_once_works_and_can_be_revoked(lab: Lab) -> None:
    made = lab.ask("POST", "/tokens", json={"user": "max", "note": "laptop", "expiresInS": 3600})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    token = made.json()
    name, secret = token["metadata"]["name"], token["secret"]
    assert lab.get("/whoami", secret)["name"] == "max"
    assert lab.get("/whoami", secret)["expiresAt"] == token["spec"]["expiresAt"]
    assert secret not in lab.ask("GET", "/tokens").text + lab.ask("GET", "/events?limit=1000").text
    assert lab.ask("DELETE", f"/tokens/{name}", "wei").status_code == 404
    assert lab.ask("DELETE", f"/tokens/{name}", "max").status_code == 200
    assert problem(lab.ask("GET", "/whoami", secret))["code"] == "auth.invalid"


def test_a_token_expires(lab: Lab) -> None:
    secret = lab.ask("POST", "/tokens", json={"user": "max", "expiresInS": 60}).json()["secret"]
    assert lab.ask("GET", "/whoami", secret).status_code == 200
    lab.clock.ahead_s = 61.0
    answer = lab.ask("GET", "/whoami", secret)
    lab.clock.ahead_s = 0.0
    assert problem(answer)["code"] == "auth.expired"


def test_whoever_found_a_short_token_gets_no_long_one_for_it(lab: Lab) -> None:
    short = lab.issue("max", expires_at=lab.clock.now() + 60)
    longer = lab.ask("POST", "/tokens", short, json={"user": "max", "expiresInS": 86_400}).json()
    forever = lab.ask("POST", "/tokens", short, json={"user": "max"}).json()
    end = lab.get("/whoami", short)["expiresAt"]
    assert longer["spec"]["expiresAt"] == forever["spec"]["expiresAt"] == end


def test_a_repeated_request_does_not_answer_with_a_secret_that_is_not_the_token_s(lab: Lab) -> None:
    key = {"idempotency-key": "token-once"}
    first = lab.ask("POST", "/tokens", json={"user": "max"}, headers=key)
    again = lab.ask("POST", "/tokens", json={"user": "max"}, headers=key)
    assert (first.status_code, again.status_code, problem(again)["code"]) == (201, 409, "token.shown")


def test_tokens_of_a_user_who_is_deleted_end(lab: Lab) -> None:
    lab.ask("PUT", "/users/gone", json=grants(("viewer", "research")))
    secret = lab.issue("gone")
    assert lab.ask("GET", "/whoami", secret).status_code == 200
    assert lab.ask("DELETE", "/users/gone", "ada").status_code == 200
    assert lab.ask("GET", "/whoami", secret).status_code == 401


def test_a_role_that_is_taken_away_is_gone_at_once(lab: Lab) -> None:
    lab.ask("PUT", "/users/brief", json=grants(("viewer", "research")))
    secret = lab.issue("brief")
    assert lab.ask("GET", "/tenants/research", secret).status_code == 200
    lab.ask("PUT", "/users/brief", json=grants())
    assert lab.ask("GET", "/tenants/research", secret).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": "max", "expiresInS": -1}, "expiresInS"),
        ({"user": "max", "kind": "agent"}, "kind"),
        ({"user": "max", "note": "a\nb"}, "note"),
        ({"user": "max", "note": "x" * 201}, "note"),
        ({"user": ""}, "user"),
        ({"user": "../etc"}, "user"),
        ({"user": 7}, "user"),
        ({"user": "nobody"}, "user"),
        ({"more": 1}, "body"),
    ],
)
def test_a_token_that_cannot_be_meant(lab: Lab, body: dict, field: str) -> None:
    answer = lab.ask("POST", "/tokens", json=body)
    assert (answer.status_code, problem(answer)["field"]) == (422, field)


def test_everybody_sees_themselves(lab: Lab) -> None:
    assert [item["metadata"]["name"] for item in lab.get("/users", "wei")["items"]] == ["wei"]
    assert {item["spec"]["user"] for item in lab.get("/tokens", "wei")["items"]} == {"wei"}
    assert lab.get("/users/noel", "noel")["spec"]["grants"] == []
    assert lab.get("/tenants", "noel")["items"] == []
