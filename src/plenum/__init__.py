"""Plenum: an operating system for AI data centres.

One constraint graph over a fleet's accelerators, memory, storage, fabric and power; one pure
function that decides on it; an explanation for every decision.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

__version__ = "0.1.0"

_MAX_CACHES = 8
"""States of the sources whose compiled code is kept."""


def _keep_compiled_code() -> None:
    """Give Numba one cache folder for each state of the sources.

    Left alone it looks only at the file of each compiled function: code changed in another file that the function calls would go
    unseen, and stale machine code would run.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    sources = Path(__file__).parent
    digest = hashlib.sha1(usedforsecurity=False)
    for room in ("model", "graph", "fabric", "placement", "serving", "sim/serving"):
        for source in sorted((sources / room).rglob("*.py")):
            digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "plenum" / "compiled"
    try:
        if not (home / digest.hexdigest()).is_dir():
            (home / digest.hexdigest()).mkdir(parents=True)
            for old in sorted(home.iterdir(), key=lambda folder: -folder.stat().st_mtime)[_MAX_CACHES:]:
                shutil.rmtree(old, ignore_errors=True)
    except OSError:  # no home to write to: compile into a folder of this user's own
        home = Path(tempfile.gettempdir()) / f"plenum-{os.getuid()}"
    os.environ["NUMBA_CACHE_DIR"] = str(home / digest.hexdigest())


_keep_compiled_code()
