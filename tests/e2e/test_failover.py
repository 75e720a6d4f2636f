"""Of two servers on one PostgreSQL, one dies: the other goes on, and nothing that was acknowledged is lost."""

import math

from benchmarks import failover


def test_a_successor_goes_on(tmp_path, postgres_url):
    outcome = failover.endure(tmp_path, postgres_url, kills=1, longest_s=2.0)
    (handover,) = outcome.handovers
    assert math.isfinite(handover.led_s)
    assert handover.url in {answer.url for answer in outcome.submits.acknowledged.values()}
    assert outcome.runs
    assert {what: wrong for what, wrong in outcome.faults.items() if wrong} == {}
