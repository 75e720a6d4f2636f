"""Every event store keeps the promises of the port: memory, SQLite, PostgreSQL."""

import hashlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.stores.backups import restore_backup
from plenum.adapters.stores.faults import BackupError
from plenum.adapters.stores.opening import open_store
from plenum.model.errors import PlenumError
from plenum.ports.batches import BODY_BYTES_MAX, KEY_CHARACTERS_MAX, RECORDS_MAX, BatchError, SnapshotError
from plenum.ports.store import CommandKey, ConflictError, EventStore, FencedError, Record, Snapshot
from plenum.sim.store import MemoryStore


class SystemClock:
    """Real time: the databases have no other."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Place:
    """Where one log is kept; opened as often as the test likes, closed at its end."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.url = kind, url
        self.memory = MemoryStore(SystemClock())
        self.opened: list[EventStore] = []

    def open(self, *, read_only: bool = False) -> EventStore:
        store = self.memory if self.kind == "memory" else open_store(self.url, read_only=read_only)
        self.opened.append(store)
        return store

    def another(self) -> EventStore:
        """A second store on the same log; SQLite has but one writer."""
        return self.open(read_only=self.kind == "sqlite")

    def close(self) -> None:
        for store in self.opened:
            store.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request, tmp_path):
    yield from _place(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def durable(request, tmp_path):
    """A log in memory does not outlive its process."""
    yield from _place(request, tmp_path)


@pytest.fixture
def store(place):
    return place.open()


def _place(request, tmp_path):
    with_server = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if with_server else f"sqlite:///{tmp_path}/plenum.db"
    place = Place(request.param, url)
    yield place
    place.close()


def record(n: int = 0, **fields) -> Record:
    return Record(**{"at": float(n), "type": "tested", "body": msgspec.json.encode({"n": n})} | fields)


def records(count: int, first: int = 1) -> list[Record]:
    return [record(n) for n in range(first, first + count)]


def snapshot(position: int) -> Snapshot:
    data = b"\0\xff" + str(position).encode()
    return Snapshot(position=position, digest=hashlib.sha256(data).hexdigest(), data=data)


def until(happens: Callable[[], object]) -> object:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := happens():
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen")


class TestAppend:
    def test_empty_log(self, store):
        assert (store.head(), store.base(), store.read(0, 10), store.snapshot(), store.leader()) == (
            0,
            0,
            [],
            None,
            None,
        )

    def test_positions_follow_one_another(self, store):
        assert store.append(records(2), expected=0) == 2
        assert store.append(records(1, 3), expected=2) == 3
        assert store.append(records(RECORDS_MAX, 4), expected=3) == RECORDS_MAX + 3
        read = store.read(0, 2 * RECORDS_MAX)
        assert [r.position for r in read] == list(range(1, RECORDS_MAX + 4))
        assert [msgspec.json.decode(r.body)["n"] for r in read] == list(range(1, RECORDS_MAX + 4))

    def test_every_field_comes_back(self, place, store):
        whole = Record(
            at=1753.000001,
            type="job.submitted",
            version=7,
            subject="job/research/prétrain-✓",
            tenant="research",
            actor="user'; DROP TABLE records; --",
            trace="0af7651916cd43dd8448eb211c80319c",
            audit=True,
            body='{"a": "\\u0000 ☃ 𝄞 %s ? :x", "b": [1.5]}'.encode(),
        )
        store.append([whole], expected=0)
        assert place.another().read(0, 1) == [msgspec.structs.replace(whole, position=1)]

    def test_the_log_has_moved_on(self, store):
        store.append(records(3), expected=0)
        with pytest.raises(ConflictError) as conflict:
            store.append(records(1), expected=2, keys=[CommandKey(key="k", digest="d")])
        assert (conflict.value.expected, conflict.value.head) == (2, 3)
        with pytest.raises(ConflictError):
            store.append(records(1), expected=4)
        assert store.head() == 3
        assert store.find_keys(["k"]) == {}

    def test_one_that_is_refused_leaves_nothing(self, store):
        good, bad = records(2)
        for wrong in (
            {"subject": "a\0b"},
            {"subject": "\ud800"},
            {"subject": "x" * 2000},
            {"body": b"\xff"},
            {"at": float("nan")},
            {"body": b"\0"},
            {"body": b"x" * (BODY_BYTES_MAX + 1)},
        ):
            with pytest.raises(BatchError):
                store.append([good, msgspec.structs.replace(bad, **wrong)], expected=0)
        with pytest.raises(BatchError):
            store.append(records(RECORDS_MAX + 1), expected=0)
        with pytest.raises(BatchError):
            store.append([], expected=0, keys=[CommandKey(key="k" * (KEY_CHARACTERS_MAX + 1), digest="d")])
        assert store.head() == 0

    def test_each_position_is_won_once(self, place, store):
        """Eight writers on two stores race for the same positions; whoever loses catches up and tries again."""
        stores = [store, store if place.kind == "sqlite" else place.another()]

        def write(writer: int) -> list[int]:
            won, mine = [], stores[writer % 2]
            while len(won) < 10:
                expected = mine.head()
                try:
                    won.append(mine.append([record(writer, subject=str(len(won)))], expected=expected))
                except ConflictError:
                    assert mine.head() > expected
            return won

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert sorted(itertools.chain(*won)) == list(range(1, 81))
        for writer, positions in enumerate(won):
            mine = [r for r in store.read(0, 100) if r.at == writer]
            assert [r.position for r in mine] == positions
            assert [r.subject for r in mine] == [str(n) for n in range(10)]


class TestRead:
    def test_pages(self, store):
        store.append(records(10), expected=0)
        assert [r.position for r in store.read(3, 4)] == [4, 5, 6, 7]
        assert [r.position for r in store.read(8, 4)] == [9, 10]
        assert store.read(10, 4) == store.read(0, 0) == []

    def test_filters(self, store):
        store.append(
            [
                record(subject="job/a/x", tenant="a"),
                record(subject="job/b/x", tenant="b"),
                record(subject="job/a/y", tenant="a"),
                record(),
                record(subject="job/a/x", tenant="a"),
            ],
            expected=0,
        )
        positions = lambda **filters: [r.position for r in store.read(**{"after": 0, "limit": 10} | filters)]  # noqa: E731
        assert positions() == [1, 2, 3, 4, 5]
        assert positions(subject="job/a/x") == [1, 5]
        assert positions(tenant="a") == [1, 3, 5]
        assert positions(tenant="") == [4]
        assert positions(tenant="b", subject="job/a/x") == []
        assert positions(tenant="a", after=1, limit=1) == [3]
        assert positions(subject="job/a") == []


class TestKeys:
    def test_noted_with_the_append(self, place, store):
        keys = [CommandKey(key=f"user:{n}", digest=f"d{n}", position=n, at=float(n)) for n in range(3)]
        store.append(records(2), expected=0, keys=keys)
        asked = ["user:1", "user:9", *(f"other:{n}" for n in range(1200)), "user:2"]
        assert place.another().find_keys(asked) == {"user:1": keys[1], "user:2": keys[2]}
        assert store.find_keys([]) == {}

    def test_a_command_that_had_nothing_to_write(self, store):
        store.append(records(2), expected=0)
        assert store.append([], expected=2, keys=[CommandKey(key="k", digest="d", position=2)]) == 2
        assert store.find_keys(["k"])["k"].position == 2

    def test_used_again(self, store):
        again = CommandKey(key="k", digest="new", position=2)
        store.append(records(1), expected=0, keys=[CommandKey(key="k", digest="old", position=1)])
        store.append(records(1), expected=1, keys=[CommandKey(key="k", digest="older"), again])
        assert store.find_keys(["k"]) == {"k": again}


class TestSnapshots:
    def test_newest_and_newest_at_most(self, place, store):
        store.append(records(10), expected=0)
        for position in (4, 8):
            store.save_snapshot(snapshot(position))
        reader = place.another()
        assert reader.snapshot() == snapshot(8)
        assert reader.snapshot(at_most=7) == snapshot(4)
        assert reader.snapshot(at_most=3) is None

    def test_three_are_kept(self, store):
        store.append(records(10), expected=0)
        for position in range(1, 7):
            store.save_snapshot(snapshot(position))
        assert [store.snapshot(at_most=n) for n in (3, 4, 5, 6)] == [None, *map(snapshot, (4, 5, 6))]

    def test_written_again(self, store):
        store.append(records(1), expected=0)
        store.save_snapshot(Snapshot(position=1, digest="old", data=b"old"))
        store.save_snapshot(snapshot(1))
        assert store.snapshot() == snapshot(1)

    def test_of_what_is_not_in_the_log(self, store):
        store.append(records(2), expected=0)
        for position in (0, 3):
            with pytest.raises(SnapshotError):
                store.save_snapshot(snapshot(position))

    def test_dropped(self, store):
        store.append(records(5), expected=0)
        store.save_snapshot(snapshot(2))
        store.drop_snapshots()
        assert store.snapshot() is None
        store.save_snapshot(snapshot(3))
        store.compact(3)
        store.save_snapshot(snapshot(5))
        store.drop_snapshots()
        assert store.snapshot() == snapshot(3)


class TestCompaction:
    def test_audit_facts_stay(self, place, store):
        store.append([record(n, audit=n % 3 == 0) for n in range(1, 11)], expected=0)
        store.save_snapshot(snapshot(4))
        store.save_snapshot(snapshot(7))
        assert store.compact(7) == 5
        reader = place.another()
        assert [r.position for r in reader.read(0, 20)] == [3, 6, 8, 9, 10]
        assert (reader.base(), reader.head()) == (7, 10)
        assert reader.snapshot(at_most=6) is None
        assert store.append(records(1), expected=10) == 11

    def test_the_whole_log(self, store):
        store.append(records(3), expected=0)
        store.save_snapshot(snapshot(3))
        assert store.compact(3) == 3
        assert (store.head(), store.read(0, 10)) == (3, [])
        assert store.compact(3) == 0
        assert store.append(records(2), expected=3) == 5

    def test_its_snapshot_outlives_newer_ones(self, store):
        store.append(records(20), expected=0)
        store.save_snapshot(snapshot(5))
        store.compact(5)
        for position in range(6, 12):
            store.save_snapshot(snapshot(position))
        assert [store.snapshot(at_most=n) for n in (8, 9)] == [snapshot(5), snapshot(9)]
        store.compact(10)
        assert store.snapshot(at_most=9) is None
        assert store.snapshot(at_most=10) == snapshot(10)

    def test_a_snapshot_that_comes_too_late(self, store):
        store.append(records(5), expected=0)
        store.save_snapshot(snapshot(4))
        store.compact(4)
        store.save_snapshot(snapshot(2))
        assert store.snapshot(at_most=3) is None

    def test_without_a_snapshot_there(self, store):
        store.append(records(5), expected=0)
        store.save_snapshot(snapshot(3))
        with pytest.raises(PlenumError, match="no snapshot at 2"):
            store.compact(2)
        assert (store.base(), len(store.read(0, 10))) == (0, 5)

    def test_old_keys_go(self, store):
        store.append(records(1), expected=0, keys=[CommandKey(key=f"{n}", digest="d", at=float(n)) for n in range(4)])
        store.save_snapshot(snapshot(1))
        store.compact(1, keys_before=2.0)
        assert sorted(store.find_keys(["0", "1", "2", "3"])) == ["2", "3"]

    def test_more_than_one_step(self, store, monkeypatch):
        monkeypatch.setattr("plenum.adapters.stores.sql_store.COMPACTED_AT_ONCE", 7)
        store.append([record(n, audit=n % 10 == 0) for n in range(1, 101)], expected=0)
        store.save_snapshot(snapshot(95))
        assert store.compact(95) == 86
        assert [r.position for r in store.read(0, 100)] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 96, 97, 98, 99, 100]


