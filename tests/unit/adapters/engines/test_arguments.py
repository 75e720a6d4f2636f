"""Arguments of engines that anybody may give, and those that an operator decides of."""

from __future__ import annotations

import pytest

from plenum.adapters.engines.arguments import risky_argument


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (
            "vllm",
            ["--enable-chunked-prefill", "--max_num_seqs=8", "--no-enable-prefix-caching", "--kv-cache-dtype", "fp8"],
        ),
        ("sglang", ["--mem-fraction-static", "0.8", "--chunked-prefill-size", "-1"]),
        ("emulated", ["--scale", "0.1"]),
        ("vllm", []),
    ],
)
def test_what_only_tunes_an_engine_is_harmless(engine: str, words: list[str]):
    assert risky_argument(engine, words) == ""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--seed", "1", "--model", "/other"], "--model"),
        (["--lora_modules", "a=/b"], "--lora_modules"),
        (["--chat-template=/x"], "--chat-template"),
        (["--trust-remote-code"], "--trust-remote-code"),
        (["--api-key", "mine"], "--api-key"),
        (["--kv-transfer-config.kv_ip", "10.0.0.1"], "--kv-transfer-config.kv_ip"),
        (["--enforce-eager", "/other"], "--enforce-eager"),  # would be the model
        (["--seed", "1", "/other"], "--seed"),
        (["--quantization", "/other"], "--quantization"),
        (["--reasoning-parser", "os.system"], "--reasoning-parser"),
        (["--seed", "-cc"], "--seed"),
        (["/other", "--seed", "1"], "/other"),
        (["seed", "1"], "seed"),
        (["", "x"], "''"),
        (["--"], "--"),
        (["--ssl"], "--ssl"),  # argparse takes the beginning of a name
    ],
)
def test_what_is_not_known_to_be_harmless_is_named(words: list[str], name: str):
    assert risky_argument("vllm", words) == name


def test_an_operator_allows_some_or_all():
    words = ["--tokenizer", "/x", "--seed", "1"]
    assert risky_argument("vllm", words, ("--tokenizer",)) == ""
    assert risky_argument("vllm", [*words, "--port=1"], ("--tokenizer",)) == "--port"
    assert risky_argument("vllm", [*words, "--port=1"], ("*",)) == ""


@pytest.mark.parametrize("short", ["-cc", "-cc.backend=mine", "-q", "-", "-1x"])
def test_what_an_operator_allows_brings_no_short_names_along(short: str):
    assert risky_argument("vllm", ["--tokenizer", "/x", short, "y"], ("--tokenizer",)) == "--tokenizer"
    assert risky_argument("vllm", ["--tokenizer", "-1.5"], ("--tokenizer",)) == ""
