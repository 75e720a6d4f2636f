"""Plans of training runs: they add up, they refuse what cannot be, and they say what binds."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from plenum.cli.root import root
from plenum.model.errors import FieldError, PlenumError
from plenum.planning.training.memory import Layout, memory
from plenum.planning.training.plan import Question, plan_training
from plenum.planning.training.step import step
from plenum.planning.training.upkeep import daly_interval_s, upkeep
from plenum.serving.catalogue.accelerators import ACCELERATORS
from plenum.serving.catalogue.models import MODELS

LLAMA = MODELS["Llama-3.1-8B"]
H100 = ACCELERATORS["H100"]
QUESTION = Question(model=LLAMA, hardware=H100, devices=64, tokens=1e12, batch=512)


def test_a_plan_adds_up():
    plan = plan_training(QUESTION)
    assert plan.best is not None
    assert plan.best.layout.devices == 64
    assert plan.best.memory.fits
    seconds = plan.steps * plan.best.step.total_s / plan.upkeep.available
    assert plan.days == pytest.approx(seconds / 86_400)
    assert plan.device_hours == pytest.approx(seconds / 3600 * 64)
    assert plan.usd == pytest.approx(plan.device_hours * H100.usd_per_hour)
    assert plan.energy_kwh == pytest.approx(plan.watts * seconds / 3.6e6)
    assert 0.35 < plan.goodput_mfu < plan.mfu < 0.6
    times = [plan.best.step.total_s, *(other.step.total_s for other in plan.others)]
    assert times == sorted(times)


def test_equal_questions_get_equal_plans():
    assert plan_training(QUESTION) == plan_training(QUESTION)


def test_a_given_layout_is_used():
    layout = Layout(tp=2, dp=32, zero=3)
    plan = plan_training(replace(QUESTION, layout=layout))
    assert plan.tried == 1
    assert plan.best is not None
    assert plan.best.layout == layout


def test_what_does_not_fit_names_the_largest_parts():
    plan = plan_training(replace(QUESTION, model=MODELS["Llama-3.1-70B"], hardware=ACCELERATORS["L40S"], devices=8))
    assert plan.best is None
    assert plan.why_not.startswith("memory: even ")
    assert "optimiser" in plan.why_not
    assert "states alone need 30 of them" in plan.why_not  # 70.6 G x 18 bytes over 42 GB


def test_a_batch_that_cannot_be_divided_is_said_so():
    plan = plan_training(replace(QUESTION, devices=37, batch=5))
    assert plan.best is None
    assert "no layout divides 5 sequences over 37 devices" in plan.why_not


def test_a_job_that_fails_faster_than_it_starts_never_ends():
    plan = plan_training(replace(QUESTION, device_mtbf_h=5.0))
    assert plan.best is None
    assert plan.why_not.startswith("failures: ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tokens": 0}, "tokens"),
        ({"tokens": math.inf}, "tokens"),
        ({"tokens": 512 * QUESTION.sequence - 1}, "tokens"),
        ({"devices": 10**9}, "devices"),
        ({"form": "int4"}, "format"),
        ({"form": "fp8", "hardware": ACCELERATORS["A100"]}, "format"),
        ({"layout": Layout(dp=8)}, "layout"),
        ({"layout": Layout(dp=64, ep=7)}, "layout"),
        ({"layout": Layout(pp=64)}, "layout"),
        ({"layout": Layout(dp=64), "batch": 100}, "batch"),
    ],
)
def test_questions_that_cannot_be_meant(change, field):
    with pytest.raises(FieldError) as caught:
        plan_training(replace(QUESTION, **change))
    assert caught.value.where.field == field


def test_more_devices_take_fewer_days_and_not_fewer_device_hours():
    few = plan_training(QUESTION)
    many = plan_training(replace(QUESTION, devices=256))
    assert many.days < few.days / 3
    assert many.device_hours >= 0.99 * few.device_hours


def test_fp8_is_faster_but_not_twice():
    wide = plan_training(QUESTION)
    narrow = plan_training(replace(QUESTION, form="fp8"))
    assert 0.5 * wide.days < narrow.days < 0.9 * wide.days


def test_the_bubble_is_that_of_the_schedule():
    """(p - 1) / (v m) of the rest of the step: Narayanan et al., SC 2021, section 2.2."""
    model = MODELS["Llama-3.1-70B"]
    for runs in (1, 2, 5):
        layout = Layout(tp=8, pp=8, interleave=runs)
        taken = step(model, H100, layout, sequence=4096, batch=32)
        busy = taken.compute_s + taken.elementwise_s + taken.tensor_s + taken.pipeline_s
        assert taken.bubble_s / busy == pytest.approx(7 / (runs * 32))


def test_every_run_of_a_stage_sends_its_activations_on():
    """70B, TP 8, 32 micro-batches of 4,096 tokens: 2 x 4096 x 8192 x 2 / 8 bytes a run at 70 % of 50 GB/s, and 8 us a message."""
    model = MODELS["Llama-3.1-70B"]

    def hops(runs, **changes):
        layout = replace(Layout(tp=8, pp=8, interleave=runs), **changes)
        return step(model, H100, layout, sequence=4096, batch=32).pipeline_s

    once = 2 * 32 * (4096 * 8192 * 2 / 8 / (0.7 * H100.scaleout_bps) + 8e-6)
    assert hops(1) == pytest.approx(once)
    assert hops(10) == pytest.approx(10 * once)
    assert hops(1, pp=1) == 0.0


def test_memory_falls_with_every_kind_of_split():
    def total(**changes):
        held = memory(LLAMA, replace(Layout(dp=8, zero=0), **changes), 8192, micro_batches=8, hbm_bytes=H100.hbm_bytes)
        return held.total

    base = total()
    assert total(tp=2) < base
    assert total(zero=3) < total(zero=2) < total(zero=1) < base
    assert total(recompute="full") < total(recompute="selective") < total(recompute="none")
    assert total(cp=2) < base
    assert total(micro_batch=2) > base


def test_dalys_interval_beats_its_neighbours():
    """Lost time, as Daly counts it, is least at his interval."""
    blocked, mtbf = 60.0, 10_000.0

    def lost(interval):
        return mtbf * (math.exp((interval + blocked) / mtbf) - 1) / interval  # wall time of a second of progress

    best = daly_interval_s(blocked, mtbf)
    assert best == pytest.approx(math.sqrt(2 * blocked * mtbf), rel=0.1)
    assert lost(best) <= min(lost(0.8 * best), lost(1.25 * best))
    assert daly_interval_s(100.0, 10.0) == 10.0


def test_the_store_is_not_kept_busy():
    kept = upkeep(MODELS["Llama-3.1-405B"], H100, 16_384, storage_bps=50e9)
    assert kept.interval_s >= 9.9 * kept.write_s


def _run(*arguments):
    result = CliRunner().invoke(root, ["plan", "training", *arguments])
    if isinstance(result.exception, PlenumError):
        raise result.exception
    return result


ARGUMENTS = ("--model", "Llama-3.1-8B", "--hardware", "h100", "--devices", "64", "--tokens", "1T", "--batch", "512")


def test_the_command_line_says_the_same():
    plan = plan_training(QUESTION)
    assert plan.best is not None
    said = json.loads(_run(*ARGUMENTS, "-o", "json").stdout)
    assert said["days"] == pytest.approx(plan.days)
    assert said["best"]["step"]["total_s"] == pytest.approx(plan.best.step.total_s)
    text = _run(*ARGUMENTS).stdout
    assert f"{plan.days:,.1f} days" in text
    assert str(plan.best.layout) in text


def test_a_small_run_is_told_in_units_that_have_digits():
    small = ("--model", "Llama-3.1-8B", "--hardware", "h100", "--gpus", "8", "--tokens", "1B", "--batch", "64")
    facts = dict(line.split(None, 1) for line in _run(*small).stdout.splitlines() if line.startswith("  "))
    plan = plan_training(replace(QUESTION, devices=8, tokens=1e9, batch=64))
    assert facts["energy"] == f"{plan.energy_kwh:.0f} kWh at 11.3 kW"
    assert plan.energy_kwh == pytest.approx(41, rel=0.05)


def test_the_command_line_refuses_with_the_reason():
    result = _run("--model", "Llama-3.1-70B", "--hardware", "L40S", "--devices", "8", "--tokens", "1T")
    assert result.exit_code == 1
    assert "it cannot be done" in result.stdout
    assert json.loads(
        _run("--model", "Llama-3.1-70B", "--hardware", "L40S", "--devices", "8", "--tokens", "1T", "-o", "json").stdout
    )["best"] is None  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--layout", "tp=two"), "whole number"),
        (("--layout", "speed=2"), "none of tp"),
        (("--layout", "tp=2,recompute=some"), "none, selective or full"),
        (("--layout", "tp=3"), "takes 3 devices, not 64"),
        (("--format", "fp9"), "nearest: fp8"),
    ],
)
def test_a_value_that_cannot_be_meant(arguments, sentence):
    with pytest.raises(PlenumError, match=sentence):
        _run(*ARGUMENTS, *arguments)


def test_tokens_that_are_no_number_are_refused_with_an_example():
    refused = _run(*ARGUMENTS, "--tokens", "many")
    assert refused.exit_code == 2
    assert "15T" in refused.output
