"""The fewest devices that hold a model, against sums done by hand."""

from __future__ import annotations

import pytest

from plenum.serving.catalogue.accelerators import ACCELERATORS
from plenum.serving.catalogue.models import MODELS, published_precision
from plenum.serving.fit import fewest_devices, model_bytes
from plenum.serving.formats import Precision


@pytest.mark.parametrize(
    ("model", "hardware", "precision", "devices"),
    [
        ("Llama-3.1-8B", "L40S", Precision(), 1),  # 16 GB
        ("Llama-3.1-70B", "H100", Precision(), 2),  # 141 GB over 2 x 75
        ("Llama-3.1-70B", "H200", Precision(), 2),  # 141 GB on 134 usable
        ("Llama-3.1-70B", "H100", Precision(weights="fp8"), 1),  # 73 GB on 75
        ("Llama-3.1-70B", "B200", Precision(), 1),
        ("Llama-3.1-405B", "H100", Precision(), 0),  # 812 GB over 8 x 75
        ("Llama-3.1-405B", "H100", Precision(weights="fp8"), 8),
        ("DeepSeek-R1", "H200", Precision(weights="fp8_block"), 8),
        ("DeepSeek-R1", "H100", Precision(weights="fp8_block"), 0),
    ],
)
def test_fewest_devices(model, hardware, precision, devices):
    fit = fewest_devices(MODELS[model], ACCELERATORS[hardware], precision, context_tokens=2048)
    assert fit.devices == devices
    assert bool(fit.why_not) == (devices == 0)


def test_seventy_billion_parameters_in_16_bits_do_not_fit_on_one_small_card():
    fit = fewest_devices(MODELS["Llama-3.1-70B"], ACCELERATORS["A10"], Precision())
    assert fit.devices == 0
    assert "weights take 35 GB each" in fit.why_not  # 141 GB over four, less than the embedding kept whole


def test_long_sequences_need_more_devices():
    hardware, model = ACCELERATORS["H100"], MODELS["Llama-3.1-8B"]
    short = fewest_devices(model, hardware, Precision(), context_tokens=8192)
    long = fewest_devices(model, hardware, Precision(), context_tokens=1_000_000)
    assert (short.devices, long.devices) == (1, 2)  # 131 kB a token: 59 GB hold 450 K tokens, 134 GB a million
    assert long.cache_tokens >= 1_000_000


def test_published_sizes_of_checkpoints():
    """gpt-oss-120b is 60.8 GiB and gpt-oss-20b 12.8 GiB (arXiv 2508.10925 table 1); Kimi-K2-Thinking about 594 GB."""
    for name, expected in (("gpt-oss-120b", 60.8 * 2**30), ("gpt-oss-20b", 12.8 * 2**30), ("Kimi-K2.5", 594e9)):
        assert model_bytes(MODELS[name], published_precision(MODELS[name])) == pytest.approx(expected, rel=0.01)
