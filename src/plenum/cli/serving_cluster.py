"""Instances and pools as people describe them in options: a model, devices, how it is spread, and how many of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.serving.architecture import Architecture
    from plenum.serving.calibration import Calibration
    from plenum.serving.hardware import Accelerator
    from plenum.serving.instance import Instance, Parallelism
    from plenum.serving.pools import Pool, Serving

MAX_REPLICAS = 10_000
MAX_DEGREE = 1_024
ENGINES = ("vllm", "sglang", "trtllm", "llama.cpp")


class DoesNotFitError(FieldError):
    """The weights leave no room for the cache on the devices given."""

    code = "serving.does-not-fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One kind of instance: the options as given."""

    model: str
    hardware: str
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    engine: str = "vllm"
    weights: str | None = None
    kv_cache: str = "bf16"
    max_sequences: int = 256
    chunk: int = 8192
    prefix_caching: bool = True
    block_tokens: int = 16
    draft: int = 0
    acceptance: float = 0.7


def instance_of(described: Described, *, checked: bool = True) -> Instance:
    """Return the instance that was described.

    Parameters
    ----------
    checked
        Refuse what does not fit; else the caller tells.

    Raises
    ------
    FieldError
        An unknown model, accelerator or format, or degrees that the model cannot be split into.
    DoesNotFitError
        The weights leave no room for the cache; the sentence says what would.
    """
    from plenum.adapters.models import find_architecture
    from plenum.serving.formats import Precision, format_named
    from plenum.serving.instance import EngineSettings, Instance, Parallelism
    from plenum.serving.measured import run_in

    model = find_architecture(described.model, "--model")
    weights = format_named(described.weights, "--weights").name if described.weights else model.weights_format
    stated = Precision(
        weights=weights,
        experts=model.experts_format if weights == model.weights_format else "",
        kv_cache=format_named(described.kv_cache, "--kv-cache").name,
    )
    spread = Parallelism(tp=described.tp, pp=described.pp, dp=described.dp, ep=described.ep)
    _check_spread(model, spread)
    instance = Instance(
        model=model,
        hardware=accelerator_of(described.hardware),
        precision=run_in(model, stated),
        parallelism=spread,
        settings=EngineSettings(
            engine=described.engine,
            max_sequences=described.max_sequences,
            max_batched_tokens=described.chunk,
            prefix_caching=described.prefix_caching,
            block_tokens=described.block_tokens,
            speculative_tokens=described.draft,
            acceptance=described.acceptance,
        ),
    )
    if checked:
        _check_fit(instance)
    return instance


def accelerator_of(name: str, option: str = "--hardware") -> Accelerator:
    """Return the accelerator of a name; who writes ``8xH200`` is told how to say that.

    Raises
    ------
    FieldError
        None is called so.
    """
    from plenum.serving.catalogue.accelerators import accelerator_named

    counted = re.fullmatch(r"(\d{1,6})\s*[xX*]\s*(\S{1,60})", name.strip())
    if counted:
        known = accelerator_named(counted[2], option).name
        raise FieldError(
            option,
            f"takes the kind of device, {known}; how many goes into an option of its own, such as --tp or --gpus",
        )
    return accelerator_named(name, option)


def serving_of(
    instance: Instance,
    *,
    replicas: int | None,
    prefill: int | None,
    decode: int | None,
    dram_bytes: int = 0,
    nvme_bytes: int = 0,
    isl: float = 2048.0,
    osl: float = 512.0,
    calibration: Calibration | None = None,
) -> Serving:
    """Return pools of an instance: ``replicas`` that do both, or ``prefill`` and ``decode`` apart.

    Parameters
    ----------
    dram_bytes, nvme_bytes
        Of each instance, for cached prefixes.
    isl, osl
        Mean tokens of prompts and answers, about which corrections are taken.
    calibration
        None: the shipped one.

    Raises
    ------
    FieldError
        Both kinds, or only half of the second.
    """
    from plenum.serving.calibration import calibrated_steps
    from plenum.serving.formats import FORMATS
    from plenum.serving.instance import transfer_bps
    from plenum.serving.pools import Pool, Serving

    check_pools(replicas, prefill, decode)
    steps = calibrated_steps(instance, calibration, isl=isl, osl=osl)
    each = instance.model.cache_values_per_token * FORMATS[instance.precision.kv_cache].bytes

    def pool(count: int, role: Any) -> Pool:
        return Pool(
            instance=instance,
            steps=steps,
            count=count,
            role=role,
            dram_tokens=int(dram_bytes / each) if each else 0,
            nvme_tokens=int(nvme_bytes / each) if each else 0,
        )

    pools = (pool(prefill, "prefill"), pool(decode, "decode")) if prefill and decode else (pool(replicas or 1, "both"),)
    return Serving(pools=pools, transfer_bps=transfer_bps(instance))


