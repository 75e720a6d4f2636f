"""A control plane for each module: suites that only ask share one."""

from collections.abc import Iterator

import pytest
from tests.api.lab import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    laboratory = Lab()
    yield laboratory
    laboratory.close()
