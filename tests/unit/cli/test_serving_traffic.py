from __future__ import annotations

import numpy as np
import pytest

from plenum.cli.serving_promises import read_promises
from plenum.cli.serving_traffic import INVENTED_S, OUTPUT_TOKENS, PROMPT_TOKENS, ROUTING, traffic_named
from plenum.model.errors import FieldError, FileError
from plenum.serving.routing import POLICIES


@pytest.mark.parametrize("kind", ["poisson", "steady", "bursty", "diurnal"])
def test_invented_traffic_has_the_rate_and_the_lengths_that_were_asked_for(kind):
    made = traffic_named(f"{kind}:5", prompts="300:0.5", outputs="40", duration_s=400, seed=3).requests
    assert len(made) / 400 == pytest.approx(5, rel=0.15)
    assert made.prompt_tokens.mean() == pytest.approx(300, rel=0.1)
    assert made.prompt_tokens.std() > 50
    assert set(made.output_tokens) == {40}


def test_what_is_not_said_has_its_usual_value():
    made = traffic_named("steady:2").requests
    assert len(made) == 2 * INVENTED_S
    assert made.prompt_tokens[0] == PROMPT_TOKENS
    assert made.output_tokens[0] == OUTPUT_TOKENS


def test_conversations():
    made = traffic_named("chat:1", prompts="300", outputs="100", duration_s=60).requests
    assert (made.after >= 0).any()
    assert len(made.block_id)


def test_agents():
    made = traffic_named("agent:react:0.5", duration_s=60).requests
    assert (made.pause_s[made.after >= 0] > 0).any(), "tools run between calls"
    with pytest.raises(FieldError, match="lengths of their own"):
        traffic_named("agent:react:1", outputs="3")


def test_bursts_may_be_told_their_variation():
    calm, wild = (np.diff(traffic_named(f"bursty:20:{v}").requests.arrival_s) for v in ("0.5", "3"))
    assert calm.std() / calm.mean() < 0.6 < 2.5 < wild.std() / wild.mean()


def test_the_same_seed_is_the_same_traffic_and_another_is_not():
    a, b, c = (traffic_named("poisson:3", seed=seed).requests.arrival_s for seed in (1, 1, 2))
    assert a.tolist() == b.tolist() != c.tolist()


def test_files_are_read_scaled_and_cut(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},{i + 1},2\n" for i in range(10)))
    dense = traffic_named(str(path), scale=2.0, duration_s=3.0)
    assert dense.requests.arrival_s.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert dense.label.endswith("mine.csv, 2x")
    assert len(traffic_named(str(path), limit=4).requests) == 4
    with pytest.raises(FieldError, match="lengths of its own"):
        traffic_named(str(path), prompts="100")
    with pytest.raises(FieldError, match="no requests"):
        traffic_named(str(path), duration_s=0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("azure", "did you mean azure-conv"),
        ("poison:20", "did you mean poisson:20"),
        ("nothing", "choose from azure-conv"),
        ("poisson:", "number above 0"),
        ("poisson:-1", "number above 0"),
        ("poisson:nan", "number above 0"),
        ("poisson:1e9", "requests"),
        ("poisson:3:4", "too many parts"),
        ("bursty:3:x", "variation"),
        ("agent:reakt:2", "react"),
        ("agent:react", "number above 0"),
    ],
)
def test_traffic_that_cannot_be_meant(text, says):
    with pytest.raises(FieldError, match=says):
        traffic_named(text)


@pytest.mark.parametrize("lengths", ["x", "-3", "0.2", "100:x", "100:99", "1e30"])
def test_lengths_that_cannot_be_meant(lengths):
    with pytest.raises(FieldError):
        traffic_named("poisson:3", prompts=lengths)


def test_a_file_that_is_not_there():
    with pytest.raises(FileError, match="no such file"):
        traffic_named("nowhere/trace.csv")


def test_help_names_the_routing_policies_that_there_are():
    assert list(ROUTING) == list(POLICIES)


def test_promises():
    slo = read_promises("ttft-p95=500ms, TPOT-p95=0.04,e2e=1m")
    assert (slo.ttft_s, slo.tpot_s, slo.e2e_s, slo.percentile) == (0.5, 0.04, 60.0, 95.0)
    assert read_promises("itl=40ms").tpot_s == 0.04
    assert read_promises(None).ttft_s == float("inf")
    assert read_promises("ttft=1s").percentile == 99.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft", "such as"),
        ("ttft-p99=fast", "duration"),
        ("ttft-p99=0", "more than 0"),
        ("latency=3s", "such as"),
        ("ttft-p99=1s,tpot-p95=1s", "one percentile"),
        ("tpot=1s,itl=2s", "twice"),
        ("ttft-p100=1s", "such as"),
    ],
)
def test_promises_that_cannot_be_meant(text, says):
    with pytest.raises(FieldError, match=says):
        read_promises(text)
