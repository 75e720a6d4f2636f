from __future__ import annotations

import itertools

import numpy as np
import pytest

from plenum.model.errors import FieldError
from plenum.serving import routing
from plenum.serving.routing import POLICIES, choose


def ask(policy: str, *, count: int = 4, session: int = -1, turn: int = 0, prompt_tokens: int = 1000, **arrays) -> int:
    """Choose among ``count`` idle instances, except for what is said of them."""
    neutral = {
        "eligible": np.ones(count, bool),
        "queued_requests": np.zeros(count, np.int64),
        "queued_tokens": np.zeros(count, np.int64),
        "running": np.zeros(count, np.int64),
        "cache_used": np.zeros(count),
        "hit_tokens": np.zeros(count, np.int64),
        "predicted_ttft_s": np.ones(count),
    }
    given = {name: np.asarray(values, neutral[name].dtype) for name, values in arrays.items()}
    return choose(POLICIES[policy], *(neutral | given).values(), prompt_tokens, session, turn)


@pytest.mark.parametrize("policy", POLICIES)
def test_only_eligible_instances_are_chosen(policy):
    assert ask(policy, eligible=[0, 0, 0, 0], session=3) == -1
    for turn in range(8):
        assert ask(policy, eligible=[0, 0, 1, 0], session=3, turn=turn, hit_tokens=[900, 0, 0, 0]) == 2
        assert ask(policy, eligible=[0, 1, 1, 0], session=3, turn=turn, predicted_ttft_s=[0, 5, 9, 0]) in (1, 2)


def test_round_robin_goes_round_those_that_are_eligible():
    assert [ask("round-robin", eligible=[1, 0, 1, 1], turn=t) for t in range(6)] == [0, 2, 3, 0, 2, 3]


def test_random_is_even_and_repeats():
    chosen = [ask("random", turn=turn) for turn in range(4000)]
    assert chosen == [ask("random", turn=turn) for turn in range(4000)]
    assert np.bincount(chosen) == pytest.approx([1000] * 4, rel=0.1)
    assert len(set(itertools.pairwise(chosen))) == 16, "one choice tells nothing of the next"


def test_least_loaded_counts_those_that_wait_and_those_that_run():
    assert ask("least-loaded", queued_requests=[3, 0, 1, 0], running=[0, 4, 1, 3]) == 2


def test_ties_are_spread_over_the_turns():
    assert [ask("least-loaded", turn=turn) for turn in range(5)] == [0, 1, 2, 3, 0]


def test_prefix_aware_follows_the_longest_prefix():
    assert ask("prefix-aware", hit_tokens=[0, 512, 768, 0], running=[0, 0, 5, 0]) == 2


def test_prefix_aware_of_equal_prefixes_takes_the_freer_instance():
    assert ask("prefix-aware", hit_tokens=[768, 768, 0, 0], running=[5, 2, 0, 0]) == 1


def test_prefix_aware_does_not_follow_a_prefix_that_is_hardly_worth_it():
    assert ask("prefix-aware", hit_tokens=[0, 0, 64, 0], running=[1, 0, 3, 1]) == 1


def test_prefix_aware_balances_when_the_load_is_out_of_balance():
    assert ask("prefix-aware", hit_tokens=[0, 0, 900, 0], running=[2, 1, 12, 2]) == 1
    assert ask("prefix-aware", hit_tokens=[0, 0, 900, 0], running=[22, 21, 30, 22]) == 2, "8 more than 21 is in balance"


def test_kv_aware_weighs_what_is_to_be_computed_against_a_full_cache():
    assert ask("kv-aware", hit_tokens=[0, 0, 900, 0]) == 2
    assert ask("kv-aware", hit_tokens=[0, 0, 900, 0], queued_tokens=[0, 0, 1000, 0], turn=3) == 3
    assert ask("kv-aware", hit_tokens=[0, 0, 900, 0], cache_used=[0.5, 0.2, 0.9, 0.4]) == 1


def test_predicted_latency_takes_the_smallest():
    assert ask("predicted-latency", predicted_ttft_s=[3, 2, 0.5, 0.7]) == 2


def test_sessions_stay_where_they_are_and_spread_evenly():
    homes = np.array([ask("session", session=s, turn=s % 7) for s in range(2000)])
    assert np.bincount(homes) == pytest.approx([500] * 4, rel=0.15)
    gone = np.array([ask("session", session=s, eligible=[1, 1, 0, 1]) for s in range(2000)])
    assert (gone[homes != 2] == homes[homes != 2]).all(), "only the sessions of the one that went move"
    assert len(set(gone[homes == 2])) == 3


def test_instances_keep_their_sessions_by_identity_wherever_they_stand():
    names = np.array([11, 22, 33], np.uint64)
    idle, up = np.zeros(3, np.int64), np.ones(3, bool)
    for session in range(50):
        home = names[routing.choose_for_session(up, idle, idle, session, names)]
        turned = names[::-1].copy()
        assert turned[routing.choose_for_session(up, idle, idle, session, turned)] == home


def test_a_session_leaves_an_instance_that_is_over_its_bound():
    home = ask("session", session=5)
    load = [2, 2, 2, 2]
    load[home] = 9
    assert ask("session", session=5, running=load) != home
    load[home] = 7
    assert ask("session", session=5, running=load) == home


def test_requests_without_a_session_go_to_the_least_loaded():
    assert ask("session", session=-1, running=[1, 1, 0, 1]) == 2


def transfer(hits, alone, fetched, slo_s=9.0):
    return routing.choose_with_transfer(
        np.ones(len(hits), bool), np.array(hits), np.array(alone, float), np.array(fetched, float), slo_s, 0
    )


def test_a_prefix_is_copied_where_its_instance_is_busy():
    assert transfer([0, 0, 900], [3.0, 2.5, 4.0], [1.0, 0.8, 4.0]) == (1, 2, 0.8)


def test_a_prefix_is_followed_where_its_instance_is_free():
    assert transfer([0, 0, 900], [3.0, 2.5, 0.2], [1.0, 0.8, 0.2]) == (2, -1, 0.2)


def test_a_prefix_that_is_hardly_longer_is_not_copied():
    assert transfer([700, 0, 900], [0.9, 3.0, 4.0], [0.1, 2.0, 4.0]) == (0, -1, 0.9)


def test_a_request_that_would_be_late_everywhere_is_refused():
    assert transfer([0, 0, 900], [3.0, 2.5, 4.0], [1.0, 0.8, 4.0], slo_s=0.5) == (-1, -1, 0.8)


def test_an_unknown_policy_is_answered_with_those_that_there_are():
    with pytest.raises(FieldError, match="prefix-aware"):
        routing.policy_named("prefix")
