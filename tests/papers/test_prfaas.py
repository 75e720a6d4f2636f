"""Qin et al., "Prefill-as-a-Service: KVCache of Next-Generation Models Could Go Cross-Datacenter" (arXiv 2604.15039).

The case study: 32 H200 prefill for 64 H20 over 100 Gbit/s; tables 5 (profile of an instance) and 6 (throughput of three systems).
Inputs come from the transcribed tables; the two points of the H20 curve are those that table 6 implies.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.traces.folder import find_data
from plenum.planning.lengths import lognormal_lengths
from plenum.planning.prefill.check import serving_of, traffic_of
from plenum.planning.prefill.split import PrefillPlan, PrefillScenario, all_local, all_remote, plan_at, plan_prefill
from plenum.planning.published import PREFILL_PRESETS
from plenum.serving.curves import fit_quadratic
from plenum.sim.serving import Policies, simulate

FOLDER = (find_data(None, os.environ) or Path("absent")) / "papers" / "prfaas"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no papers/prfaas: set PLENUM_DATA"),
]

RPS = 0.02  # the tolerance that was asked for
RATIO = 0.03  # of table 6: its own rates are printed to three digits, and our curve is a fit to four points
TTFT = 0.06  # ours has prefill and transfer only; theirs were measured


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def setup() -> dict:
    return json.loads((FOLDER / "setup.json").read_text())


def published(system: str) -> dict[str, str]:
    return next(row for row in rows("table6_case_study.csv") if row["system"] == system)


@cache
def scenario(averaging: str) -> PrefillScenario:
    profile = rows("table5_model_profile_H200x8.csv")
    tokens = [float(row["tokens"]) for row in profile]
    heterogeneous, homogeneous = published("PrfaaS-PD"), published("Homogeneous PD")
    h20 = (
        float(heterogeneous["Np"]) / float(heterogeneous["theta_pdp"]),
        float(homogeneous["Np"]) / float(homogeneous["theta_pdp"]),
    )
    return PrefillScenario(
        lengths=lognormal_lengths(9.90, 1.00, 128, 128_000),
        remote_instances=4,
        remote_prefill_s=fit_quadratic(tokens, [float(row["prefill_s"]) for row in profile]),
        local_instances=8,
        local_prefill_s=fit_quadratic((10_200, 27_300), h20),
        decode_tokens_per_s=float(heterogeneous["theta_pdd"]) / float(heterogeneous["Nd"]) * 1024,
        output_tokens=1024,
        cache_bytes=fit_quadratic(tokens, [float(row["KV_MiB"]) * 2**20 for row in profile], degree=1),
        link_bytes_per_s=setup()["link_Gbps"] * 1e9 / 8,
        averaging=averaging,  # pyright: ignore[reportArgumentType]
    )


both = pytest.mark.parametrize("averaging", ["time", "length"])


@both
def test_split_and_threshold(averaging: str) -> None:
    """Table 6: 3 instances prefill and 5 decode; threshold 19.4K, asked for: 19 to 20K."""
    best = plan_prefill(scenario(averaging)).best
    assert (best.prefill_instances, best.decode_instances) == (3, 5)
    assert 19_000 <= best.threshold_tokens <= 20_000


@both
def test_throughput(averaging: str) -> None:
    """Table 6: 3.24 requests/s, within 2 %; remote and local prefill in balance, decode with room to spare."""
    best = plan_prefill(scenario(averaging)).best
    assert best.rps == pytest.approx(float(published("PrfaaS-PD")["Lambda_rps"]), rel=RPS)
    assert set(best.bounds) == {"remote prefill", "local prefill"}
    assert best.decode_rps == pytest.approx(3.91, rel=0.001)


@both
def test_terms(averaging: str) -> None:
    """Table 6: Θ of remote and local prefill 1.61 and 1.64 at 19.4K, within 2.5 %; half (0.496) of the requests go away."""
    plan = plan_at(scenario(averaging), threshold_tokens=19_400, prefill_instances=3)
    assert plan.remote_rps == pytest.approx(1.61, rel=0.025)
    assert plan.local_rps == pytest.approx(1.64, rel=0.025)
    assert plan.remote_share == pytest.approx(setup()["p_offload"], abs=0.005)
    assert plan.remote_tokens == pytest.approx(setup()["mean_long"], rel=0.02)


@both
def test_ordering_and_ratios(averaging: str) -> None:
    """Table 6: 1.54 times homogeneous PD (12 instances, 9/3, 2.11 requests/s); the naive way 1.16 times (2.45); within 3 %."""
    case = scenario(averaging)
    best, naive, homogeneous = plan_prefill(case).best, all_remote(case), all_local(case, 12)
    assert best.rps > naive.rps > homogeneous.rps
    assert (homogeneous.prefill_instances, homogeneous.decode_instances) == (9, 3)
    assert homogeneous.rps == pytest.approx(2.11, rel=0.01)
    assert naive.rps == pytest.approx(2.45, rel=0.025)
    assert best.rps / homogeneous.rps == pytest.approx(1.54, rel=RATIO)
    assert naive.rps / homogeneous.rps == pytest.approx(1.16, rel=RATIO)


@both
def test_egress(averaging: str) -> None:
    """About 13 Gbit/s on average over a link of 100, within 10 %: the paper measured bursts too, 12.4 follows from its terms."""
    best = plan_prefill(scenario(averaging)).best
    assert best.egress_bytes_per_s * 8e-9 == pytest.approx(setup()["egress_Gbps_mean"], rel=0.10)
    assert best.link_rps == pytest.approx(13.0, rel=0.01)


@pytest.mark.parametrize("system", ["PrfaaS-PD", "Homogeneous PD", "Naive heterogeneous"])
def test_time_to_first_token(system: str) -> None:
    """Table 6: mean and 90th percentile, within 6 %, prefill and transfer alone."""
    case = scenario("time")
    plan = {
        "PrfaaS-PD": lambda: plan_prefill(case).best,
        "Homogeneous PD": lambda: all_local(case, 12),
        "Naive heterogeneous": lambda: all_remote(case),
    }[system]()
    assert plan.ttft_mean_s == pytest.approx(float(published(system)["ttft_mean_s"]), rel=TTFT)
    assert plan.ttft_p90_s == pytest.approx(float(published(system)["ttft_p90_s"]), rel=TTFT)


def test_link_of_a_dense_model() -> None:
    """Cache at 32K: 59.93 Gbit/s from an instance of a dense model, 4.66 of a hybrid one; a 100 Gbit/s link starves only the first."""
    rates = setup()["KV_Gbps_at_32K"]
    case = scenario("time")
    prefill_s = case.remote_prefill_s
    for name, gbps in rates.items():
        modelled = replace(case, cache_bytes=lambda tokens, gbps=gbps: prefill_s(tokens) * gbps * 1e9 / 8)
        bounds = all_remote(modelled).bounds
        assert bounds == (("link",) if "dense" in name else ("remote prefill",)), name


def test_preset_is_the_case_study() -> None:
    """The preset of ``plenum plan prefill`` says what the transcribed tables say."""
    ours, theirs = plan_prefill(PREFILL_PRESETS["prfaas-paper"].scenario()).best, plan_prefill(scenario("time")).best
    assert ours.rps == pytest.approx(theirs.rps, rel=0.002)


@pytest.mark.parametrize("system", ["PrfaaS-PD", "Homogeneous PD", "Naive heterogeneous"])
def test_simulator_agrees(system: str) -> None:
    """Steady-state equations against the simulator, offered a third more than they say can be served: within 5 % (found: 1 %)."""
    case = scenario("time")
    if system == "Homogeneous PD":
        case = replace(case, remote_instances=0, local_instances=12)
    plan = all_remote(case) if system == "Naive heterogeneous" else plan_prefill(case).best
    requests = traffic_of(case, 6000, 1.3 * plan.rps, np.random.default_rng(4))
    outcome = simulate(requests, serving_of(case, plan, tokens_per_s=40.0), policies_of(plan), seed=1)
    assert outcome.finished.all()
    finish = np.sort(outcome.finish_s)
    first, last = len(finish) // 5, 4 * len(finish) // 5  # neither filling up nor running dry
    assert (last - first) / (finish[last] - finish[first]) == pytest.approx(plan.rps, rel=0.05)


def test_simulated_time_to_first_token() -> None:
    """At a fifth of the rate nothing waits: the mean TTFT is that of the equations, within 5 %, and so of table 6 (2.22 s)."""
    case = scenario("time")
    plan = plan_prefill(case).best
    requests = traffic_of(case, 4000, 0.2 * plan.rps, np.random.default_rng(9))
    outcome = simulate(requests, serving_of(case, plan, tokens_per_s=40.0), policies_of(plan), seed=1)
    assert outcome.ttft_s.mean() == pytest.approx(plan.ttft_mean_s, rel=0.05)
    assert outcome.ttft_s.mean() == pytest.approx(float(published("PrfaaS-PD")["ttft_mean_s"]), rel=0.05)
    away = requests.prompt_tokens > plan.threshold_tokens
    assert away.mean() == pytest.approx(plan.remote_share, abs=0.03)
    assert outcome.transfer_s[away].mean() > 10 * outcome.transfer_s[~away].mean()


def policies_of(plan: PrefillPlan) -> Policies:
    sent = plan.remote_share > 0
    return Policies(remote_above_tokens=int(plan.threshold_tokens) if sent else -1)
