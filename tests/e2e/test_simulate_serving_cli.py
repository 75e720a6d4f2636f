"""``plenum simulate serving`` as a person runs it: a small cluster, a small trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.patience import PATIENCE_S

from plenum.cli.root import root
from plenum.model.errors import PlenumError

SMALL = ("--model", "llama-3.1-8b", "--hardware", "L40S")


def plenum(*arguments: object):
    return CliRunner().invoke(root, ["simulate", "serving", *map(str, arguments)])


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    """A hundred requests: ten users with a document of 4,096 tokens each, ten questions about it."""
    path = tmp_path_factory.mktemp("trace") / "users.jsonl"
    lines = (
        {
            "arrival_s": 0.4 * i,
            "prompt_tokens": 4_200,
            "output_tokens": 60,
            "session": f"user-{i % 10}",
            "hash_ids": [f"{i % 10}-{k}" for k in range(8)],
        }
        for i in range(100)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_json_has_every_policy_with_every_figure(trace) -> None:
    given = (*SMALL, "--replicas", 3, "--trace", trace, "--routing", "random,prefix-aware,session", "-o", "json")
    done = plenum(*given, "--slo", "ttft-p90=2s,tpot-p90=100ms")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["devices"] == 3
    assert told["traffic"]["requests"] == 100
    runs = {run["routing"]: run for run in told["runs"]}
    assert list(runs) == ["random", "prefix-aware", "session"]
    for run in runs.values():
        assert run["finished"] == 100
        assert run["output_tokens"] == 6_000
        assert run["prompt_tokens"] + run["cached_tokens"] >= 420_000
        assert set(run["ttft_s"]) == {"mean", "p50", "p90", "p95", "p99"}
        assert run["energy_j"] > 0
        assert [promise["what"] for promise in run["promises"]] == ["TTFT", "TPOT"]
    # Each document is computed once at least, and with affinity about once: at most 90 of 100 find all their 8 blocks.
    assert runs["session"]["hit_rate"] == pytest.approx(90 * 4096 / 420_000, abs=0.02)
    assert runs["prefix-aware"]["hit_rate"] > runs["random"]["hit_rate"] + 0.05
    assert plenum(*given).stdout.split('"runs"')[1] != "", "runs without promises are told too"


def test_the_same_seed_tells_the_same(trace) -> None:
    runs = [
        json.loads(
            plenum(
                *SMALL, "--replicas", 2, "--trace", "bursty:3", "--duration", "30s", "--seed", s, "-o", "json"
            ).stdout
        )["runs"]
        for s in (4, 4, 5)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_tables_a_plot_and_a_broken_promise(trace, tmp_path) -> None:
    plot = tmp_path / "run.png"
    done = plenum(
        *SMALL, "--replicas", 1, "--trace", trace, "--scale", 4, "--slo", "ttft-p99=50ms", "--plot", plot, "--no-chart"
    )
    assert done.exit_code == 1, "the promise is not kept"
    assert "1 x Llama-3.1-8B BF16 on 1 x L40S" in done.stdout
    assert "prefix-aware: NOT KEPT: TTFT p99" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_pools_apart_failures_scaling_and_admission(trace) -> None:
    apart = json.loads(plenum(*SMALL, "--prefill", 1, "--decode", 1, "--trace", trace, "-o", "json").stdout)
    assert apart["serving"].startswith("1 prefill + 1 decode x")
    failing = plenum(
        *SMALL, "--replicas", 2, "--trace", trace, "--fail", "5s:0:10s", "--routing", "least-loaded", "-o", "json"
    )
    (run,) = json.loads(failing.stdout)["runs"]
    assert run["finished"] == 100
    assert run["preemptions"] > 0, "what it was doing started over"
    scaled = plenum(*SMALL, "--autoscale", "1-4", "--cold-start", "5s", "--trace", trace, "--scale", 3, "-o", "json")
    (run,) = json.loads(scaled.stdout)["runs"]
    assert run["finished"] == 100
    assert run["device_s"] < 4 * run["duration_s"] * 0.99
    picky = plenum(
        *SMALL, "--replicas", 1, "--trace", trace, "--scale", 8, "--slo", "ttft-p90=1s", "--admission", "-o", "json"
    )
    (run,) = json.loads(picky.stdout)["runs"]
    assert run["refused_because"] == {"admission.refused": run["refused"]}
    assert run["refused"] > 0
    assert run["ttft_s"]["p90"] < 2.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "llama-3.1-70b", "--hardware", "L40S"), "--tp 4"),
        (("--model", "lama-3.1-8b", "--hardware", "L40S"), "nearest"),
        (("--model", "llama-3.1-8b", "--hardware", "L400S"), "nearest"),
        ((*SMALL, "--routing", "fastest"), "prefix-aware"),
        ((*SMALL, "--trace", "azure"), "azure-conv"),
        ((*SMALL, "--prefill", "2"), "need one another"),
        ((*SMALL, "--fail", "5m:7"), "0 to 0"),
        ((*SMALL, "--fail", "soon"), "5m:3:90s"),
        ((*SMALL, "--autoscale", "8"), "2-8"),
        ((*SMALL, "--autoscale", "1-8", "--replicas", "3"), "leave out"),
        ((*SMALL, "--dram", "much"), "512Mi"),
        ((*SMALL, "--slo", "fast"), "ttft-p99"),
        ((*SMALL, "--plot", "run.pdf"), "png"),
        ((*SMALL, "--scale", "-1"), "0<x<=1000"),
        ((*SMALL, "--duration", "never"), "duration"),
        ((*SMALL, "--slo", "ttft=1s", "--tpot-p99", "1s"), "leave out --tpot-p99"),
        ((*SMALL, "--isl", "900000"), "context"),
        ((*SMALL, "--trace", "poisson:1e12"), "--trace"),
    ],
)
def test_what_cannot_be_meant_is_answered_with_what_would_be_right(arguments, says) -> None:
    done = plenum(*arguments)
    assert isinstance(done.exception, PlenumError) or done.exit_code == 2, done.output
    assert says in str(done.exception) + done.output


def test_what_follows_in_a_conversation_is_no_arrival() -> None:
    chat = (*SMALL, "--trace", "chat:1", "--duration", "20s", "--no-chart")
    told = json.loads(plenum(*chat, "-o", "json").stdout)["traffic"]
    assert told["beginnings"] < told["requests"]
    assert told["span_s"] <= 20
    text = plenum(*chat).stdout
    assert f"{told['beginnings']} conversations begin in " in text
    assert f"{told['requests']} requests in all" in text
    assert "from the first arrival to the last answer" in text


def test_where_nothing_can_be_served_the_answer_is_no(tmp_path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,900000,3\n1,900000,3\n")
    done = plenum(*SMALL, "--trace", path)
    assert done.exit_code == 1
    assert "2 of 2 requests are longer than the context" in done.stdout
    assert "nan" not in done.stdout


def test_promises_are_made_as_in_planning() -> None:
    asked = (*SMALL, "--trace", "steady:1", "--duration", "5s", "-o", "json")
    assert plenum(*asked, "--ttft-p99", "1ms").exit_code == 1
    kept = plenum(*asked, "--ttft-p99", "5s", "--tpot-p99", "1s")
    assert kept.exit_code == 0
    assert [promise["promised_s"] for promise in json.loads(kept.stdout)["runs"][0]["promises"]] == [5.0, 1.0]


def test_as_a_process() -> None:
    command = [sys.executable, "-m", "plenum", "simulate", "serving", *SMALL, "--trace", "steady:1", "--duration", "5s"]
    done = subprocess.run([*command, "--no-chart"], capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 requests" in done.stdout


def test_scaling_by_promise_and_the_whole_ladder_of_admission() -> None:
    """One of 8B, with one of 1B beside it, under about three times what it bears; and as many of 8B as the promise takes."""
    load = (
        "--trace",
        "poisson:24",
        "--isl",
        2000,
        "--osl",
        300,
        "--duration",
        "60s",
        "--tpot-p99",
        "40ms",
        "-o",
        "json",
    )
    h100 = ("--model", "llama-3.1-8b", "--hardware", "H100", "--ttft-p99", "1s")
    ladder = json.loads(plenum(*h100, *load, "--admission", "--cheaper", "llama-3.2-1b:1").stdout)
    assert "Llama-3.2-1B" in ladder["serving"]
    told = ladder["runs"][0]["admission"]
    assert told["cheaper"] > 0
    assert sum(told.values()) == ladder["traffic"]["requests"]
    scaled = json.loads(plenum(*h100, *load, "--autoscale", "1-8", "--scale-by", "slo", "--cold-start", "5s").stdout)
    assert 60 < scaled["runs"][0]["device_s"] < 5 * 60


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--scale-by", "slo"), "add --autoscale"),
        (("--autoscale", "1-4", "--scale-by", "slo"), "needs a promise"),
        (("--device-budget", 4), "add --autoscale"),
        (("--cheaper", "llama-3.2-1b"), "add --admission"),
    ],
)
def test_scaling_and_admission_that_cannot_be_meant(given, words) -> None:
    refused = plenum(*SMALL, *given)
    assert isinstance(refused.exception, PlenumError)
    assert words in str(refused.exception)
