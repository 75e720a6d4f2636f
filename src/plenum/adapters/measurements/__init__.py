"""Reads what benchmarks measured, whichever tool wrote the file.

Way in: :func:`read_measurements`. Tools are recognised by what their files hold: vLLM (``vllm bench serve --save-result``), SGLang
(``bench_serving`` JSON lines), guidellm (``benchmarks.json``), AIPerf and GenAI-Perf (``profile_export_*.json``), inference-perf
(``*_lifecycle_metrics.json``), AIConfigurator's CSV, splitwise-sim's CSV, and a plain CSV (:mod:`~plenum.adapters.measurements.plain`).
"""

from plenum.adapters.measurements.given import Given, IncompleteError
from plenum.adapters.measurements.reading import read_measurements

__all__ = ["Given", "IncompleteError", "read_measurements"]
