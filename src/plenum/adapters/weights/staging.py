"""Brings weights to a node: what is local is checked where it lies, the rest is fetched into the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from plenum.adapters.weights.buckets import list_bucket
from plenum.adapters.weights.cache import Cache, size_of
from plenum.adapters.weights.digests import Progress, digest_at, quiet
from plenum.adapters.weights.fetching import fetch
from plenum.adapters.weights.hub import list_hub
from plenum.adapters.weights.listings import AwayError, Listing
from plenum.adapters.weights.references import (
    ChangedWeightsError,
    Reference,
    UnknownWeightsError,
    WeightsError,
    packaged,
    read_reference,
)
from plenum.adapters.weights.registries import list_registry
from plenum.adapters.weights.variables import CAP
from plenum.model.units import parse

GGUF_MAGIC = b"GGUF"

STORES: dict[str, Callable[[Reference], AbstractContextManager[Listing]]] = {
    "hf": list_hub,
    "s3": list_bucket,
    "oci": list_registry,
}
"""Stores by the scheme of a reference; the one table to add to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Weights that are here and whole.

    Parameters
    ----------
    path
        The file where the weights are one, else their folder.
    digest
        ``sha256:`` and 64 hexadecimal digits; of a folder, of the list of its files.
    hold
        Descriptor of a lock: while this process lives, or until :meth:`release`, the cache keeps them. -1: they are not the cache's.
    """

    path: Path
    digest: str
    size_bytes: int
    hold: int = -1

    def release(self) -> None:
        """Let the cache remove them."""
        if self.hold >= 0:
            os.close(self.hold)
            object.__setattr__(self, "hold", -1)


def stage(
    reference: str,
    cache: Path,
    *,
    progress: Progress = quiet,
    digest: str = "",
    afresh: bool = False,
    cap_bytes: int = 0,
) -> Staged:
    """Bring weights here and return where they are.

    Parameters
    ----------
    reference
        A name of the catalogue (``smollm2``), an absolute path, ``hf://org/name[@revision][/file]``, ``s3://bucket/prefix`` or
        ``oci://registry/repository:tag``.
    cache
        This node's folder of weights, made if absent.
    progress
        Told the bytes done and in all, many times; what it raises ends the work, and the next call goes on where it stopped.
    digest
        What the weights must be; empty: whatever is there.
    afresh
        Read every byte again, though nothing seems to have changed.
    cap_bytes
        Of all that the cache holds: what was asked for longest ago and is not in use makes room. 0: what ``$PLENUM_WEIGHTS_CAP`` says, else
        what the disk has.

    Raises
    ------
    UnknownWeightsError
        There are no such weights.
    ChangedWeightsError
        They are not what ``digest`` says.
    DigestError
        They are not what their publisher says.
    WeightsError
        They cannot be fetched, read or kept here.
    """
    wanted = read_reference(reference)
    if wanted.kind in ("catalogue", "local"):
        path = packaged(wanted.place) if wanted.kind == "catalogue" else Path(wanted.place)
        staged = _local(path, cache, progress, afresh)
    else:
        staged = _remote(wanted, Cache(cache, cap_bytes or _cap_bytes()), progress, digest, afresh)
    if digest and staged.digest != digest:
        staged.release()
        raise ChangedWeightsError(f"{reference} is {staged.digest} by now, not {digest} as asked for")
    return staged


def gguf_in(path: Path) -> Path:
    """Return the GGUF file of some weights: the file itself, or the folder's one (of a split one, the first part).

    Raises
    ------
    UnknownWeightsError
        There is none, or more than one model.
    """
    if path.is_file():
        files = [path]
    else:
        files = sorted(path.rglob("*.gguf"))
        firsts = [file for file in files if "-00001-of-" in file.name]
        files = firsts or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5]) or "none"
        raise UnknownWeightsError(f"{path} must hold one GGUF model; found: {names}. Name the file itself")
    with files[0].open("rb") as stream:
        if stream.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise WeightsError(f"{files[0]} is no GGUF file")
    return files[0]


def _cap_bytes() -> int:
    text = os.environ.get(CAP, "")
    return int(parse(text, "bytes", f"${CAP}")) if text else 0


def _local(path: Path, cache: Path, progress: Progress, afresh: bool) -> Staged:
    try:
        path = path.resolve(strict=True)  # a link to the weights is the operator's own way of naming them
    except OSError:
        raise UnknownWeightsError(f"there is nothing at {path}") from None
    found, size_bytes = digest_at(path, cache / "digests", progress, afresh=afresh)
    return Staged(path=path, digest=found, size_bytes=size_bytes)


def _remote(wanted: Reference, cache: Cache, progress: Progress, digest: str, afresh: bool) -> Staged:
    """Return what is in the cache where that is what is asked for, else fetch it."""
    if digest and not afresh and (staged := _held(cache, digest, progress)):
        return staged
    with cache.alone(wanted.text, progress):
        named = cache.named(wanted.text)
        try:
            with STORES[wanted.kind](wanted) as listing:
                if (
                    named is None
                    or named.version != listing.version
                    or not _whole(cache, named.digest, progress, afresh)
                ):
                    return _fetched(wanted, listing, cache, progress)
        except AwayError:
            # What was fetched before is better than no replica at all.
            if named is None or not _whole(cache, named.digest, progress, afresh):
                raise
        staged = _held(cache, named.digest, progress)
    if staged is None:
        raise WeightsError(f"{wanted.text} was removed from the cache just now; try again")
    return staged


def _fetched(wanted: Reference, listing: Listing, cache: Cache, progress: Progress) -> Staged:
    folder = cache.parts(wanted.text, listing.version)
    cache.expect(wanted.text, listing.size_bytes)
    cache.make_room(listing.size_bytes - size_of(folder), wanted.text)
    entries = fetch(listing, folder, progress)
    found = cache.publish(folder / "files", entries, single=listing.single and len(entries) == 1)
    cache.name(wanted.text, found, listing.version)
    cache.fetched(wanted.text)
    staged = _held(cache, found, progress)
    if staged is None:
        raise WeightsError(f"{wanted.text} was removed from the cache just now; try again")
    return staged


def _whole(cache: Cache, digest: str, progress: Progress, afresh: bool) -> bool:
    held = cache.hold(digest)
    if held is None:
        return False
    os.close(held[2])
    return not afresh or cache.verify(digest, progress)


def _held(cache: Cache, digest: str, progress: Progress) -> Staged | None:
    held = cache.hold(digest)
    if held is None:
        return None
    path, size_bytes, descriptor = held
    progress(size_bytes, size_bytes)
    return Staged(path=path, digest=digest, size_bytes=size_bytes, hold=descriptor)
