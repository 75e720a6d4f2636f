"""Files that survive a crash whole, and names that are safe in a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def is_safe_name(name: str) -> bool:
    """Return whether a name is one plain, visible path component of at most ``MAX_NAME`` characters."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def replace(path: Path, data: bytes, *, durably: bool) -> None:
    """Write a file so that readers see the old or the new content and nothing between.

    Parameters
    ----------
    durably
        Return only once it would survive a loss of power.
    """
    beside = path.with_name(path.name + ".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        if durably:
            os.fsync(fd)
    os.replace(beside, path)
    if durably:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path, mode: int = 0o700) -> Path:
    """Make a folder and its parents where missing, and return it.

    Raises
    ------
    NotADirectoryError
        Something else is there, such as a link.
    """
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    if folder.is_symlink():
        raise NotADirectoryError(f"{folder} is a link, not a folder")
    return folder
