"""``plenum plan models`` and ``plenum plan hardware``: tables for people, JSON for programs, errors to act on."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from plenum.cli.root import root
from plenum.model.errors import PlenumError
from plenum.serving.catalogue.accelerators import ACCELERATORS
from plenum.serving.catalogue.models import MODELS


def _run(*arguments):
    result = CliRunner().invoke(root, ["plan", *arguments], catch_exceptions=True)
    if isinstance(result.exception, PlenumError):
        raise result.exception
    return result


def test_lists_have_every_entry():
    models = json.loads(_run("models", "-o", "json").stdout)
    hardware = json.loads(_run("hardware", "-o", "json").stdout)
    assert [model["name"] for model in models] == list(MODELS)
    assert [item["name"] for item in hardware] == list(ACCELERATORS)
    assert all(model["source"] for model in models)
    assert all(f"\n{name} " in "\n" + _run("hardware").stdout for name in ACCELERATORS)


def test_one_model_in_detail():
    said = json.loads(_run("models", "deepseek-ai/DeepSeek-R1", "--kv-cache", "fp8", "-o", "json").stdout)
    assert said["kv_cache"][0] == {"tokens": 4096, "bytes": 61 * 576 * 4096}
    fits = {fit["hardware"]: fit for fit in said["fits"]}
    assert fits["H200"]["devices"] == 8
    assert fits["H100"]["devices"] == 0
    text = _run("models", "deepseek-ai/DeepSeek-R1").stdout
    assert "61" not in said["left_out"]
    assert "8 of 256 experts" in text
    assert "even over 8 devices" in text


def test_a_file_is_described_like_a_name(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 1000,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = json.loads(_run("models", str(tmp_path), "-o", "json").stdout)
    assert said["layers"] == 4
    assert said["parameters_published"] is None


def test_one_accelerator_in_detail_names_its_sources():
    text = _run("hardware", "h100_sxm").stdout
    assert "NVIDIA H100 data sheet (SXM)" in text
    said = json.loads(_run("hardware", "h100_sxm", "--format", "nvfp4", "-o", "json").stdout)
    assert [use["computed_in"] for use in said["formats"]] == ["bf16"]


def test_a_format_is_compared_over_all_hardware():
    said = json.loads(_run("hardware", "--format", "fp4", "-o", "json").stdout)
    native = {item["name"] for item in said["hardware"] if item["native"]}
    assert native == {"B200", "B300", "GB200", "GB300"}


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("models", "lama-3.1-70b"), "Llama-3.1-70B"),
        (("models", "Llama-3.1-70B", "--weights", "fp9"), "nearest: fp8"),
        (("hardware", "H10O"), "H100"),
        (("hardware", "--format", "int5"), "int8"),
        (("models", "missing.gguf"), "there is no such file"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(arguments, near):
    with pytest.raises(PlenumError, match=near):
        _run(*arguments)


def test_unknown_family_lists_those_there_are():
    result = _run("models", "--family", "lama")
    assert result.exit_code == 2
    assert "llama" in result.stderr
