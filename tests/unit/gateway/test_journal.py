"""The journal: what was sent is billed exactly once, whatever is killed when."""

import os
import random
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from plenum.gateway import journal as journals
from plenum.gateway.journal import Journal
from plenum.gateway.request import RefusedError
from plenum.model.errors import FieldError, FileError
from plenum.ports.gateway import MAX_USAGE_ROWS, Usage


def row(id: str, **more) -> Usage:
    given = {"at": 1.5, "tenant": "acme", "key": "k1", "endpoint": "acme/chat", "model": "chat", "revision": 3}
    counts = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    return Usage(request=id, **(given | counts | more))


def finish(journal: Journal, id: str, output_tokens: int = 5) -> None:
    slot = journal.claim()
    slot.begin(row(id))
    slot.finish(10, 2, output_tokens, "done")


def drain(journal: Journal) -> list[Usage]:
    rows: list[Usage] = []
    while (batch := journal.pending()) is not None:
        rows += batch.rows
        journal.acknowledged(batch.number)
    return rows


def test_what_has_ended_is_told_once(tmp_path):
    journal = Journal(tmp_path, "g1")
    finish(journal, "a")
    batch = journal.pending()
    assert batch is not None
    assert (batch.gateway, batch.number) == ("g1", 1)
    assert batch.rows == (row("a", prompt_tokens=10, cached_tokens=2, output_tokens=5),)
    finish(journal, "b")
    assert journal.pending() == batch, "a batch never changes once it was told"
    journal.acknowledged(99)
    assert journal.pending() == batch
    journal.acknowledged(1)
    second = journal.pending()
    assert second is not None
    assert (second.number, [usage.request for usage in second.rows]) == (2, ["b"])
    journal.acknowledged(2)
    assert journal.pending() is None
    journal.close()


def test_numbers_go_on_over_restarts_without_a_gap(tmp_path):
    numbers = []
    for life in range(4):
        journal = Journal(tmp_path, "g1")
        for _ in range(2):
            finish(journal, f"r{life}-{len(numbers)}")
            batch = journal.pending()
            assert batch is not None
            numbers.append(batch.number)
            journal.acknowledged(batch.number)
        journal.close()
    assert numbers == list(range(1, 9))


def test_what_was_not_acknowledged_comes_again_as_it_was(tmp_path):
    journal = Journal(tmp_path, "g1")
    finish(journal, "a")
    batch = journal.pending()
    finish(journal, "b")
    journal.close()
    again = Journal(tmp_path, "g1")
    assert (again.pending().number, again.pending().rows) == (batch.number, batch.rows)
    assert [usage.request for usage in drain(again)] == ["a", "b"]
    again.close()


def test_an_open_slot_is_billed_as_interrupted_by_the_next_start(tmp_path):
    journal = Journal(tmp_path, "g1")
    slot = journal.claim()
    slot.begin(row("open", prompt_tokens=7))
    slot.count(7, 0, 3)
    journal.claim()  # nothing was sent of this one
    dropped = journal.claim()
    dropped.begin(row("dropped"))
    dropped.drop()
    journal.close()
    again = Journal(tmp_path, "g1")
    assert drain(again) == [row("open", prompt_tokens=7, output_tokens=3, outcome="interrupted")]
    assert again.in_flight == 0
    again.close()


def test_a_kill_between_bill_and_slot_bills_once(tmp_path):
    journal = Journal(tmp_path, "g1")
    slot = journal.claim()
    slot.begin(row("a"))
    journal.bill(row("a", output_tokens=9))
    journal.close()
    again = Journal(tmp_path, "g1")
    assert drain(again) == [row("a", output_tokens=9)]
    again.close()


def test_batches_have_a_limit_and_none_is_lost_beyond_it(tmp_path):
    journal = Journal(tmp_path, "g1")
    ids = [f"r{number}" for number in range(2 * MAX_USAGE_ROWS + 7)]
    for id in ids:
        finish(journal, id)
    sizes, found = [], []
    while (batch := journal.pending()) is not None:
        sizes.append(len(batch.rows))
        found += [usage.request for usage in batch.rows]
        journal.acknowledged(batch.number)
    assert sizes == [MAX_USAGE_ROWS, MAX_USAGE_ROWS, 7]
    assert found == ids
    journal.close()


