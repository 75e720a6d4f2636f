"""Rollouts on fleets with and without room, while the load goes up and down: each ends, and meanwhile no fewer serve than is promised."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.control.cloud import imitation, job
from tests.unit.control.endpoints.city import City, changed, chat

from plenum.control.endpoints import events as ep
from plenum.model.endpoint import Pool, Rollout
from plenum.model.workload import Request

GPUS = 8
LIMIT_S = 400
"""Virtual seconds that any of these rollouts has: sixteen replicas one by one, three seconds to start each, and a change of load or two."""

rollouts = st.builds(
    Rollout,
    canary=st.sampled_from([0.0, 0.1, 0.5]),
    hold_s=st.just(2.0),
    max_unavailable=st.integers(1, 2),
    may_pause=st.booleans(),
)
loads = st.lists(st.tuples(st.integers(1, 25), st.integers(0, 40)), max_size=6)
"""After so many seconds so many requests wait."""


def pools_of(apart: bool, low: int, high: int, gpus: int) -> tuple[Pool, ...]:
    names = ("prefill", "decode") if apart else ("serve",)
    return tuple(Pool(name=name, min_replicas=low, max_replicas=high, request=Request(gpus=gpus)) for name in names)


@settings(max_examples=25)
@given(
    st.booleans(), st.sampled_from([1, 1, 2]), st.integers(1, 4), st.integers(0, 8), rollouts, loads, st.integers(0, 6)
)
def test_every_rollout_ends_and_no_fewer_serve_than_promised(
    apart: bool, gpus: int, low: int, more: int, rollout: Rollout, load: list[tuple[int, int]], rivals: int
) -> None:
    low = min(low, GPUS // gpus // (2 if apart else 1))
    spec = chat(pools=pools_of(apart, low, low + more, gpus), rollout=rollout)
    names = [pool.name for pool in spec.pools]

    def ready() -> int:
        return min(sum(r.pool == name for r in city.replicas()) for name in names)

    city = City(1)
    city.apply(spec)
    city.run(6)
    if free := min(rivals, GPUS - sum(low * pool.request.gpus for pool in spec.pools)):
        city.submit(job("rival", replicas=free), imitation())
        city.run(2)
    before = ready()
    city.apply(changed(spec))
    changes = iter(load)
    left_s, waiting = next(changes, (LIMIT_S, 0))
    for _ in range(LIMIT_S):
        city.run(1)
        assert ready() >= min(before, low) - (rollout.max_unavailable if before > 1 or rollout.may_pause else 0)
        left_s -= 1
        if not left_s:
            for name in names:
                city.see(1, name, waiting=waiting, arrived=5)
            left_s, waiting = next(changes, (LIMIT_S, 0))
        if city.endpoint().last == 2 and len(city.endpoint().active()) == 1:
            break
    held = [pool.min_replicas * pool.request.gpus for pool in spec.pools]
    ended = len(city.endpoint().active()) == 1
    # A last replica on a full fleet makes no room for its successor, unless it is told to.
    stays = not rollout.may_pause and before == 1 and free + 2 * sum(held) > GPUS
    assert ended or stays, city.said(ep.EndpointScaled)
    assert not ended or {r.revision for r in city.replicas()} == {2}
