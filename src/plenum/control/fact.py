"""What every fact of the log has in common."""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One fact; who, when and where it stands in the log are the record's."""

    version: ClassVar[int] = 1
    audit: ClassVar[bool] = False
    """Kept for ever: who was allowed what, who asked for what and what came of it."""

    def subject(self) -> str:
        """Return what it is about; empty: the control plane itself."""
        return ""

    def tenant(self) -> str:
        """Return whose it is; empty: the operator's."""
        return ""