def check_lengths(instance: Instance, isl: float, osl: float) -> None:
    """Refuse requests that no engine would take: longer than the context that the model was made for.

    Raises
    ------
    FieldError
        Prompt and answer together are longer.
    """
    most = instance.model.max_context
    if isl + osl > most:
        sentence = (
            f"{isl:,.0f} and --osl {osl:,.0f} tokens are more than the context of {instance.model.name}, {most:,}"
        )
        raise FieldError("--isl", sentence)


def check_pools(replicas: int | None, prefill: int | None, decode: int | None) -> None:
    """Refuse pools that make no sense.

    Raises
    ------
    FieldError
        Both kinds, or only half of the second.
    """
    if bool(prefill) != bool(decode):
        raise FieldError("--decode" if prefill else "--prefill", "prefill and decode instances need one another")
    if replicas and prefill:
        raise FieldError("--replicas", "do prefill and decode; give them, or --prefill and --decode")


def words_of(serving: Serving) -> str:
    """Say what serves: ``8 x Llama-3.1-70B BF16 on 4 x H100 (TP4)``."""
    models = sorted({pool.model for pool in serving.pools})
    return " + ".join(_words_of_pools([pool for pool in serving.pools if pool.model == model]) for model in models)


def _words_of_pools(pools: list[Pool]) -> str:
    instance = pools[0].instance
    counts = " + ".join(f"{p.count}{'' if p.role == 'both' else f' {p.role}'}" for p in pools)
    form = instance.precision.weights.upper()
    spread = f" ({instance.parallelism})" if instance.devices > 1 else ""
    return f"{counts} x {instance.model.name} {form} on {instance.devices} x {instance.hardware.name}{spread}"


def _check_spread(model: Architecture, spread: Parallelism) -> None:
    """Refuse degrees that engines refuse too: heads, experts and layers are not cut into pieces."""
    split = [block.attention for block in model.blocks if block.attention.kind in ("full", "sliding", "mla")]
    for heads in {attention.heads for attention in split}:
        if heads % spread.tp:
            raise FieldError("--tp", f"must divide the {heads} attention heads of {model.name}: {_divisors(heads)}")
    for heads in {attention.kv_heads for attention in split if attention.kind != "mla"}:
        if heads % spread.tp and spread.tp % heads:
            raise FieldError(
                "--tp", f"must divide the {heads} KV heads of {model.name}, or be a multiple: {_divisors(heads)}"
            )
    if spread.pp > model.layers:
        raise FieldError("--pp", f"must be at most the {model.layers} layers of {model.name}")
    experts = max(block.feed_forward.experts for block in model.blocks)
    devices = spread.tp * spread.dp
    if spread.ep > 1 and not experts:
        raise FieldError("--ep", f"deals out experts, and {model.name} has none")
    if devices % spread.ep:
        raise FieldError("--ep", f"must divide tp x dp, {devices} here, not {spread.ep}")
    if spread.ep > max(experts, 1):
        raise FieldError("--ep", f"must be at most the {experts} experts of {model.name}")


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, min(number, MAX_DEGREE) + 1) if number % d == 0)


def _check_fit(instance: Instance) -> None:
    from dataclasses import replace

    from plenum.serving.instance import (
        RUNTIME_FRACTION,
        WORKSPACE_BYTES,
        cache_capacity_tokens,
        weight_bytes_per_device,
    )

    block = instance.settings.block_tokens
    if cache_capacity_tokens(instance, block) >= block:
        return
    need = weight_bytes_per_device(instance) / 1e9
    have = (instance.hardware.hbm_bytes * RUNTIME_FRACTION - WORKSPACE_BYTES) / 1e9
    spread = instance.parallelism
    heads = min(block.attention.heads for block in instance.model.blocks)
    larger = (
        size
        for size in (2**k for k in range(spread.tp.bit_length(), 8))
        if heads % size == 0
        and cache_capacity_tokens(replace(instance, parallelism=replace(spread, tp=size)), block) > 0
    )
    enough = next(larger, None)
    remedy = (
        f"--tp {enough} leaves room" if enough else "choose larger devices, more stages (--pp) or narrower --weights"
    )
    sentence = (
        f"{instance.model.name} in {instance.precision.weights.upper()} takes {need:,.1f} GB of each of {instance.devices} x "
        f"{instance.hardware.name}, which have {have:,.1f} GB for weights and KV cache together; {remedy}"
    )
    raise DoesNotFitError("--hardware", sentence)
