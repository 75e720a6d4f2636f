"""A control plane in memory with its API, some people of two tenants, and nodes that are imitated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import httpx
from tests.patience import PATIENCE_S

from plenum.adapters.manifests.fleet import parse_fleet
from plenum.api import ApiSettings, Rate, create_app, new_secret
from plenum.api.context import ApiContext
from plenum.bootstrap.embedded import serve_simulated
from plenum.control import commands
from plenum.control.commands import Command
from plenum.control.controller import Controller
from plenum.control.events import Grant, Refused, event_of
from plenum.control.service import Service
from plenum.sim.store import MemoryStore

T = TypeVar("T")

MANY = Rate(per_s=1e6, burst=10**6)
SETTINGS = ApiSettings(audit_window_s=0.01, audit_most=1000, audit_rate=MANY, failure_rate=MANY)
"""Refusals are tested by the hundred; limits on them have tests of their own."""

FLEET = """
apiVersion: plenum.dev/v1alpha1
kind: Fleet
metadata: {name: hall}
spec:
  templates:
    box: {budgets: {cpu: 32, memory: 128GiB}, devices: [{kind: gpu, count: 8, model: H100, memory: 80GB}]}
  nodes:
    - {names: [n1, n2], template: box}
"""

PEOPLE = {
    "root": [Grant("operator", "*")],
    "ada": [Grant("admin", "research")],
    "max": [Grant("member", "research")],
    "vera": [Grant("viewer", "research")],
    "wei": [Grant("member", "vision")],
    "noel": [],
}
"""User to grants; each has a token of the same name."""


class SetClock:
    """The system's clocks, but for a wall clock that tests set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.monotonic_ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self.monotonic_ahead_s


