"""A prefill plan as pools and traffic, so that the simulator can be asked whether the steady-state equations hold."""

from __future__ import annotations

import numpy as np

from plenum.planning.prefill.split import PrefillPlan, PrefillScenario
from plenum.serving.architecture import Architecture, Attention, Block, FeedForward
from plenum.serving.curves import Curve, Quadratic, decode_steps, fit_quadratic, prefill_steps
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import EngineSettings, Instance
from plenum.serving.pools import Pool, Role, Serving
from plenum.serving.workload import Requests, requests_of

FITTED_AT = 64
"""Lengths at which a curve that is no parabola is fitted by one."""

INSIDE_BPS = 100e9
"""Bytes a second between the instances of one site, unless told otherwise: 800 Gbit/s of RDMA a node (arXiv 2604.15039)."""

_STATE_VALUES = 64 * 64
_CACHE_VALUES = 2 * 64
_BYTES = 2.0


def serving_of(
    scenario: PrefillScenario, plan: PrefillPlan, *, tokens_per_s: float, inside_bps: float = INSIDE_BPS
) -> Serving:
    """Return the pools of a plan: remote and local prefill, one prompt at a time, and decode.

    Parameters
    ----------
    tokens_per_s
        What each sequence gets while it decodes; how many an instance decodes at once follows.
    inside_bps
        Bytes a second of a transfer inside the local site.

    Notes
    -----
    Route with ``remote_above_tokens`` of the plan's threshold.
    """
    longest = int(np.ceil(scenario.lengths.tokens[-1])) + 1
    model = carrier(_quadratic(scenario, scenario.cache_bytes, 1))
    room = int(longest + scenario.output_tokens) + 1
    sequences = max(1, round(scenario.decode_tokens_per_s / tokens_per_s))
    alone = EngineSettings(max_sequences=1, max_batched_tokens=longest, chunked_prefill=False, prefix_caching=False)
    many = EngineSettings(max_sequences=sequences, max_batched_tokens=longest, prefix_caching=False)
    decode = decode_steps(fixed_s=sequences / scenario.decode_tokens_per_s)
    rows: tuple[tuple[str, Role, int, EngineSettings, Curve | None], ...] = (
        ("remote", "prefill", scenario.remote_instances, alone, scenario.remote_prefill_s),
        ("local", "prefill", plan.prefill_instances, alone, scenario.local_prefill_s),
        ("local", "decode", plan.decode_instances, many, None),
    )
    pools = tuple(
        Pool(
            instance=Instance(model=model, hardware=_MEASURED, settings=settings),
            steps=decode if curve is None else prefill_steps(_quadratic(scenario, curve, 2)),
            count=count,
            role=role,
            site=site,
            cache_tokens=room * max(settings.max_sequences, 64),
        )
        for site, role, count, settings, curve in rows
        if count
    )
    return Serving(pools=pools, transfer_bps=inside_bps, site_bps=scenario.link_bytes_per_s)


def traffic_of(scenario: PrefillScenario, count: int, rate_rps: float, rng: np.random.Generator) -> Requests:
    """Draw Poisson arrivals of the scenario's prompts; every answer has the mean length."""
    arrival = np.cumsum(rng.exponential(1 / rate_rps, count))
    outputs = np.full(count, max(1, round(scenario.output_tokens)), np.int32)
    return requests_of(arrival, scenario.lengths.sample(count, rng), outputs)


def carrier(cache_bytes: Quadratic) -> Architecture:
    """Return a stand-in model whose cache takes just so many bytes: layers that grow, and a state that does not."""
    growing = max(1, round(cache_bytes.linear / (_CACHE_VALUES * _BYTES)))
    state = max(1, round(cache_bytes.fixed / (_STATE_VALUES * _BYTES)))
    nothing = FeedForward(width=1)
    return Architecture(
        name="measured",
        family="measured",
        hidden=1,
        vocab=1,
        blocks=(
            Block(count=growing, attention=Attention(heads=1, kv_heads=1, head_dim=64), feed_forward=nothing),
            Block(
                count=1,
                attention=Attention(kind="linear", heads=state, kv_heads=1, head_dim=64),
                feed_forward=nothing,
            ),
        ),
        tied_embeddings=True,
        max_context=1 << 30,
        weights_format="bf16",
        parameters_published=0,
        source="made up so that transfers take as long as measured",
    )


def _quadratic(scenario: PrefillScenario, curve: Curve, degree: int) -> Quadratic:
    if isinstance(curve, Quadratic):
        return curve
    at = np.geomspace(max(scenario.lengths.tokens[0], 1.0), scenario.lengths.tokens[-1], FITTED_AT)
    return fit_quadratic(at, curve(at), degree=degree)


_MEASURED = Accelerator(
    name="measured",
    vendor="",
    peak_flops={"bf16": 1.0},
    hbm_bytes=1.0,
    hbm_bps=1.0,
    scaleup_bps=1.0,
    scaleup_size=1,
    scaleout_bps=1.0,
    host_bps=1.0,
    tdp_w=0.0,
    idle_w=0.0,
    server_devices=1,
    server_overhead_w=0.0,
    server_usd=0.0,
    usd_per_hour=0.0,
)
"""Stands for hardware whose times are measured: nothing of it is looked at."""
