from __future__ import annotations

import pytest

from plenum.cli.serving_cluster import Described, DoesNotFitError, instance_of, serving_of, words_of
from plenum.model.errors import FieldError


def described(**changes) -> Described:
    return Described(**({"model": "llama-3.1-70b", "hardware": "H100", "tp": 4} | changes))


def test_pools_that_do_both_and_pools_apart():
    instance = instance_of(described())
    assert [p.count for p in serving_of(instance, replicas=8, prefill=None, decode=None).pools] == [8]
    apart = serving_of(instance, replicas=None, prefill=3, decode=5, dram_bytes=10**12)
    assert [(p.role, p.count) for p in apart.pools] == [("prefill", 3), ("decode", 5)]
    bytes_per_token = 2 * 80 * 8 * 128 * 2  # keys and values, layers, KV heads, values of a head, bytes
    assert apart.pools[0].dram_tokens == 10**12 // bytes_per_token
    assert words_of(apart) == "3 prefill + 5 decode x Llama-3.1-70B BF16 on 4 x H100 (TP4)"


@pytest.mark.parametrize(
    ("replicas", "prefill", "decode"),
    [(None, 3, None), (None, None, 3), (2, 3, 1)],
)
def test_pools_that_make_no_sense(replicas, prefill, decode):
    with pytest.raises(FieldError):
        serving_of(instance_of(described()), replicas=replicas, prefill=prefill, decode=decode)


def test_formats():
    assert instance_of(described()).precision.weights == "bf16"
    narrow = instance_of(described(weights="FP8", kv_cache="fp8")).precision
    assert (narrow.weights, narrow.kv_cache) == ("fp8", "fp8")


def test_what_does_not_fit_says_what_would():
    with pytest.raises(DoesNotFitError, match=r"70B in BF16 takes 1\d\d\.\d GB of each of 1 x L40S.*--tp 4"):
        instance_of(described(hardware="L40S", tp=1))


@pytest.mark.parametrize("changes", [{"model": "lama-3.1-70b"}, {"hardware": "H1000"}, {"weights": "fp9"}, {"ep": 64}])
def test_unknown_names_and_degrees(changes):
    with pytest.raises(FieldError):
        instance_of(described(**changes))
