"""Far more arrives than can be done: what is taken is served as promised, and as much of it as without the excess."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plenum.model.errors import FieldError
from plenum.serving.admission import CAP, CHEAPER, DEFER, REASONS, SHED, VERDICTS
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


LADDER = Admission(
    ttft_s=SLO.ttft_s,
    tpot_s=SLO.tpot_s,
    cheaper=(1, -1),
    output_cap=200,
    deferrable_below=1,
    defer_s=2.0,
    defer_most=10,
)


def two_models(rps: float, admission: Admission | None, classes=(0, 1, 1, 2)):
    """Two of an 8B model, and one of a 1B model that may answer in its place; a quarter is batch work, a quarter of the highest class."""
    rng = np.random.default_rng(11)
    arrival_s = np.cumsum(rng.exponential(1.0 / rps, int(60 * rps)))
    count = len(arrival_s)
    priority = rng.choice(np.array(classes, np.int8), count)
    requests = requests_of(arrival_s, np.full(count, 2000), rng.integers(100, 900, count), priority=priority)
    pools = []
    for number, (name, replicas) in enumerate((("Llama-3.1-8B", 2), ("Llama-3.2-1B", 1))):
        instance = Instance(model=model_named(name), hardware=accelerator_named("H100"))
        pools.append(Pool(instance=instance, steps=calibrated_steps(instance), count=replicas, model=number))
    return simulate(requests, Serving(pools=tuple(pools)), Policies(admission=admission), seed=1)


def test_the_whole_ladder_is_walked_under_three_times_the_load():
    calm, flooded = two_models(0.8 * 2 * FULL_RPS, LADDER), two_models(3 * 2 * FULL_RPS, LADDER)
    plain = two_models(3 * 2 * FULL_RPS, replace(LADDER, cheaper=()))
    assert set(np.unique(calm.verdict[calm.finished]).tolist()) <= {0, CAP, CHEAPER}
    said = {VERDICTS[verdict] for verdict in np.unique(flooded.verdict)}
    assert said >= {"admit", "cap", "cheaper", "shed"}
    assert ((flooded.model == 1) == (flooded.verdict == CHEAPER)).all()
    assert (flooded.instance[(flooded.verdict == CHEAPER) & flooded.finished] == 2).all()
    good = [int(run.kept(SLO)[run.ready_s < 55].sum()) for run in (calm, flooded, plain)]
    assert good[1] > 0.95 * good[0]
    assert good[1] > 1.3 * good[2], "what the cheaper model answers would have been refused"
    taken = flooded.finished & (flooded.requests.priority > 0)  # batch work is promised nothing while it waits
    assert flooded.kept(SLO)[taken].mean() > 0.9


@pytest.mark.parametrize("cheaper", [(1, -1), ()])
def test_under_the_ladder_the_highest_class_hardly_notices(cheaper):
    flooded = two_models(3 * 2 * FULL_RPS, replace(LADDER, cheaper=cheaper))
    low, middle, high = (flooded.kept(SLO)[flooded.requests.priority == k].mean() for k in range(3))
    assert high > 0.9
    assert high >= middle > low
    if not cheaper:
        assert high > 4 * middle


def test_every_verdict_comes_with_its_reason():
    flooded = two_models(3 * 2 * FULL_RPS, LADDER)
    reasons = {
        VERDICTS[verdict]: {REASONS[k][0] for k in np.unique(flooded.why[flooded.verdict == verdict])}
        for verdict in np.unique(flooded.verdict)
    }
    assert reasons["admit"] <= {"admission.keeps", "admission.likely"}
    assert reasons["cap"] == {"admission.capped"}
    assert reasons["cheaper"] <= {"admission.cheaper", "admission.free"}
    assert reasons["shed"] <= {
        "admission.ttft",
        "admission.tpot",
        "admission.saturated",
        "admission.yields",
        "admission.late",
    }
    assert (flooded.reason[flooded.verdict == SHED] > 0).all()
    assert not (flooded.verdict == DEFER).any(), "whoever was put off is taken or refused in the end"
    capped = flooded.verdict == CAP
    assert (flooded.output_tokens[capped & flooded.finished] == LADDER.output_cap).all()
    assert (report(FULL_RPS, None).verdict == -1).all(), "nobody was asked"


def test_a_model_that_nobody_serves_cannot_be_the_cheaper_one():
    with pytest.raises(FieldError, match="cannot answer for"):
        two_models(1.0, replace(LADDER, cheaper=(2,)))