def test_with_no_room_left_nothing_new_begins_and_what_is_open_is_still_billed(tmp_path):
    journal = Journal(tmp_path, "g1", max_segments=2)
    slots = [journal.claim() for _ in range(3)]
    for number, slot in enumerate(slots):
        slot.begin(row(f"open{number}"))
    taken, refused = 0, None
    while refused is None:
        try:
            finish(journal, f"r{taken}")
            taken += 1
        except RefusedError as error:
            refused = error
    assert refused.code == "gateway.journal_full"
    assert refused.retry_after_s > 0
    assert taken == 2 * MAX_USAGE_ROWS - 3
    for slot in slots:
        slot.finish(1, 0, 1, "done")
    assert len(drain(journal)) == 2 * MAX_USAGE_ROWS
    finish(journal, "again")
    assert [usage.request for usage in drain(journal)] == ["again"]
    journal.close()


def test_a_full_disk_refuses_requests_and_loses_no_bill(tmp_path):
    """A child with a limit on its files' size stands for the disk: no segment can be made any more."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.unit.gateway.test_journal import *
from plenum.gateway import rows
journal = Journal(Path(sys.argv[1]), "g1")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
taken = 0
try:
    while True:
        finish(journal, "r%d" % taken)
        taken += 1
except RefusedError as error:
    assert error.code == "gateway.journal_full", error.code
found = drain(journal)
assert [usage.request for usage in found] == ["r%d" % n for n in range(taken)], len(found)
finish(journal, "again")
assert [usage.request for usage in drain(journal)] == ["again"]
print("fine", taken)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["fine", str(2 * MAX_USAGE_ROWS)]
    assert resource.RLIMIT_FSIZE  # the parent keeps its own


def test_all_slots_taken_refuses(tmp_path):
    journal = Journal(tmp_path, "g1", slots=2)
    journal.claim()
    second = journal.claim()
    with pytest.raises(RefusedError) as refused:
        journal.claim()
    assert refused.value.code == "gateway.busy"
    second.drop()
    journal.claim()
    journal.close()


def test_one_process_at_a_time(tmp_path):
    journal = Journal(tmp_path, "g1")
    with pytest.raises(FileError, match="another gateway"):
        Journal(tmp_path, "g1")
    journal.close()
    Journal(tmp_path, "g1").close()


def test_a_file_of_something_else_is_no_journal(tmp_path):
    (tmp_path / "slots").write_bytes(b"x" * 10_000)
    with pytest.raises(FileError, match="slots"):
        Journal(tmp_path, "g1")


def test_a_damaged_row_is_left_out_and_said(tmp_path, caplog):
    journal = Journal(tmp_path, "g1")
    for id in ("a", "b", "c"):
        finish(journal, id)
    journal.close()
    path = tmp_path / f"{1:016d}.rows"
    whole = path.read_bytes()
    at = whole.index(b"b", 4_096 + 896)
    path.write_bytes(whole[:at] + b"x" + whole[at + 1 :])
    again = Journal(tmp_path, "g1")
    assert [usage.request for usage in drain(again)] == ["a", "c"]
    assert "damaged" in caplog.text
    again.close()


def test_a_name_too_long_for_a_row_is_no_row(tmp_path):
    journal = Journal(tmp_path, "g1")
    slot = journal.claim()
    with pytest.raises(FieldError):
        slot.begin(row("a", model="m" * 301))
    slot.drop()
    journal.close()
    assert drain(Journal(tmp_path, "g1")) == []


def test_names_in_any_script(tmp_path):
    journal = Journal(tmp_path, "g1")
    slot = journal.claim()
    slot.begin(row("a", model="модель-模型"))
    slot.finish(2**40, 1, 2**41, "broken")
    assert drain(journal) == [
        row("a", model="модель-模型", prompt_tokens=2**40, cached_tokens=1, output_tokens=2**41, outcome="broken")
    ]
    journal.close()


LIVES = 16

_STEP = struct.Struct("<qqq")


def live(folder: Path, life: int) -> None:
    """Be a gateway until killed: streams begin, send and end in any order; what has been done is noted after it was done.

    The notes go through a mapping too, so a kill between the two leaves the notes at most one step behind.
    """
    import mmap

    random.seed(life)
    notes_path = folder / f"notes-{life}"
    notes_path.write_bytes(bytes(20_000 * _STEP.size))
    with notes_path.open("r+b") as file:
        notes = mmap.mmap(file.fileno(), 0)
    journal = Journal(folder / "journal", "g1", slots=64)
    print("up", flush=True)
    streams: list[list] = []
    begun = 0
    while begun < 20_000:
        turn = random.random()
        if turn < 0.35 and len(streams) < 60:
            slot = journal.claim()
            _STEP.pack_into(notes, begun * _STEP.size, 1, 0, 0)
            slot.begin(row(f"life{life}-{begun}", prompt_tokens=4))
            streams.append([slot, begun, 0])
            begun += 1
        elif turn < 0.8 and streams:
            stream = random.choice(streams)
            stream[2] += 1
            stream[0].count(4, 0, stream[2])
            _STEP.pack_into(notes, stream[1] * _STEP.size, 1, stream[2], 0)
        elif turn < 0.995 and streams:
            slot, number, sent = streams.pop(random.randrange(len(streams)))
            slot.finish(4, 1, sent + 100, "done")
            _STEP.pack_into(notes, number * _STEP.size, 1, sent, 1)
        elif turn >= 0.995:
            batch = journal.pending()
            if batch is not None:
                with (folder / f"told-{life}").open("ab", buffering=0) as told:
                    import msgspec

                    told.write(msgspec.msgpack.encode(batch) + b"\n--\n")
                if random.random() < 0.7:
                    journal.acknowledged(batch.number)


def test_killed_at_any_moment_every_stream_is_billed_exactly_once(tmp_path):
    import msgspec

    from plenum.ports.gateway import UsageBatch

    rng = random.Random(7)
    for life in range(LIVES):
        code = (
            f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
            "from pathlib import Path\nfrom tests.unit.gateway.test_journal import live\n"
            f"live(Path({str(tmp_path)!r}), {life})"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        # Where in its work it is killed is what is tried here; nothing is waited for.
        spin = rng.randrange(0, 400_000)
        while spin:
            spin -= 1
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    last = Journal(tmp_path / "journal", "g1", slots=64)
    batches: dict[int, UsageBatch] = {}
    # A kill in the middle of a write leaves half of it at the end of what its life has told.
    told = [each for path in tmp_path.glob("told-*") for each in path.read_bytes().split(b"\n--\n")[:-1]]
    for batch in [msgspec.msgpack.decode(each, type=UsageBatch) for each in told]:
        assert batches.setdefault(batch.number, batch).rows == batch.rows, "a number stands for one batch"
    while (batch := last.pending()) is not None:
        assert batches.setdefault(batch.number, batch).rows == batch.rows
        last.acknowledged(batch.number)
    last.close()
    assert sorted(batches) == list(range(1, len(batches) + 1))
    billed: dict[str, Usage] = {}
    for batch in batches.values():
        for usage in batch.rows:
            assert usage.request not in billed, "billed twice"
            billed[usage.request] = usage
    interrupted = 0
    for life in range(LIVES):
        notes = (tmp_path / f"notes-{life}").read_bytes()
        begun = [_STEP.unpack_from(notes, at) for at in range(0, len(notes), _STEP.size)]
        begun = begun[: next((number for number, (state, _, _) in enumerate(begun) if not state), len(begun))]
        for number, (_, sent, ended) in enumerate(begun):
            usage = billed.pop(f"life{life}-{number}", None)
            if usage is None:
                assert number == len(begun) - 1, "lost"
                assert sent == 0
            elif usage.outcome == "interrupted":
                interrupted += 1
                assert not ended
                assert sent <= usage.output_tokens <= sent + 1
            else:
                assert usage.output_tokens == sent + 100
    assert not billed, "billed what never was"
    assert interrupted > LIVES / 2, "too few were killed in the middle of something to show anything"


def test_the_limits_are_what_they_say():
    assert journals.SEGMENT_ROWS == MAX_USAGE_ROWS
