"""A prefill scenario from the performance model: a model on two kinds of hardware, where nothing was measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.planning.lengths import Lengths
from plenum.planning.prefill.split import PrefillScenario, decode_rate
from plenum.serving.curves import prefill_curve
from plenum.serving.formats import FORMATS
from plenum.serving.instance import Instance, cache_capacity_tokens
from plenum.serving.roofline import compile_steps


class DoesNotFitError(FieldError):
    """Weights leave no room for the cache of even one sequence."""

    code = "plan.does-not-fit"


class TooSlowError(FieldError):
    """Not even one sequence alone is decoded as fast as promised."""

    code = "plan.too-slow"


def modelled_scenario(
    remote: Instance,
    local: Instance,
    *,
    remote_instances: int,
    local_instances: int,
    lengths: Lengths,
    output_tokens: float,
    tokens_per_s: float,
    link_bytes_per_s: float,
) -> PrefillScenario:
    """Return a scenario whose curves come from the performance model.

    Parameters
    ----------
    remote, local
        What an instance of each site is; both run the same model.
    tokens_per_s
        Promised to every sequence while it decodes.

    Raises
    ------
    DoesNotFitError, TooSlowError
        With the binding limit in the sentence.
    """
    context = lengths.mean + output_tokens / 2
    for field, instance in (("remote hardware", remote), ("local hardware", local)):
        room = cache_capacity_tokens(instance, lengths.tokens[-1]) // instance.parallelism.dp
        if room < lengths.tokens[-1]:
            sentence = f"{instance.devices} x {instance.hardware.name} hold {max(room, 0):,} tokens of KV cache beside the weights"
            longest = f"the longest prompt has {lengths.tokens[-1]:,.0f}"
            raise DoesNotFitError(field, f"{sentence}, and {longest}; use more devices or a narrower format")
    steps = compile_steps(local)
    sequences, rate = decode_rate(
        steps,
        context_tokens=context,
        tokens_per_s=tokens_per_s,
        cache_tokens=cache_capacity_tokens(local, context),
        most_sequences=local.settings.max_sequences,
    )
    if not sequences:
        _, alone = decode_rate(steps, context_tokens=context, tokens_per_s=1e-9, cache_tokens=context, most_sequences=1)
        sentence = f"one sequence alone gets {alone:.1f} tokens/s on {local.devices} x {local.hardware.name}"
        raise TooSlowError("tokens a second", f"{sentence}, and {tokens_per_s:g} are promised")
    width = FORMATS[local.precision.kv_cache].bytes

    def cache_bytes(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.asarray(tokens, np.float64)
        grid = np.geomspace(max(at.min(), 1.0), max(at.max(), 2.0), 512)
        return np.interp(at, grid, [local.model.cache_values(float(length)) * width for length in grid])

    return PrefillScenario(
        lengths=lengths,
        remote_instances=remote_instances,
        remote_prefill_s=prefill_curve(compile_steps(remote), chunk_tokens=remote.settings.max_batched_tokens),
        local_instances=local_instances,
        local_prefill_s=prefill_curve(steps, chunk_tokens=local.settings.max_batched_tokens),
        decode_tokens_per_s=rate,
        output_tokens=output_tokens,
        cache_bytes=cache_bytes,
        link_bytes_per_s=link_bytes_per_s,
    )
