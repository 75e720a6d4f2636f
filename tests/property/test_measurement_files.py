"""Whatever stands in a benchmark's file, it is read or refused with a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plenum.adapters.measurements import Given, read_measurements
from plenum.adapters.measurements.given import workers_of
from plenum.model.errors import PlenumError

NAMES = (
    "benchmarks", "metrics", "config", "strategy", "type_", "streams", "rate", "successful", "mean", "load_summary", "successes",
    "latency", "time_to_first_token", "input_config", "telemetry_data", "endpoints", "gpus", "unit", "avg", "mean_ttft_ms",
    "model_id", "completed", "request_rate", "max_concurrency", "server_info", "tp_size", "dp_size", "enable_dp_attention",
    "time_to_first_token_ms", "models", "name", "concurrency",
)  # fmt: skip

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["inf", "ms", "poisson", "8"]),
)
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)),
    max_leaves=25,
)  # fmt: skip

EVERYTHING = Given(model="m", hardware="H100", engine="vllm", workers=workers_of(1), concurrency=1.0, isl=1.0, osl=1.0)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("measurements") / "result"


def _read(path):
    try:
        found = read_measurements(path, EVERYTHING)
    except PlenumError:
        return
    assert found
    assert all(point.stated for point in found)


@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=8))
def test_any_json(scratch, value):
    scratch.write_text(json.dumps(value))
    _read(scratch)


@given(st.binary(max_size=200))
def test_any_bytes(scratch, content):
    scratch.write_bytes(content)
    _read(scratch)


@given(st.lists(st.lists(st.text(alphabet='1234.-e",\n abc', max_size=6), min_size=4, max_size=4), max_size=4))
def test_any_cells(scratch, rows):
    scratch.write_text("model,hardware,tp,ttft_ms\n" + "\n".join(",".join(row) for row in rows), newline="")
    _read(scratch)
