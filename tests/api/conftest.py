"""A control plane for each module: suites that only ask share one."""

from collections.abc import Iterator

import pytest
from tests.api.lab import Lab

from plenum.bootstrap.warm import warm_up


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """What a first decision has to compile would stop the loop for longer than a lease lasts, as it does for no server."""
    warm_up()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    laboratory = Lab()
    yield laboratory
    laboratory.close()
