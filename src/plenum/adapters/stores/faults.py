"""What can go wrong with a database, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from plenum.model.errors import PlenumError
from plenum.ports.store import StoreError


class LockedError(PlenumError):
    """Another server works on the same folder."""

    code = "store.locked"


class NewerError(PlenumError):
    """The database was written by a newer version."""

    code = "store.newer"


class OlderError(PlenumError):
    """The database was written by an older version, and was not opened for writing."""

    code = "store.older"


class ForeignError(PlenumError):
    """The database is somebody else's, or no database."""

    code = "store.foreign"


class UrlError(PlenumError):
    """The url of a store cannot be meant."""

    code = "store.url"


class ReadOnlyError(PlenumError):
    """A store that was opened for reading is asked to write."""

    code = "store.read-only"


class BackupError(PlenumError):
    """A backup cannot be written there, or cannot be restored from here."""

    code = "store.backup"


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn what a database driver raises into a :class:`StoreError` about a place."""
    try:
        yield
    except PoolTimeoutError:
        raise StoreError(f"{place} is too busy: no connection became free in time; try again") from None
    except DBAPIError as error:
        raise StoreError(f"{place} did not answer as it should: {first_line(error.orig)}") from error
    except InvalidRequestError as error:
        raise StoreError(f"the connection to {place} was lost; try again") from error


def first_line(error: BaseException | None) -> str:
    """Return the first line of a driver's message, which names what failed; the rest repeats statements."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
