"""``plenum plan predict`` and ``plenum plan calibrate``: tables for people, JSON for programs, errors to act on."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from plenum.cli.root import root
from plenum.model.errors import PlenumError

ASKED = ("--model", "Llama-3.1-8B", "--hardware", "H100", "--isl", "1000", "--osl", "100")


def _run(*arguments, expected=0):
    result = CliRunner().invoke(root, ["plan", *arguments], catch_exceptions=True)
    if isinstance(result.exception, PlenumError):
        raise result.exception
    assert result.exit_code == expected, result.output
    return result.stdout


def _table(path, *, slower=2.0, slower_long=None):
    """Write measurements of Llama-3.1-8B on one H100: so many times what is predicted without them, of long prompts ``slower_long``."""
    rows = ["model,hardware,engine,tp,concurrency,isl,osl,ttft_ms,tpot_ms"]
    for concurrency in (1, 2, 4, 8, 16, 32):
        for isl in (250, 500, 1000, 2000):
            said = json.loads(
                _run("predict", *ASKED, "--isl", str(isl), "--concurrency", str(concurrency), "-o", "json")
            )
            by = slower_long if slower_long and isl >= 1000 else slower
            times = f"{said['ttft_s'] * 1e3 * by},{said['tpot_s'] * 1e3 * by}"
            rows.append(f"Llama-3.1-8B,H100,vllm,1,{concurrency},{isl},100,{times}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(("isl", "concurrency"), [("1000", "8"), ("120000", "1")])
def test_a_prediction_lies_in_its_interval_and_above_its_floor(isl, concurrency):
    said = json.loads(_run("predict", *ASKED, "--isl", isl, "--concurrency", concurrency, "-o", "json"))
    assert said["fits"]
    for name in ("ttft", "tpot"):
        assert said[f"floor_{name}_s"] <= said[f"{name}_low_s"] * (1 + 1e-9)
        assert said[f"{name}_low_s"] < said[f"{name}_s"] < said[f"{name}_high_s"]
    assert "time per output token" in _run("predict", *ASKED, "--concurrency", "8")


def test_drafted_tokens_that_are_accepted_make_tokens_quicker():
    load = (*ASKED, "--concurrency", "1", "-o", "json")
    plain, drafted = (json.loads(_run("predict", *load, "--draft", n, "--acceptance", "0.8")) for n in ("0", "4"))
    assert drafted["tpot_s"] < 0.6 * plain["tpot_s"]
    assert drafted["floor_tpot_s"] == pytest.approx(plain["floor_tpot_s"] / 5)


def test_formats_of_experts_are_told_where_they_are_others():
    words = ("--model", "Mixtral-8x7B", "--hardware", "H200", "--tp", "2", "--weights", "int4", "--concurrency", "1")
    assert "(bf16 weights, int4 experts, bf16 cache)" in " ".join(_run("predict", *words).split())


def test_what_does_not_fit_and_what_is_too_much():
    assert "does not fit" in _run("predict", *ASKED, "--model", "Llama-3.1-70B", "--concurrency", "1", expected=1)
    assert "Saturated" in _run("predict", *ASKED, "--rps", "100000", expected=1)
    assert json.loads(_run("predict", *ASKED, "--rps", "100000", "-o", "json", expected=1))["ttft_s"] is None


def test_one_kind_of_load_is_needed():
    for loads in ((), ("--rps", "1", "--concurrency", "1")):
        with pytest.raises(PlenumError, match="one of the two"):
            _run("predict", *ASKED, *loads)


def test_calibrating_with_ones_own_measurements_changes_what_is_predicted(tmp_path):
    table, written = _table(tmp_path / "mine.csv"), tmp_path / "mine.json"
    said = json.loads(_run("calibrate", "-m", str(table), "--out", str(written), "-o", "json"))
    assert said["points"] == 24
    assert said["before"]["tpot"]["median"] == pytest.approx(0.5, abs=0.01)
    assert said["held_out"]["tpot"]["median"] < 0.1
    load = ("--concurrency", "6", "-o", "json")
    before = json.loads(_run("predict", *ASKED, *load))
    after = json.loads(_run("predict", *ASKED, *load, "--calibration", str(written)))
    assert after["tpot_s"] / before["tpot_s"] == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("isl", [300, 1800])
def test_a_simulation_takes_the_corrections_of_a_prediction_for_its_lengths(tmp_path, isl):
    """Measured twice as slow with short prompts, and as predicted with long ones: both say so, each for the lengths it is asked about."""
    table, written = _table(tmp_path / "mine.csv", slower_long=1.0), tmp_path / "mine.json"
    _run("calibrate", "-m", str(table), "--out", str(written), "-o", "json")
    asked = (*ASKED, "--isl", str(isl), "--calibration", str(written), "-o", "json")
    load = ("--trace", "steady:0.5", "--duration", "60s")
    predicted = json.loads(_run("predict", *asked, "--rps", "0.5"))["tpot_s"]
    run = CliRunner().invoke(root, ["simulate", "serving", *asked, *load], catch_exceptions=False)
    assert json.loads(run.stdout)["runs"][0]["tpot_s"]["mean"] == pytest.approx(predicted, rel=0.03)
    plain = json.loads(_run("predict", *ASKED, "--isl", str(isl), "--rps", "0.5", "-o", "json"))["tpot_s"]
    assert predicted / plain == pytest.approx(2.0 if isl < 1000 else 1.0, rel=0.2)


def test_files_that_are_no_calibration(tmp_path):
    wrong = tmp_path / "wrong.json"
    for text in ("[]", "{", '{"version": 7}', "[" * 100_000):
        wrong.write_text(text)
        with pytest.raises(PlenumError, match="plenum plan calibrate"):
            _run("predict", *ASKED, "--concurrency", "1", "--calibration", str(wrong))


def test_measurements_that_say_too_little(tmp_path):
    table = tmp_path / "little.csv"
    table.write_text("model,hardware,engine,ttft_ms\nLlama-3.1-8B,H100,vllm,100\n")
    with pytest.raises(PlenumError, match="over how many devices"):
        _run("calibrate", "-m", str(table))
