"""The host of one replica of an endpoint: stages weights, starts the engine, watches it, drains and ends it.

``python -m plenum.bootstrap.engine`` is the process of a replica's run. It says how far it is in a file, as services do to systemd; what it
is to serve comes in its environment. It restarts nothing: it ends, and the control plane decides what becomes of the replica.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from plenum.adapters.authorities import OwnCertificate
from plenum.adapters.engines.gpu_servers import ALONE, Spread
from plenum.adapters.engines.http import HttpEngine
from plenum.adapters.engines.table import Start, engine_to_start
from plenum.adapters.nodes import files
from plenum.adapters.weights import ChangedWeightsError, Staged, WeightsError, check_allowed, stage
from plenum.adapters.weights.variables import forget_credentials
from plenum.bootstrap.config import is_loopback
from plenum.control.endpoints.process import MISUSED, NO_WEIGHTS
from plenum.model.endpoint import SERVE, Endpoint
from plenum.model.errors import FieldError, PlenumError
from plenum.ports.engine import EngineError

ENDPOINT, POOL, KEY, STATUS = "PLENUM_ENDPOINT", "PLENUM_POOL", "PLENUM_ENGINE_KEY", "PLENUM_STATUS_FILE"
CACHE, GRACE, DIGEST = "PLENUM_CACHE", "PLENUM_GRACE_S", "PLENUM_WEIGHTS_DIGEST"
"""Environment variables."""

NOT_STARTED, LOST, NOT_STAGED = 69, 70, 75
"""Exit codes beside :data:`MISUSED` and :data:`NO_WEIGHTS`: an engine that did not come up, one that died or hung; weights that cannot be
had just now."""

DEFAULT_GRACE_S = 30.0
OTHERS = (
    ", which the other replicas of this revision serve. Name the version that is meant in spec.{field} "
    "(hf://org/name@REVISION, oci://…@DIGEST), or delete the endpoint and serve it anew"
)
WEIGHTLESS = ("emulated",)
"""Engines that need no weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How an engine's life is watched: it is lost after so many failures in a row, silence for ``timeout_s`` being one.

    A busy machine takes seconds for one piece of a long prompt, between which llama.cpp answers questions.
    """

    interval_s: float = 2.0
    timeout_s: float = 20.0
    failures: int = 3


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the status file holds."""

    ready: bool = False
    message: str = ""
    url: str = ""
    weights_digest: str = ""
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the environment of a replica says.

    Parameters
    ----------
    status
        File for the status; None: nobody reads it.
    cache
        This node's folder for weights.
    caches
        Folder for prompts' caches that are handed over.
    digest
        Of the weights that the other replicas serve; empty: whatever the endpoint's reference means now.
    tls
        Folder for a certificate that the engine is to speak TLS with; None: it listens where nobody else can, and speaks plain HTTP.
    spread
        Which node of its replica this is.
    """

    endpoint: Endpoint
    pool: str = SERVE
    host: str = "127.0.0.1"
    port: int
    key: str = field(default="", repr=False)
    status: Path | None = None
    cache: Path
    caches: Path
    digest: str = ""
    tls: Path | None = None
    spread: Spread = ALONE
    grace_s: float = DEFAULT_GRACE_S
    watch: Watch = Watch()


def main() -> None:
    """Run a replica until told to stop (SIGTERM, SIGINT), or until its engine is lost."""
    try:
        host = host_of(os.environ)
    except PlenumError as error:
        sys.exit(_failed(error, MISUSED))
    os.environ.pop(KEY, None)  # what is started from here needs none of it
    sys.exit(asyncio.run(run(host)))


def host_of(env: Mapping[str, str]) -> Host:
    """Read a replica's environment.

    Raises
    ------
    FieldError
        Something is missing or wrong in it.
    """
    try:
        endpoint = msgspec.json.decode(env.get(ENDPOINT, ""), type=Endpoint)
    except (msgspec.DecodeError, ValueError) as error:
        raise FieldError(ENDPOINT, f"is no endpoint in JSON: {error}") from None
    port = env.get("PLENUM_PORT") or env.get("MASTER_PORT", "")
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise FieldError("PLENUM_PORT", f"must be the port to listen at, not {port!r}")
    address = env.get("PLENUM_HOST") or env.get("MASTER_ADDR") or "127.0.0.1"
    cache = Path(env.get(CACHE) or Path(env.get("HOME") or ".") / ".cache" / "plenum").absolute()
    spread = _spread(env)
    return Host(
        endpoint=endpoint,
        pool=env.get(POOL) or SERVE,
        host=address,
        port=int(port),
        key=env.get(KEY, ""),
        status=Path(env[STATUS]) if env.get(STATUS) else None,
        cache=cache / "weights",
        caches=Path("kv-caches").absolute(),
        digest=env.get(DIGEST, ""),
        tls=None if spread.rank or is_loopback(address) else Path("tls").absolute(),
        spread=spread,
        grace_s=_seconds(env.get(GRACE, "")),
    )


async def run(host: Host) -> int:
    """Run a replica; returns the exit code."""
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    serving = asyncio.ensure_future(_serve(host))
    stopping = asyncio.ensure_future(told_to_stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        _tell(host, Status(message="draining"))
        serving.cancel()
    with suppress(asyncio.CancelledError):
        return await serving
    return 0


async def _serve(host: Host) -> int:
    """Stage, start and watch; cancelled, it drains and ends the engine."""
    try:
        staged = await _stage(host, host.endpoint.model, "weights", host.digest.partition("+")[0])
        adapters = await _adapters(host)
        digest = _digest(host, staged, adapters.values())
        # Engines are told where they are on this node.
        here = tuple(
            (name, str(adapters[name].path) if name in adapters else src) for name, src in host.endpoint.adapters
        )
        host = replace(host, endpoint=replace(host.endpoint, adapters=here))
    except PlenumError as error:
        for_now = isinstance(error, WeightsError) and not error.lasting
        return _gave_up(host, error, NOT_STAGED if for_now else NO_WEIGHTS)
    forget_credentials(os.environ)
    engine: HttpEngine | None = None
    try:
        engine = engine_to_start(_start(host, staged))
        _tell(host, Status(message="starting the engine", weights_digest=digest))
        await engine.start()
        _tell(
            host,
            Status(
                ready=True,
                message="ready",
                url="" if host.spread.rank else engine.url,
                weights_digest=digest,
                certificate_sha256=engine.certificate_sha256,
            ),
        )
        return _gave_up(host, await lost(engine, host.watch), LOST)
    except FieldError as error:
        return _gave_up(host, error, MISUSED)
    except PlenumError as error:
        return _gave_up(host, error, NOT_STARTED)
    finally:
        if engine is not None:
            await _end(engine, host.grace_s)


async def _adapters(host: Host) -> dict[str, Staged]:
    """Bring the adapters here like the weights; nothing for engines that need none."""
    staged = {name: await _stage(host, source, f"adapter {name}") for name, source in host.endpoint.adapters}
    return {name: found for name, found in staged.items() if found is not None}


def _digest(host: Host, weights: Staged | None, adapters: Iterable[Staged]) -> str:
    """Return the digest of all that a replica serves: that of the weights, and after a ``+`` a short one of all adapters.

    Raises
    ------
    ChangedWeightsError
        The adapters are others than those of the other replicas.
    """
    digest = weights.digest if weights else ""
    if each := "".join(adapter.digest for adapter in adapters):
        digest += f"+{hashlib.sha256(each.encode()).hexdigest()[:24]}"
    if "+" not in host.digest:  # the first replica, or one of a revision from when adapters were not told
        return host.digest or digest
    if digest != host.digest:
        raise ChangedWeightsError(f"the adapters are others by now than those{OTHERS.format(field='adapters')}")
    return digest


async def _stage(host: Host, reference: str, what: str, digest: str = "") -> Staged | None:
    """Bring weights here, in a thread, telling how far it is; cancelled, the thread gives up at its next piece."""
    if host.endpoint.engine in WEIGHTLESS or host.endpoint.attached:
        return None
    check_allowed(reference, host.endpoint.tenant, os.environ)
    _tell(host, Status(message=f"staging {what}"))
    told, ended = -1, False

    def progress(done_bytes: int, total_bytes: int) -> None:
        nonlocal told
        if ended:
            raise EngineError("told to stop")
        percent = done_bytes * 100 // max(total_bytes, 1)
        if percent != told:
            told = percent
            _tell(host, Status(message=f"staging {what} {percent} %"))

    try:
        return await asyncio.to_thread(stage, reference, host.cache, progress=progress, digest=digest)
    except ChangedWeightsError as error:
        raise ChangedWeightsError(f"{error.sentence}{OTHERS.format(field='model')}") from None
    except OSError as error:  # such as a full disk, or a cache that is another user's
        raise WeightsError(f"weights cannot be kept in {host.cache}: {error.strerror or error}") from None
    finally:
        ended = True


def _start(host: Host, staged: Staged | None) -> Start:
    host.caches.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Start(
        endpoint=host.endpoint,
        pool=host.pool,
        weights=staged.path if staged else Path(),
        digest=staged.digest if staged else "",
        host=host.host,
        port=host.port,
        key=host.key,
        caches=host.caches,
        certificate=_certificate(host),
        spread=host.spread,
    )


def _certificate(host: Host) -> OwnCertificate | None:
    if host.tls is None:
        return None
    from plenum.bootstrap.tls import own_certificate

    return own_certificate(host.tls, host.host)


async def lost(engine: HttpEngine, watch: Watch) -> PlenumError:
    """Wait until an engine has died or hung; returns what happened."""
    exited = asyncio.ensure_future(engine.exited())
    failures, sentence = 0, ""
    try:
        while failures < watch.failures:
            done, _ = await asyncio.wait({exited}, timeout=watch.interval_s)
            if done:
                return EngineError(f"the engine ended with {exited.result()}")
            sentence = await _complaint(engine, watch.timeout_s)
            failures = failures + 1 if sentence else 0
    finally:
        exited.cancel()
    return EngineError(f"the engine does not answer any more: {sentence}")


async def _complaint(engine: HttpEngine, timeout_s: float) -> str:
    """Return what is wrong with an engine now; empty: nothing."""
    try:
        async with asyncio.timeout(timeout_s):
            health = await engine.health()
            # Metrics come from the engine's own loop, which may hang while its web server still answers.
            await engine.metrics()
    except TimeoutError:
        return f"nothing within {timeout_s:g} s"
    except EngineError as error:
        return error.sentence
    return "" if health.ready else health.sentence or "it is not ready"


async def _end(engine: HttpEngine, grace_s: float) -> None:
    await engine.stop(grace_s)
    await engine.close()


def _gave_up(host: Host, error: PlenumError, code: int) -> int:
    _tell(host, Status(message=str(error)[:500]))
    return _failed(error, code)


def _failed(error: PlenumError, code: int) -> int:
    print(f"{error.code}: {error}", file=sys.stderr, flush=True)
    return code


def _tell(host: Host, status: Status) -> None:
    if host.status is not None:
        files.replace(host.status, msgspec.json.encode(status), durably=False)


def _spread(env: Mapping[str, str]) -> Spread:
    """Return which node of its replica this is, by the variables that torchrun uses: one process a node."""
    named = {
        name: env.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_PORT", "0"))
    }
    for name, text in named.items():
        if not text.isdigit():
            raise FieldError(name, f"must be a whole number, not {text!r}")
    rank, nodes, port = map(int, named.values())
    if not rank < nodes:
        raise FieldError("RANK", f"must be less than WORLD_SIZE, which {rank} of {nodes} is not")
    return Spread(rank=rank, nodes=nodes, address=env.get("MASTER_ADDR") or "127.0.0.1", port=port)


def _seconds(text: str) -> float:
    try:
        return max(float(text), 0.0) if text else DEFAULT_GRACE_S
    except ValueError:
        raise FieldError(GRACE, f"must be seconds, not {text!r}") from None


if __name__ == "__main__":
    main()
