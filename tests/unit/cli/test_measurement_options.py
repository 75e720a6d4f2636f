"""Options that say what a benchmark's file does not."""

from __future__ import annotations

import math

import click
import pytest
from click.testing import CliRunner

from plenum.adapters.measurements.given import OPTIONS, workers_of
from plenum.cli.measurement_options import given_by, measurement_options
from plenum.model.errors import FieldError

seen = []


@click.command()
@measurement_options
def _command(**options):
    seen.append(given_by(options))


def _given(*arguments):
    result = CliRunner().invoke(_command, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return seen.pop()


def test_nothing_said_leaves_the_file_its_word():
    given = _given()
    assert (given.model, given.workers, given.prefill) == ("", None, None)
    assert all(math.isnan(value) for value in (given.concurrency, given.rate_rps, given.isl, given.osl))


def test_everything_said():
    given = _given(
        "--model", "m", "--hardware", "H100", "--engine", "vllm", "--weights", "fp8", "--tp", "2", "--dp", "4", "--ep", "8",
        "--workers", "3", "--prefill-tp", "8", "--prefill-workers", "2", "--concurrency", "64", "--isl", "1000", "--osl", "50",
    )  # fmt: skip
    assert given.workers == workers_of(2, dp=4, ep=8, count=3)
    assert given.prefill == workers_of(8, count=2)
    assert (given.concurrency, given.isl, given.osl, given.weights) == (64.0, 1000.0, 50.0, "fp8")


def test_degrees_that_do_not_go_together():
    with pytest.raises(FieldError, match="dealt out"):
        _given("--tp", "2", "--ep", "3")


def test_errors_name_options_that_there_are():
    names = {option for parameter in _command.params for option in parameter.opts}
    named = {
        word.strip("(),") for text in OPTIONS.values() for word in text.split() if word.strip("(),").startswith("--")
    }
    assert named <= names
