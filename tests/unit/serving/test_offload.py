"""The rules of where a prompt is computed, as the paper states them, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.serving.offload import AMPLE_BELOW, LOCAL, REMOTE, SCARCE_ABOVE, is_ample, place_prefill, raised_threshold

tokens = st.integers(0, 200_000)


@pytest.mark.parametrize(
    ("total", "local", "remote", "ample", "expected"),
    [
        (10_000, 0, 0, False, (LOCAL, 0, 10_000)),  # short
        (30_000, 0, 0, False, (REMOTE, 0, 30_000)),  # long
        (20_000, 0, 0, False, (LOCAL, 0, 20_000)),  # just the threshold stays
        (30_000, 15_000, 0, False, (LOCAL, 0, 15_000)),  # long, but little is left here
        (30_000, 0, 15_000, False, (REMOTE, 0, 15_000)),  # scarce: what is cached there does not count for here
        (30_000, 0, 15_000, True, (LOCAL, 15_000, 0 + 15_000)),  # ample: it is copied across
        (60_000, 30_000, 10_000, True, (REMOTE, 20_000, 30_000)),  # much is left: what is here is copied there
        (60_000, 30_000, 10_000, False, (REMOTE, 0, 50_000)),
    ],
)
def test_rules(total: int, local: int, remote: int, ample: bool, expected: tuple[int, int, int]) -> None:
    assert place_prefill(total, local, remote, 20_000.0, ample) == expected


@settings(deadline=None)
@given(tokens, tokens, tokens, st.floats(0, 200_000), st.booleans())
def test_oracle(total: int, local: int, remote: int, threshold: float, ample: bool) -> None:
    local, remote = min(local, total), min(remote, total)
    site, copied, computed = place_prefill(total, local, remote, threshold, ample)
    left = total - max(remote, local) if ample else total - local
    assert site == (LOCAL if left <= threshold else REMOTE)
    own = local if site == LOCAL else remote
    assert copied >= 0
    assert own + copied + computed == total
    assert own + copied == (max(local, remote) if ample else own)


def test_nothing_goes_away_without_a_remote_site() -> None:
    assert place_prefill(10**6, 0, 0, float("inf"), False)[0] == LOCAL


def test_link_has_hysteresis() -> None:
    between = (AMPLE_BELOW + SCARCE_ABOVE) / 2
    assert is_ample(between, True)
    assert not is_ample(between, False)
    assert not is_ample(0.95, True)
    assert is_ample(0.1, False)


@settings(deadline=None)
@given(st.floats(0, 3), st.floats(0, 3))
def test_threshold_rises_with_congestion(one: float, two: float) -> None:
    low, high = (raised_threshold(20_000.0, used, 128_000.0) for used in sorted((one, two)))
    assert 20_000 <= low <= high <= 128_000
    assert raised_threshold(20_000.0, 0.5, 128_000.0) == 20_000
    assert raised_threshold(20_000.0, 1.0, 128_000.0) == pytest.approx(128_000)
