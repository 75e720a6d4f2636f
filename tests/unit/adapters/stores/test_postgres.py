"""What only PostgreSQL does: several servers, connections that are lost."""

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.stores.opening import open_store
from plenum.ports.store import Record, StoreError

RECORD = Record(at=0.0, type="tested")


@pytest.fixture
def store(postgres_url):
    store = open_store(postgres_url)
    yield store
    store.close()


def cut_connections(url: str) -> int:
    """End every connection of the stores to a database; say how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'plenum'"
        ).fetchone()
    assert ended is not None
    return ended[0]


def test_says_who_it_is_and_how_long_it_waits(store):
    with store.backend.reading() as connection:
        shown = lambda name: connection.exec_driver_sql(f"SHOW {name}").scalar()  # noqa: E731
        settings = ("application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        assert [shown(name) for name in settings] == ["plenum", "30s", "10s", "1min"]


def test_a_name_of_ones_own(postgres_url):
    store = open_store(f"{postgres_url}&application_name=mine")
    with store.backend.reading() as connection:
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "mine"
    store.close()


def test_recovers_from_lost_connections(store, postgres_url):
    """The call that finds the connection cut says so; the next one has another."""
    store.append([RECORD], expected=0)
    assert cut_connections(postgres_url) > 0
    with pytest.raises(StoreError):
        store.append([RECORD], expected=1)
    assert store.append([RECORD], expected=1) == 2


def test_recovers_within_a_transaction(store, postgres_url):
    store.acquire("a", 60.0)
    assert cut_connections(postgres_url) > 0
    with pytest.raises(StoreError):
        store.acquire("a", 60.0)
    assert store.acquire("a", 60.0).term == 1


def test_waits_on_through_lost_connections(store, postgres_url):
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(store.wait, 0, PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while not cut_connections(postgres_url) or not store.backend._listener.listen():
            assert time.monotonic() < deadline
        cut_connections(postgres_url)
        other = open_store(postgres_url)
        other.append([RECORD], expected=0)
        assert woken.result(PATIENCE_S)
        other.close()


def test_wakes_through_the_database_not_by_polling(store, postgres_url, monkeypatch):
    """With polling as good as off, a notification alone wakes who waits."""
    monkeypatch.setattr("plenum.adapters.stores.postgres.TRUST_S", 3600.0)
    monkeypatch.setattr("plenum.adapters.stores.postgres.POLL_S", 3600.0)
    other = open_store(postgres_url)
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(store.wait, 0, PATIENCE_S)
        while not store.backend._listener.listen():
            assert not woken.done()
        other.append([RECORD], expected=0)
        assert woken.result(PATIENCE_S)
    other.close()


def test_an_append_waits_for_the_one_before(store, postgres_url):
    """While one transaction holds the head, another append waits for it, then finds that the log has moved on."""
    with psycopg.connect(postgres_url) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("UPDATE log_head SET position = 1")
        connection.execute("INSERT INTO records VALUES (1, 0, 'elsewhere', 1, '', '', '', '', false, '{}')")
        appended = pool.submit(store.append, [RECORD], expected=0)
        while not connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone():
            assert not appended.done()
            connection.execute("SELECT pg_stat_clear_snapshot()")
        connection.commit()
        with pytest.raises(Exception, match="the log is at 1, not at 0"):
            appended.result(PATIENCE_S)
    assert [record.type for record in store.read(0, 10)] == ["elsewhere"]


def test_nobody_answers(tmp_path):
    with pytest.raises(StoreError):
        open_store(f"postgresql:///plenum?host={tmp_path}")
