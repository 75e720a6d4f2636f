"""What is billed, kept so that nothing is lost or counted twice whatever is killed when.

Streams in flight stand in the slots, where each says what it has sent so far. One that ends goes into the segment that is being
filled, and leaves its slot. A segment that is full, or that somebody asks for, is sealed: it is a numbered batch, never changed again,
and its file goes when the control plane has acknowledged the number. A process that starts bills what it finds in the slots as
interrupted, unless its row stands in a segment already (the kill came between the two).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from plenum.gateway.answers import overloaded
from plenum.gateway.rows import FINISHED, FREE, OPEN, Rows
from plenum.model.errors import FileError, Where
from plenum.ports.gateway import MAX_USAGE_ROWS, Usage, UsageBatch

SLOTS = 4_096
SEGMENT_ROWS = MAX_USAGE_ROWS
MAX_SEGMENTS = 512
"""Some 900 MB, a million rows: what waits while the control plane is away."""

_LOG = logging.getLogger("plenum.gateway.journal")


class Upload(Protocol):
    """What carries usage to the control plane takes it from here."""

    def pending(self) -> UsageBatch | None:
        """Return the oldest batch that is not acknowledged; the same rows until it is. None: there is nothing to send."""
        ...

    def acknowledged(self, number: int) -> None:
        """Forget a batch: the control plane has it, for good."""
        ...


class Slot:
    """One request in flight.

    A slot is claimed before the engine is asked, so that there is room for its bill; it is a row from :meth:`begin` on.
    """

    __slots__ = ("_journal", "_place", "_usage", "ended")

    def __init__(self, journal: Journal, place: int) -> None:
        self._journal, self._place = journal, place
        self._usage: Usage | None = None
        self.ended = False

    def begin(self, usage: Usage) -> None:
        """Make it a row: from here on it is billed, whatever happens."""
        self._journal.slots.write(self._place, usage, OPEN)
        self._usage = usage

    @property
    def begun(self) -> bool:
        """Whether it is a row."""
        return self._usage is not None

    def count(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Note what it comes to so far."""
        self._journal.slots.count(self._place, prompt_tokens, cached_tokens, output_tokens)

    def finish(
        self, prompt_tokens: int, cached_tokens: int, output_tokens: int, outcome: str, *, estimated: bool = False
    ) -> Usage:
        """Bill it, and give the slot back; returns the bill."""
        assert self._usage is not None
        assert not self.ended
        self.ended = True
        usage = msgspec.structs.replace(
            self._usage,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            outcome=outcome,
            estimated=estimated,
        )
        self._journal.bill(usage)
        self._journal.give_back(self._place)
        return usage

    def drop(self) -> None:
        """Give the slot back without a bill."""
        if not self.ended:
            self.ended = True
            self._journal.give_back(self._place)


