"""Fixtures for every suite."""

import itertools
import os
from collections.abc import Iterator

import pytest

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A running PostgreSQL; skipped, saying so, where none can be had."""
    from tests import postgres

    with postgres.postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server) -> Iterator[str]:
    """The url of a PostgreSQL database that is empty and this test's own."""
    from tests import postgres

    with postgres.fresh_database(postgres_server, f"plenum_{os.getpid()}_{next(_numbers)}") as url:
        yield url
