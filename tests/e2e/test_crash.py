"""A server that is killed again and again loses nothing, and starts nothing twice."""

from benchmarks import crash


def test_kills_lose_nothing_and_repeat_nothing(tmp_path):
    outcome = crash.endure(tmp_path, kills=3, seed=1, longest_s=2.0)
    assert len(outcome.submits.acknowledged) > crash.CLIENTS
    assert outcome.runs
    assert {what: wrong for what, wrong in outcome.faults.items() if wrong} == {}
