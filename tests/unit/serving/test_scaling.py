from __future__ import annotations

import pytest

from plenum.model.errors import FieldError
from plenum.serving import scaling


def run(limit: scaling.Limits, wants: list[float], *, current: int = 2, rate_rps: float = 5.0) -> list[int]:
    """Follow what is wanted, once every 10 s."""
    history, seen = scaling.history_of(limit), []
    for tick, wanted in enumerate(wants):
        current = scaling.desired(limit, history, 10.0 * tick, current, wanted, rate_rps, 0.0)
        seen.append(current)
    return seen


def test_it_goes_up_at_once_and_down_after_the_window():
    limit = scaling.limits(1, 8, window_s=30.0)
    assert run(limit, [4.2, 4.2, 1.5, 1.5, 1.5, 1.5, 1.5]) == [5, 5, 5, 5, 5, 2, 2]


def test_a_step_is_limited():
    assert run(scaling.limits(1, 20, max_step=3), [16.0] * 6) == [5, 8, 11, 14, 16, 16]


def test_within_the_tolerance_nothing_is_done():
    assert run(scaling.limits(1, 8), [2.19] * 3) == [2, 2, 2]


def test_a_step_down_that_had_to_be_taken_back_is_not_tried_again():
    limit = scaling.limits(1, 8, window_s=10.0, max_step=1)
    seen = run(limit, [3.0, 2.0, 2.0, 2.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0], current=3)
    assert seen[2:4] == [2, 2]
    assert seen[4:] == [3] * 6


def test_it_is_tried_again_once_less_arrives():
    limit = scaling.limits(1, 8, window_s=10.0, max_step=1)
    history, current = scaling.history_of(limit), 3
    for tick, wanted in enumerate([3.0, 2.0, 2.0, 3.0, 2.0, 2.0]):
        current = scaling.desired(limit, history, 10.0 * tick, current, wanted, 5.0, 0.0)
    assert current == 3
    assert scaling.desired(limit, history, 60.0, 3, 2.0, 4.6, 0.0) == 3
    assert scaling.desired(limit, history, 70.0, 3, 2.0, 4.4, 0.0) == 2


def test_the_last_replica_goes_when_nothing_arrives_and_comes_back_with_the_first_request():
    limit = scaling.limits(0, 4, window_s=0.0, idle_s=60.0)
    history = scaling.history_of(limit)
    assert scaling.desired(limit, history, 0.0, 1, 0.0, 0.0, 30.0) == 1
    assert scaling.desired(limit, history, 60.0, 1, 0.0, 0.0, 60.0) == 0
    assert scaling.desired(limit, history, 70.0, 0, 0.0, 0.0, 70.0) == 0
    assert scaling.desired(limit, history, 80.0, 0, 0.1, 0.1, 0.0) == 1


def test_with_a_least_number_it_never_goes_to_none():
    assert scaling.desired(scaling.limits(1, 4), scaling.history_of(scaling.limits(1, 4)), 0.0, 1, 0.0, 0.0, 1e9) == 1


def test_what_load_and_promises_want():
    assert scaling.wanted_for_load(4, 30.0, 10.0, 0.5, 0.8) == 3.0
    assert scaling.wanted_for_load(4, 30.0, 10.0, 0.9, 0.8) == 4.5
    assert scaling.wanted_for_slo(10.0, 2.5, 0.0, 30.0) == 4.0
    assert scaling.wanted_for_slo(10.0, 2.5, 75.0, 30.0) == 5.0


def test_pools_share_a_budget():
    assert scaling.share_budget(3, 5, 4, 4, 64) == (3, 5)
    assert scaling.share_budget(3, 5, 4, 4, 20) == (2, 3)
    assert scaling.share_budget(3, 5, 4, 4, 7) == (0, 0)
    assert scaling.share_budget(0, 2.5, 8, 4, 64, least=(0, 1)) == (0, 3)


@pytest.mark.parametrize("bad", [(-1, 3), (4, 3), (0, 0), (1, 10**9)])
def test_limits_that_make_no_sense_are_refused(bad):
    with pytest.raises(FieldError):
        scaling.limits(*bad)
