"""The host of a replica: a process that says how far it is, drains when told to stop, and ends when its engine does."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engines import KEY, LLAMA, MODEL, chat, new_emulated, new_llamacpp, said
from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.unit.adapters.weights.stores import Store, hub, served

from plenum.adapters.engines.emulated import Emulated, Faults
from plenum.adapters.engines.table import Start, engine_for, engine_to_start
from plenum.adapters.weights import stage
from plenum.bootstrap.engine import LOST, NOT_STAGED, NOT_STARTED, Watch, host_of, lost
from plenum.control.endpoints.process import MISUSED, NO_WEIGHTS
from plenum.model.endpoint import Endpoint
from plenum.model.errors import FieldError
from plenum.ports.engine import CHAT
from plenum.ports.gateway import Replica

EMULATED: dict[str, Any] = {"engine": "emulated", "timing_model": "llama-3.1-8b", "timing_hardware": "H100"}


class Hosted:
    """One host process."""

    def __init__(self, folder: Path, env: dict[str, str], *words: str) -> None:
        self.status_file = folder / "status"
        self.port = free_port()
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PLENUM_PORT": str(self.port),
            "PLENUM_ENGINE_KEY": KEY,
            "PLENUM_STATUS_FILE": str(self.status_file),
        }
        self.process = subprocess.Popen(
            [sys.executable, *(words or ("-m", "plenum.bootstrap.engine"))],
            env=given | env,
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self.status_file.read_bytes()) if self.status_file.exists() else {}

    def wait_for(self, check: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not check():
            assert time.monotonic() < until, self.status
            time.sleep(0.02)

    def ready(self) -> None:
        self.wait_for(lambda: self.status.get("ready", False) or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[1]

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors

    def children(self) -> list[int]:
        raw = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in raw.split()]


@pytest.fixture
def host(tmp_path) -> Iterator[Callable[..., Hosted]]:
    started: list[Hosted] = []

    def start(*words: str, env: dict[str, str] | None = None, **endpoint: Any) -> Hosted:
        fields: dict[str, Any] = {"name": MODEL, "model": MODEL} | endpoint
        spoken = {"PLENUM_ENDPOINT": msgspec.json.encode(Endpoint(**fields)).decode()}
        started.append(Hosted(tmp_path, spoken | (env or {}), *words))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        with suppress(ValueError):
            each.process.communicate()


def test_it_serves_a_real_model_and_says_so(host):
    it = host(model="smollm2", slots=1, context_tokens=512)
    it.ready()

    assert it.status["url"] == f"http://127.0.0.1:{it.port}"
    assert it.status["weights_digest"].startswith("sha256:")
    it.process.send_signal(signal.SIGTERM)
    assert it.ended()[0] == 0


AS_BEYOND_LOOPBACK = """
import asyncio, dataclasses, os, pathlib, sys
from plenum.bootstrap.engine import host_of, run
host = dataclasses.replace(host_of(os.environ), tls=pathlib.Path("tls").absolute())
sys.exit(asyncio.run(run(host)))
"""


def test_beyond_loopback_it_makes_a_certificate_and_tells_its_fingerprint(host, tmp_path):
    it = host("-c", AS_BEYOND_LOOPBACK, **EMULATED)
    it.ready()

    assert it.status["url"] == f"https://127.0.0.1:{it.port}"
    replica = Replica(run="r", engine="emulated", revision=1, pool="serve", phase="ready", url=it.status["url"])
    reached = engine_for(msgspec.structs.replace(replica, certificate_sha256=it.status["certificate_sha256"]), KEY)

    async def asked() -> int:
        try:
            return (await said(reached.open(CHAT, chat())))[0]
        finally:
            await reached.close()

    assert asyncio.run(asked()) == 200
    assert (tmp_path / "tls" / "own.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("address", "speaks"), [("127.0.0.1", False), ("::1", False), ("", False), ("192.0.2.7", True)]
)
def test_where_others_can_listen_in_it_speaks_tls(address, speaks):
    spoken = msgspec.json.encode(Endpoint(name=MODEL, model=MODEL)).decode()
    host = host_of({"PLENUM_ENDPOINT": spoken, "PLENUM_PORT": "8000", "MASTER_ADDR": address})
    assert (host.tls is not None) == speaks


def test_all_nodes_but_the_first_have_no_address(host):
    it = host(**EMULATED, env={"RANK": "1", "WORLD_SIZE": "2"})
    it.ready()

    assert it.status["url"] == ""
    assert it.children() == []
    it.process.send_signal(signal.SIGTERM)
    assert it.ended()[0] == 0


def test_told_to_stop_it_lets_streams_finish(host):
    it = host(**EMULATED, arguments=("--scale", "0.5"))
    it.ready()

    async def stream() -> bytes:
        engine = Emulated(it.status["url"], key=KEY)
        try:
            async with engine.open(CHAT, chat(stream=True, max_tokens=60)) as answer:
                body = b""
                async for chunk in answer.chunks():
                    if not body:
                        it.process.send_signal(signal.SIGTERM)
                    body += chunk
                return body
        finally:
            await engine.close()

    body = asyncio.run(stream())

    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b"data: {") >= 60
    assert it.ended()[0] == 0
    assert not it.status["ready"]


def test_grace_has_an_end(host):
    it = host(**EMULATED, arguments=("--scale", "5"), env={"PLENUM_GRACE_S": "0.2"})
    it.ready()

    async def stream() -> bool:
        engine = Emulated(it.status["url"], key=KEY)
        try:
            async with engine.open(CHAT, chat(stream=True, max_tokens=5000)) as answer:
                it.process.send_signal(signal.SIGTERM)
                with pytest.raises(Exception, match="broke off"):
                    [chunk async for chunk in answer.chunks()]
        finally:
            await engine.close()
        return True

    assert asyncio.run(stream())
    assert it.ended()[0] == 0


def test_an_engine_that_dies_ends_its_host(host):
    it = host(**EMULATED)
    it.ready()
    (engine,) = it.children()
    os.kill(engine, signal.SIGKILL)

    code, errors = it.ended()

    assert code == LOST
    assert "ended with -9" in errors
    assert "ended with -9" in it.status["message"]


def test_a_host_that_is_killed_takes_its_engine_along(host):
    it = host(**EMULATED)
    it.ready()
    (engine,) = it.children()
    it.process.kill()
    it.process.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    it.wait_for(gone)


@pytest.mark.parametrize("fault", [{"hang": True}, {"unhealthy": True}])
def test_an_engine_that_hangs_is_lost(fault):
    async def watched() -> str:
        engine = new_emulated()
        await engine.start()
        try:
            watch = asyncio.ensure_future(lost(engine, Watch(interval_s=0.01, timeout_s=0.5, failures=2)))
            await asyncio.sleep(0)
            assert not watch.done()
            await engine.fail(Faults(**fault))
            return str(await asyncio.wait_for(watch, PATIENCE_S))
        finally:
            await engine.stop(0)
            await engine.close()

    assert "does not answer" in asyncio.run(watched())


def test_a_llama_cpp_that_stands_still_is_lost(tmp_path):
    async def watched() -> str:
        engine = new_llamacpp(tmp_path, slots=1, context_tokens=256)
        await engine.start()
        assert engine._server is not None
        process = engine._server._process
        assert process is not None
        try:
            process.send_signal(signal.SIGSTOP)
            return str(await lost(engine, Watch(interval_s=0.01, timeout_s=0.3, failures=2)))
        finally:
            process.send_signal(signal.SIGCONT)
            await engine.stop(0)
            await engine.close()

    assert "does not answer" in asyncio.run(watched())


@pytest.mark.parametrize(
    ("endpoint", "env", "code", "says"),
    [
        ({}, {"PLENUM_PORT": "99999"}, MISUSED, "PLENUM_PORT"),
        ({**EMULATED, "timing_model": "llama-9"}, {}, MISUSED, "nearest"),
        ({**EMULATED, "timing_model": "llama-3.1-405b"}, {}, MISUSED, "does not fit on H100"),
        ({**EMULATED, "context_tokens": 10_000_000}, {}, MISUSED, "not for 10,000,000"),
        ({"model": "smollm3"}, {}, NO_WEIGHTS, "smollm2"),
        (
            {"model": "smollm2"},
            {"PLENUM_WEIGHTS_DIGEST": f"sha256:{'0' * 64}"},
            NO_WEIGHTS,
            "the other replicas of this",
        ),
        ({"model": "/etc/hostname", "tenant": "acme"}, {}, NO_WEIGHTS, "PLENUM_WEIGHTS_ALLOWED='acme=/etc'"),
    ],
)
def test_what_cannot_be_is_said_and_has_its_exit_code(host, endpoint, env, code, says):
    it = host(env=env, **endpoint)

    got, errors = it.ended()

    assert (got, says in errors) == (code, True), errors
    assert KEY not in errors


def test_a_cache_that_cannot_be_written_is_said(host, tmp_path):
    (tmp_path / "taken").write_text("a file, where the cache would be")
    it = host(env={"PLENUM_CACHE": str(tmp_path / "taken")}, model="smollm2")

    got, errors = it.ended()

    assert (got, "weights cannot be kept in" in errors) == (NOT_STAGED, True), errors
    assert "weights cannot be kept in" in it.status["message"]


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"PLENUM_ENDPOINT": "{}"}, "PLENUM_ENDPOINT"),
        ({"PLENUM_ENDPOINT": ""}, "PLENUM_ENDPOINT"),
        ({"PLENUM_PORT": ""}, "PLENUM_PORT"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK"),
        ({"PLENUM_GRACE_S": "soon"}, "PLENUM_GRACE_S"),
    ],
)
def test_an_environment_that_is_wrong_is_named(env, says):
    spoken = msgspec.json.encode(Endpoint(name=MODEL, model=MODEL)).decode()

    with pytest.raises(FieldError, match=says):
        host_of({"PLENUM_ENDPOINT": spoken, "PLENUM_PORT": "8000"} | env)


def test_where_it_listens_comes_from_the_assignment():
    spoken = msgspec.json.encode(Endpoint(name=MODEL, model=MODEL)).decode()
    it = host_of({"PLENUM_ENDPOINT": spoken, "MASTER_ADDR": "127.0.0.2", "MASTER_PORT": "7171", "HOME": "/home/x"})

    assert (it.host, it.port, it.cache) == ("127.0.0.2", 7171, Path("/home/x/.cache/plenum/weights"))


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ({**EMULATED, "arguments": ("--spped", "2")}, "--scale"),
        ({**EMULATED, "arguments": ("--scale", "fast")}, "takes a number"),
        ({"arguments": ("--rope", "1")}, "--threads"),
        ({"arguments": ("--threads", "many")}, "whole number"),
        ({"adapters": (("law", "/tmp"),), "arguments": ("--embeddings",)}, "adapters"),
    ],
)
def test_what_an_engine_does_not_have_is_refused_before_it_is_started(tmp_path, endpoint, says):
    fields: dict[str, Any] = {"name": MODEL, "model": MODEL} | endpoint

    with pytest.raises(FieldError, match=says):
        engine_to_start(Start(endpoint=Endpoint(**fields), port=8000, weights=Path("/some.gguf"), caches=tmp_path))


def test_weights_that_are_none_are_said_with_what_the_engine_wrote(host, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(200))

    code, errors = host(model=str(broken)).ended()

    assert code in (NOT_STARTED, NO_WEIGHTS)
    assert "broken.gguf" in errors


def test_adapters_are_brought_here_like_weights_and_handed_over_as_folders(host, tmp_path):
    weights, program = tmp_path / "base", tmp_path / "vllm.py"
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps(LLAMA))
    (weights / "model.safetensors").write_bytes(b"x" * 100)
    program.write_text(
        "import pathlib, sys\n"
        "place = pathlib.Path(sys.argv[sys.argv.index('--lora-modules') + 1].partition('=')[2])\n"
        "print(place.is_absolute(), sorted(path.name for path in place.iterdir()))\n"
    )
    with served(Store()) as store:
        hub(store, "org/law", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"y" * 100})
        env = {"HF_ENDPOINT": store.url, "PLENUM_VLLM": f"{sys.executable} {program} serve"}
        code, errors = host(model=str(weights), engine="vllm", adapters=[("law", "hf://org/law")], env=env).ended()

    assert "True ['adapter_config.json', 'adapter_model.safetensors']" in errors
    assert code == NOT_STARTED  # that program serves nothing


@pytest.mark.parametrize(("changed", "code"), [(False, NOT_STARTED), (True, NO_WEIGHTS)])
def test_adapters_of_a_revision_s_replicas_are_the_same(host, tmp_path, changed, code):
    weights, law = tmp_path / "base", tmp_path / "law"
    for folder in (weights, law):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(LLAMA))
    digests = [stage(str(folder), tmp_path / "cache").digest for folder in (weights, law)]
    pin = f"{digests[0]}+{hashlib.sha256(digests[1].encode()).hexdigest()[:24]}"
    if changed:
        (law / "adapter_model.safetensors").write_bytes(b"other")
    env = {"PLENUM_WEIGHTS_DIGEST": pin, "PLENUM_VLLM": "false"}
    got, errors = host(model=str(weights), engine="vllm", adapters=[("law", str(law))], env=env).ended()
    assert (got, "spec.adapters" in errors) == (code, changed), errors


def test_an_adapter_that_is_nowhere_is_said(host, tmp_path):
    weights = tmp_path / "base"
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps(LLAMA))

    code, errors = host(model=str(weights), engine="vllm", adapters=[("law", str(tmp_path / "law"))]).ended()

    assert (code, str(tmp_path / "law") in errors) == (NO_WEIGHTS, True), errors
