"""The one tree of errors: each has a permanent code, a sentence to act on, and where the fault lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a fault lies in what a person wrote.

    Parameters
    ----------
    file
        Path as the person gave it; empty where there is no file.
    line
        1-based; 0 where unknown.
    field
        Dotted path, for example ``spec.groups[0].template``.
    """

    file: str = ""
    line: int = 0
    field: str = ""

    def __str__(self) -> str:
        place = (
            f"{self.file}:{self.line}"
            if self.file and self.line
            else self.file or (f"line {self.line}" if self.line else "")
        )
        return ": ".join(part for part in (place, self.field) if part)


class PlenumError(Exception):
    """Anything that can go wrong and that a person can act on.

    Parameters
    ----------
    sentence
        What is wrong and what would be right, in one sentence.
    where
        File, line and field, where known.
    """

    code = "plenum.error"

    def __init__(self, sentence: str, where: Where | None = None) -> None:
        self.sentence = sentence
        self.where = where or Where()
        super().__init__(str(self))

    def __str__(self) -> str:
        place = str(self.where)
        return f"{place}: {self.sentence}" if place else self.sentence


class FieldError(PlenumError):
    """A value that cannot be meant: wrong type, negative, unknown name, out of range."""

    code = "manifest.invalid"

    def __init__(self, field: str, sentence: str, *, file: str = "", line: int = 0) -> None:
        super().__init__(sentence, Where(file=file, line=line, field=field))

    def located(self, *, file: str = "", line: int = 0, prefix: str = "") -> FieldError:
        """Return the same error with a file, a line or a field prefix that only the caller knows."""
        field = ".".join(p for p in (prefix, self.where.field) if p).replace(".[", "[")
        return FieldError(field, self.sentence, file=file or self.where.file, line=line or self.where.line)


class FileError(PlenumError):
    """A file that is missing, unreadable, too large or not what it claims to be."""

    code = "file.unreadable"


class MissingExtraError(PlenumError):
    """An optional dependency is not installed."""

    code = "extra.missing"


class InvariantError(AssertionError):
    """A bug of ours: a budget would be exceeded, a device given twice. Never caught."""
