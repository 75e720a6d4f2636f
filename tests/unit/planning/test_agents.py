"""Call graphs of agents: counts, growth of prompts, reuse of prefixes; idle time against a simulated repairman."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.model.errors import FieldError
from plenum.planning.agent_sizing import (
    agents_to_keep_busy,
    cost_of_query,
    idle_alone,
    idle_batched,
    power_w,
)
from plenum.planning.agents import AgentKind, AgentWorkload, agent_requests, calls_of, tool_waits_of
from plenum.planning.published import AGENT_KINDS
from plenum.serving.curves import steps_of

KINDS = tuple(AGENT_KINDS.values())


def made(kind: AgentKind, sessions: int = 300, seed: int = 5, **options) -> AgentWorkload:
    return agent_requests(
        kind, np.sort(np.random.default_rng(seed).uniform(0, 60, sessions)), np.random.default_rng(seed), **options
    )


def blocks(workload: AgentWorkload, row: int) -> list[int]:
    requests = workload.requests
    return requests.block_id[requests.block_offset[row] : requests.block_offset[row + 1]].tolist()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_mean_calls_and_waits(kind: AgentKind) -> None:
    workload = made(kind, 1500)
    assert len(workload.requests) / workload.queries == pytest.approx(calls_of(kind), rel=0.05)
    if kind.tools:
        waits = np.unique(workload.requests.after[workload.requests.pause_s > 0])
        assert len(waits) / workload.queries == pytest.approx(tool_waits_of(kind), rel=0.05)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_calls_follow_earlier_ones_of_their_session(kind: AgentKind) -> None:
    requests = made(kind, 50, queries_each=3).requests
    rows = np.arange(len(requests))
    follows = requests.after >= 0
    assert (requests.after[follows] < rows[follows]).all()
    assert (requests.session[requests.after[follows]] == requests.session[follows]).all()
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert follows.sum() >= len(requests) - 50 * kind.branches


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("block_tokens", [16, 64])
def test_blocks_are_whole_and_shared_by_what_is_equal(kind: AgentKind, block_tokens: int) -> None:
    workload = made(kind, 8, block_tokens=block_tokens)
    requests = workload.requests
    shared = kind.shared_tokens // block_tokens
    seen: dict[int, tuple[int, ...]] = {}
    for row in range(len(requests)):
        ids = blocks(workload, row)
        assert len(ids) == requests.prompt_tokens[row] // block_tokens
        assert ids[:shared] == list(range(shared))
        for at, block in enumerate(ids):  # an id means the same prefix wherever it is
            assert seen.setdefault(block, tuple(ids[:at])) == tuple(ids[:at])
    assert sorted(seen) == sorted(set(requests.block_id.tolist()))


def test_reuse_is_what_an_endless_cache_would_find_at_least() -> None:
    """Prompts' blocks found earlier in the session are reused; answers' blocks come on top."""
    workload = made(AGENT_KINDS["reflexion"], 20, block_tokens=16)
    known: set[int] = set(range(AGENT_KINDS["reflexion"].shared_tokens // 16))
    for row in range(len(workload.requests)):
        ids = blocks(workload, row)
        found = next((at for at, block in enumerate(ids) if block not in known), len(ids)) * 16
        assert found <= workload.reused_tokens[row] <= workload.requests.prompt_tokens[row]
        known.update(ids)


def test_prompts_grow_with_history() -> None:
    workload = made(AGENT_KINDS["react"], 30)
    requests = workload.requests
    follows = requests.after >= 0
    assert (requests.prompt_tokens[follows] > requests.prompt_tokens[requests.after[follows]]).all()
    assert requests.hold.sum() == follows.sum()
    assert not made(AGENT_KINDS["react"], 30, hold=False).requests.hold.any()


def test_same_seed_same_calls() -> None:
    one, two, other = made(KINDS[4], 20), made(KINDS[4], 20), made(KINDS[4], 20, seed=6)
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "pause_s", "after", "block_id"):
        assert np.array_equal(getattr(one.requests, name), getattr(two.requests, name))
    assert not np.array_equal(one.requests.prompt_tokens, other.requests.prompt_tokens)


def test_cost_adds_up() -> None:
    steps = steps_of(linear_token_s=1e-3, fixed_s=0.01, awake_w=100.0)
    workload = made(AGENT_KINDS["react"], 100)
    with_cache, without = (cost_of_query(workload, steps, reuse=reuse) for reuse in (True, False))
    requests = workload.requests
    assert without.prefill_s == pytest.approx(
        (requests.prompt_tokens.sum() * 1e-3 + len(requests) * 0.01) / 100, rel=1e-6
    )
    saved = workload.reused_tokens.sum() * 1e-3 / 100
    assert without.prefill_s - with_cache.prefill_s == pytest.approx(saved, rel=1e-6)
    assert with_cache.decode_s == pytest.approx((requests.output_tokens - 1).sum() * 0.011 / 100, rel=1e-6)
    assert with_cache.tool_s == pytest.approx(requests.pause_s.sum() / 100)
    assert with_cache.energy_wh == pytest.approx(100 * with_cache.device_s / 3600, rel=1e-6)


def repairman(agents: int, llm_s: float, tool_s: float, calls: int, seed: int) -> float:
    """Idle part of one server with agents that wait for tools in between, event by event."""
    rng = np.random.default_rng(seed)
    ready = [float(rng.exponential(tool_s)) for _ in range(agents)]
    heapq.heapify(ready)
    now, busy = 0.0, 0.0
    for _ in range(calls):
        begin = max(now, heapq.heappop(ready))
        seconds = float(rng.exponential(llm_s))
        now, busy = begin + seconds, busy + seconds
        heapq.heappush(ready, now + float(rng.exponential(tool_s)))
    return 1 - busy / now


@pytest.mark.parametrize(("agents", "llm_s", "tool_s"), [(1, 0.7, 0.3), (2, 1.0, 1.0), (4, 0.5, 2.0), (8, 0.3, 3.0)])
def test_idle_is_the_repairmans(agents: int, llm_s: float, tool_s: float) -> None:
    assert idle_alone(agents, llm_s, tool_s) == pytest.approx(repairman(agents, llm_s, tool_s, 60_000, 1), abs=0.012)


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(1e-3, 100), st.floats(1e-3, 100))
def test_idle_falls_with_concurrency(agents: int, llm_s: float, tool_s: float) -> None:
    alone, batched = ([share(n, llm_s, tool_s) for n in (agents, agents + 1)] for share in (idle_alone, idle_batched))
    assert alone[1] < alone[0] or alone[0] < 1e-12
    assert batched[1] < batched[0] or batched[0] < 1e-12
    assert alone[0] <= batched[0] + 1e-12  # who queues is not away
    assert idle_alone(1, llm_s, tool_s) == pytest.approx(tool_s / (llm_s + tool_s))


def test_agents_to_keep_busy() -> None:
    needed = agents_to_keep_busy(0.7, 0.3, idle=0.01)
    assert idle_batched(needed, 0.7, 0.3) <= 0.01 < idle_batched(needed - 1, 0.7, 0.3)
    assert agents_to_keep_busy(0.0, 1.0) == 0


def test_power() -> None:
    assert power_w(24, 10) == 10
    assert power_w(24, 10, pue=1.5) == 15
    with pytest.raises(FieldError, match="PUE"):
        power_w(24, 10, pue=0.9)


@pytest.mark.parametrize(
    "change",
    [{"steps": 0.5}, {"trials": 100}, {"branches": 0}, {"output_tokens": 0}, {"judges": 1}, {"question_tokens": 0}],
)
def test_what_cannot_be_meant(change: dict) -> None:
    with pytest.raises(FieldError, match="odd"):
        agent_requests(replace(AgentKind(name="odd"), **change), np.zeros(1), np.random.default_rng(0))


def test_too_many() -> None:
    with pytest.raises(FieldError, match="ask for fewer"):
        agent_requests(AGENT_KINDS["lats"], np.zeros(1000), np.random.default_rng(0), queries_each=1000)
