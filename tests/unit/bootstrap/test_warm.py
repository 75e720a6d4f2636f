"""What the first start compiles."""

from __future__ import annotations

import os
from pathlib import Path

from plenum.bootstrap.warm import warm_up


def test_no_loop_of_placement_is_compiled_for_two_kinds_of_arguments() -> None:
    """A literal or a narrower integer among the arguments has a loop, and all that it calls, compiled once more."""
    warm_up()
    compiled = Path(os.environ["NUMBA_CACHE_DIR"])
    loops = [path.name for room in ("graph", "placement", "scorers") for path in compiled.glob(f"{room}_*/*.nbc")]
    assert any(name.startswith("single.stream-") for name in loops)
    assert any(name.startswith("packing.bind-") for name in loops)
    assert [name for name in loops if not name.endswith(".1.nbc")] == []
