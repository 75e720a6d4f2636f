"""Fixtures for every suite."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

_numbers = itertools.count(1)

os.environ.pop("COLUMNS", None)  # or output is folded to the terminal that the tests were started in
os.unsetenv("COLUMNS")  # which readline sets, where pytest loads that, without telling Python


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A running PostgreSQL; skipped, saying so, where none can be had."""
    from tests import postgres

    with postgres.postgres_server() as server:
        yield server


@pytest.fixture
def new_postgres_url(postgres_server) -> Iterator[Callable[[], str]]:
    """Makes PostgreSQL databases, empty and this test's own; answers the url of each."""
    from tests import postgres

    with ExitStack() as databases:
        yield lambda: databases.enter_context(
            postgres.fresh_database(postgres_server, f"plenum_{os.getpid()}_{next(_numbers)}")
        )


@pytest.fixture
def postgres_url(new_postgres_url) -> str:
    """The url of a PostgreSQL database that is empty and this test's own."""
    return new_postgres_url()
