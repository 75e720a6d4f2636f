"""The whole control plane on a virtual clock while everything goes wrong: what must never happen does not, and planted bugs show."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from plenum.cli.root import root
from plenum.sim.chaos import Chaos, run_seed
from plenum.sim.chaos.defects import DEFECTS
from plenum.sim.chaos.run import Verdict, shrunk

SEEDS, STEPS = 40, 1500
FOUND_WITHIN = 120


def told(verdict: Verdict) -> str:
    story = "\n".join(f"{step:>7} {second:>8.1f} s  {sentence}" for step, second, sentence in verdict.story)
    return f"{story}\n{verdict}\nagain: plenum simulate chaos --seed {verdict.seed} --steps {verdict.steps}"


def first_failure(defect: str) -> Verdict | None:
    verdicts = (run_seed(seed, STEPS, defects=[defect]) for seed in range(FOUND_WITHIN))
    return next((verdict for verdict in verdicts if not verdict.ok), None)


def test_what_must_never_happen_does_not() -> None:
    for seed in range(SEEDS):
        verdict = run_seed(seed, STEPS)
        assert verdict.ok, told(verdict)
        assert verdict.records > 10


def test_long_runs_hold_too() -> None:
    verdict = run_seed(2004, 6000)
    assert verdict.ok, told(verdict)


@pytest.mark.parametrize("defect", sorted(DEFECTS))
def test_a_planted_bug_is_found(defect: str) -> None:
    verdict = first_failure(defect)
    assert verdict is not None, f"{FOUND_WITHIN} seeds did not show {defect}"
    assert verdict.invariant != "raised", told(verdict)


def test_one_seed_is_one_run_in_every_process() -> None:
    def digest(hash_seed: str) -> str:
        call = [sys.executable, "-m", "plenum", "simulate", "chaos", "--seed", "7", "--steps", "700", "-o", "json"]
        run = subprocess.run(call, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True)
        return json.loads(run.stdout)["digests"]["7"]

    assert digest("1") == digest("2") == run_seed(7, 700).digest


def test_a_longer_run_of_a_seed_begins_like_a_shorter_one() -> None:
    short, long = Chaos(3), Chaos(3)
    for _ in range(500):
        short.step()
    for _ in range(500):
        long.step()
    before = long.auditor.digest.hexdigest()
    for _ in range(200):
        long.step()
    assert before == short.auditor.digest.hexdigest() != long.auditor.digest.hexdigest()


def test_a_failure_is_made_small() -> None:
    verdict = run_seed(0, STEPS, defects=["frees-early"])
    assert not verdict.ok
    short = shrunk(verdict, defects=["frees-early"])
    assert short.invariant == verdict.invariant
    assert short.steps <= verdict.failed_at
    assert run_seed(0, short.steps - 1, defects=["frees-early"]).invariant != short.invariant


def test_the_command_says_what_broke_and_how_to_see_it_again() -> None:
    result = CliRunner().invoke(root, ["simulate", "chaos", "--seed", "0", "--defect", "frees-early"])
    assert result.exit_code == 1
    assert "seed 0 breaks 'freed-early'" in result.output
    assert "again: plenum simulate chaos --seed 0 --steps " in result.output


def test_the_command_exits_well_where_all_holds() -> None:
    result = CliRunner().invoke(root, ["simulate", "chaos", "--seeds", "1-2", "--steps", "200", "-o", "json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert (said["seeds"], said["failed"], said["shortest"]) == (2, [], None)


def test_the_command_serves_models_too_where_it_is_told_to() -> None:
    words = ["simulate", "chaos", "--seed", "3", "--steps", "150", "-o", "json"]
    digests = []
    for more in ([], ["--serves"]):
        result = CliRunner().invoke(root, [*words, *more])
        assert result.exit_code == 0, result.output
        digests.append(json.loads(result.output)["digests"]["3"])
    assert digests == [run_seed(3, 150).digest, run_seed(3, 150, serves=True).digest]
    assert digests[0] != digests[1]


@pytest.mark.parametrize("span", ["", "a-b", "5-2", "1-99999999", "-3", "0x1"])
def test_seeds_that_cannot_be_meant_are_refused(span: str) -> None:
    result = CliRunner().invoke(root, ["simulate", "chaos", "--seeds", span])
    assert result.exit_code != 0
