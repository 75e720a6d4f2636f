"""What ``plenum plan serving`` sends to its own simulator."""

from __future__ import annotations

import numpy as np
from click.testing import CliRunner

from plenum.cli.plan_serving import simulated_requests
from plenum.cli.root import root
from plenum.planning.serving.question import Question, steady_traffic
from plenum.serving.catalogue.models import model_named
from plenum.serving.workload import Slo, requests_of

QUESTION = Question(
    model=model_named("Llama-3.1-8B"), stocks=(), traffic=steady_traffic(1.0, 800, 10), slo=Slo(ttft_s=1.0, tpot_s=0.05)
)


def _sent(cached: int, requests=None):
    return simulated_requests(QUESTION, requests, 10.0, {"isl": "800", "osl": "10", "seed": 0, "cached": cached})


def test_a_plan_is_confirmed_with_the_cache_that_it_counts_on():
    sent = _sent(640)
    shared = np.diff(sent.block_offset) * sent.block_tokens
    assert (shared == 640).all()
    assert len(np.unique(sent.block_id)) * sent.block_tokens == 640
    assert not len(_sent(0).block_id)


def test_a_trace_that_says_what_it_shares_is_left_as_it_is():
    offset, ids = np.array([0, 1, 2, 3]), np.arange(3)
    trace = requests_of(np.arange(3.0), np.full(3, 800), np.full(3, 5), block_offset=offset, block_id=ids)
    assert _sent(640, trace).block_tokens == trace.block_tokens


def test_no_more_is_cached_than_a_prompt_has(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,5\n1,100,5\n")
    words = ("--model", "Llama-3.1-8B", "--hardware", "H100", "--trace", str(trace), "--cached", "200")
    result = CliRunner().invoke(root, ["plan", "serving", *words])
    assert "--cached: must be fewer tokens than a prompt has, 100" in str(result.exception)
