"""After every few events of any run, whatever fails, is preempted, swapped, drained or cut off: the books are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.property.serving_books import check, world_of
from tests.property.test_serving_simulator import CACHES, engines, policies, traffic
from tests.serving_samples import pool_of, serving_of, steps_of

from plenum.sim.serving import Simulation
from plenum.sim.serving import fields as f

LAYOUTS = {
    "both": (("both", "a", 3),),
    "apart": (("prefill", "a", 2), ("decode", "a", 2)),
    "half": (("prefill", "a", 2), ("both", "a", 1)),
    "sites": (("prefill", "a", 2), ("decode", "a", 2), ("prefill", "b", 1)),
}


@given(st.data(), traffic(most=24), engines(), CACHES, st.sampled_from(sorted(LAYOUTS)), st.integers(1, 9))
def test_the_books_are_right_at_every_moment(data, requests, engine, cache_tokens, layout, every):
    drafted = data.draw(st.sampled_from((0, 0, 1, 7)))
    if drafted:
        chance = data.draw(st.sampled_from((0.3, 1.0)))
        engine = replace(engine, speculative_tokens=drafted, acceptance=chance, block_tokens=8)
    tiers = {"dram_tokens": data.draw(st.sampled_from((0, 64))), "nvme_tokens": data.draw(st.sampled_from((0, 128)))}
    pools = [
        pool_of(engine, steps_of(), count, role=role, site=site, cache_tokens=cache_tokens, **tiers)
        for role, site, count in LAYOUTS[layout]
    ]
    chosen = data.draw(policies(sum(pool.count for pool in pools)))
    simulation = Simulation(requests, serving_of(*pools, transfer_bps=2e4, site_bps=1e4), chosen, seed=7)
    w = world_of(simulation)
    before_s = 0.0
    while not simulation.advance(every):
        check(w)
        assert w.clock[f.NOW] >= before_s
        before_s = float(w.clock[f.NOW])
    assert np.isin(w.ri[:, f.STATE], (f.HELD, f.DONE, f.REFUSED)).all()
    if not (w.ri[:, f.REASON] == f.NO_INSTANCE).any():  # else the run is cut off with whoever waits still waiting
        check(w)
        if not (w.ri[:, f.STATE] == f.HELD).any():  # a follower that was refused at the very end never came for it
            assert w.ni[f.USED].sum() == w.ni[f.PINNED].sum() == 0, "nothing is left behind"
