"""Control planes, agents and whole clouds as processes of their own, in folders of their own, on free ports of loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from tests.patience import PATIENCE_S
from tests.ports import free_port

from plenum.adapters.client import Client
from plenum.adapters.contexts import Context

T = TypeVar("T")

EXAMPLES = Path(__file__).parents[2] / "examples"


def until(found: Callable[[], T | None], what: str) -> T:
    """Return what is found, as soon as something is."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < give_up_s, f"waited for {what}, in vain"
        time.sleep(0.05)


class Plenum:
    """A ``plenum`` command that runs beside the test."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._log = folder / f"{args[0]}-{len(list(folder.glob('*.log')))}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plenum", *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "XDG_CONFIG_HOME": str(folder / "config"), "PYTHONUNBUFFERED": "1"},
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has printed something."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.said)
            assert found or self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.said}"
            return found

        return until(look, f"{pattern!r} in:\n{self.said}")

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(PATIENCE_S)


class Cloud:
    """Everything that one test starts.

    Parameters
    ----------
    folder
        Its logs, and the data of everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.data = folder / "server"
        self.token = ""
        self.agents: dict[str, Plenum] = {}
        """Name to the agent that was started last under it."""
        self._server: tuple[Plenum, tuple[str, ...], str] | None = None
        self._started: list[Plenum] = []

    # -- processes ---------------------------------------------------------------------------------

    def start(self, *args: str) -> Plenum:
        started = Plenum(self.folder, *args)
        self._started.append(started)
        return started

    def server(self, *options: str, command: str = "server") -> Plenum:
        """Start a control plane (or, with ``up``, a whole cloud) and wait until it answers."""
        server = self.start(command, "--data", str(self.data), "--port", str(self.port), *options)
        server.says(r"answers at|is up at")
        if not self.token:
            self.token = server.says(r"plm_\w{12}_[\w-]{43}")[0]
        self._server = server, options, command
        return server

    def restart(self, meanwhile: Callable[[], object] = lambda: None) -> Plenum:
        """Kill the control plane and start another like it; something may happen while there is none."""
        assert self._server is not None
        server, options, command = self._server
        server.end(signal.SIGKILL)
        meanwhile()
        return self.server(*options, command=command)

    def end(self) -> int:
        """Stop the control plane as Ctrl-C does; returns its exit code."""
        assert self._server is not None
        return self._server[0].end()

    def agent(self, name: str, join_token: str = "", *, data: str = "", ca: Path | None = None) -> Plenum:
        """Start an agent that gives one core; it may still be joining."""
        self.agents[name] = self.start(
            "agent", "--server", f"https://127.0.0.1:{self.port}", "--ca", str(ca or self.data / "tls/ca.pem"),
            "--name", name, "--data", str(self.folder / (data or name)), "--cpu", "1", "--join-token", join_token,
            "--checkpoints", str(self.folder / "checkpoints"),
        )  # fmt: skip
        return self.agents[name]

    def close(self) -> None:
        """End everything that was started, and what it started."""
        for started in self._started:
            if started.process.poll() is None:
                started.process.kill()
            started.process.wait()
        for address in self.folder.glob("*/gateway/address.json"):
            end_gateway(json.loads(address.read_bytes()))
        for state in self.folder.glob("*/node/runs/*/state.json"):
            end_run(json.loads(state.read_bytes()))

    # -- what is so --------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        return Context(server=f"https://127.0.0.1:{self.port}", token=self.token, ca=str(self.data / "tls/ca.pem"))

    def ask(self, path: str, **params: Any) -> dict[str, Any]:
        with Client(self.context) as client:
            return client.get(path, **params)

    def do(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        with Client(self.context) as client:
            return client.request(method, path, body=body).json()

    def join_token(self, agent: str = "", expires_s: float = 3600) -> str:
        """Issue a token that lets agents join."""
        wanted = {"kind": "join", "expiresInS": expires_s, **({"user": agent} if agent else {})}
        return self.do("POST", "/tokens", wanted)["secret"]

    def apply(self, name: str, spec: dict[str, Any], kind: str = "TrainingJob") -> None:
        manifest = {"apiVersion": "plenum.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.do("PUT", f"/tenants/default/{kind.lower()}s/{name}", manifest)

    def job(self, name: str, kind: str = "TrainingJob") -> dict[str, Any]:
        return self.ask(f"/tenants/default/{kind.lower()}s/{name}")["status"]

    def comes_to(self, name: str, *phases: str, kind: str = "TrainingJob") -> dict[str, Any]:
        """Wait until a job is in one of some phases."""
        return until(
            lambda: found if (found := self.job(name, kind))["phase"] in phases else None, f"{name} to be {phases}"
        )

    def node(self, name: str, phase: str) -> dict[str, Any]:
        """Wait until a node is in a phase."""

        def look() -> dict[str, Any] | None:
            nodes = self.ask("/nodes")["items"]
            return next((n for n in nodes if n["metadata"]["name"] == name and n["status"]["phase"] == phase), None)

        return until(look, f"node {name} to be {phase}")

    def log_of(self, name: str, slot: str = "worker-0", kind: str = "TrainingJob") -> str:
        with Client(self.context) as client:
            return client.log(f"/tenants/default/{kind.lower()}s/{name}/logs", slot=slot).data.decode()

    def story(self, subject: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what the log says about something: types and bodies, in order."""
        events = self.ask("/events", subject=subject, limit=500)["items"]
        return [(event["type"], event["body"]) for event in events]

    def happened(self, subject: str, type_: str, **body: Any) -> dict[str, Any]:
        """Wait until something is in the log; returns the rest of it."""

        def look() -> dict[str, Any] | None:
            for kind, found in self.story(subject):
                if kind == type_ and body.items() <= found.items():
                    return found
            return None

        return until(look, f"{type_} {body} of {subject}")

    def takes(self, url: str, key: str) -> None:
        """Wait until a gateway knows a key that was issued just now: it reaches gateways with their next table."""
        headers = {"Authorization": f"Bearer {key}"}
        until(lambda: httpx.get(f"{url}/v1/models", headers=headers).status_code == 200, "the gateway to know the key")

    def processes(self, data: str) -> dict[str, psutil.Process]:
        """Return the live runs of one job that a data folder knows: slot to process."""
        return dict(self.live_runs(data))

    def live_runs(self, data: str) -> list[tuple[str, psutil.Process]]:
        """Return the live runs that a data folder knows, each with its slot."""
        found = []
        for file in (self.folder / data / "node/runs").glob("*/state.json"):
            state, launch = json.loads(file.read_bytes()), json.loads(file.with_name("launch.json").read_bytes())
            if state["pid"] and state["phase"] != "exited" and psutil.pid_exists(state["pid"]):
                found.append((launch["slot"], psutil.Process(state["pid"])))
        return found


def end_run(state: dict[str, Any]) -> None:
    """Kill what is left of a run."""
    for pid in (state["shim_pid"], state["pid"]):
        if state["phase"] != "exited" and pid and psutil.pid_exists(pid):
            psutil.Process(pid).kill()


def end_gateway(address: dict[str, Any]) -> None:
    """Kill a gateway that outlived its control plane; it says itself that it is one."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(address["pid"])
        if "plenum.bootstrap.gateway" in process.cmdline():
            process.kill()


@contextmanager
def cloud_in(folder: Path) -> Iterator[Cloud]:
    cloud = Cloud(folder)
    try:
        yield cloud
    finally:
        cloud.close()


def in_order(story: list[tuple[str, dict[str, Any]]], *wanted: tuple[str, dict[str, Any]]) -> None:
    """Fail unless some records stand in the log in this order, others between them."""
    left = iter(story)
    for type_, body in wanted:
        found = any(kind == type_ and body.items() <= told.items() for kind, told in left)
        assert found, f"no {type_} {body} where it should be in:\n" + "\n".join(map(str, story))
