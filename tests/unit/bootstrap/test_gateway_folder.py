"""Who works in a gateway's folder, and who only looks."""

import fcntl

from plenum.bootstrap.gateway import is_taken


def test_who_looks_whether_a_gateway_works_somewhere_is_not_taken_for_one(tmp_path):
    assert not is_taken(tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not is_taken(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_taken(tmp_path)
    assert not is_taken(tmp_path)
