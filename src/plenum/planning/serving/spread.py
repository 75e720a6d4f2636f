"""A plan whose instances span several servers as one ``Endpoint`` that is served: Plenum starts the engines, and its gateway answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from plenum.planning.serving.launch import context_tokens, servers_of
from plenum.planning.serving.layout import PoolChoice
from plenum.planning.serving.question import Question
from plenum.serving.formats import Precision

ENGINES = ("vllm", "sglang")
"""Engines that there is a driver for, of those that a plan is written for."""

WITHIN = "fabric.leaf"
"""Level of which one domain holds all servers of an instance."""

MAX_SLOTS = 4_096
"""What a manifest may say."""

_BATCHED = {"vllm": "--max-num-batched-tokens", "sglang": "--chunked-prefill-size"}


def is_spread(pools: tuple[PoolChoice, ...], engine: str) -> bool:
    """Tell whether pools are best written as one served endpoint: some instance spans servers, and there is one pool of each kind."""
    roles = tuple(sorted(pool.role for pool in pools))
    alike = (
        len({(pool.option.instance.precision.weights, pool.option.instance.precision.kv_cache) for pool in pools}) == 1
    )
    wide = any(servers_of(pool.option.instance) > 1 for pool in pools)
    return wide and alike and engine in ENGINES and roles in (("both",), ("decode", "prefill"))


def served_endpoint(
    name: str,
    question: Question,
    pools: tuple[PoolChoice, ...],
    *,
    engine: str,
    model_folder: str,
    resources_of: Callable[[PoolChoice], dict[str, Any]],
) -> dict[str, Any]:
    """Return the manifest of pools that :func:`is_spread`.

    Parameters
    ----------
    resources_of
        What an instance takes of each of its servers.
    """
    first = next(
        (pool for pool in pools if pool.role == "prefill"), pools[0]
    )  # it has the batches that are worth a limit
    instance = first.option.instance
    precision = instance.precision
    spec: dict[str, Any] = {
        "model": model_folder,
        "engine": engine,
        "servedAs": question.model.name,
        "contextLimit": context_tokens(question),
        "slots": min(max(pool.option.instance.settings.max_sequences for pool in pools), MAX_SLOTS),
        "arguments": [_BATCHED[engine], str(_batched_tokens(engine, first))],
    }
    if precision.weights != instance.model.weights_format:
        spec["format"] = precision.weights
    if precision.kv_cache != Precision().kv_cache:
        spec["cacheFormat"] = precision.kv_cache
    promised = {"ttft": question.slo.ttft_s, "tpot": question.slo.tpot_s}
    if slo := {key: f"{seconds:g}s" for key, seconds in promised.items() if math.isfinite(seconds)}:
        spec["slo"] = slo | {"quantile": question.slo.percentile / 100}
    each = {pool.role: _pool(pool, resources_of(pool)) for pool in pools}
    spec |= each["both"] if "both" in each else {"pools": {role: each[role] for role in ("prefill", "decode")}}
    return {"apiVersion": "plenum.dev/v1alpha1", "kind": "Endpoint", "metadata": {"name": name}, "spec": spec}


def _batched_tokens(engine: str, pool: PoolChoice) -> int:
    instance = pool.option.instance
    # SGLang divides what it is told by its groups of attention.
    return instance.settings.max_batched_tokens * (instance.parallelism.dp if engine == "sglang" else 1)


def _pool(pool: PoolChoice, resources: dict[str, Any]) -> dict[str, Any]:
    instance, spread = pool.option.instance, pool.option.instance.parallelism
    parallelism: dict[str, Any] = {"tp": spread.tp, "pp": spread.pp, "dp": spread.dp, "ep": spread.ep}
    if (servers := servers_of(instance)) > 1:
        parallelism |= {"nodes": servers, "within": WITHIN}
    own: dict[str, Any] = {"replicas": pool.count, "resources": resources, "parallelism": parallelism}
    return own if instance.hardware.is_host else own | {"gpuModels": [instance.hardware.name]}
