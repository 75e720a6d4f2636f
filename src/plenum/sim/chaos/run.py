"""Running seeds, and making failures small."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from plenum.sim.chaos.books import Violation
from plenum.sim.chaos.world import FAULTS, Chaos


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one seed.

    Parameters
    ----------
    steps
        With mischief, as asked for.
    events
        In all, the quiet time at the end included.
    virtual_s
        Seconds simulated.
    digest
        SHA-256 of the log.
    invariant, sentence
        What did not hold; empty: everything did.
    failed_at
        The step at which that showed.
    story
        (step, second, sentence) of what happened last.
    """

    seed: int
    steps: int
    events: int
    records: int
    virtual_s: float
    digest: str
    invariant: str = ""
    sentence: str = ""
    failed_at: int = 0
    story: tuple[tuple[int, float, str], ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """Whether every invariant held."""
        return not self.invariant


def run_seed(
    seed: int, steps: int, *, without: Collection[str] = (), defects: Collection[str] = (), serves: bool = False
) -> Verdict:
    """Run one seed: some steps with mischief, then quiet until everything has settled."""
    world = Chaos(seed, without=without, defects=defects, serves=serves)
    invariant = sentence = ""
    try:
        for _ in range(steps):
            world.step()
        world.settle()
    except Violation as violation:
        invariant, sentence = violation.invariant, violation.sentence
    except Exception as error:
        # Whatever the code under test raises where nothing may be raised is a finding like any other.
        at = traceback.extract_tb(error.__traceback__)[-1]
        sentence = f"{type(error).__name__} in {at.name}, line {at.lineno}: {error}"
        invariant = "raised"
    return Verdict(
        seed=seed,
        steps=steps,
        events=world.schedule.steps,
        records=world.auditor.books.position,
        virtual_s=world.schedule.now_s,
        digest=world.auditor.digest.hexdigest(),
        invariant=invariant,
        sentence=sentence,
        failed_at=world.schedule.steps if invariant else 0,
        story=tuple(world.story) if invariant else (),
    )


def shrunk(verdict: Verdict, *, defects: Collection[str] = (), serves: bool = False) -> Verdict:
    """Return the failure of the same seed with the fewest steps of mischief that bisection finds.

    What fails at a step fails with every longer run, as runs of one seed begin alike; what fails to settle may depend on where the
    mischief ends, so the shortest is then one of the short ones.
    """
    best = verdict
    low, high = 0, min(verdict.steps, verdict.failed_at)
    while low < high:
        middle = (low + high) // 2
        tried = run_seed(verdict.seed, middle, defects=defects, serves=serves)
        if tried.invariant == verdict.invariant:
            best, high = tried, middle
        else:
            low = middle + 1
    return best


def needed(verdict: Verdict, *, defects: Collection[str] = (), serves: bool = False) -> Iterator[str]:
    """Yield the kinds of faults without which this seed does not fail in so many steps.

    A hint, no proof: a run goes another way from where a fault was left out.
    """
    for kind in FAULTS:
        if run_seed(verdict.seed, verdict.steps, without={kind}, defects=defects, serves=serves).ok:
            yield kind
