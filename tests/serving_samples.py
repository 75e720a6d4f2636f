"""Small serving set-ups for tests: a toy model on toy hardware, with step times that are easy to reckon with."""

from __future__ import annotations

from typing import Any

import numpy as np

from plenum.serving.architecture import Architecture, Attention, Block, FeedForward
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import EngineSettings, Instance
from plenum.serving.pools import Pool, Serving
from plenum.serving.steps import AT, FIELDS, StepModel

TOY = Architecture(
    name="toy",
    family="toy",
    hidden=64,
    vocab=1000,
    blocks=(
        Block(count=2, attention=Attention(heads=4, kv_heads=4, head_dim=16), feed_forward=FeedForward(width=128)),
    ),
)
"""Its cache takes 512 bytes a token in BF16."""

TOY_CHIP = Accelerator(
    name="chip",
    vendor="toy",
    peak_flops={"bf16": 1e12, "fp16": 1e12},
    hbm_bytes=16e9,
    hbm_bps=1e11,
    scaleup_bps=1e10,
    scaleup_size=8,
    scaleout_bps=1e9,
    host_bps=1e5,
    tdp_w=1000.0,
    idle_w=100.0,
    server_devices=8,
    server_overhead_w=0.0,
    server_usd=1000.0,
    usd_per_hour=1.0,
)


def steps_of(**coefficients: float) -> StepModel:
    """Every kind of cost, in round numbers; those given replace them, and the rest is 0 where ``only`` is 1."""
    only = coefficients.pop("only", 0.0)
    values = dict.fromkeys(FIELDS, 0.0)
    values.update(stages=1.0, prefill_scale=1.0, decode_scale=1.0)
    values.update({name: 1.0 for name in ("groups", "decode_width") if name in AT})
    watts = {"idle_w": 100.0, "awake_w": 300.0, "memory_w": 200.0, "compute_w": 600.0, "cap_w": 1000.0}
    values.update({name: value for name, value in watts.items() if name in AT})
    if not only:
        values.update(
            fixed_s=2e-3,
            sequence_s=1e-4,
            linear_token_s=1e-4,
            linear_weights_s=3e-3,
            activation_token_s=1e-6,
            prefill_pair_s=1e-6,
            prefill_pair_window_s=5e-7,
            decode_context_s=2e-6,
            decode_context_window_s=1e-6,
            head_token_s=1e-5,
            head_weights_s=5e-4,
        )
    values.update(coefficients)
    return StepModel(coefficients=np.array([values[name] for name in FIELDS]))


def pool_of(engine: EngineSettings, model: StepModel, count: int, **given: Any) -> Pool:
    """Return a pool of toy instances."""
    instance = Instance(model=TOY, hardware=TOY_CHIP, settings=engine)
    return Pool(instance=instance, steps=model, count=count, **given)


def serving_of(*pools: Pool, **links: Any) -> Serving:
    """Return pools that serve together."""
    return Serving(pools=pools, **links)
