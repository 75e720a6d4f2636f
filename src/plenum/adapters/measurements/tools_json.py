"""From the JSON of a benchmark tool to measurements. Field names are those that the tools write at the versions named below."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from plenum.adapters.measurements.given import workers_of
from plenum.adapters.measurements.values import find, number, part, text, whole
from plenum.serving.measurement import Measurement, Workers

Result = Mapping[str, Any]

_MS = 1e-3
_HARDWARE = ("hardware", "gpu", "gpu_type", "gpu_name", "accelerator", "device")
"""Names under which people give hardware to ``vllm bench serve --metadata``."""

_TP = ("tensor_parallel_size", "tp_size", "tp")

REACHED = 0.9
"""Part of the asked rate that must have been reached for the load to count as an open loop; below it a cap on concurrency ruled."""


def read_vllm(result: Result) -> list[Measurement]:
    """``vllm bench serve --save-result`` (0.5 to 0.11), also as JSON lines (``--append-result``)."""
    return [_serve(result, text(result, "engine") or "vllm", text(result, "model_id", "model"))]


def read_sglang(result: Result) -> list[Measurement]:
    """``python -m sglang.bench_serving --output-file`` (0.3 to 0.5): one line a run."""
    server = part(result, "server_info")
    engine = text(result, "engine") or (
        "sglang" if text(result, "backend").startswith("sglang") else text(result, "backend")
    )
    return [
        _serve(result, engine, text(server, "model_path", "served_model_name") or text(result, "model_id", "model"))
    ]


def _serve(result: Result, engine: str, model: str) -> Measurement:
    """Both descend from one script: the same names for counts, lengths and latencies."""
    server = part(result, "server_info")
    completed = number(result, "completed")
    concurrency, rate = _load(result, completed)
    return Measurement(
        id=text(result, "label", "tag", "date"),
        model=model,
        hardware=text(result, *_HARDWARE),
        engine=engine,
        engine_version=text(server, "version") or text(result, "engine_version", "version"),
        workers=_spread(server) or _spread(result),
        concurrency=concurrency,
        rate_rps=rate,
        isl=_mean(result, "total_input_tokens", completed, "random_input_len"),
        osl=_mean(result, "total_output_tokens", completed, "random_output_len"),
        ttft_s=number(result, "mean_ttft_ms", "median_ttft_ms", scale=_MS),
        tpot_s=number(result, "mean_tpot_ms", "median_tpot_ms", "mean_itl_ms", scale=_MS),
    )


def _load(result: Result, completed: float) -> tuple[float, float]:
    """Return concurrency of a closed loop, or rate of an open one; the other is NaN."""
    rate = _finite(result.get("request_rate"))
    most = number(result, "max_concurrency")
    if math.isnan(rate):
        return (most if most > 0 else completed), math.nan  # without a cap all were sent at once
    reached = number(result, "request_throughput")
    capped = most > 0 and reached < REACHED * rate
    return (most, math.nan) if capped else (math.nan, rate)


def _finite(value: object) -> float:
    """Return a positive finite number; NaN for ``inf``, ``trace`` and the like."""
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return math.nan
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
    return float(value) if good else math.nan  # pyright: ignore[reportArgumentType]


def _mean(result: Result, total: str, completed: float, stated: str) -> float:
    tokens = number(result, total)
    return tokens / completed if tokens > 0 and completed > 0 else number(result, stated)


def _spread(values: Result) -> Workers | None:
    tp = whole(values, *_TP)
    if not tp:
        return None
    pp = whole(values, "pipeline_parallel_size", "pp_size", "pp", default=1)
    dp = whole(values, "data_parallel_size", "dp_size", "dp", default=1)
    ep = whole(values, "expert_parallel_size", "ep_size", "ep", default=1)
    if values.get("enable_dp_attention") is True and dp > 1 and tp % dp == 0:
        tp //= dp  # SGLang counts the attention groups inside of tp
    elif values.get("enable_dp_attention") is False and dp > 1:
        return workers_of(tp, pp=pp, ep=ep, count=dp)
    return workers_of(tp, pp=pp, dp=dp, ep=ep)


def read_guidellm(result: Result) -> list[Measurement]:
    """``benchmarks.json`` of guidellm (0.2 to 0.8): one measurement for each benchmark of a sweep."""
    runs = result.get("benchmarks")
    return [_guidellm_run(run, result) for run in runs if isinstance(run, Mapping)] if isinstance(runs, list) else []


def _guidellm_run(run: Result, report: Result) -> Measurement:
    metrics = part(run, "metrics")
    strategy = part(run, "config", "strategy") or part(run, "args", "strategy") or part(run, "scheduler", "strategy")
    kind = text(strategy, "type_")
    reached = _good(metrics, "request_concurrency")
    if kind in ("constant", "poisson"):
        concurrency, rate = math.nan, number(strategy, "rate")
    elif kind == "synchronous":
        concurrency, rate = 1.0, math.nan
    else:
        asked = number(strategy, "streams")
        concurrency, rate = (asked if asked > 0 else reached), math.nan
    model = find(part(run, "config", "backend"), ("model",)) or find(part(report, "args"), ("model",))
    return Measurement(
        id=text(run, "id_") or text(part(run, "config"), "id_") or kind,
        model=str(model or find(part(run, "benchmarker"), ("model",)) or "")[:200],
        hardware="",
        engine="",
        concurrency=concurrency,
        rate_rps=rate,
        isl=_good(metrics, "prompt_token_count"),
        osl=_good(metrics, "output_token_count"),
        ttft_s=_good(metrics, "time_to_first_token_ms") * _MS,
        tpot_s=_good(metrics, "inter_token_latency_ms") * _MS,
    )


def _good(metrics: Result, name: str) -> float:
    """Return the mean over requests that succeeded."""
    return number(part(metrics, name, "successful"), "mean", "median")


def read_aiperf(result: Result) -> list[Measurement]:
    """``profile_export_aiperf.json`` (AIPerf 0.1 to 0.13) and ``profile_export_genai_perf.json`` (GenAI-Perf)."""
    config = part(result, "input_config")
    gpus = _gpus(result)
    asked = find(config, ("concurrency",))
    rate = _finite(find(config, ("request_rate",)))
    one = isinstance(asked, int | float) and not isinstance(asked, bool) and asked > 0
    return [
        Measurement(
            id=text(result, "benchmark_id"),
            model=_aiperf_model(config),
            hardware=text(gpus[0], "gpu_name", "name") if gpus else "",
            engine="",
            concurrency=float(asked) if one and math.isnan(rate) else math.nan,  # pyright: ignore[reportArgumentType]
            rate_rps=rate,
            isl=_average(result, "input_sequence_length"),
            osl=_average(result, "output_sequence_length"),
            ttft_s=_average(result, "time_to_first_token"),
            tpot_s=_average(result, "inter_token_latency"),
            average_w=_watts(gpus),
        )
    ]


def _aiperf_model(config: Result) -> str:
    named = find(config, ("model_names", "model_name", "models", "model"))
    while isinstance(named, list | Mapping):
        named = (named[0] if named else "") if isinstance(named, list) else find(named, ("name", "items"))
    return named[:200] if isinstance(named, str) else ""


def _average(result: Result, name: str) -> float:
    """Return the average of a metric, times in seconds."""
    metric = part(result, name)
    scale = {"ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "ns": 1e-9}.get(text(metric, "unit").lower(), 1.0)
    return number(metric, "avg", "p50", scale=scale)


def _gpus(result: Result) -> list[Result]:
    endpoints = part(result, "telemetry_data", "endpoints")
    return [gpu for end in endpoints.values() for gpu in part(end, "gpus").values() if isinstance(gpu, Mapping)]


def _watts(gpus: list[Result]) -> float:
    drawn = [number(part(gpu, "metrics", "gpu_power_usage"), "avg") for gpu in gpus]
    drawn = [watts for watts in drawn if watts > 0]
    return sum(drawn) / len(drawn) if drawn else math.nan


def read_inference_perf(result: Result) -> list[Measurement]:
    """``stage_N_lifecycle_metrics.json`` and ``summary_lifecycle_metrics.json`` of inference-perf (0.1 to 0.7)."""
    load, good = part(result, "load_summary"), part(result, "successes")
    latency = part(good, "latency")
    concurrency = number(load, "concurrency")
    return [
        Measurement(
            model="",
            hardware="",
            engine="",
            concurrency=concurrency,
            rate_rps=math.nan if concurrency > 0 else number(load, "requested_rate", "achieved_rate"),
            isl=number(part(good, "prompt_len") or part(good, "prompt_tokens"), "mean", "median"),
            osl=number(part(good, "output_len") or part(good, "output_tokens"), "mean", "median"),
            ttft_s=number(part(latency, "time_to_first_token"), "mean", "median"),
            tpot_s=number(
                part(latency, "time_per_output_token") or part(latency, "inter_token_latency"), "mean", "median"
            ),
        )
    ]


TOOLS: tuple[tuple[str, Callable[[Result], bool], Callable[[Result], list[Measurement]]], ...] = (
    ("guidellm", lambda r: isinstance(r.get("benchmarks"), list), read_guidellm),
    ("inference-perf", lambda r: "load_summary" in r and "successes" in r, read_inference_perf),
    ("AIPerf", lambda r: bool(part(r, "time_to_first_token") or part(r, "request_latency")), read_aiperf),
    ("vLLM", lambda r: "mean_ttft_ms" in r and ("model_id" in r or "num_prompts" in r), read_vllm),
    ("SGLang", lambda r: "mean_ttft_ms" in r and "completed" in r, read_sglang),
)
"""Name of a tool, how its files are recognised, and what reads them; the first that matches."""
