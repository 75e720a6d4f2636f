"""Jobs over HTTP: made, read, changed, deleted, listed, explained."""

import json

import pytest
from tests.api.lab import Lab, problem

pytestmark = pytest.mark.usefixtures("fleet")

ONE_GPU = {"resources": {"gpu": 0.1}, "run": {"simulate": {"duration": "1h"}}}


@pytest.fixture(scope="module")
def fleet(lab: Lab) -> None:
    lab.apply_fleet()


def path(name: str, plural: str = "tasks", tenant: str = "research") -> str:
    return f"/tenants/{tenant}/{plural}/{name}"


def test_a_job_runs_and_shows_where(lab: Lab) -> None:
    made = lab.ask("PUT", path("runs"), "max", json={"spec": ONE_GPU, "metadata": {"labels": {"team": "a"}}})
    assert made.status_code == 201
    assert made.headers["location"] == "/v1alpha1/tenants/research/tasks/runs"
    lab.wait_for_phase("research/runs", "Running")
    job = lab.get(path("runs"), "vera")
    assert job["kind"] == "Task"
    assert job["metadata"]["labels"] == {"team": "a"}
    assert job["metadata"]["createdBy"] == "user/max"
    assert job["spec"] == ONE_GPU
    assert job["status"]["replicas"] == {"wanted": 1, "bound": 1, "running": 1, "succeeded": 0, "failed": 0}
    (run,) = job["status"]["runs"]
    assert (run["slot"], run["phase"], run["node"] in ("n1", "n2"), len(run["gpus"])) == (
        "worker-0",
        "running",
        True,
        1,
    )


def test_an_answer_says_at_which_position_it_is_durable(lab: Lab) -> None:
    made = lab.ask("PUT", path("durable"), json={"spec": ONE_GPU})
    position = int(made.headers["x-plenum-position"])
    record = lab.run(lab.service.read(position - 1, 1))[0]
    assert (record.type, record.subject, record.actor) == ("JobSubmitted", "job/research/durable", "user/root")


def test_the_trace_of_the_request_becomes_the_job_s(lab: Lab) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    made = lab.ask(
        "PUT", path("traced"), json={"spec": ONE_GPU}, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    )
    assert made.json()["metadata"]["traceId"] == trace


def test_yaml_is_read_as_json_is(lab: Lab) -> None:
    text = "kind: TrainingJob\nmetadata: {name: written}\nspec:\n  replicas: 2\n  resources: {gpu: 4}\n"
    made = lab.ask("PUT", path("written", "trainingjobs"), content=text, headers={"content-type": "application/yaml"})
    assert made.status_code == 201, made.text
    assert made.json()["spec"] == {"replicas": 2, "resources": {"gpu": 4}}


def test_a_line_of_yaml_is_named(lab: Lab) -> None:
    told = problem(
        lab.ask("PUT", path("x"), content="spec:\n  replicas: many\n", headers={"content-type": "text/yaml"})
    )
    assert told["code"] == "manifest.invalid"
    assert "replicas" in told["field"]


def test_what_was_read_can_be_applied_again_without_a_change(lab: Lab) -> None:
    lab.submit("again", **ONE_GPU)
    lab.wait_for_phase("research/again", "Running")
    seen = lab.get(path("again"))
    answer = lab.ask("PUT", path("again"), json=seen)
    assert answer.status_code == 200
    assert answer.json()["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"]


