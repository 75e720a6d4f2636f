"""The Azure conversation hour of Patel et al., "Splitwise" (ISCA 2024, arXiv 2311.18677), on 40 simulated DGX-H100: what may not be lost.

19,366 requests with their real lengths. Tokens are conserved exactly, Little's law holds to rounding, energy lies between idling and full
power, and the parts of the figures add up to the wholes; the same with prefill and decode apart on as many machines.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.traces import azure
from plenum.adapters.traces.folder import find_data
from plenum.serving.calibration import calibrated_steps
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.instance import EngineSettings, Instance, Parallelism
from plenum.serving.pools import Pool, Serving
from plenum.sim.serving import Outcome, simulate
from plenum.sim.serving.slices import scaled

DATA = find_data(None, os.environ) or Path("absent")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / azure.CONVERSATION).is_file(), reason="no Azure LLM trace: set PLENUM_DATA"),
]

REQUESTS = 19_366
LAYOUTS = {"together": (("both", 40),), "apart": (("prefill", 25), ("decode", 15))}


@cache
def hour(layout: str, load: float = 1.0) -> Outcome:
    instance = Instance(
        model=model_named("Llama-2-70B"),
        hardware=accelerator_named("H100"),
        parallelism=Parallelism(tp=8),
        settings=EngineSettings(max_batched_tokens=2048),
    )
    steps = calibrated_steps(instance)
    pools = tuple(Pool(instance=instance, steps=steps, count=count, role=role) for role, count in LAYOUTS[layout])
    requests = scaled(azure.read_conversation(DATA), load)
    return simulate(requests, Serving(pools=pools, transfer_bps=50e9), seed=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_lost(layout):
    outcome = hour(layout)
    requests, each = outcome.requests, outcome.instances
    assert len(requests) == REQUESTS
    assert outcome.finished.all()
    assert (outcome.output_tokens == requests.output_tokens).all()
    assert not outcome.preemptions.any()
    assert each.prefill_tokens.sum() == requests.prompt_tokens.sum(dtype=np.int64)
    assert each.decode_tokens.sum() == (requests.output_tokens - 1).sum(dtype=np.int64) == outcome.gap_counts.sum()
    stayed = outcome.finish_s - outcome.ready_s
    np.testing.assert_allclose(outcome.area_s, stayed.sum(), rtol=1e-9)  # L = lambda W, as integrals
    gaps = np.nansum(outcome.tpot_s * (requests.output_tokens - 1))
    np.testing.assert_allclose(outcome.gap_sum_s, gaps, rtol=1e-9)
    np.testing.assert_allclose(each.on_s, outcome.end_s)
    watts = each.energy_j / each.on_s
    hardware = outcome.pools[0].instance.hardware
    assert (watts >= 8 * hardware.idle_w).all()
    assert (watts <= 8 * hardware.tdp_w).all()


def test_the_same_seed_gives_the_same_run():
    first, again = hour("apart"), hour.__wrapped__("apart")
    np.testing.assert_array_equal(first.finish_s, again.finish_s)
    np.testing.assert_array_equal(first.instances.energy_j, again.instances.energy_j)


def test_apart_no_prompt_stands_between_two_tokens():
    """At equal machines and ten times the load: tokens come more evenly, and caches take time to cross."""
    together, apart = hour("together", 10.0), hour("apart", 10.0)
    assert apart.finished.all()
    slowest = [run.report().itl_s.p99 for run in (apart, together)]
    assert slowest[0] < 0.8 * slowest[1]
    assert apart.transfer_s[apart.output_tokens > 1].min() > 0.0 == together.transfer_s.max()
