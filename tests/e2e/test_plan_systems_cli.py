"""``plenum plan prefill``, ``experts`` and ``agents`` as their users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from plenum.cli.root import root


def run(*args: str):
    return CliRunner().invoke(root, ["plan", *args], catch_exceptions=True)


def asked(*args: str) -> dict:
    result = run(*args, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_prefill_shows_the_paper_at_once() -> None:
    result = run("prefill")
    assert result.exit_code == 0, result.output
    for words in ("19,524", "3 + 5", "all remote", "12 local only", "why this threshold", "what more would bring"):
        assert words in result.stdout
    told = asked("prefill", "--mean", "length")
    assert told["best"]["rps"] == pytest.approx(3.24, rel=0.02)
    assert told["compared"].keys() == {"all remote", "12 local only"}


def test_prefill_of_a_model() -> None:
    told = asked("prefill", "--model", "Qwen3-235B-A22B", "--remote-hardware", "8xH200", "--local-hardware", "8xH20")
    assert told["best"]["rps"] > max(plan["rps"] for plan in told["compared"].values())


def test_prefill_of_points_and_a_plot(tmp_path: Path) -> None:
    picture = tmp_path / "threshold.png"
    points = "1000:0.2,32000:3"
    told = asked(
        "prefill", "--remote-points", points, "--local-points", points, "--cache-points", "1000:10MiB,32000:300MiB",
        "--lengths", "9,0.8,100,60000", "--threshold", "5000", "--prefill", "2", "--plot", str(picture),
    )  # fmt: skip
    assert told["plan"]["rps"] <= told["best"]["rps"]
    assert told["plan"]["prefill_instances"] == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_experts() -> None:
    result = run("experts", "--experts", "850")
    assert "6 / 19" in result.stdout
    rows = {row["platform"]: row for row in asked("experts")["platforms"]}
    base = rows["SN40L-node"]["switch_s"]
    assert rows["DGX-A100"]["switch_s"] / base == pytest.approx(31.25)
    assert rows["DGX-H100"]["switch_s"] / base == pytest.approx(15.625)
    for row in rows.values():
        assert row["hit_rate_simulated"] == pytest.approx(1 - row["service"]["miss_rate"], abs=0.02)


def test_experts_that_are_too_slow_say_what_binds() -> None:
    result = run("experts", "--within", "0.001")
    assert result.exit_code == 1
    assert "nothing serves a prompt within 0.001 s" in result.stdout


def test_agents() -> None:
    result = run("agents", "--sample", "20")
    assert result.exit_code == 0, result.output
    assert "1.037 GW" in result.stdout
    told = asked("agents", "--agent", "react", "--sample", "30", "--concurrency", "1,2,8")
    (react,) = told["agents"]
    idle = list(react["idle_batched"].values())
    assert idle == sorted(idle, reverse=True)
    assert asked("agents", "--queries-per-day", "13.7B", "--wh", "348.41")["power_w"] == pytest.approx(
        198.9e9, rel=0.001
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("prefill", "--preset", "mooncake"), "choose from prfaas-paper"),
        (("prefill", "--link", "fast"), "a rate such as 400Gb/s"),
        (("prefill", "--lengths", "9"), "four numbers"),
        (("prefill", "--threshold", "100"), "goes with --prefill"),
        (("prefill", "--local-points", "1000"), "must be points such as"),
        (("prefill", "--model", "Llama-3.1-70B", "--remote-hardware", "L40S", "--local-hardware", "8xH20"), "141.1 GB"),
        (("prefill", "--model", "Llama-3.1-8B", "--remote-hardware", "H200", "--local-hardware", "H20", "--speed", "9999"),
         "one sequence alone gets"),
        (("experts", "--platform", "box"), "must be such as"),
        (("experts", "--preset", "sn50"), "choose from sn40l"),
        (("agents", "--agent", "reakt"), "nearest: react"),
        (("agents", "--hardware", "Z100"), "Z100"),
        (("agents", "--hardware", "8xH100"), "such as --tp"),
        (("agents", "--queries-per-day", "many"), "71.4M"),
        (("agents", "--concurrency", "a,b"), "such as 1,4,16"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered(args: tuple[str, ...], words: str) -> None:
    result = run(*args)
    assert result.exit_code != 0
    assert words in str(result.exception) + result.output