class Lab:
    """Runs everything on an event loop that moves only while a test asks for something."""

    def __init__(self, settings: ApiSettings | None = None, *, simulate: bool = True, **more: Any) -> None:
        self.clock = SetClock()
        self.tokens: dict[str, str] = {}
        self._runner = asyncio.Runner()
        self._simulate = simulate
        self._tasks: list[asyncio.Task[None]] = []
        self.store = MemoryStore(self.clock)
        self._runner.run(self._start(settings or SETTINGS, more))

    async def _start(self, settings: ApiSettings, more: dict[str, Any]) -> None:
        controller = Controller(self.store, self.clock, parse_fleet)
        self.service = Service(controller, parse_fleet)
        await self.service.start()
        await until(lambda: self.service.leading)
        self.app = create_app(self.service, settings, **more)
        transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 4711))
        self._client = httpx.AsyncClient(transport=transport, base_url="https://plenum.test")
        for tenant in ("research", "vision"):
            await self.service.execute(commands.apply_tenant(tenant, {}))
        for name, grants in PEOPLE.items():
            await self.service.execute(commands.apply_user(name, grants))
            self.tokens[name] = await self._issue(name)
        self.tokens["join"] = await self._issue("", kind="join")
        self.tokens["agent"] = await self._issue("agent-1", kind="agent")
        self.tokens["gateway"] = await self._issue("edge-1", kind="gateway")
        self.tokens["expired"] = await self._issue("root", expires_at=1.0)
        self.tokens["revoked"] = await self._issue("root")
        await self.service.execute(commands.revoke_token(self.tokens["revoked"].split("_")[1]))
        self.tokens["forged"] = new_secret().text
        if self._simulate:
            self._tasks.append(asyncio.create_task(serve_simulated(self.service)))

    async def _issue(self, user: str, **more: Any) -> str:
        secret = new_secret()
        await self.service.execute(commands.issue_token(secret.id, user, secret.hash, **more))
        return secret.text

    @property
    def context(self) -> ApiContext:
        return self.app.state.context

    # -- asking ------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def execute(self, command: Command) -> None:
        self.run(self.service.execute(command))

    def issue(self, user: str, **more: Any) -> str:
        return self.run(self._issue(user, **more))

    def ask(self, method: str, path: str, who: str | None = "root", **more: Any) -> httpx.Response:
        """Send a request; ``path`` without the base is one of the API's, ``who`` a token's name or the token itself."""
        # Between two questions the loop stands still, on a busy machine for longer than a lease lasts.
        self.wait(lambda: self.service.leading or self.service.following)
        return self.run(self.send(method, path, who, **more))

    async def send(self, method: str, path: str, who: str | None = "root", **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if who is not None:
            headers.setdefault("authorization", f"Bearer {self.tokens.get(who, who)}")
        return await self._client.request(method, address(path), headers=headers, **more)

    def get(self, path: str, who: str | None = "root", **more: Any) -> Any:
        """Return the JSON of an answer that must be good."""
        answer = self.ask("GET", path, who, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(
        self, name: str, tenant: str = "research", *, who: str = "root", plural: str = "tasks", **spec: Any
    ) -> dict:
        answer = self.ask("PUT", f"/tenants/{tenant}/{plural}/{name}", who, json={"spec": spec})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def apply_fleet(self) -> None:
        headers = {"content-type": "application/yaml"}
        answer = self.ask("PUT", "/fleets/hall", content=FLEET, headers=headers)
        assert answer.status_code == 201, answer.text

    def wait(self, holds: Callable[[], bool]) -> None:
        self.run(until(holds))

    def wait_for_phase(self, job: str, phase: str) -> None:
        self.wait(lambda: job in self.service.state.jobs and self.service.state.jobs[job].phase == phase)

    def refusals(self) -> list[tuple[str, Refused]]:
        """Return the audit of refusals so far: who, and what."""

        async def read() -> list[tuple[str, Refused]]:
            await self.context.refusals.flush()
            records = await self.service.read(0, 100_000, subject="refusals")
            found = [(record.actor, event_of(record)) for record in records]
            return [(actor, event) for actor, event in found if isinstance(event, Refused)]

        return self.run(read())

    def close(self) -> None:
        self._runner.run(self._stop())
        self._runner.close()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.context.refusals.close()
        await self._client.aclose()
        await self.service.stop()


def address(path: str) -> str:
    own = path.startswith(("/metrics", "/healthz", "/readyz", "/openapi", "/v1alpha1", "//")) or not path.startswith(
        "/"
    )
    return path if own else f"/v1alpha1{path}"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


class Reader:
    """Reads a streamed answer as it is sent; one that takes nothing is a slow reader."""

    def __init__(self, app: Any, path: str, token: str, headers: dict[str, str] | None = None) -> None:
        address_, _, query = address(path).partition("?")
        sent = {"host": "plenum.test", "authorization": f"Bearer {token}", **(headers or {})}
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": address_,
            "raw_path": address_.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("192.0.2.8", 1),
            "server": ("plenum.test", 443),
        }
        self._app = app
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1)
        self._gone = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""

    async def __aenter__(self) -> Reader:
        self.task = asyncio.create_task(self._app(self._scope, self._receive, self._messages.put))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._gone.set()
        # Whoever waits to send is let go on, as a server would whose connection is gone.
        while not self.task.done():
            with contextlib.suppress(asyncio.QueueEmpty):
                self._messages.get_nowait()
            await asyncio.sleep(0.001)
        await self.task

    async def start(self) -> int:
        message = await self.next()
        self.status = message["status"]
        self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        return self.status

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            return await self._messages.get()

    async def read_until(self, text: str) -> str:
        """Read until the text has come, or the stream has ended."""
        while text not in self.text:
            message = await self.next()
            self.text += message.get("body", b"").decode()
            if not message.get("more_body"):
                break
        return self.text

    async def events(self, number: int) -> list[dict[str, Any]]:
        """Read so many server-sent events."""
        while self.text.count("\ndata: ") < number:
            message = await self.next()
            assert message.get("more_body"), f"the stream ended early: {self.text}"
            self.text += message["body"].decode()
        return [
            dict(line.split(": ", 1) for line in block.split("\n"))
            for block in self.text.split("\n\n")
            if "data: " in block
        ]

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}


def problem(answer: httpx.Response) -> dict[str, Any]:
    """Return a problem document, checked for its form."""
    assert answer.headers["content-type"] == "application/problem+json", (answer.status_code, answer.text[:300])
    told = json.loads(answer.content)
    assert told["status"] == answer.status_code
    assert told["type"] == f"https://plenum.dev/problems/{told['code']}"
    assert told["title"]
    assert told["detail"]
    return told
