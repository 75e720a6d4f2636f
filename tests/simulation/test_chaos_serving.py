"""Endpoints while everything goes wrong: what must never happen does not, tokens are billed once, and all comes to rest."""

from __future__ import annotations

import pytest

from plenum.control import events as ev
from plenum.control.commands import Command
from plenum.control.endpoints import events as ep
from plenum.ports.gateway import UsageBatch
from plenum.sim.chaos import Chaos, run_seed
from plenum.sim.chaos import serving as scenery
from plenum.sim.chaos.run import Verdict

SEEDS, STEPS = 12, 2500


def told(verdict: Verdict) -> str:
    return "\n".join(f"{step:>7} {second:>8.1f} s  {said}" for step, second, said in verdict.story) + f"\n{verdict}"


def test_what_must_never_happen_does_not_where_models_are_served() -> None:
    for seed in range(SEEDS):
        verdict = run_seed(seed, STEPS, serves=True)
        assert verdict.ok, told(verdict)


def test_the_scenery_has_all_of_it() -> None:
    wanted = {"EndpointScaled", "RevisionSized", "RevisionRetired", "JobScaled", "UsageRecorded", "EndpointDeleted"}
    wanted |= {"scaled", "preempted", "CanaryStarted", "RevisionPromoted", "RoomReckoned"}
    seen: set[str] = set()
    for seed in range(20, 60):  # a canary lives to be promoted in one of a dozen
        world = Chaos(seed, serves=True, without=["compaction", "store"])
        for _ in range(STEPS):
            world.step()
        for event in map(ev.event_of, world.store.read(0, 100_000)):
            seen |= {type(event).__name__, event.why if isinstance(event, ev.UnitStopped) else ""}
        if wanted <= seen:
            break
    assert wanted <= seen


def test_one_seed_is_one_run() -> None:
    digests = {run_seed(5, 800, serves=True).digest for _ in range(2)}
    assert len(digests) == 1


def test_usage_that_counted_twice_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(batch: UsageBatch) -> Command:
        event = ep.UsageRecorded(gateway=batch.gateway, number=batch.number, rows=batch.rows)
        return Command(subject=f"usage/{batch.gateway}", run=lambda state, now: (event,), alone=False)

    monkeypatch.setattr(scenery.ec, "record_usage", forgetful)
    verdicts = [run_seed(seed, STEPS, serves=True) for seed in range(10)]
    assert "billed-once" in {verdict.invariant for verdict in verdicts}
