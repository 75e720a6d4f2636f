"""The process of one llama.cpp server: settings on standard input, hand-offs on a second port; ends with whoever started it.

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
from plenum.model.errors import MissingExtraError

MAX_SETTINGS_BYTES = 64 * 1024
MIN_HTTP_THREADS = 4
_WARNINGS = 2
"""How much it writes: above this, several lines for each request."""


def main() -> None:
    """Serve until killed."""
    leash()
    # Whoever started this decides when it ends, having let requests finish; a signal to all of a terminal's or run's processes does not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the server's threads would hold an orderly exit up
    settings = msgspec.json.decode(sys.stdin.buffer.readline(MAX_SETTINGS_BYTES), type=Settings)
    listener = _listener(settings) if settings.caches else None
    server = _serve(settings, listener)
    try:
        asyncio.run(_run(settings, server.listening_address, listener))
    finally:
        os._exit(0)


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.handoff_port), family=family)


def _serve(settings: Settings, listener: socket.socket | None) -> Any:
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled, without stubs
    except ImportError as error:
        raise MissingExtraError("llama.cpp is not installed: pip install 'plenum-os[llamacpp]'") from error
    params = xllamacpp.CommonParams()
    params.model.path = settings.path
    params.hostnames, params.port = [settings.host], settings.port
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
        tags.add(HANDOFF_TAG + _url(listener))
    # Loaded and not applied: each request says which of them it is for.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for _, path in settings.adapters]
    tags |= {f"{ADAPTER_TAG}{k}={name}" for k, (name, _) in enumerate(settings.adapters)}
    params.model_alias, params.model_tags = {settings.name}, tags
    return xllamacpp.Server(params)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _run(settings: Settings, url: str, listener: socket.socket | None) -> None:
    if listener is not None:
        from plenum.adapters.engines.llamacpp_handoff import Handoffs

        engine = LlamaCpp(url, key=settings.key)
        engine.adapters = tuple(name for name, _ in settings.adapters)
        handoffs = Handoffs(
            engine, Path(settings.caches), settings.digest, settings.slots, url=_url(listener), key=settings.key
        )
        await handoffs.serve(listener)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
