"""Finds a control group in which runs may have groups of their own."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def delegated_cgroup() -> str:
    """Return the folder of a control group (v2) that was delegated to this process and can limit memory; empty: none.

    Only what is marked as delegated is used, as systemd marks it for ``Delegate=memory`` (with ``DelegateSubgroup=``, since a
    group that is divided may not hold processes itself): elsewhere the groups belong to somebody else, root or not.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        own = next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")
        group = _mount_point() / own
        for candidate in (group, group.parent):
            if is_delegated(candidate) and can_limit_memory(candidate):
                return str(candidate)
    return ""


def is_delegated(group: Path) -> bool:
    """Return whether a control group is marked as delegated."""
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def can_limit_memory(group: Path) -> bool:
    """Return whether groups made in a control group can limit memory, switching that on if need be."""
    control = group / "cgroup.subtree_control"
    try:
        if "memory" not in (group / "cgroup.controllers").read_text(encoding="ascii").split():
            return False
        if "memory" not in control.read_text(encoding="ascii").split():
            control.write_text("+memory", encoding="ascii")
    except OSError:
        return False
    return os.access(group, os.W_OK)


def _mount_point() -> Path:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(fields.split()[4])
    raise StopIteration