class TestLeadership:
    def test_one_at_a_time(self, store):
        first = store.acquire("a", 60.0, "http://a")
        assert first is not None
        assert (first.holder, first.address, first.ttl_s) == ("a", "http://a", 60.0)
        assert store.acquire("b", 60.0) is None
        assert store.leader() == first

    def test_renewing_keeps_the_term(self, store):
        first = store.acquire("a", 60.0, "http://a")
        again = store.acquire("a", 30.0, "http://moved")
        assert again.term == first.term
        assert (store.leader().ttl_s, store.leader().address) == (30.0, "http://moved")

    def test_taken_over_once_lapsed(self, store):
        first = store.acquire("a", 0.05)
        second = until(lambda: store.acquire("b", 60.0))
        assert second.term > first.term
        assert store.acquire("a", 60.0) is None
        assert store.leader() == second

    def test_lapsed_and_taken_again_by_the_same(self, store):
        first = store.acquire("a", 0.05)
        until(lambda: store.leader() is None)
        assert store.acquire("a", 60.0).term > first.term

    def test_released(self, store):
        first = store.acquire("a", 60.0)
        store.release("b")
        assert store.leader() == first
        store.release("a")
        assert store.leader() is None
        assert store.acquire("b", 60.0).term > first.term

    def test_fencing(self, store):
        old = store.acquire("a", 60.0).term
        assert store.append(records(1), expected=0, term=old) == 1
        store.release("a")
        new = store.acquire("b", 60.0).term
        for expected in (0, 1):
            with pytest.raises(FencedError):
                store.append(records(1), expected=expected, term=old, keys=[CommandKey(key="k", digest="d")])
        assert (store.head(), store.find_keys(["k"])) == (1, {})
        assert store.append(records(1), expected=1, term=new) == 2
        assert store.append(records(1), expected=2) == 3

    def test_nobody_has_taken_over_yet(self, store):
        """A lease that has lapsed does not fence: nobody can have decided otherwise in the meantime."""
        term = store.acquire("a", 0.05).term
        until(lambda: store.leader() is None)
        assert store.append(records(1), expected=0, term=term) == 1

    def test_whoever_has_let_go_is_fenced(self, store):
        term = store.acquire("a", 60.0).term
        store.release("a")
        with pytest.raises(FencedError):
            store.append(records(1), expected=0, term=term)

    def test_many_candidates(self, place, store):
        stores = [store, store if place.kind == "sqlite" else place.another()]
        with ThreadPoolExecutor(8) as pool:
            leases = list(pool.map(lambda n: stores[n % 2].acquire(f"c{n}", 60.0), range(8)))
        assert [lease for lease in leases if lease] == [store.leader()]


