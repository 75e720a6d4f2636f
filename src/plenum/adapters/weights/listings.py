"""What a store has under a reference: files with sizes, versions and a way to read each from any byte on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from plenum.adapters.weights.digests import MAX_DEPTH, MAX_FILES
from plenum.adapters.weights.references import UnknownWeightsError, WeightsError

MAX_NAME = 255
MAX_PATH = 1_000
_NAME = re.compile(r"[\w][\w .()+@=,~-]*")

Open = Callable[[int], AbstractContextManager[Iterator[bytes]]]
"""Gives the bytes of a file from an offset on."""


class BrokenError(WeightsError):
    """A transfer broke off; what has come so far is kept, and the next try goes on there."""

    code = "weights.broken"


class AwayError(WeightsError):
    """The store does not answer; what was fetched from it before is good enough."""

    code = "weights.unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file.

    Parameters
    ----------
    name
        Path in the folder that it goes to, with slashes.
    version
        What changes when its content does: a commit's blob, an ETag, a digest.
    sha256
        In hexadecimal, where the store says it.
    archive
        Whether it is a tar archive whose files are meant.
    """

    name: str
    size_bytes: int
    version: str
    sha256: str = ""
    archive: bool = False
    read: Open = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All files of a reference.

    Parameters
    ----------
    single
        Whether the reference names one file rather than a folder.
    """

    items: tuple[Item, ...]
    single: bool = False

    @property
    def version(self) -> str:
        """What changes when anything in it does."""
        lines = sorted(f"{item.name}\0{item.size_bytes}\0{item.version}\n" for item in self.items)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(item.size_bytes for item in self.items)


def checked(reference: str, items: Iterable[Item], *, single: bool = False) -> Listing:
    """Return a listing whose names are safe to write.

    Raises
    ------
    UnknownWeightsError
        There are no files.
    WeightsError
        A name would leave its folder or cannot be written, one is there twice, or there are too many.
    """
    found = tuple(items)
    if not found:
        raise UnknownWeightsError(f"there are no files at {reference}")
    if len(found) > MAX_FILES:
        raise WeightsError(f"{reference} has {len(found):,} files; weights have at most {MAX_FILES:,}")
    names: set[str] = set()
    for item in found:
        check_name(item.name)
        if item.name.lower() in names:
            raise WeightsError(f"{reference} has two files {item.name!r}")
        names.add(item.name.lower())
    if clash := next((name for name in names if any(f"{name}/" == other[: len(name) + 1] for other in names)), None):
        raise WeightsError(f"{reference} has {clash!r} both as a file and as a folder")
    return Listing(items=found, single=single and len(found) == 1)


def check_name(name: str) -> None:
    """Refuse a path that leaves its folder, is hidden, or is no plain text.

    Raises
    ------
    WeightsError
        It is such a path.
    """
    parts = name.split("/")
    fine = len(name) <= MAX_PATH and len(parts) <= MAX_DEPTH
    if not fine or not all(len(part) <= MAX_NAME and _NAME.fullmatch(part) for part in parts):
        raise WeightsError(f"a file is called {name[:100]!r}, which is no name that weights may have")
