"""What was measured of experiments, on disk: a gateway that starts again goes on from there."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from plenum.adapters.nodes.files import replace
from plenum.gateway.variants import Variants

KEEP_S = 10.0
"""What a gateway that is killed may forget."""

_LOG = logging.getLogger("plenum.gateway.kept_figures")


class KeptFigures:
    """Keeps figures in a file.

    Parameters
    ----------
    path
        Read at once, if it is there; what cannot be read is left behind.
    """

    def __init__(self, path: Path, variants: Variants) -> None:
        self._path, self._variants, self._kept = path, variants, b""
        try:
            variants.restore(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            _LOG.warning("what was measured of experiments cannot be read: %s", error)

    async def run(self) -> None:
        """Keep them every :data:`KEEP_S`, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_S)
            self.keep()

    def keep(self) -> None:
        """Keep them now, if they have changed; without room they are not kept."""
        kept = self._variants.kept()
        if kept == self._kept:
            return
        try:
            replace(self._path, kept, durably=False)
        except OSError as error:
            _LOG.warning("what was measured of experiments cannot be kept: %s", error.strerror or error)
        else:
            self._kept = kept