def test_create_refuses_a_name_that_is_taken(lab: Lab) -> None:
    body = {"metadata": {"name": "only-once"}, "spec": ONE_GPU}
    first = lab.ask("POST", "/tenants/research/tasks", json=body)
    assert (first.status_code, first.headers["location"]) == (201, "/v1alpha1/tenants/research/tasks/only-once")
    second = lab.ask("POST", "/tenants/research/tasks", json=body)
    assert (second.status_code, problem(second)["code"]) == (409, "resource.conflict")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "Endpoint", "spec": {}}, "kind"),
        ({"metadata": {"name": "other"}, "spec": {}}, "metadata.name"),
        ({"metadata": {"tenant": "vision"}, "spec": {}}, "metadata.tenant"),
        ({"spec": {"replicas": -1}}, "spec.replicas"),
        ({"spec": {"nonsense": 1}}, "spec.nonsense"),
        ({"apiVersion": "v1", "spec": {}}, "apiVersion"),
        ({"spec": {"roles": [{"name": "a/../../b"}]}}, "spec.roles.name"),
        ({"spec": {"roles": [{"name": "w\u00f6rker"}]}}, "spec.roles.name"),
    ],
)
def test_a_body_that_cannot_be_meant_names_the_field(lab: Lab, body: dict, field: str) -> None:
    answer = lab.ask("PUT", path("wrong"), json=body)
    assert (answer.status_code, problem(answer)["field"]) == (422, field)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000]
)
def test_a_body_that_is_no_manifest(lab: Lab, body: bytes) -> None:
    answer = lab.ask("PUT", path("wrong"), content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    problem(answer)


def test_a_large_manifest_is_checked_without_holding_others_up(lab: Lab) -> None:
    large = {"spec": {"run": {"command": ["true"], "env": {f"V{i}": "x" * 400 for i in range(200)}}}}
    assert lab.ask("PUT", path("large"), json=large).status_code == 201
    too_many = {"spec": {"surprise": [1] * 400_000}}
    assert lab.ask("PUT", path("larger"), json=too_many).status_code == 422


def test_a_job_is_seen_under_its_own_kind_alone(lab: Lab) -> None:
    lab.submit("a-task", **ONE_GPU)
    for method in ("GET", "DELETE"):
        assert lab.ask(method, path("a-task", "endpoints")).status_code == 404
    assert lab.ask("GET", path("a-task", "endpoints") + "/explain").status_code == 404


# -- versions ---------------------------------------------------------------------------------------


def test_a_change_of_a_version_that_is_not_the_present_one_is_refused(lab: Lab) -> None:
    made = lab.submit("versions", **ONE_GPU)
    changed = {"spec": {**ONE_GPU, "priority": 3}}
    old = lab.ask("PUT", path("versions"), json=changed, headers={"if-match": '"1"'})
    assert (old.status_code, problem(old)["code"]) == (412, "resource.changed")
    lab.wait_for_phase("research/versions", "Running")
    etag = lab.ask("GET", path("versions")).headers["etag"]
    good = lab.ask("PUT", path("versions"), json=changed, headers={"if-match": etag})
    assert good.status_code == 200, good.text
    in_body = lab.ask("PUT", path("versions"), json={**changed, "metadata": made["metadata"]})
    assert in_body.status_code == 412
    new = lab.ask("PUT", path("versions"), json=changed, headers={"if-none-match": "*"})
    assert new.status_code == 412
    gone = lab.ask("PUT", path("not-there"), json=changed, headers={"if-match": "*"})
    assert gone.status_code == 412


@pytest.mark.parametrize("value", ["17", 'W/"17"', '"x"', '"1", "2"', '"' + "9" * 40 + '"'])
def test_a_condition_that_cannot_be_meant(lab: Lab, value: str) -> None:
    answer = lab.ask("PUT", path("versions"), json={"spec": {}}, headers={"if-match": value})
    assert (answer.status_code, problem(answer)["field"]) == (422, "If-Match")


def test_a_reader_who_has_it_already_is_told_so(lab: Lab) -> None:
    lab.submit("etag", **ONE_GPU)
    lab.wait_for_phase("research/etag", "Running")
    etag = lab.ask("GET", path("etag")).headers["etag"]
    answer = lab.ask("GET", path("etag"), headers={"if-none-match": f'"3", {etag}'})
    assert (answer.status_code, answer.content) == (304, b"")


# -- idempotency, dry runs --------------------------------------------------------------------------


def test_a_request_with_the_same_key_is_carried_out_once(lab: Lab) -> None:
    key = {"idempotency-key": "once"}
    body = {"spec": ONE_GPU}
    first = lab.ask("PUT", path("keyed"), json=body, headers=key)
    lab.ask("DELETE", path("keyed"))
    lab.wait(lambda: "research/keyed" not in lab.service.state.jobs)
    again = lab.ask("PUT", path("keyed"), json=body, headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-plenum-position"] == first.headers["x-plenum-position"]
    assert lab.ask("GET", path("keyed")).status_code == 404
    other = lab.ask("PUT", path("keyed"), json={"spec": {**ONE_GPU, "priority": 1}}, headers=key)
    assert (other.status_code, problem(other)["code"]) == (422, "idempotency.mismatch")
    somebody_else = lab.ask("PUT", path("keyed"), "max", json=body, headers=key)
    assert somebody_else.status_code == 201


def test_a_deletion_can_be_repeated(lab: Lab) -> None:
    lab.submit("deleted-once", **ONE_GPU)
    key = {"idempotency-key": "delete-it"}
    assert lab.ask("DELETE", path("deleted-once"), headers=key).status_code == 200
    lab.wait(lambda: "research/deleted-once" not in lab.service.state.jobs)
    again = lab.ask("DELETE", path("deleted-once"), headers=key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert lab.ask("DELETE", path("deleted-once")).status_code == 404


def test_a_dry_run_tells_and_writes_nothing(lab: Lab) -> None:
    lab.submit("dry", **ONE_GPU)
    lab.wait_for_phase("research/dry", "Running")
    before = lab.service.state.jobs["research/dry"].version
    told = lab.ask("PUT", path("dry") + "?dryRun=true", json={"spec": {**ONE_GPU, "priority": 7}}).json()
    assert [change["type"] for change in told["changes"]] == ["JobChanged"]
    assert told["diff"] == [{"path": "spec.priority", "from": None, "to": 7}]
    new = lab.ask("POST", "/tenants/research/tasks?dryRun=true", json={"metadata": {"name": "dry-2"}, "spec": ONE_GPU})
    assert [change["type"] for change in new.json()["changes"]] == ["JobSubmitted"]
    gone = lab.ask("DELETE", path("dry") + "?dryRun=true").json()
    assert [change["type"] for change in gone["changes"]] == ["JobStopRequested"]
    assert lab.service.state.jobs["research/dry"].version == before
    assert "research/dry-2" not in lab.service.state.jobs


# -- lists ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(lab: Lab) -> None:
    for i in range(7):
        body = {
            "metadata": {"labels": {"set": "many", "odd": str(i % 2)}},
            "spec": {"run": {"simulate": {"duration": "1h"}}},
        }
        assert lab.ask("PUT", path(f"many-{i}", "endpoints"), json=body).status_code == 201
    lab.submit("many-x", "vision", plural="endpoints")


@pytest.mark.usefixtures("many")
def test_pages_go_on_where_they_ended_while_things_change(lab: Lab) -> None:
    first = lab.get("/endpoints?limit=3")
    names = [item["metadata"]["name"] for item in first["items"]]
    assert names == ["many-0", "many-1", "many-2"]
    lab.submit("many-0a", plural="endpoints")
    lab.ask("DELETE", path("many-2", "endpoints"))
    second = lab.get(f"/endpoints?limit=3&continue={first['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in second["items"]] == ["many-3", "many-4", "many-5"]
    third = lab.get(f"/endpoints?limit=3&continue={second['metadata']['continue']}")
    assert [(i["metadata"]["tenant"], i["metadata"]["name"]) for i in third["items"]] == [
        ("research", "many-6"),
        ("vision", "many-x"),
    ]
    assert "continue" not in third["metadata"]


@pytest.mark.usefixtures("many")
def test_filters_and_fields(lab: Lab) -> None:
    odd = lab.get("/endpoints?label=odd%3D1&label=set&fields=metadata.name,status.phase")
    assert {item["metadata"]["name"] for item in odd["items"]} == {"many-1", "many-3", "many-5"}
    assert all(set(item) == {"metadata", "status"} and set(item["metadata"]) == {"name"} for item in odd["items"])
    assert lab.get("/endpoints?tenant=vision")["items"][0]["metadata"]["name"] == "many-x"
    assert lab.get("/endpoints?phase=Failed&phase=Succeeded")["items"] == []


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=ten", "limit=1&limit=2", "phase=Rnning", "unknown=1", "continue=%00", "continue=abc",
        "continue=4pyT", "fields=a..b", "fields=" + ",".join(["a"] * 33), "tenant=..", "label=" + "x" * 501, "limit=" + "9" * 400,
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_meant(lab: Lab, query: str) -> None:
    assert problem(lab.ask("GET", f"/endpoints?{query}"))["status"] == 422


@pytest.mark.usefixtures("many")
def test_a_cursor_belongs_to_its_filters(lab: Lab) -> None:
    cursor = lab.get("/endpoints?limit=1&label=set")["metadata"]["continue"]
    answer = lab.ask("GET", f"/endpoints?limit=1&continue={cursor}")
    assert problem(answer)["code"] == "request.cursor"


@pytest.mark.usefixtures("many")
def test_a_list_that_has_not_changed_is_not_sent_again(lab: Lab) -> None:
    for _ in range(100):  # what earlier tests began may still write records
        first = lab.ask("GET", "/endpoints?limit=1")
        again = lab.ask("GET", "/endpoints?limit=1", headers={"if-none-match": first.headers["etag"]})
        if first.headers["etag"] == again.headers["etag"]:
            break
    assert (again.status_code, again.content) == (304, b"")


# -- explained --------------------------------------------------------------------------------------


def test_why_a_job_waits_now_and_waited_then(lab: Lab) -> None:
    lab.submit("too-large", resources={"gpu": 16})
    lab.wait(lambda: lab.service.state.jobs["research/too-large"].waiting is not None)
    reason = lab.get(path("too-large") + "/explain", "vera")
    assert reason["code"].startswith("never.")
    why = lab.get(path("too-large") + "/why", "vera")
    assert why["agrees"] is True
    assert lab.ask("GET", path("too-large") + "/why?at=1").status_code == 404
    assert lab.ask("GET", path("too-large") + "/why?at=nan").status_code == 422


def test_every_mutation_names_its_actor(lab: Lab) -> None:
    lab.submit("actor", who="max", **ONE_GPU)
    lab.ask("DELETE", path("actor"), "ada")
    records = lab.run(lab.service.read(0, 100_000, subject="job/research/actor"))
    actors = {record.type: record.actor for record in records}
    assert (actors["JobSubmitted"], actors["JobStopRequested"]) == ("user/max", "user/ada")


def test_the_openapi_document_is_one(lab: Lab) -> None:
    document = lab.ask("GET", "/openapi.json", None).json()
    assert document["openapi"] == "3.1.0"
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"], reference
