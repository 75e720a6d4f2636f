"""Whether a new revision is as good as the one before."""

from __future__ import annotations

import msgspec

from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.passing import has_passed
from plenum.control.endpoints.state import Revision
from plenum.model.endpoint import Endpoint


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a canary by now; neither good nor bad: go on watching."""

    good: bool = False
    bad: bool = False
    why: str = ""
    sentence: str = ""
    evidence: dict[str, float] = {}


def watched(spec: Endpoint, old: Revision, new: Revision, loads: Loads, now: float) -> Verdict:
    """Return what is known of a canary."""
    if has_passed(now, new.watched_at, spec.rollout.hold_s):
        return Verdict(good=True, sentence="it was watched for long enough")
    return Verdict()
