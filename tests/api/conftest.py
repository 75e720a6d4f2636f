"""A control plane for each module: suites that only ask share one."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.lab import Lab

from plenum.bootstrap.warm import warm_up


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """What a first decision has to compile would stop the loop for longer than a lease lasts, as it does for no server.

    One test process compiles, which takes all cores; the others then load what it made.
    """
    compiled = Path(os.environ["NUMBA_CACHE_DIR"])
    compiled.mkdir(parents=True, exist_ok=True)
    with (compiled / "compiling").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        warm_up()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    laboratory = Lab()
    yield laboratory
    laboratory.close()
