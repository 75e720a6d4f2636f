"""Errors of the rooms below name a field; whoever gave an option is told of the option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plenum.model.errors import FieldError


@contextmanager
def fields_as_options(**options: str) -> Iterator[None]:
    """Name the option, ``--so-and-so``, where a field ``so_and_so`` was refused; ``options`` holds those that are called otherwise."""
    try:
        yield
    except FieldError as error:
        field = error.where.field
        if not field or field.startswith("--") or error.where.file:
            raise
        name = field.partition(".")[0].partition("[")[0]
        raise type(error)(options.get(name, "--" + name.replace("_", "-")), error.sentence) from None
