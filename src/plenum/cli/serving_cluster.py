"""Instances and pools as people describe them in options: a model, devices, how it is spread, and how many of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from plenum.serving.instance import Instance
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
    ep: int = 0
    engine: str = "vllm"
    weights: str | None = None
    kv_cache: str | None = None
    max_sequences: int = 256
    chunk: int = 8192
    prefix_caching: bool = True
    block_tokens: int = 16


def instance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that :class:`Described` is made of."""
    degree = click.IntRange(1, MAX_DEGREE)
    options = (
        click.option("--model", required=True, help="A model's name, a folder with its config.json, or a GGUF file."),
        click.option("--hardware", required=True, help="Accelerator, such as H100."),
        click.option("--tp", type=degree, default=1, show_default=True, help="Tensor parallel devices."),
        click.option("--pp", type=degree, default=1, show_default=True, help="Pipeline stages."),
        click.option("--dp", type=degree, default=1, show_default=True, help="Attention data parallel groups."),
        click.option(
            "--ep", type=click.IntRange(0, MAX_DEGREE), default=0, help="Expert parallel parts. Default: all devices."
        ),
        click.option("--engine", type=click.Choice(ENGINES), default="vllm", show_default=True, help="Calibration."),
        click.option("--format", "weights", help="Of the weights, such as fp8. Default: as published."),
        click.option("--kv-format", "kv_cache", help="Of the KV cache, such as fp8. Default: bf16."),
        click.option(
            "--max-sequences", type=click.IntRange(1, 65_536), default=256, show_default=True, help="Of one batch."
        ),
        click.option(
            "--chunk",
            type=click.IntRange(1, 1_048_576),
            default=8192,
            show_default=True,
            help="Tokens of an iteration.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def instance_of(described: Described) -> Instance:
    """Return the instance that was described.

    Raises
    ------
    FieldError
        An unknown model, accelerator or format.
    DoesNotFitError
        The weights leave no room for the cache; the sentence says what would.
    """
    from plenum.adapters.models import find_architecture
    from plenum.serving.catalogue.accelerators import accelerator_named
    from plenum.serving.catalogue.models import published_precision
    from plenum.serving.formats import Precision, format_named
    from plenum.serving.instance import EngineSettings, Instance, Parallelism

    model = find_architecture(described.model, "--model")
    hardware = accelerator_named(described.hardware, "--hardware")
    precision = published_precision(model)
    if described.weights:
        weights = format_named(described.weights, "--format")
        # FP8 checkpoints are multiplied as FP8; whatever is expanded first keeps wide activations.
        wide = "fp8" if weights.computes_as[0] == "fp8" else "bf16"
        precision = Precision(weights=weights.name, activations=wide)
    if described.kv_cache:
        precision = Precision(
            weights=precision.weights,
            activations=precision.activations,
            experts=precision.experts,
            kv_cache=format_named(described.kv_cache, "--kv-format").name,
        )
    devices = described.tp * described.dp
    if described.ep > devices:
        raise FieldError("--ep", f"must be at most tp x dp, {devices} here, not {described.ep}")
    instance = Instance(
        model=model,
        hardware=hardware,
        precision=precision,
        parallelism=Parallelism(
            tp=described.tp,
            pp=described.pp,
            dp=described.dp,
            ep=described.ep or (devices if model.expert_parameters else 1),
        ),
        settings=EngineSettings(
            engine=described.engine,
            max_sequences=described.max_sequences,
            max_batched_tokens=described.chunk,
            prefix_caching=described.prefix_caching,
            block_tokens=described.block_tokens,
        ),
    )
    _check_fit(instance)
    return instance


def serving_of(
    instance: Instance, *, replicas: int, prefill: int, decode: int, dram_bytes: int = 0, nvme_bytes: int = 0
) -> Serving:
    """Return pools of an instance: ``replicas`` that do both, or ``prefill`` and ``decode`` apart.

    Parameters
    ----------
    dram_bytes, nvme_bytes
        Of each instance, for cached prefixes.

    Raises
    ------
    FieldError
        Both kinds, or only half of the second.
    """
    from plenum.serving.calibration import calibrated_steps
    from plenum.serving.formats import FORMATS
    from plenum.serving.pools import Pool, Serving

    if bool(prefill) != bool(decode):
        raise FieldError("--decode" if prefill else "--prefill", "prefill and decode instances need one another")
    if replicas and prefill:
        raise FieldError("--replicas", "do prefill and decode; give them, or --prefill and --decode")
    steps = calibrated_steps(instance)
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

    pools = (pool(prefill, "prefill"), pool(decode, "decode")) if prefill else (pool(replicas or 1, "both"),)
    return Serving(pools=pools)


def words_of(serving: Serving) -> str:
    """Say what serves: ``8 x Llama-3.1-70B BF16 on 4 x H100 (TP4)``."""
    pools = serving.pools
    instance = pools[0].instance
    counts = " + ".join(f"{p.count}{'' if p.role == 'both' else f' {p.role}'}" for p in pools)
    form = instance.precision.weights.upper()
    spread = f" ({instance.parallelism})" if instance.devices > 1 else ""
    return f"{counts} x {instance.model.name} {form} on {instance.devices} x {instance.hardware.name}{spread}"


def _check_fit(instance: Instance) -> None:
    from dataclasses import replace

    from plenum.serving.instance import (
        RUNTIME_FRACTION,
        WORKSPACE_BYTES,
        cache_capacity_tokens,
        weight_bytes_per_device,
    )

    if cache_capacity_tokens(instance) >= instance.settings.block_tokens:
        return
    need = weight_bytes_per_device(instance) / 1e9
    have = (instance.hardware.hbm_bytes * RUNTIME_FRACTION - WORKSPACE_BYTES) / 1e9
    spread = instance.parallelism
    larger = (
        size
        for size in (2**k for k in range(spread.tp.bit_length(), 8))
        if cache_capacity_tokens(replace(instance, parallelism=replace(spread, tp=size))) > 0
    )
    enough = next(larger, None)
    remedy = (
        f"--tp {enough} leaves room" if enough else "choose larger devices, more stages (--pp) or a narrower --format"
    )
    sentence = (
        f"{instance.model.name} in {instance.precision.weights.upper()} takes {need:,.1f} GB of each of {instance.devices} x "
        f"{instance.hardware.name}, which have {have:,.1f} GB for weights and KV cache together; {remedy}"
    )
    raise DoesNotFitError("--hardware", sentence)
