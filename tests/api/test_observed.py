"""Health, metrics, traces, backups: what watches the control plane."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.api.lab import Lab, problem

from plenum.api.tracing import JobTracer


@pytest.fixture(scope="module", autouse=True)
def fleet(lab: Lab) -> None:
    lab.apply_fleet()


def test_health_needs_no_token_and_tells_nothing(lab: Lab) -> None:
    assert lab.ask("GET", "/healthz", None).json() == {"status": "ok", "leading": True}
    assert lab.ask("GET", "/readyz", None).json() == {"status": "ready", "leading": True}
    lab.service.ready = False
    assert lab.ask("GET", "/readyz", None).status_code == 503
    lab.service.ready = True


def test_version(lab: Lab) -> None:
    told = lab.get("/version", "noel")
    assert (told["kind"], told["leading"]) == ("Version", True)


def test_metrics_follow_the_conventions(lab: Lab) -> None:
    lab.submit("measured", run={"simulate": {"duration": "0.1s"}})
    lab.wait_for_phase("research/measured", "Succeeded")
    lab.ask("GET", "/whoami", "forged")
    answer = lab.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert all(name.startswith("plenum_") for name in families)
    assert all(family.documentation for family in families.values())
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value for family in families.values() for s in family.samples
    }
    assert samples["plenum_jobs", (("kind", "Task"), ("phase", "Succeeded"))] == 1
    assert samples["plenum_nodes", (("phase", "Ready"),)] == 2
    assert samples["plenum_capacity_gpus", ()] == 16
    assert samples["plenum_capacity_memory_bytes", ()] == 2 * 128 * 2**30
    assert samples["plenum_leader", ()] == 1
    assert samples["plenum_log_position", ()] > 0
    assert samples["plenum_queue_wait_seconds_count", (("kind", "Task"),)] == 1
    assert samples["plenum_decision_duration_seconds_count", ()] >= 1
    assert samples["plenum_jobs_ended_total", (("phase", "Succeeded"),)] == 1
    route = ("route", "/v1alpha1/tenants/{tenant}/tasks/{name}")
    assert samples["plenum_http_requests_total", (("method", "PUT"), route, ("status", "201"))] == 1
    assert samples["plenum_http_request_duration_seconds_count", (("method", "PUT"), route)] == 1
    assert samples["plenum_http_refusals_total", (("code", "auth.invalid"),)] >= 1


def test_no_label_grows_with_what_people_send(lab: Lab) -> None:
    for i in range(5):
        lab.ask(f"M{i}", f"/nothing-{i}", None)
        lab.ask("GET", f"/tenants/t{i}", None)
    text = lab.ask("GET", "/metrics").text
    assert "nothing-" not in text
    assert "M0" not in text
    assert not re.search(r"/tenants/t\d", text)


def test_the_log_is_verified_from_zero(lab: Lab) -> None:
    told = lab.ask("POST", "/admin/verify").json()
    assert told["same"] is True
    assert told["digest"] == told["rebuilt"]


def test_a_log_in_memory_has_no_backup_and_the_next_may_try(lab: Lab) -> None:
    for _ in range(2):
        answer = lab.ask("POST", "/admin/backup")
        assert (answer.status_code, problem(answer)["code"]) == (501, "store.memory")


def test_a_backup_is_sent_whole_and_leaves_nothing(lab: Lab, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 5000

    async def backup(path: str) -> None:
        with open(path, "wb") as stream:
            stream.write(content)

    monkeypatch.setattr(lab.service, "backup", backup)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    answer = lab.ask("POST", "/admin/backup")
    assert (answer.status_code, answer.content) == (200, content)
    assert list(tmp_path.iterdir()) == []
    assert lab.ask("POST", "/admin/backup", "ada").status_code == 403


# -- traces -----------------------------------------------------------------------------------------


@pytest.fixture
def spans(lab: Lab) -> Iterator:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = JobTracer(lab.service, provider)
    yield exporter
    tracer.close()


def test_spans_follow_a_job_from_submit_to_exit(lab: Lab, spans) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    body = {"spec": {"replicas": 2, "run": {"simulate": {"duration": "1s"}}}}  # or nobody may look while it runs
    lab.ask("PUT", "/tenants/research/trainingjobs/spanned", json=body, headers=headers)
    lab.wait_for_phase("research/spanned", "Succeeded")
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert set(by_name) == {"job", "queued", "starting", "running"}
    job = by_name["job"]
    assert {f"{span.context.trace_id:032x}" for span in by_name.values()} == {trace}
    assert job.parent is None
    assert {span.parent.span_id for span in by_name.values() if span is not job} == {job.context.span_id}
    assert len({span.context.span_id for span in by_name.values()}) == 4
    assert job.start_time <= by_name["queued"].start_time
    assert by_name["queued"].end_time == by_name["starting"].start_time
    assert by_name["starting"].end_time == by_name["running"].start_time
    assert by_name["running"].end_time <= job.end_time
    assert by_name["running"].end_time - by_name["running"].start_time >= 0.15e9
    assert job.attributes["plenum.job"] == "research/spanned"
    assert job.attributes["plenum.phase"] == "Succeeded"


def test_each_attempt_has_spans_and_a_failure_shows(lab: Lab, spans) -> None:
    run = {"simulate": {"duration": "0.1s", "exitCode": 3}, "restarts": 1, "backoff": "0.01s"}
    lab.submit("fails-twice", run=run)
    lab.wait_for_phase("research/fails-twice", "Failed")
    running = [span for span in spans.get_finished_spans() if span.name in ("running", "starting")]
    assert {span.attributes["plenum.attempt"] for span in running} == {1, 2}
    job = next(span for span in spans.get_finished_spans() if span.name == "job")
    assert not job.status.is_ok
    assert len({span.context.span_id for span in running}) == len(running)


def test_a_job_submitted_before_the_tracer_began_is_followed_from_there(lab: Lab, spans) -> None:
    lab.submit("earlier", run={"simulate": {"duration": "1h"}})
    lab.wait_for_phase("research/earlier", "Running")
    tracer = JobTracer(lab.service, None)
    assert tracer._jobs == {}
    lab.ask("DELETE", "/tenants/research/tasks/earlier")
    lab.wait(lambda: "research/earlier" not in lab.service.state.jobs)
    job = next(span for span in spans.get_finished_spans() if span.name == "job")
    assert job.attributes["plenum.phase"] == "Deleted"


def test_nothing_is_traced_where_nobody_says_where_to(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    listeners = len(lab.service.on_records)
    JobTracer.of_environment(lab.service).close()
    assert len(lab.service.on_records) == listeners


def test_traces_go_where_the_environment_says(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    listeners = len(lab.service.on_records)
    tracer = JobTracer.of_environment(lab.service)
    assert len(lab.service.on_records) == listeners + 1
    tracer.close()
    assert len(lab.service.on_records) == listeners
