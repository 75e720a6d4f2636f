"""The command line against a real control plane: one process, its own folder, a free port on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.patience import PATIENCE_S

from plenum.cli.exits import exit_code
from plenum.cli.root import root
from plenum.model.errors import PlenumError

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = f"{PATIENCE_S:g}s"

TENANTS = """
apiVersion: plenum.dev/v1alpha1
kind: User
metadata: {name: ada}
spec: {grants: [{role: member, tenant: research}]}
---
apiVersion: plenum.dev/v1alpha1
kind: Tenant
metadata: {name: research}
spec: {quota: {gpu: 64}}
---
apiVersion: plenum.dev/v1alpha1
kind: Tenant
metadata: {name: product}
"""


def job(name: str, spec: str, kind: str = "Task") -> str:
    return f"apiVersion: plenum.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, labels: {{suite: cli}}}}\nspec: {spec}\n"


@dataclass(frozen=True)
class Result:
    """What a command printed, and with what it exited."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Cloud:
    """A control plane, and who speaks to it."""

    address: str
    folder: Path
    env: dict[str, str] = field(repr=False)

    def run(self, *args: str, stdin: str | None = None, **env: str) -> Result:
        """Run a command in this process, as ``main`` would."""
        result = CliRunner().invoke(root, list(args), input=stdin, env={**self.env, **env})
        if isinstance(result.exception, PlenumError):
            return Result(exit_code(result.exception), result.stdout, f"{result.stderr}error: {result.exception}")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    def ok(self, *args: str, stdin: str | None = None) -> Result:
        result = self.run(*args, stdin=stdin)
        assert result.code == 0, result
        return result

    def apply(self, text: str, *args: str) -> Result:
        return self.run("apply", "-f", "-", *args, stdin=text)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    env = {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PLENUM_HOME": str(folder / "data"),
        "PLENUM_SERVER": "",
        "PLENUM_TOKEN": "",
    }
    args = [sys.executable, "-m", "plenum", "up", "--port", "0", "--quiet"]
    with (folder / "up.log").open("w+") as log:
        server = subprocess.Popen(args, env={**os.environ, **env, "PYTHONUNBUFFERED": "1"}, stdout=log, stderr=log)
        try:
            address = _address(folder / "up.log", server)
            found = Cloud(address, folder, env)
            found.ok("apply", "-f", "-", "-f", str(EXAMPLES / "fleet-lab.yaml"), stdin=TENANTS)
            found.ok("context", "local", "--tenant", "research")
            yield found
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address(log: Path, server: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"Plenum is up at (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"no control plane came up:\n{log.read_text()}")


def test_a_real_job_from_manifest_to_its_last_line(cloud: Cloud) -> None:
    text = job(
        "hello", "{replicas: 2, resources: {cpu: 10m}, run: {command: [sh, -c, 'echo out $RANK; echo err >&2']}}"
    )
    assert cloud.apply(text).out == "task/research/hello created\n"
    assert cloud.ok("wait", "hello", "--for", "Succeeded", "--timeout", PATIENCE).out.startswith(
        "research/hello: Succeeded"
    )
    assert cloud.ok("logs", "hello").out.startswith("out ")
    assert sorted(line.split(" | ")[0] for line in cloud.ok("logs", "task/hello", "--all").out.splitlines()) == [
        "worker-0",
        "worker-1",
    ]
    assert cloud.ok("logs", "hello", "--stream", "stderr", "--slot", "worker-1").out == "err\n"
    assert cloud.ok("logs", "hello", "-f", "--tail", "1").out.startswith("out ")
    row = cloud.ok("get", "tasks", "hello").out.splitlines()[1].split()
    assert row[:3] == ["hello", "Succeeded", "2/2"]
    story = cloud.ok("describe", "job", "hello").out
    for words in ("phase:      Succeeded", "submitted by operator", "worker-0 ended well", "What happened"):
        assert words in story
    assert cloud.apply(text).out == "task/research/hello unchanged\n"


def test_a_followed_log_goes_on_over_restarts_until_the_job_ends(cloud: Cloud) -> None:
    script = "'echo attempt; exit 3'"
    cloud.apply(
        job("twice", f"{{resources: {{cpu: 10m}}, run: {{command: [sh, -c, {script}], restarts: 1, backoff: 100ms}}}}")
    )
    assert cloud.ok("logs", "twice", "-f").out == "attempt\nattempt\n"
    result = cloud.run("wait", "twice", "--for", "Succeeded", "--timeout", PATIENCE)
    assert (result.code, "Failed" in result.out) == (1, True)
    assert cloud.ok("logs", "twice", "--attempt", "1").out == "attempt\n"


def test_a_change_is_shown_first_and_guarded(cloud: Cloud) -> None:
    cloud.apply(job("web", "{replicas: 2, resources: {gpu: 1}, run: {simulate: {}}}", "Endpoint"))
    written = cloud.ok("get", "endpoint", "web", "-o", "yaml").out
    dry = cloud.apply(written.replace("replicas: 2", "replicas: 3", 1), "--dry-run")
    assert "- spec.replicas: 2" in dry.out
    assert "+ spec.replicas: 3" in dry.out
    assert "nothing was written" in dry.out
    assert cloud.ok("get", "ep", "web", "-o", "json").json["spec"]["replicas"] == 2
    assert (
        cloud.apply(job("web", "{replicas: 4, resources: {gpu: 1}, run: {simulate: {}}}", "Endpoint"), "--diff").code
        == 0
    )
    stale = cloud.apply(written.replace("replicas: 2", "replicas: 5", 1))
    assert (stale.code, "standard input:1" in stale.err) == (6, True), stale
    cloud.ok("delete", "endpoint", "web", "--wait")
    assert cloud.run("get", "endpoint", "web").code == 5


def test_a_tenant_s_experiments_come_with_the_endpoints_that_they_name(cloud: Cloud) -> None:
    spec = "{experiments: [{name: tone, model: helper, arms: [{name: plain, model: chat}]}]}"
    served = "{model: x, engine: vllm, attach: ['http://127.0.0.1:9']}"
    text = job("green", spec, "Tenant") + "---\n" + job("chat, tenant: green", served, "Endpoint")
    assert "tenant/green is new" in cloud.apply(text, "--dry-run").out
    made = ["tenant/green created", "endpoint/green/chat created", "tenant/green changed"]
    assert cloud.apply(text).out.splitlines() == made
    assert cloud.apply(text).out.splitlines() == ["endpoint/green/chat unchanged", "tenant/green unchanged"]
    cloud.ok("delete", "endpoint", "green/chat")


def test_saying_no_changes_nothing(cloud: Cloud) -> None:
    folder = cloud.folder / "asked"
    folder.mkdir()
    (folder / "a.yaml").write_text(job("asked", "{run: {simulate: {}}}"))
    assert cloud.run("apply", "-f", str(folder), "--ask", stdin="n\n").code == 1
    assert cloud.run("get", "task", "asked").code == 5


def test_lists_in_every_form(cloud: Cloud) -> None:
    cloud.apply(job("listed", "{run: {simulate: {duration: 1h}}, resources: {cpu: 1}}"))
    cloud.ok("wait", "listed", "--for", "Running", "--timeout", PATIENCE)
    assert (
        cloud.ok("get", "tasks", "-o", "name", "-l", "suite=cli", "--phase", "running").out == "task/research/listed\n"
    )
    assert cloud.ok("get", "tasks", "-l", "suite=other", "-o", "name").out == ""
    listing = cloud.ok("get", "jobs", "-A", "-o", "json").json
    assert {"kind", "metadata", "items"} <= set(listing)
    assert "listed" in [item["metadata"]["name"] for item in listing["items"]]
    for kind in ("nodes", "fleets", "tenants", "users", "tokens", "events", "decisions", "trainingjobs", "endpoints"):
        for output in ("table", "wide", "json", "yaml", "name"):
            cloud.ok("get", kind, "-o", output)
    assert "h100-0" in cloud.ok("get", "no", "-o", "name").out
    cloud.ok("delete", "task", "listed")


def test_a_job_that_waits_is_explained_now_and_then(cloud: Cloud) -> None:
    cloud.apply(job("giant", "{resources: {gpu: 64}, run: {simulate: {}}}", "TrainingJob"))
    late = cloud.run("wait", "giant", "--for", "Running", "--timeout", "1s")
    assert (late.code, "still Pending" in late.err) == (1, True)
    assert cloud.ok("explain", "giant").out.startswith("research/giant can never start")
    assert cloud.ok("explain", "giant", "-o", "json").json["code"] == "never.gpus"
    why = cloud.ok("why", "giant")
    assert "decides the same" in why.out
    told = cloud.ok("why", "giant", "-o", "json").json
    assert cloud.ok("why", "giant", "--at", f"@{told['decision']}", "-o", "json").json["decision"] == told["decision"]
    events = [json.loads(line) for line in cloud.ok("events", "--for", "job/giant", "-o", "json").out.splitlines()]
    assert [event["type"] for event in events][:2] == ["JobSubmitted", "JobWaiting"]
    assert "research/giant" in cloud.ok("top", "--once").out
    cloud.ok("delete", "job", "giant", "--wait")


def test_nodes_are_emptied_and_take_work_again(cloud: Cloud) -> None:
    cloud.apply(job("moves", "{resources: {gpu: 1}, run: {simulate: {}}}", "Endpoint"))
    cloud.ok("wait", "moves", "--for", "Running", "--timeout", PATIENCE)
    node = cloud.ok("get", "endpoint", "moves", "-o", "json").json["status"]["runs"][0]["node"]
    assert "is empty" in cloud.ok("drain", node, "--wait", "--why", "a new fan", "--timeout", PATIENCE).out
    assert "a new fan" in cloud.ok("describe", "node", node).out
    cloud.ok("wait", "moves", "--for", "Running", "--timeout", PATIENCE)
    assert cloud.ok("get", "endpoint", "moves", "-o", "json").json["status"]["runs"][0]["node"] != node
    cloud.ok("uncordon", node)
    cloud.ok("cordon", node)
    assert cloud.ok("get", "node", node).out.splitlines()[1].split()[1] == "Cordoned"
    cloud.ok("uncordon", node)
    cloud.ok("delete", "job", "moves", "--wait")


def test_people_see_and_do_what_their_role_allows(cloud: Cloud, tmp_path: Path) -> None:
    token = cloud.ok("token", "create", "ada", "--expires", "1h", "--note", "test").out.strip()
    assert token.startswith("plm_")
    ada = Cloud(cloud.address, tmp_path, {**cloud.env, "XDG_CONFIG_HOME": str(tmp_path)})
    assert ada.run("get", "jobs").code == 3
    ca = str(cloud.folder / "data" / "tls" / "ca.pem")
    assert ada.run("login", cloud.address, "--ca", ca, "--token-file", "-", stdin="plm_wrong_token").code == 4
    hello = ada.ok("login", cloud.address, "--ca", ca, "--token-file", "-", stdin=f"{token}\n")
    assert "You are ada" in hello.out
    assert token not in hello.out
    assert (tmp_path / "plenum" / "config.json").stat().st_mode & 0o777 == 0o600
    assert ada.run("get", "nodes").code == 4
    cloud.run("apply", "-t", "product", "-f", "-", stdin=job("secret", "{run: {simulate: {}}}"))
    assert ada.run("get", "task", "product/secret").code == 5
    assert "secret" not in ada.ok("get", "jobs", "-A").out
    assert ada.apply(job("mine", "{run: {simulate: {}}}")).code == 0, "the tenant is her only one"
    ident = next(
        t["metadata"]["name"]
        for t in cloud.ok("token", "list", "-o", "json").json["items"]
        if t["spec"].get("note") == "test"
    )
    cloud.ok("token", "revoke", ident)
    assert ada.run("get", "jobs").code == 4


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (job("x", "{rnu: 1}"), "standard input:4: spec.rnu: there is no such field (did you mean 'run'?)"),
        (job("Not-A-Name", "{}"), "standard input:3: metadata.name: 'Not-A-Name' is not a name"),
        (job("x", "{}").replace("labels", "tenant: nobody, labels"), "metadata.tenant: there is no tenant 'nobody'"),
        ("kind: [", "standard input:2: is not YAML"),
        (job("x", "{}") + "---\n" + job("x", "{}"), "research/x is given twice"),
    ],
)
def test_mistakes_in_manifests_are_said_where_they_are(cloud: Cloud, manifest: str, sentence: str) -> None:
    result = cloud.apply(manifest)
    assert result.code == 2
    assert sentence in result.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("get", "jbos"), 2, "did you mean 'jobs'"),
        (("get", "nodes", "--phase", "Running"), 2, "go with jobs"),
        (("get", "task", "nobody"), 5, "there is no"),
        (("describe", "node", "nobody"), 5, "there is no node nobody"),
        (("delete", "node", "x"), 2, "cannot be deleted"),
        (("delete", "job", "nobody", "--ignore-absent"), 0, ""),
        (("drain", "nobody"), 5, "there is no node nobody"),
        (("logs", "nobody"), 5, "there is no job or endpoint research/nobody"),
        (("why", "nobody", "--at", "@1"), 5, "there is no job"),
        (("explain", "nobody"), 5, "there is no job"),
        (("get", "event", "999999"), 5, "999999"),
        (("describe", "decision", "first"), 2, "is not a position of the log"),
        (("describe", "event", "1"), 0, "position: 1"),
        (("events", "--since", "soon"), 2, "is not a time"),
        (("wait", "nobody", "--for", "deleted"), 0, ""),
        (("token", "create", "nobody"), 2, "there is no user"),
        (("get", "jobs", "--context", "elsewhere"), 3, "there is no context 'elsewhere'"),
    ],
)
def test_mistakes_get_one_sentence_and_their_exit_code(
    cloud: Cloud, args: tuple[str, ...], code: int, words: str
) -> None:
    result = cloud.run(*args)
    assert result.code == code, result
    assert words in result.out + result.err


def test_names_are_completed_from_the_server(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plenum.cli.complete.TIMEOUT_S", PATIENCE_S)

    def completed(words: str) -> list[str]:
        env = {
            "_PLENUM_COMPLETE": "bash_complete",
            "COMP_WORDS": f"plenum {words}",
            "COMP_CWORD": str(len(words.split())),
        }
        result = CliRunner().invoke(root, [], prog_name="plenum", env={**cloud.env, **env})
        return [line.partition(",")[2] for line in result.stdout.splitlines()]

    assert completed("get nodes h100-") == [f"h100-{i}" for i in range(8)]
    assert completed("get ten") == ["tenants"]
    cloud.apply(job("complete-me", "{run: {simulate: {}}}"))
    assert completed("logs complete-") == ["complete-me"]
    assert completed("describe job research/complete-") == ["research/complete-me"]
    assert completed("get jobs -t pro") == ["product"]


def test_nobody_there_ends_the_process_with_3(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "PLENUM_SERVER": "https://127.0.0.1:9"}
    found = subprocess.run(
        [sys.executable, "-m", "plenum", "get", "jobs"],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.returncode == 3
    assert found.stderr == "error: no control plane answers at https://127.0.0.1:9; start one with `plenum up`\n"
