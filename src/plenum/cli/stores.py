"""Stores of control planes that are stopped, as ``backup``, ``restore`` and ``rebuild`` open them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plenum.ports.store import EventStore


def store_url(data: str | None, store: str) -> str:
    """Return the URL of the store that options name; by default the one in the default data folder."""
    from plenum.bootstrap.config import ServerConfig, data_home, private_folder

    folder = Path(data) if data else data_home()
    if not store:
        private_folder(folder)
    return ServerConfig(data=folder, store=store).store_url


@contextmanager
def opened(data: str | None, store: str, *, read_only: bool = False) -> Iterator[EventStore]:
    """Open the store that options name, and close it.

    Raises
    ------
    PlenumError
        It is in use, or cannot be reached.
    """
    from plenum.adapters.stores.opening import open_store

    found = open_store(store_url(data, store), read_only=read_only)
    try:
        yield found
    finally:
        found.close()