class Journal:
    """The journal of one gateway, in a folder of its own.

    Parameters
    ----------
    folder
        Made where it is not there.
    gateway
        Whose batches these are.
    slots, max_segments
        Requests in flight at once, and batches that may wait.
    settle
        What becomes of a row that a dead process left open; None: nothing is billed.

    Raises
    ------
    FileError
        Another process has it open, it is damaged, or there is no space for it.
    """

    def __init__(
        self,
        folder: Path,
        gateway: str,
        *,
        slots: int = SLOTS,
        max_segments: int = MAX_SEGMENTS,
        settle: Callable[[Usage], Usage | None] = lambda usage: msgspec.structs.replace(usage, outcome="interrupted"),
    ) -> None:
        self._folder, self._gateway, self._max_segments, self._settle = folder, gateway, max_segments, settle
        self._sealed: deque[int] = deque()
        self._spares: deque[Rows] = deque()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(folder)
            self.slots = Rows(folder / "slots", slots)
        except (OSError, ValueError) as error:
            raise FileError(f"the journal of usage cannot be opened: {error}", Where(file=str(folder))) from error
        try:
            self._recover()
        except (OSError, ValueError) as error:
            self.slots.close()
            os.close(self._lock)
            raise FileError(f"the journal of usage cannot go on: {error}", Where(file=str(folder))) from error
        self._free = [place for place in reversed(range(slots)) if self.slots.state(place) == FREE]

    @property
    def in_flight(self) -> int:
        """Slots in use."""
        return self.slots.places - len(self._free)

    def claim(self) -> Slot:
        """Return a slot, with room in the segments for its bill.

        Raises
        ------
        RefusedError
            There is none: too many requests are open, or the disk or the queue of batches is full.
        """
        if not self._free:
            raise overloaded("gateway.busy", "too many requests are open here; try again in a moment")
        if self._room() <= self.in_flight and not self._add_spare():
            raise overloaded(
                "gateway.journal_full",
                "usage cannot be written down at the moment, so nothing is served; try again later",
                retry_after_s=10.0,
            )
        return Slot(self, self._free.pop())

    def pending(self) -> UsageBatch | None:
        """Return the oldest batch that is not acknowledged; the same rows until it is. None: there is nothing to send."""
        if not self._sealed and not self._seal():
            return None
        number = self._sealed[0]
        rows = tuple(self._batch(number))
        return UsageBatch(gateway=self._gateway, number=number, rows=rows, waiting=len(self._sealed) - 1)

    def acknowledged(self, number: int) -> None:
        """Forget a batch: the control plane has it, for good."""
        if not self._sealed or self._sealed[0] != number:
            return
        self._sealed.popleft()
        if self._spares:
            self._path(number).unlink(missing_ok=True)
        else:
            self._reuse(number)

    def bill(self, usage: Usage) -> None:
        """Write a row of what has ended."""
        if self._filled == SEGMENT_ROWS:
            self._turn()
        self._current.write(self._filled, usage, FINISHED)
        self._filled += 1

    def give_back(self, place: int) -> None:
        """Free a slot."""
        self.slots.free(place)
        self._free.append(place)

    def sync(self) -> None:
        """Have all of it on the disk, for the case that the machine goes down; blocks, so call it from a thread."""
        with contextlib.suppress(OSError):  # closed meanwhile: the thread came late
            self._current.sync()
            self.slots.sync()

    def close(self) -> None:
        """Close the files; what is open in them is billed by the next start."""
        for rows in (*self._spares, self._current, self.slots):
            rows.close()
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016d}.rows"

    def _room(self, *, spares_only: bool = False) -> int:
        """Return how many more rows there is space for."""
        return len(self._spares) * SEGMENT_ROWS + (0 if spares_only else SEGMENT_ROWS - self._filled)

    def _add_spare(self) -> bool:
        """Take space for one more segment; returns whether there was any."""
        if len(self._sealed) + len(self._spares) + 2 > self._max_segments:
            return False
        try:
            self._spares.append(Rows(self._path(self._number + len(self._spares) + 1), SEGMENT_ROWS))
        except OSError as error:
            _LOG.error("no space for usage: %s", error)
            return False
        return True

    def _reuse(self, number: int) -> None:
        """Make the file of an acknowledged batch a spare one: on a full disk it is all the space that there is."""
        old = self._folder / "old"
        self._path(number).replace(old)  # under a number a half emptied one would pass for a batch
        rows = Rows(old, SEGMENT_ROWS)
        for place in range(SEGMENT_ROWS):
            rows.free(place)
        rows.close()
        path = self._path(self._number + 1)
        old.replace(path)
        self._spares.append(Rows(path, SEGMENT_ROWS))

    def _seal(self) -> bool:
        """Seal what there is, if there is any and what is in flight keeps its room."""
        if not self._filled:
            return False
        while not self._spares or self._room(spares_only=True) < self.in_flight:
            if not self._add_spare():
                return False
        self._turn()
        return True

    def _turn(self) -> None:
        """Seal the current segment and go on in a spare one."""
        assert self._spares, "a row was promised room that is not there"
        self._sealed.append(self._number)
        self._current.close()
        self._current = self._spares.popleft()
        self._number += 1
        self._filled = 0

    def _recover(self) -> None:
        """Take up where a process left off: all its segments are sealed, its open slots billed."""
        (self._folder / "old").unlink(missing_ok=True)
        known: set[str] = set()
        empty: list[int] = []
        for number in sorted(int(path.stem) for path in self._folder.glob("*.rows") if path.stem.isdigit()):
            ids = {usage.request for usage in self._batch(number)}
            known |= ids
            (self._sealed if ids else empty).append(number)
        # Numbers go on without a gap, and none that was ever sent is used again.
        self._number = self._sealed[-1] + 1 if self._sealed else min(empty, default=1)
        self._current, self._filled = Rows(self._path(self._number), SEGMENT_ROWS), 0
        self._add_spare()  # with two segments there is always one to go on in while the other is sent
        for place in range(self.slots.places):
            if self.slots.state(place) != FREE:
                self._recover_slot(place, known)

    def _batch(self, number: int) -> list[Usage]:
        rows = Rows(self._path(number), SEGMENT_ROWS)
        try:
            return _finished(rows)
        finally:
            rows.close()

    def _recover_slot(self, place: int, known: set[str]) -> None:
        try:
            usage = self.slots.read(place)
        except (ValueError, LookupError) as error:  # the machine went down while it was being written
            _LOG.error("an open row of usage is damaged and not billed: %s", error)
            self.slots.free(place)
            return
        if usage.request not in known and (settled := self._settle(usage)) is not None:
            if not self._room():
                self._spares.append(Rows(self._path(self._number + 1), SEGMENT_ROWS))
            self.bill(settled)
        self.slots.free(place)


def _finished(rows: Rows) -> list[Usage]:
    """Return the rows of a segment, which lie together from its start."""
    found: list[Usage] = []
    for place in range(rows.places):
        if rows.state(place) != FINISHED:
            break
        try:
            found.append(rows.read(place))
        except ValueError as error:
            _LOG.error("%s; it is not billed", error)
    return found


def _locked(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ValueError(f"another gateway has {folder} open") from error
    return descriptor
