"""How long a person waits before anything happens: help, imports, the first and the second run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.findings import Finding, below

REPEATS = 7
HELP_TARGET_S = 0.5
ROOT = Path(__file__).parents[1]
PLACE = [
    "-m", "plenum", "place", "--fleet", str(ROOT / "examples" / "fleet-lab.yaml"), str(ROOT / "examples" / "jobs.yaml"),
]  # fmt: skip


def bench() -> Iterator[Finding]:
    """Yield seconds of fresh processes, against the interpreter starting and stopping."""
    bare = _median_s(["-c", "pass"])
    baseline = f"python -c pass: {bare:.3f} s"
    for what, arguments, target in (
        ("plenum --help", ["-m", "plenum", "--help"], HELP_TARGET_S),
        ("import plenum.model", ["-c", "import plenum.model"], None),
        ("import plenum.placement, compiled code cached", ["-c", "import plenum.placement"], None),
    ):
        taken = _median_s(arguments)
        yield Finding(
            bench="startup",
            what=what,
            value=taken,
            unit="s",
            baseline=baseline,
            ratio=taken / bare,
            note=f"median of {REPEATS}",
            target=below(target, "s", taken) if target else None,
        )
    with tempfile.TemporaryDirectory() as cache:
        first, second = (_seconds(PLACE, NUMBA_CACHE_DIR=cache) for _ in range(2))
    yield Finding(
        bench="startup",
        what="plenum place on the example: second run, nothing left to compile",
        value=second,
        unit="s",
        baseline=f"first run, compiling: {first:.1f} s",
        ratio=second / first,
    )


def _median_s(arguments: list[str]) -> float:
    return float(np.median([_seconds(arguments) for _ in range(REPEATS)]))


def _seconds(arguments: list[str], **environment: str) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, env=os.environ | environment, check=False)
    if done.returncode not in (0, 1):  # 1: some of the example waits, as it should
        raise RuntimeError(done.stderr.decode())
    return time.perf_counter() - start
