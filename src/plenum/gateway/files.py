"""Files of tenants: uploaded for batches, or written by them; each on disk in a folder of its own.

Ids cannot be guessed, and are looked up among a tenant's own alone, so nobody learns of another's. One process owns the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from plenum.adapters.nodes.files import make_folder, replace
from plenum.gateway.answers import invalid
from plenum.gateway.peers import Peers
from plenum.gateway.request import RefusedError

PURPOSES = frozenset({"batch", "user_data"})
"""What a client may upload for; ``batch_output`` is written here."""

MAX_FILENAME = 255
SPARE_BYTES = 512 * 2**20
"""Left free on the disk: the journal of usage is there too, and without it nothing is served."""

PIECE_BYTES = 1 << 18

_ID = re.compile(r"file-[A-Za-z0-9_-]{22,64}")
_LOG = logging.getLogger("plenum.gateway.files")


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of one tenant may come to.

    Parameters
    ----------
    keep_s
        After which they go.
    """

    file_bytes: int = 200 * 2**20
    tenant_bytes: int = 4 * 2**30
    tenant_files: int = 1_000
    keep_s: float = 30 * 86_400.0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One file; the fields of OpenAI's file object, and whose it is."""

    id: str
    tenant: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int

    def shown(self) -> dict[str, object]:
        """Return it as OpenAI's clients read it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Files:
    """The files of all tenants.

    Parameters
    ----------
    folder
        Made where it is not there; what an interrupted upload left in it goes.
    peers
        Gateways beside this one, with which files may lie.
    now
        Seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        limits: FileLimits | None = None,
        *,
        peers: Peers | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.peers = peers or Peers()
        self._folder, self.limits, self._now = make_folder(folder), limits or FileLimits(), now
        self._kept: dict[str, dict[str, Kept]] = {}
        self._writing: dict[str, int] = {}
        for about in sorted(self._folder.glob("*/*/about.json")):
            self._load(about)
        for part in self._folder.glob("*/.part-*"):
            shutil.rmtree(part, ignore_errors=True)

    def begin(self, tenant: str, filename: str, purpose: str) -> Writing:
        """Begin an upload.

        Raises
        ------
        RefusedError
            The purpose is none of :data:`PURPOSES`, or the tenant has as much as it may.
        """
        if purpose not in PURPOSES:
            raise invalid("purpose", f"purpose must be one of {', '.join(sorted(PURPOSES))}, not {purpose[:40]!r}")
        self.sweep()
        self.check_room(tenant, 0)
        return Writing(self, tenant, filename, purpose)

    def check_room(self, tenant: str, size_bytes: int) -> None:
        """Refuse what would be too much for a tenant.

        Raises
        ------
        RefusedError
            It would.
        """
        # A copy, for a thread may be adding a batch's results.
        kept, limits = list(self._kept.get(tenant, {}).values()), self.limits
        if len(kept) >= limits.tenant_files:
            raise _full(f"this tenant has {limits.tenant_files:,} files, as many as it may; delete some")
        held_bytes = sum(file.bytes for file in kept) + self._writing.get(tenant, 0)
        if held_bytes + size_bytes > limits.tenant_bytes:
            raise _full(f"this tenant's files may come to {limits.tenant_bytes:,} bytes; delete some")

    def has_room(self) -> bool:
        """Return whether the disk has more left than what the gateway itself needs to go on."""
        return shutil.disk_usage(self._folder).free > SPARE_BYTES

    def count(self, tenant: str, size_bytes: int) -> None:
        """Note that so much more (or less) is being uploaded."""
        self._writing[tenant] = self._writing.get(tenant, 0) + size_bytes

    def listed(self, tenant: str, *, purpose: str = "") -> list[Kept]:
        """Return a tenant's files, newest first."""
        self.sweep()
        files = [file for file in list(self._kept.get(tenant, {}).values()) if not purpose or file.purpose == purpose]
        return sorted(files, key=lambda file: (-file.created_at, file.id))

    def get(self, tenant: str, id: str) -> Kept:
        """Return a file of a tenant's.

        Raises
        ------
        RefusedError
            It has none of that id.
        """
        file = self._kept.get(tenant, {}).get(id)
        if file is None or file.expires_at <= self._now():
            raise self.peers.absent(id, "file")
        return file

    def path(self, file: Kept) -> Path:
        """Return where its content is."""
        return self._home(file.tenant) / file.id / "content"

    def pieces(self, file: Kept) -> Iterator[bytes]:
        """Yield its content."""
        with self.path(file).open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece

    def delete(self, tenant: str, id: str) -> None:
        """Remove a file.

        Raises
        ------
        RefusedError
            There is none of that id.
        """
        file = self.get(tenant, id)
        self._remove(file)

    def new_id(self) -> str:
        """Return an id that nobody can guess."""
        return self.peers.prefix("file-") + secrets.token_urlsafe(18)

    def adopt(self, tenant: str, path: Path, filename: str, purpose: str, *, id: str) -> None:
        """Take a file that was written here into the keeping of its tenant; quotas do not stop what has been computed.

        Done again with the same id, nothing happens.
        """
        if id in self._kept.get(tenant, {}):
            path.unlink(missing_ok=True)
            return
        kept = msgspec.structs.replace(self._new(tenant, filename, purpose, path.stat().st_size), id=id)
        part = self.part(id, tenant)
        os.link(path, part / "content")
        self.keep(part, kept)
        path.unlink()

    def keep(self, part: Path, kept: Kept) -> None:
        """Publish a folder that has a whole file's content."""
        replace(part / "about.json", msgspec.json.encode(kept), durably=True)
        os.replace(part, self._home(kept.tenant) / kept.id)
        self._kept.setdefault(kept.tenant, {})[kept.id] = kept

    def part(self, kept_id: str, tenant: str) -> Path:
        """Return a new folder to write a file in."""
        return make_folder(self._home(tenant) / f".part-{kept_id}")

    def sweep(self) -> None:
        """Remove what has expired."""
        now = self._now()
        for files in list(self._kept.values()):
            for file in [file for file in list(files.values()) if file.expires_at <= now]:
                self._remove(file)

    def _new(self, tenant: str, filename: str, purpose: str, size_bytes: int) -> Kept:
        now = self._now()
        name = re.sub(r"[^\w. ()+@=,-]", "_", filename.rpartition("/")[2])[:MAX_FILENAME] or "file"
        return Kept(
            id=self.new_id(),
            tenant=tenant,
            bytes=size_bytes,
            created_at=int(now),
            filename=name,
            purpose=purpose,
            expires_at=int(now + self.limits.keep_s),
        )

    def _remove(self, file: Kept) -> None:
        gone = self._home(file.tenant) / f".part-gone-{file.id}"
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._home(file.tenant) / file.id, gone)
        self._kept.get(file.tenant, {}).pop(file.id, None)
        shutil.rmtree(gone, ignore_errors=True)

    def _home(self, tenant: str) -> Path:
        return self._folder / hashlib.sha256(tenant.encode()).hexdigest()[:32]

    def _load(self, about: Path) -> None:
        try:
            kept = msgspec.json.decode(about.read_bytes(), type=Kept)
        except (OSError, ValueError):
            _LOG.warning("a file's description cannot be read and is left out", extra={"file": str(about)})
            return
        if _ID.fullmatch(kept.id) and about.parent == self._home(kept.tenant) / kept.id:
            self._kept.setdefault(kept.tenant, {})[kept.id] = kept