class TestWait:
    def test_nothing_comes(self, store):
        store.append(records(1), expected=0)
        assert not store.wait(1, 0.0)
        assert not store.wait(1, 0.02)

    def test_it_is_there_already(self, store):
        store.append(records(2), expected=0)
        assert store.wait(1, 0.0)

    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same store", "another store"])
    def test_woken(self, place, store, elsewhere):
        waiter = place.another() if elsewhere else store
        waiting = threading.Event()

        def wait() -> bool:
            waiting.set()
            return waiter.wait(0, PATIENCE_S)

        with ThreadPoolExecutor(1) as pool:
            woken = pool.submit(wait)
            waiting.wait(PATIENCE_S)
            store.append(records(1), expected=0)
            assert woken.result(PATIENCE_S)
        assert waiter.head() == 1


class TestDurability:
    def test_opened_again(self, durable):
        store = durable.open()
        store.append(records(3), expected=0, keys=[CommandKey(key="k", digest="d")])
        store.save_snapshot(snapshot(2))
        store.acquire("a", 60.0)
        store.close()
        again = durable.open()
        assert (again.head(), len(again.read(0, 10)), again.snapshot()) == (3, 3, snapshot(2))
        assert "k" in again.find_keys(["k"])

    def test_closed(self, durable):
        store = durable.open()
        store.close()
        store.close()
        with pytest.raises(PlenumError, match="closed"):
            store.head()

    def test_reading_only(self, durable):
        durable.open().append(records(3), expected=0)
        reader = durable.open(read_only=True)
        assert len(reader.read(0, 10)) == 3
        for write in (
            lambda: reader.append(records(1), expected=3),
            lambda: reader.acquire("a", 60.0),
            lambda: reader.save_snapshot(snapshot(1)),
            reader.drop_snapshots,
        ):
            with pytest.raises(PlenumError) as refused:
                write()
            assert refused.value.code == "store.read-only"

    def test_killed_while_appending(self, durable):
        """What was acknowledged is there, whole, in order, and at most one append more."""
        writer = subprocess.Popen(
            [sys.executable, "-c", ENDLESS_WRITER, durable.url], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            heard = [int(writer.stdout.readline()) for _ in range(100)]
        finally:
            writer.kill()
            heard += [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            writer.stdout.close()
            writer.wait()
        acknowledged = heard[-1]
        store = durable.open()
        head = until(lambda: store.head() >= acknowledged and store.head())
        read = store.read(0, 1_000_000)
        assert [r.position for r in read] == list(range(1, head + 1))
        assert [msgspec.json.decode(r.body) for r in read] == list(range(1, head + 1))
        assert head % 3 == 0
        assert head - acknowledged <= 3
        assert len(store.find_keys([str(p) for p in range(3, head + 1, 3)])) == head // 3
        assert store.append(records(1), expected=head) == head + 1


class TestBackup:
    @pytest.mark.parametrize("into", ["sqlite", "postgres"])
    def test_restored(self, durable, tmp_path, request, into):
        """Whatever was backed up from whichever database comes back in whichever."""
        store = durable.open()
        keys = [CommandKey(key=f"k{n}", digest="d", position=n, at=float(n)) for n in range(3)]
        store.append([record(n, audit=n % 2 == 0) for n in range(1, 1001)], expected=0, keys=keys)
        store.append(records(500, 1001), expected=1000)
        store.save_snapshot(snapshot(40))
        store.compact(40)
        store.save_snapshot(snapshot(1500))
        led = store.acquire("a", 60.0)
        backup = tmp_path / "backup.db"
        store.backup(str(backup))
        assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == ["backup.db"]
        url = (
            request.getfixturevalue("new_postgres_url")()
            if into == "postgres"
            else f"sqlite:///{tmp_path}/new/plenum.db"
        )
        assert restore_backup(str(backup), url) == 1500
        restored = Place(into, url)
        try:
            copy = restored.open()
            assert copy.read(0, 2000) == store.read(0, 2000)
            assert (copy.head(), copy.base()) == (1500, 40)
            assert (copy.snapshot(), copy.snapshot(at_most=1000)) == (snapshot(1500), snapshot(40))
            assert copy.find_keys(["k0", "k1", "k2"]) == {key.key: key for key in keys}
            assert copy.leader() is None
            assert copy.acquire("b", 60.0).term > led.term + 1000
            assert copy.append(records(1), expected=1500) == 1501
        finally:
            restored.close()

    def test_while_others_write(self, durable, tmp_path):
        """A backup is the log at one moment, though appends go on."""
        store = durable.open()
        done = threading.Event()

        def write() -> None:
            head = 0
            while not done.is_set():
                head = store.append(records(50, head + 1), expected=head)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            try:
                store.wait(500, PATIENCE_S)
                store.backup(str(tmp_path / "backup.db"))
            finally:
                done.set()
            writing.result(PATIENCE_S)
        copied = restore_backup(str(tmp_path / "backup.db"), f"sqlite:///{tmp_path}/new.db")
        assert copied >= 500
        assert copied % 50 == 0

    def test_over_something(self, durable, tmp_path):
        (tmp_path / "precious").write_text("precious")
        with pytest.raises(BackupError, match="exists"):
            durable.open().backup(str(tmp_path / "precious"))
        assert (tmp_path / "precious").read_text() == "precious"
        assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []

    def test_into_a_store_that_is_not_empty(self, durable, tmp_path):
        store = durable.open()
        store.append(records(3), expected=0)
        store.backup(str(tmp_path / "backup.db"))
        store.close()
        with pytest.raises(BackupError, match="at 3"):
            restore_backup(str(tmp_path / "backup.db"), durable.url)
        assert durable.open().head() == 3


ENDLESS_WRITER = """
import sys
from plenum.adapters.stores.opening import open_store
from plenum.ports.store import CommandKey, Record
store = open_store(sys.argv[1])
head = 0
while True:
    batch = [Record(at=0.0, type="tested", body=b"%d" % n) for n in range(head + 1, head + 4)]
    head = store.append(batch, expected=head, keys=[CommandKey(key=str(head + 3), digest="d")])
    print(head, flush=True)
"""
