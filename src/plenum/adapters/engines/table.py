"""Which driver is for which engine: to reach a replica that runs, and to make one that is to be started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from plenum.adapters.authorities import OwnCertificate, sha256_of
from plenum.adapters.engines.emulated import Emulated, emulated_settings, launch_emulated
from plenum.adapters.engines.gpu_servers import ALONE, Spread, sglang_command, vllm_command
from plenum.adapters.engines.http import Follower, HttpEngine
from plenum.adapters.engines.llamacpp import LlamaCpp, launch_llamacpp, llamacpp_settings
from plenum.adapters.engines.server import Command, Server, url_of
from plenum.adapters.engines.sglang import Sglang
from plenum.adapters.engines.vllm import Vllm
from plenum.model.endpoint import SERVE, Endpoint
from plenum.model.errors import FieldError
from plenum.ports.gateway import Replica

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a replica is started with.

    Parameters
    ----------
    weights, digest
        As staged on this node.
    host, port
        Where it is to listen.
    caches
        Folder of its own for caches that it hands over.
    certificate
        That it is to speak TLS with; None: it speaks plain HTTP, as on loopback.
    spread
        Of a replica over several nodes, which this is.
    """

    endpoint: Endpoint
    pool: str = SERVE
    weights: Path = Path()
    digest: str = ""
    host: str = "127.0.0.1"
    port: int
    key: str = field(default="", repr=False)
    caches: Path | None = None
    certificate: OwnCertificate | None = None
    spread: Spread = ALONE

    @property
    def url(self) -> str:
        """Where it answers."""
        return url_of(self.host, self.port, tls=self.certificate is not None)


def engine_for(replica: Replica, key: str = "") -> HttpEngine:
    """Return the engine of a replica that runs; ``start`` waits until it answers and learns what it can do.

    Raises
    ------
    FieldError
        No such engine, or no such URL.
    """
    return _known(REACH, replica.engine)(replica.url, key=key, certificate_sha256=replica.certificate_sha256)


def engine_to_start(start: Start) -> HttpEngine:
    """Return an engine that :meth:`HttpEngine.start` starts.

    Raises
    ------
    FieldError
        The endpoint asks for something that this engine does not have.
    """
    return _known(LAUNCH, start.endpoint.engine)(start)


def _llamacpp(start: Start) -> HttpEngine:
    settings = llamacpp_settings(
        start.endpoint,
        start.weights,
        host=start.host,
        port=start.port,
        key=start.key,
        digest=start.digest,
        caches=start.caches,
        certificate=start.certificate,
    )
    return launch_llamacpp(settings)


def _emulated(start: Start) -> HttpEngine:
    if start.spread.rank:
        return Follower(start.url)  # the first keeps the time of them all
    settings = emulated_settings(
        start.endpoint, start.pool, host=start.host, port=start.port, key=start.key, certificate=start.certificate
    )
    return launch_emulated(settings)


def _vllm(start: Start) -> HttpEngine:
    return _gpu_server(Vllm, vllm_command, start)


def _sglang(start: Start) -> HttpEngine:
    return _gpu_server(Sglang, sglang_command, start)


def _gpu_server(kind: Callable[..., HttpEngine], made_by: Callable[..., Command], start: Start) -> HttpEngine:
    server = Server(lambda: command_of(made_by, start))
    if start.spread.rank:
        return Follower(start.url, server=server)
    return kind(start.url, key=start.key, certificate_sha256=sha256_of(start.certificate), server=server)


def command_of(made_by: Callable[..., Command], start: Start) -> Command:
    """Return what starts vLLM or SGLang, made by the one or the other of :mod:`plenum.adapters.engines.gpu_servers`."""
    command = made_by(
        start.endpoint,
        start.pool,
        start.weights,
        host=start.host,
        port=start.port,
        key=start.key,
        spread=start.spread,
    )
    own = start.certificate
    if own is None:
        return command
    # Both call them alike. Last, so that no other certificate among the endpoint's arguments takes their place.
    return replace(command, words=[*command.words, "--ssl-certfile", own.file, "--ssl-keyfile", own.key_file])


REACH: dict[str, Callable[..., HttpEngine]] = {
    "llamacpp": LlamaCpp,
    "vllm": Vllm,
    "sglang": Sglang,
    "emulated": Emulated,
}
LAUNCH: dict[str, Callable[[Start], HttpEngine]] = {
    "llamacpp": _llamacpp,
    "vllm": _vllm,
    "sglang": _sglang,
    "emulated": _emulated,
}


def _known(table: dict[str, _T], engine: str) -> _T:
    if engine not in table:
        raise FieldError("spec.engine", f"there is no driver for {engine!r}; there are {', '.join(sorted(table))}")
    return table[engine]
