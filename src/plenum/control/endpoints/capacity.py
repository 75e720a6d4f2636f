"""Requests a second that one replica serves within its promise, where the performance model knows model and accelerator."""

from __future__ import annotations

import math
from functools import lru_cache

from plenum.model.endpoint import DECODE, PREFILL, Endpoint, Pool
from plenum.model.errors import PlenumError
from plenum.serving.calibration import Calibration
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import Instance, Parallelism
from plenum.serving.predict import predict

MOST_RPS = 4_096.0
STEPS = 16
"""Halvings of the range of rates: finer than the model is."""


def replica_rps(
    spec: Endpoint,
    pool: Pool,
    device: str,
    prompt_tokens: float,
    output_tokens: float,
    calibration: Calibration | None = None,
) -> float:
    """Return the highest rate at which one replica keeps the endpoint's promise; 0: nobody can say.

    Parameters
    ----------
    device
        Accelerator as its node names it; that of the emulated engine's own timing counts before it.
    prompt_tokens, output_tokens
        Means of the requests; rounded to half octaves, so that the answer does not flutter and is remembered.
    calibration
        Of one's own measurements; None: the one that ships.
    """
    promise = spec.promise
    if math.isinf(promise.ttft_s) and math.isinf(promise.tpot_s):
        return 0.0
    p = pool.parallelism
    return _rps(
        spec.timing_model or spec.model,
        spec.timing_hardware or device,
        (p.tp, p.pp, p.dp, p.ep),
        pool.name,
        _rounded(prompt_tokens),
        _rounded(output_tokens),
        promise.ttft_s,
        promise.tpot_s,
        calibration,
    )


@lru_cache(maxsize=1_024)
def _rps(
    model: str,
    device: str,
    spread: tuple[int, int, int, int],
    pool: str,
    isl: float,
    osl: float,
    ttft_s: float,
    tpot_s: float,
    calibration: Calibration | None,
) -> float:
    hardware = _accelerator(device)
    if hardware is None:
        return 0.0
    try:
        tp, pp, dp, ep = spread
        parallelism = Parallelism(tp=tp, pp=pp, dp=dp, ep=ep)
        instance = Instance(model=model_named(model), hardware=hardware, parallelism=parallelism)
    except PlenumError:
        return 0.0

    def keeps(rate_rps: float) -> bool:
        found = isl - 1 if pool == DECODE else 0.0
        out = predict(
            instance,
            isl=isl,
            osl=1.0 if pool == PREFILL else osl,
            rate_rps=rate_rps,
            cached_tokens=found,
            calibration=calibration,
        )
        in_time = pool == DECODE or out.ttft_s <= ttft_s
        return not out.saturated and out.cache_tokens > 0 and in_time and (pool == PREFILL or out.tpot_s <= tpot_s)

    low, high = 0.0, MOST_RPS
    for _ in range(STEPS):
        middle = math.sqrt(max(low, 1e-3) * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _accelerator(device: str) -> Accelerator | None:
    """Return an accelerator by the name that a driver gives it: ``H100-80GB-HBM3`` is an H100."""
    words = device.removeprefix("NVIDIA ").replace(" ", "-").split("-")
    for n in range(len(words), 0, -1):
        try:
            return accelerator_named("-".join(words[:n]))
        except PlenumError:
            continue
    return None


def _rounded(tokens: float) -> float:
    return 2.0 ** (round(2 * math.log2(max(tokens, 1.0))) / 2)
