"""The command lines of vLLM and SGLang for one replica: the planner's launch lines, with what only its node knows filled in.

``PLENUM_VLLM`` and ``PLENUM_SGLANG`` in a node's environment name other programs than ``vllm serve`` and SGLang's server, such as those of
another virtual environment. Little else of that environment reaches an engine: what it is to find there goes in front, as in
``env VLLM_TARGET_DEVICE=cpu /opt/vllm/bin/python -m vllm.entrypoints.openai.api_server``.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plenum.adapters.engines import leash
from plenum.adapters.engines.server import Command
from plenum.model.endpoint import DECODE, PREFILL, Endpoint, Pool
from plenum.model.errors import FieldError


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where a process is among the nodes of its replica.

    Parameters
    ----------
    rank
        The first, 0, answers; the others only work for it.
    address, port
        Of the first: where they meet.
    """

    rank: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0


ALONE = Spread()

READY_S = 3_600.0
"""Loading a large model from a slow disk, and compiling for it, takes long."""

_SGLANG = (
    "import runpy, sys; key = sys.stdin.readline().strip(); "
    "sys.argv = ['sglang.launch_server', *sys.argv[1:], *(['--api-key', key] if key else [])]; "
    "runpy.run_module('sglang.launch_server', run_name='__main__')"
)
"""SGLang takes its key as an argument only; given inside of the process, nobody sees it in the list of processes."""


def vllm_command(
    endpoint: Endpoint, pool: str, weights: Path, *, host: str, port: int, key: str, spread: Spread = ALONE
) -> Command:
    """Return what starts vLLM for a replica, or on one of its nodes.

    Raises
    ------
    FieldError
        The program of this node starts no servers without an API, and this is to be one.
    """
    from plenum.planning.serving.launch import vllm_words

    program = shlex.split(os.environ.get("PLENUM_VLLM") or "vllm serve")
    if spread.nodes > 1 and program[-1] != "serve":
        raise FieldError(
            "PLENUM_VLLM",
            f"must end in serve, as 'vllm serve' does, for a replica over several nodes; not {program[-1]!r}",
        )
    given = _filled(vllm_words(*_planned(endpoint, pool, weights)), weights, port)
    # The module behind ``vllm serve``, which is all that some builds have, wants the model named; unnamed, it serves another.
    words = [*program, *([] if program[-1] == "serve" else ["--model"]), *given]
    # Without the last, usage would not say which prompt tokens were found in the cache, which are billed differently.
    words += ["--host", host, "--served-model-name", endpoint.model_name, "--enable-prompt-tokens-details"]
    if endpoint.adapters:
        words += ["--enable-lora", "--lora-modules", *(f"{name}={source}" for name, source in endpoint.adapters)]
    words += _spread("vllm", spread)
    env = _environment()
    if spread.nodes > 1:
        env["VLLM_HOST_IP"] = host  # else it takes the address by which it would reach the internet
        if _pool_of(endpoint, pool).parallelism.dp > 1:  # the default is one number for all replicas of a host
            words += ["--data-parallel-rpc-port", str(spread.port + 1)]
    if key:
        env["VLLM_API_KEY"] = key
    if pool in (PREFILL, DECODE):
        env |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": host, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(_free_port(host))}
    return Command(words=_tied([*words, *endpoint.arguments]), env=env, ready_s=READY_S)


def sglang_command(
    endpoint: Endpoint, pool: str, weights: Path, *, host: str, port: int, key: str, spread: Spread = ALONE
) -> Command:
    """Return what starts SGLang for a replica, or on one of its nodes."""
    from plenum.planning.serving.launch import sglang_words

    program = shlex.split(os.environ.get("PLENUM_SGLANG", "")) or ["python", "-c", _SGLANG]
    given = _filled(sglang_words(*_planned(endpoint, pool, weights)), weights, port)
    given[given.index("--host") + 1] = host
    words = [*program, *given, "--served-model-name", endpoint.model_name, "--enable-metrics", "--enable-cache-report"]
    words += _spread("sglang", spread)
    if endpoint.adapters:
        words += ["--lora-paths", *(f"{name}={source}" for name, source in endpoint.adapters)]
    if pool == PREFILL:
        words += ["--disaggregation-bootstrap-port", str(_free_port(host))]
    told = f"{key}\n".encode()
    return Command(words=_tied([*words, *endpoint.arguments]), env=_environment(), told=told, ready_s=READY_S)


def _planned(endpoint: Endpoint, pool: str, weights: Path) -> tuple[Any, str, int]:
    """Return instance, role and context as the planner's lines want them; the accelerator does not show in them."""
    from plenum.adapters.models import read_architecture
    from plenum.serving.catalogue.accelerators import ACCELERATORS
    from plenum.serving.formats import Precision
    from plenum.serving.instance import EngineSettings, Instance, Parallelism

    spread = _pool_of(endpoint, pool).parallelism
    model = read_architecture(weights)
    precision = Precision(weights=endpoint.weights_format or model.weights_format, experts=model.experts_format)
    if endpoint.cache_format:
        precision = replace(precision, kv_cache=endpoint.cache_format)
    standard = EngineSettings()
    instance = Instance(
        model=model,
        hardware=next(iter(ACCELERATORS.values())),
        precision=precision,
        parallelism=Parallelism(tp=spread.tp, pp=spread.pp, dp=spread.dp, ep=spread.ep),
        settings=replace(standard, max_sequences=endpoint.slots or standard.max_sequences),
    )
    role = pool if pool in (PREFILL, DECODE) else "both"
    return instance, role, endpoint.context_tokens or model.max_context


def _pool_of(endpoint: Endpoint, name: str) -> Pool:
    return next(pool for pool in endpoint.pools if pool.name == name)


def _spread(engine: str, spread: Spread) -> list[str]:
    """Return the words by which a server finds the others of its replica."""
    from plenum.planning.serving.launch import servers_words

    if spread.nodes == 1:
        return []
    address = f"[{spread.address}]" if ":" in spread.address and engine == "sglang" else spread.address
    meant = {"$NODE_RANK": str(spread.rank), "$HEAD": address, "$HEAD:5000": f"{address}:{spread.port}"}
    words = [meant.get(word, word) for word in servers_words(engine, spread.nodes) if word != "$@"]
    if engine == "vllm":
        words += ["--master-port", str(spread.port), *(["--headless"] if spread.rank else [])]
    return words


def _filled(words: list[str], weights: Path, port: int) -> list[str]:
    """Put this replica's weights and port in the place of the template's."""
    words = [str(weights) if word == "$MODEL" else word for word in words]
    words[words.index("--port") + 1] = str(port)
    return words


def _environment() -> dict[str, str]:
    """Return what of the host's environment the program gets: what is between Plenum's own processes is none of its business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PLENUM_")}


def _tied(words: list[str]) -> list[str]:
    """Let the program end with the process that started it; it may be one of another environment, so nothing is imported there."""
    return [sys.executable, "-I", leash.__file__, *words]


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return listener.getsockname()[1]
