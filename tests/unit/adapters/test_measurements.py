"""Files of each benchmark tool give the same kind of measurement; what they do not say must be said."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path

import pytest

from plenum.adapters.measurements import Given, IncompleteError, read_measurements
from plenum.adapters.measurements.given import workers_of
from plenum.adapters.traces.folder import find_data
from plenum.model.errors import FieldError, FileError, PlenumError
from plenum.serving.instance import Parallelism

PROFILES = (find_data(None, os.environ) or Path("absent")) / "serving-profiles"

VLLM = {
    "date": "20260101-120000", "endpoint_type": "vllm", "label": None, "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "tokenizer_id": "meta-llama/Llama-3.1-8B-Instruct", "num_prompts": 320, "request_rate": "inf", "burstiness": 1.0,
    "max_concurrency": 32, "duration": 60.0, "completed": 320, "total_input_tokens": 320 * 1024,
    "total_output_tokens": 320 * 128, "request_throughput": 5.3, "mean_ttft_ms": 210.5, "median_ttft_ms": 200.0,
    "p99_ttft_ms": 500.0, "mean_tpot_ms": 8.25, "median_tpot_ms": 8.0, "mean_itl_ms": 8.2,
}  # fmt: skip

SGLANG = {
    "tag": "run", "backend": "sglang", "dataset_name": "random", "request_rate": math.inf, "max_concurrency": 64,
    "random_input_len": 512, "random_output_len": 256, "duration": 30.0, "completed": 100, "total_input_tokens": 51200,
    "total_output_tokens": 25600, "request_throughput": 3.3, "mean_ttft_ms": 90.0, "mean_tpot_ms": 11.0,
    "server_info": {
        "model_path": "deepseek-ai/DeepSeek-V3", "tp_size": 8, "dp_size": 8, "ep_size": 8, "enable_dp_attention": True,
        "version": "0.5.9",
    },
}  # fmt: skip


def _summary(mean):
    return {"successful": {"mean": mean, "median": mean, "percentiles": {"p99": 2 * mean}}, "errored": {"mean": 1e9}}


def _guidellm(strategy):
    return {
        "config": {"id_": "b1", "strategy": strategy, "backend": {"type_": "openai_http", "model": "Qwen/Qwen3-32B"}},
        "metrics": {
            "request_concurrency": _summary(7.5), "prompt_token_count": _summary(1000.0),
            "output_token_count": _summary(200.0), "time_to_first_token_ms": _summary(120.0),
            "inter_token_latency_ms": _summary(14.0), "time_per_output_token_ms": _summary(15.0),
        },
    }  # fmt: skip


GUIDELLM = {
    "metadata": {"version": 2, "guidellm_version": "0.8.1"},
    "benchmarks": [
        _guidellm({"type_": "synchronous"}),
        _guidellm({"type_": "concurrent", "streams": 16}),
        _guidellm({"type_": "throughput", "max_concurrency": None}),
        _guidellm({"type_": "poisson", "rate": 2.5}),
    ],
}


def _metric(average, unit):
    return {"unit": unit, "avg": average, "p50": average, "p99": 2 * average}


AIPERF = {
    "schema_version": "1.4", "aiperf_version": "0.13.0", "benchmark_id": "abc",
    "request_throughput": _metric(4.0, "requests/sec"), "request_latency": _metric(2400.0, "ms"),
    "time_to_first_token": _metric(300.0, "ms"), "inter_token_latency": _metric(9.0, "ms"),
    "input_sequence_length": _metric(2000.0, "tokens"), "output_sequence_length": _metric(250.0, "tokens"),
    "input_config": {"models": {"items": [{"name": "Qwen/Qwen3-32B"}]}, "phases": [{"type": "concurrency", "concurrency": 8}]},
    "telemetry_data": {"endpoints": {"localhost:9400": {"gpus": {
        "gpu_0": {"gpu_name": "NVIDIA H100 80GB HBM3", "metrics": {"gpu_power_usage": _metric(500.0, "W")}},
        "gpu_1": {"gpu_name": "NVIDIA H100 80GB HBM3", "metrics": {"gpu_power_usage": _metric(600.0, "W")}},
    }}}},
}  # fmt: skip

GENAI_PERF = AIPERF | {
    "input_config": {"model_names": ["Qwen/Qwen3-32B"], "perf_analyzer": {"stimulus": {"concurrency": 8}}},
}

INFERENCE_PERF = {
    "benchmark_time_seconds": 60.0,
    "load_summary": {"count": 120, "requested_rate": 2.0, "achieved_rate": 1.99},
    "successes": {
        "count": 120,
        "latency": {
            "time_to_first_token": {"mean": 0.15, "median": 0.14}, "time_per_output_token": {"mean": 0.012, "median": 0.012},
        },
        "prompt_len": {"mean": 800.0}, "output_len": {"mean": 150.0},
    },
    "failures": {"count": 0},
}  # fmt: skip

HERE = Given(model="m", hardware="H100", engine="vllm", workers=workers_of(2), concurrency=8.0)


def _write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("value", "given", "expected"),
    [
        (
            VLLM, Given(hardware="H100", workers=workers_of(1)),
            ("meta-llama/Llama-3.1-8B-Instruct", "vllm", 32, None, 1024, 128, 0.2105, 0.00825),
        ),
        (SGLANG, Given(hardware="H200"), ("deepseek-ai/DeepSeek-V3", "sglang", 64, None, 512, 256, 0.09, 0.011)),
        (
            AIPERF, Given(engine="vllm", workers=workers_of(2)),
            ("Qwen/Qwen3-32B", "vllm", 8, None, 2000, 250, 0.3, 0.009),
        ),
        (
            GENAI_PERF, Given(engine="trtllm", workers=workers_of(2)),
            ("Qwen/Qwen3-32B", "trtllm", 8, None, 2000, 250, 0.3, 0.009),
        ),
        (
            INFERENCE_PERF, Given(model="x", hardware="H100", engine="vllm", workers=workers_of(1)),
            ("x", "vllm", None, 2.0, 800, 150, 0.15, 0.012),
        ),
    ],
    ids=["vllm", "sglang", "aiperf", "genai-perf", "inference-perf"],
)  # fmt: skip
def test_each_tool(value, given, expected, tmp_path):
    (read,) = read_measurements(_write(tmp_path / "result.json", value), given)
    model, engine, concurrency, rate, isl, osl, ttft, tpot = expected
    assert (read.model, read.engine) == (model, engine)
    assert read.concurrency == pytest.approx(math.nan if concurrency is None else concurrency, nan_ok=True)
    assert read.rate_rps == pytest.approx(math.nan if rate is None else rate, nan_ok=True)
    assert (read.isl, read.osl) == (isl, osl)
    assert (read.ttft_s, read.tpot_s) == pytest.approx((ttft, tpot))
    assert read.stated


def test_a_sweep_of_guidellm_gives_a_point_for_each_load(tmp_path):
    given = Given(hardware="H100", engine="vllm", workers=workers_of(2))
    read = read_measurements(_write(tmp_path / "benchmarks.json", GUIDELLM), given)
    assert [point.concurrency for point in read[:3]] == [1.0, 16.0, 7.5]
    assert read[3].rate_rps == 2.5
    assert {point.tpot_s for point in read} == {0.014}  # between tokens, not over all of the answer
    assert {point.model for point in read} == {"Qwen/Qwen3-32B"}


def test_servers_that_say_how_they_are_spread(tmp_path):
    (read,) = read_measurements(_write(tmp_path / "a.jsonl", SGLANG), Given(hardware="H200"))
    assert read.workers == workers_of(1, dp=8, ep=8)
    assert read.engine_version == "0.5.9"
    said = VLLM | {"tensor_parallel_size": "4", "gpu": "H200"}  # as --metadata writes it
    (read,) = read_measurements(_write(tmp_path / "b.json", said))
    assert read.workers == workers_of(4)
    assert read.hardware == "H200"


def test_telemetry_says_hardware_and_watts(tmp_path):
    (read,) = read_measurements(_write(tmp_path / "p.json", AIPERF), Given(engine="vllm", workers=workers_of(2)))
    assert read.hardware == "NVIDIA H100 80GB HBM3"
    assert read.average_w == 550.0


def test_open_loops_and_caps(tmp_path):
    given = Given(hardware="H100", workers=workers_of(1))
    loads = []
    for number, change in enumerate(
        [
            {"request_rate": 5.5},
            {"request_rate": 50.0},
            {"max_concurrency": None},
            {"request_rate": 5.5, "max_concurrency": None},
        ]
    ):
        (read,) = read_measurements(_write(tmp_path / f"{number}.json", VLLM | change), given)
        loads += [read.concurrency, read.rate_rps]
    expected = [math.nan, 5.5, 32.0, math.nan, 320.0, math.nan, math.nan, 5.5]
    assert loads == pytest.approx(expected, nan_ok=True)


def test_json_lines_and_lists(tmp_path):
    lines = "\n".join(json.dumps(SGLANG | {"max_concurrency": n}) for n in (1, 2, 3))
    for content in (lines, [SGLANG | {"max_concurrency": n} for n in (1, 2, 3)]):
        read = read_measurements(_write(tmp_path / "runs.jsonl", content), Given(hardware="H200"))
        assert [point.concurrency for point in read] == [1.0, 2.0, 3.0]


def test_what_is_given_goes_first(tmp_path):
    given = Given(
        model="other", hardware="B200", engine="trtllm", weights="nvfp4", kv_cache="fp8_e4m3", workers=workers_of(2, count=3),
        prefill=workers_of(4), isl=10.0, osl=20.0, concurrency=7.0,
    )  # fmt: skip
    (read,) = read_measurements(_write(tmp_path / "v.json", VLLM), given)
    assert (read.model, read.hardware, read.engine, read.mode) == ("other", "B200", "trtllm", "disaggregated")
    assert (read.isl, read.osl, read.concurrency) == (10.0, 20.0, 7.0)
    assert read.precision is not None
    assert (read.precision.weights, read.precision.kv_cache) == ("nvfp4", "fp8")


@pytest.mark.parametrize(
    ("value", "given", "options"),
    [
        (VLLM, Given(), ["--hardware", "--tp"]),
        (INFERENCE_PERF, Given(), ["--model", "--hardware", "--engine", "--tp"]),
        (
            INFERENCE_PERF | {"load_summary": {}},
            HERE.__class__(model="m", hardware="H100"),
            ["--engine", "--concurrency"],
        ),
    ],
)
def test_what_is_missing_is_named_with_its_option(value, given, options, tmp_path):
    with pytest.raises(IncompleteError) as caught:
        read_measurements(_write(tmp_path / "v.json", value), given)
    assert all(option in str(caught.value) for option in options)
    assert caught.value.code == "measurement.incomplete"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mean_ttft_ms": "fast"}, "mean_ttft_ms"),
        ({"mean_ttft_ms": -1.0}, "mean_ttft_ms"),
        ({"mean_tpot_ms": math.inf}, "mean_tpot_ms"),
        ({"completed": True}, "completed"),
        ({"tp": -4}, "tp"),
        ({"tp": "four"}, "tp"),
        ({"tp": 2, "ep": 3}, "tp"),
    ],
)
def test_odd_values_are_named(change, field, tmp_path):
    with pytest.raises(FieldError) as caught:
        read_measurements(_write(tmp_path / "v.json", VLLM | change), HERE)
    assert caught.value.where.field == field
    assert caught.value.where.file.endswith("v.json")


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "[1]", "{]", '{"a": 1}\n{"b"', "a,b\n1,2\n", "\x00\x01", "[" * 50_000]
)
def test_other_files_are_refused(content, tmp_path):
    with pytest.raises(PlenumError):
        read_measurements(_write(tmp_path / "x.json", content), HERE)


def test_a_run_that_measured_nothing_is_refused(tmp_path):
    with pytest.raises(FileError, match="no latencies"):
        read_measurements(_write(tmp_path / "v.json", VLLM | {"mean_ttft_ms": None, "median_ttft_ms": None} | dict.fromkeys(
            ("mean_tpot_ms", "median_tpot_ms", "mean_itl_ms"))), HERE)  # fmt: skip


PLAIN = """model,hardware,engine,weights,kv_cache,tp,ep,concurrency,isl,osl,ttft_ms,tpot_ms,prefill_tp,prefill_workers
Llama-3.1-70B,H100,vllm,fp8_e4m3,fp8,4,,32,1024,128,310,17.5,,
DeepSeek-R1,H200,sglang,fp8_block,,8,8,256,4000,500,900,25,8,2
"""


@pytest.mark.parametrize("packed", [False, True])
def test_the_plain_table(packed, tmp_path):
    path = tmp_path / ("m.csv.gz" if packed else "m.csv")
    path.write_bytes(gzip.compress(PLAIN.encode()) if packed else PLAIN.encode())
    dense, routed = read_measurements(path)
    assert dense.precision is not None
    assert (dense.precision.weights, dense.precision.kv_cache, dense.mode) == ("fp8", "fp8", "aggregated")
    assert (dense.workers, dense.tpot_s) == (workers_of(4), 0.0175)
    assert (routed.mode, routed.prefill, routed.workers) == (
        "disaggregated",
        workers_of(8, count=2),
        workers_of(8, ep=8),
    )


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("model,hardware,engine,ttft_ms,colour\nm,h,e,1,red\n", "colour are no columns"),
        ("model,hardware,engine,ttft_ms\nm,h,e,soon\n", "number"),
        ("model,hardware,engine,ttft_ms,weights\nm,h,e,1,fp9\n", "nearest: fp8"),
        ("model,hardware,engine,ttft_ms,tp,ep\nm,h,e,1,2,3\n", "dealt out"),
        ("model,engine,ttft_ms\nm,e,1\n", "--hardware"),
        ("model,hardware,engine,ttft_ms\n", "no measurement"),
    ],
)
def test_faults_of_tables(table, sentence, tmp_path):
    with pytest.raises(PlenumError, match=sentence):
        read_measurements(_write(tmp_path / "m.csv", table))


@pytest.mark.data
@pytest.mark.skipif(not PROFILES.is_dir(), reason="no serving profiles: set PLENUM_DATA")
def test_the_shared_tables():
    found = read_measurements(PROFILES / "end_to_end_ttft_tpot.csv.gz")
    assert len(found) == 2705
    assert sum(point.stated for point in found) == 2238
    dp = next(point for point in found if point.id == "dsr1_b200_trtllm_fp8_disagg_8192x1024_c128_cfg666")
    assert dp.workers is not None
    assert dp.workers.parallelism == Parallelism(tp=1, dp=8, ep=8)
    assert dp.concurrency == 128.0
    steps = read_measurements(PROFILES / "splitwise_perf_model.csv.gz")
    assert len(steps) == 1260
    assert all(point.prompt_s > 0 and point.token_s > 0 for point in steps)
    assert all(0 < point.average_w < 1.2 * 700 for point in steps if not math.isnan(point.average_w))
