"""Quantities as options take them."""

import click
import pytest
from click.testing import CliRunner

from plenum.cli.units import SECONDS, count, seconds
from plenum.model.errors import FieldError


@pytest.mark.parametrize(("text", "expected"), [("500ms", 0.5), ("0.5s", 0.5), ("40ms", 0.04), ("2", 2.0), ("1m", 60)])
def test_times_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


def test_something_else_is_refused_with_an_example() -> None:
    with pytest.raises(FieldError, match="500ms"):
        seconds("fast")


def test_an_option_names_itself_when_it_refuses() -> None:
    @click.command()
    @click.option("--ttft-p99", type=SECONDS)
    def command(ttft_p99: float) -> None:
        click.echo(f"{ttft_p99:g}")

    assert CliRunner().invoke(command, ["--ttft-p99", "500ms"]).output == "0.5\n"
    refused = CliRunner().invoke(command, ["--ttft-p99", "-1s"])
    assert refused.exit_code == 2
    assert "--ttft-p99" in refused.output


@pytest.mark.parametrize(
    ("text", "expected"), [("15T", 15e12), ("300B", 3e11), ("71.4M", 71.4e6), ("4k", 4000), ("12", 12), (" 1e3 ", 1000)]
)
def test_counts_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert count(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "k", "many", "-1", "nan", "inf", "1e30", "9" * 50])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(FieldError, match="15T"):
        count(text)