class Writing:
    """One upload; what has not come to its :meth:`end` when its context does leaves nothing."""

    def __init__(self, files: Files, tenant: str, filename: str, purpose: str) -> None:
        self._files, self._tenant = files, tenant
        self._kept = files._new(tenant, filename, purpose, 0)  # pyright: ignore[reportPrivateUsage]
        self._part = files.part(self._kept.id, tenant)
        self._stream = (self._part / "content").open("wb")
        self._size_bytes = 0

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._stream.closed:
            self._close()
            shutil.rmtree(self._part, ignore_errors=True)

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises
        ------
        RefusedError
            It is larger than a file may be, or than the tenant has room for; or the disk is full.
        """
        limits = self._files.limits
        if self._size_bytes + len(data) > limits.file_bytes:
            raise RefusedError(
                413, "invalid_request_error", "file.too_large", f"a file has at most {limits.file_bytes:,} bytes"
            )
        self._files.check_room(self._tenant, len(data))
        try:
            if not self._files.has_room():
                raise OSError
            self._stream.write(data)
        except OSError:
            raise RefusedError(507, "server_error", "file.no_space", "there is no space for files here now") from None
        self._size_bytes += len(data)
        self._files.count(self._tenant, len(data))

    def end(self) -> Kept:
        """Keep it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._close()
        kept = msgspec.structs.replace(self._kept, bytes=self._size_bytes)
        self._files.keep(self._part, kept)
        return kept

    def _close(self) -> None:
        self._stream.close()
        self._files.count(self._tenant, -self._size_bytes)


def _full(sentence: str) -> RefusedError:
    return RefusedError(429, "insufficient_quota", "file.quota", sentence)
