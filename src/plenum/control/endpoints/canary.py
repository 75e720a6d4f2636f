"""Whether a new revision is as good as the one before, by what gateways saw of both in the same time."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import msgspec

from plenum.control.endpoints.judge import FIRST_LOOK, fails_more, is_slower, level, look_at
from plenum.control.endpoints.loads import Loads, Tally, Watch
from plenum.control.endpoints.passing import has_passed
from plenum.control.endpoints.state import Revision
from plenum.model.endpoint import Endpoint

PATIENCE = 4.0
"""With too little traffic to judge by, a canary is watched for so many times as long; then it is taken as good."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a canary by now; neither good nor bad: go on watching."""

    good: bool = False
    bad: bool = False
    why: str = ""
    sentence: str = ""
    evidence: dict[str, float] = msgspec.field(default_factory=dict)


def watched(spec: Endpoint, old: Revision, new: Revision, loads: Loads, now: float) -> Verdict:
    """Return what is known of a canary.

    Each figure is looked at when there are 12, 24, 48, ... requests of the canary, at levels that together stay below the chance of a
    false alarm in :mod:`plenum.control.endpoints.judge`; which looks were taken is remembered in ``loads``.
    """
    watch = loads.watch(spec.id, new.watched_at)
    theirs, ours = (_together(loads, spec, revision) for revision in (old, new))
    if watch.verdict is None:
        watch.verdict = next(_looks(spec, theirs, ours, watch), None)
    if isinstance(watch.verdict, Verdict):
        return watch.verdict
    requests = ours.finished + ours.failed
    hold_s = spec.rollout.hold_s
    if not has_passed(now, new.watched_at, hold_s):
        return Verdict()
    evidence = {"requests": float(requests), "requests_before": float(theirs.finished + theirs.failed)}
    if requests >= FIRST_LOOK:
        return Verdict(good=True, sentence=f"it did as well over {requests:,} requests", evidence=evidence)
    if not (requests or theirs.finished or theirs.failed):
        return Verdict(good=True, sentence=f"nothing was asked of either for {hold_s:.0f} s", evidence=evidence)
    if has_passed(now, new.watched_at, PATIENCE * hold_s):
        return Verdict(good=True, sentence=f"nothing spoke against it in {requests:,} requests", evidence=evidence)
    return Verdict()


def _together(loads: Loads, spec: Endpoint, revision: Revision) -> Tally:
    """Return what was seen of a revision, over its pools."""
    total = Tally()
    for pool in revision.spec.pools:
        seen = loads.tally(spec.id, revision.number, pool.name)
        total.finished += seen.finished
        total.failed += seen.failed
        total.ttft_s.extend(seen.ttft_s)
        total.tpot_s.extend(seen.tpot_s)
    return total


def _looks(spec: Endpoint, old: Tally, new: Tally, watch: Watch) -> Iterator[Verdict]:
    """Yield the figures that have surely become worse, of those whose next look is due."""
    limits = spec.rollout
    for name, ours, theirs in (("ttft", new.ttft_s, old.ttft_s), ("tpot", new.tpot_s, old.tpot_s)):
        taken = watch.looks.get(name, 0)
        if len(theirs) < FIRST_LOOK or not look_at(len(ours), taken):
            continue
        watch.looks[name] = taken + 1
        worse, p = is_slower(ours, theirs, limits.max_latency_ratio, level(taken))
        if worse:
            here, before = median(ours), median(theirs)
            yield Verdict(
                bad=True,
                why=f"slower-{name}",
                sentence=f"its {name.upper()} is {here / before if before else 0:.2g} times that of the revision before (median "
                f"{here:.3g} s against {before:.3g} s, over {len(ours)} requests), and {limits.max_latency_ratio:g} is allowed",
                evidence={"median_s": here, "median_before_s": before, "requests": len(ours), "p": p},
            )
    requests, taken = new.finished + new.failed, watch.looks.get("failed", 0)
    if look_at(requests, taken):
        watch.looks["failed"] = taken + 1
        before = (old.failed, old.finished + old.failed)
        # Where nothing was asked of the one before, it is taken to have failed nothing.
        compared = before if before[1] else (0, 10**6)
        worse, low, high = fails_more((new.failed, requests), compared, limits.max_error_ratio, level(taken))
        if worse:
            yield Verdict(
                bad=True,
                why="fails",
                sentence=f"{new.failed} of its {requests} requests failed, and {before[0]} of {before[1]} of the revision before",
                evidence={"failed": new.failed, "requests": requests, "at_least": low, "before_at_most": high},
            )
