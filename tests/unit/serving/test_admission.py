from __future__ import annotations

import math

import pytest

from plenum.serving import admission
from plenum.serving.admission import ADMIT, CAP, CHEAPER, DEFER, REASONS, SHED, VERDICTS


def decide(**given) -> tuple[str, str]:
    """Decide on a request whose promise is kept with room to spare, except for what is said of it."""
    neutral = {
        "ttft_s": 0.2,
        "ttft_high_s": 0.3,
        "tpot_s": 0.02,
        "tpot_high_s": 0.03,
        "ttft_slo_s": 0.5,
        "tpot_slo_s": 0.04,
        "pressure": 0.5,
        "pressure_above": 0.0,
        "pressure_limit": 1.2,
        "output_tokens": 1000,
        "output_cap": 0,
        "cheaper_ttft_s": math.inf,
        "cheaper_tpot_s": math.inf,
        "deferrable": False,
    }
    verdict, reason = admission.decide(**(neutral | given))
    return VERDICTS[verdict], REASONS[reason][0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("admit", "admission.keeps")),
        ({"ttft_high_s": 0.9}, ("admit", "admission.likely")),
        ({"ttft_high_s": 0.9, "pressure": 1.1, "output_cap": 200}, ("cap", "admission.capped")),
        ({"ttft_high_s": 0.9, "pressure": 1.1}, ("admit", "admission.likely")),
        ({"ttft_high_s": 0.9, "pressure": 0.9, "output_cap": 200}, ("admit", "admission.likely")),
        ({"ttft_s": 0.6, "cheaper_ttft_s": 0.1, "cheaper_tpot_s": 0.01}, ("cheaper", "admission.cheaper")),
        ({"ttft_s": 0.6, "cheaper_ttft_s": 0.6, "cheaper_tpot_s": 0.01}, ("shed", "admission.ttft")),
        ({"tpot_s": 0.05, "tpot_high_s": 0.06}, ("shed", "admission.tpot")),
        ({"ttft_s": 0.6, "ttft_high_s": 0.7, "deferrable": True}, ("defer", "admission.late")),
        ({"pressure": 1.3, "deferrable": True}, ("defer", "admission.yields")),
        ({"pressure": 1.3}, ("admit", "admission.keeps")),
        ({"pressure": 30.0}, ("admit", "admission.keeps")),
        ({"pressure_above": 0.2}, ("admit", "admission.keeps")),
        ({"pressure_above": 0.5}, ("admit", "admission.likely")),
        ({"pressure_above": 0.7}, ("shed", "admission.tpot")),
        ({"pressure": 30.0, "pressure_above": 1.3}, ("shed", "admission.saturated")),
    ],
)
def test_each_step_of_the_ladder_has_its_reason(given, expected):
    assert decide(**given) == expected


def test_batch_yields_before_interactive_work_is_touched():
    batch = {"ttft_slo_s": math.inf, "tpot_slo_s": math.inf, "pressure_limit": 0.8, "deferrable": True}
    assert decide(**batch, pressure=0.7)[0] == "admit"
    assert decide(**batch, pressure=0.9)[0] == "defer"
    assert decide(pressure=0.9)[0] == "admit"


def test_every_verdict_and_reason_has_a_name():
    assert [VERDICTS[v] for v in (ADMIT, CAP, CHEAPER, DEFER, SHED)] == ["admit", "cap", "cheaper", "defer", "shed"]
    assert len({code for code, _ in REASONS}) == len(REASONS) == admission.CHEAPER_FREE + 1


@pytest.mark.parametrize("load", [0.5, 1.0, 3.0])
def test_pressure_is_what_arrives_over_what_can_be_done(load):
    pressure, window_s, work_s, instances = 0.0, 30.0, 0.2, 4.0
    gap_s = work_s / (instances * load)
    for _ in range(round(5 * window_s / gap_s)):
        pressure = admission.pressure_after(pressure, gap_s, work_s, instances, window_s)
    assert pressure == pytest.approx(load, rel=0.01)


def test_pressure_rises_before_anything_has_completed():
    pressure = 0.0
    for _ in range(10):
        pressure = admission.pressure_after(pressure, 0.0, 4.0, 1.0, 30.0)
    assert pressure > 1.0


def test_without_instances_the_pressure_is_infinite_and_recovers():
    assert admission.pressure_after(0.3, 1.0, 1.0, 0.0, 30.0) == math.inf
    assert admission.pressure_after(math.inf, 1.0, 1.0, 2.0, 30.0) < 1.0


def test_come_back_when_it_is_calm():
    assert admission.retry_after_s(0.5, 1.0, 0.0, 30.0) == 1.0
    assert admission.retry_after_s(0.5, 1.0, 7.0, 30.0) == 7.0
    assert admission.retry_after_s(2.0, 1.0, 0.0, 30.0) == pytest.approx(30 * math.log(2))
    assert admission.retry_after_s(math.inf, 1.0, 0.0, 30.0) == 300.0
