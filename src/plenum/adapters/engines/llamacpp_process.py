"""The process of one llama.cpp server: settings on standard input, hand-offs on a second port; ends with whoever started it.

Where it is to speak TLS, the server itself listens on loopback, and what speaks TLS at its address stands in front.

``python -m plenum.adapters.engines.llamacpp_process`` is what :func:`plenum.adapters.engines.llamacpp.llamacpp_command` starts.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

from plenum.adapters.engines.leash import leash
from plenum.adapters.engines.llamacpp import ADAPTER_TAG, DIGEST_TAG, HANDOFF_TAG, LlamaCpp, Settings
from plenum.adapters.engines.server import url_of
from plenum.adapters.engines.tls_front import serve_tls
from plenum.model.errors import MissingExtraError

MAX_SETTINGS_BYTES = 64 * 1024
MIN_HTTP_THREADS = 4
_LOOPBACK = "127.0.0.1"
_WARNINGS = 2
"""How much it writes: above this, several lines for each request."""


def main() -> None:
    """Serve until killed."""
    leash()
    # Whoever started this decides when it ends, having let requests finish; a signal to all of a terminal's or run's processes does not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the server's threads would hold an orderly exit up
    settings = msgspec.json.decode(sys.stdin.buffer.readline(MAX_SETTINGS_BYTES), type=Settings)
    front = _bound(settings, settings.port) if settings.certificate else None
    listener = _bound(settings, settings.handoff_port) if settings.caches else None
    if listener is not None:
        listener.listen()  # who comes as soon as the server answers, waits until hand-offs do
    server = _serve(settings, listener)
    try:
        asyncio.run(_run(settings, server.listening_address, listener, front))
    finally:
        os._exit(0)


def _bound(settings: Settings, port: int) -> socket.socket:
    """Take a port; until something listens there, who comes is turned away."""
    bound = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((settings.host, port))
    return bound


def _serve(settings: Settings, listener: socket.socket | None) -> Any:
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled, without stubs
    except ImportError as error:
        raise MissingExtraError("llama.cpp is not installed: pip install 'plenum-os[llamacpp]'") from error
    params = xllamacpp.CommonParams()
    params.model.path = settings.path
    params.hostnames, params.port = [settings.host], settings.port
    if settings.certificate is not None:
        params.hostnames, params.port = [_LOOPBACK], 0
    params.api_keys = [settings.key] if settings.key else []
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.context_tokens
    params.n_batch = params.n_ubatch = settings.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    # Each stream keeps one of these threads, also while it waits for a slot; the rest answer questions about health.
    params.n_threads_http = max(4 * settings.slots, MIN_HTTP_THREADS) + 2
    params.cache_ram_mib = settings.cache_mib
    params.endpoint_metrics, params.ui, params.warmup = True, False, False
    params.verbosity = _WARNINGS
    params.cors_origins, params.cors_credentials = "", False
    tags = {DIGEST_TAG + settings.digest} if settings.digest else set[str]()
    if settings.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        tags.add("embeddings")
    if listener is not None:
        params.slot_save_path = os.path.join(settings.caches, "")
        tags.add(HANDOFF_TAG + _url(settings, listener))
    # Loaded and not applied: each request says which of them it is for.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for _, path in settings.adapters]
    tags |= {f"{ADAPTER_TAG}{k}={name}" for k, (name, _) in enumerate(settings.adapters)}
    params.model_alias, params.model_tags = {settings.name}, tags
    return xllamacpp.Server(params)


def _url(settings: Settings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return url_of(host, port, tls=settings.certificate is not None)


async def _run(settings: Settings, url: str, listener: socket.socket | None, front: socket.socket | None) -> None:
    if listener is not None:
        from plenum.adapters.engines.llamacpp_handoff import Handoffs

        engine = LlamaCpp(url, key=settings.key)
        engine.adapters = tuple(name for name, _ in settings.adapters)
        handoffs = Handoffs(
            engine,
            Path(settings.caches),
            settings.digest,
            settings.slots,
            url=_url(settings, listener),
            key=settings.key,
            certificate=settings.certificate,
        )
        await handoffs.serve(listener)
    if front is not None and settings.certificate is not None:
        await serve_tls(front, settings.certificate, url)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
