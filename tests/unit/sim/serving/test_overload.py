"""Far more arrives than can be done: what is taken is served as promised, and as much of it as without the excess."""

from __future__ import annotations

import numpy as np
import pytest

from plenum.serving.calibration import calibrated_steps
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.instance import Instance
from plenum.serving.pools import Pool, Serving
from plenum.serving.workload import Slo, requests_of
from plenum.sim.serving import Admission, Policies, simulate

SLO = Slo(ttft_s=0.5, tpot_s=0.04)
FULL_RPS = 8.0
"""About what the one instance bears within the promises."""


def report(rps: float, admission: Admission | None, priority=None):
    rng = np.random.default_rng(7)
    arrival_s = np.cumsum(rng.exponential(1.0 / rps, int(60 * rps)))
    count = len(arrival_s)
    given = {} if priority is None else {"priority": rng.choice(np.array(priority, np.int8), count)}
    requests = requests_of(arrival_s, np.full(count, 2000), np.full(count, 500), **given)
    instance = Instance(model=model_named("Llama-3.1-8B"), hardware=accelerator_named("H100"))
    pool = Pool(instance=instance, steps=calibrated_steps(instance), count=1)
    return simulate(requests, Serving(pools=(pool,)), Policies(admission=admission), seed=1)


@pytest.mark.parametrize("times", [3, 20])
def test_goodput_does_not_collapse(times):
    admission = Admission(ttft_s=SLO.ttft_s, tpot_s=SLO.tpot_s)
    calm = report(0.8 * FULL_RPS, admission)
    flooded = report(times * FULL_RPS, admission)
    good = [run.kept(SLO)[run.ready_s < 55].sum() for run in (calm, flooded)]
    assert calm.kept(SLO).mean() > 0.95
    assert good[1] > 0.8 * good[0]
    taken = flooded.finished
    assert flooded.kept(SLO)[taken].mean() > 0.9


def test_without_admission_it_does():
    flooded = report(3 * FULL_RPS, None)
    assert flooded.kept(SLO).mean() < 0.15


def test_the_higher_class_is_served_while_the_lower_one_gives_way():
    admission = Admission(ttft_s=SLO.ttft_s, tpot_s=SLO.tpot_s)
    flooded = report(3 * FULL_RPS, admission, priority=[0, 0, 0, 0, 1])
    kept, high = flooded.kept(SLO), flooded.requests.priority == 1
    assert kept[high].mean() > 2 * kept[~high].mean()
