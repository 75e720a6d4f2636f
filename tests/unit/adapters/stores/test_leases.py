"""Leases on a database whose clock is set."""

import pytest
from sqlalchemy import update

from plenum.adapters.stores.opening import open_store
from plenum.adapters.stores.tables import HEAD

TTL_S = 3.0


@pytest.fixture
def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/plenum.db")
    yield store
    store.close()


def set_clock_back(store, seconds: float) -> None:
    """To a lease a clock that was set back is a lapse so much later."""
    with store.backend.writing() as connection:
        connection.execute(update(HEAD).values(lapses_at=HEAD.c.lapses_at + seconds))


def test_a_lease_is_not_kept_by_a_clock_that_was_set_back_by_an_hour(store) -> None:
    first = store.acquire("gone", TTL_S)
    assert store.acquire("next", TTL_S) is None
    set_clock_back(store, 3600.0)
    lease = store.acquire("next", TTL_S)
    assert (lease.holder, lease.term) == ("next", first.term + 1)


def test_a_lease_outlives_a_clock_that_was_set_back_a_little(store) -> None:
    first = store.acquire("here", TTL_S)
    set_clock_back(store, 1.0)
    assert store.acquire("next", TTL_S) is None
    assert store.acquire("here", TTL_S).term == first.term
