"""YAML in, plain values out, with the line of everything: safe against junk, bombs and surprises.

Only mappings, lists and plain scalars of the YAML 1.2 core schema are read: no tags, no aliases, no ``yes`` that means true. Values
are built from parser events without recursion, so that nesting cannot exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from plenum.model.errors import FieldError, FileError, Where

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32
MAX_VALUES = 500_000
MAX_TOP_KEYS = 16
MAX_DOCUMENTS = 10_000
"""Limits of one file, so that a wrong or hostile one ends in a sentence rather than in swap."""

API_VERSION = "plenum.dev/v1alpha1"

_NO_MANIFEST = "is not a manifest: a manifest is a mapping with apiVersion, kind, metadata and spec"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,5})?")


class Mapping(dict):
    """A mapping that knows its line and that of each key."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: dict[str, int] = {}


class Sequence(list):
    """A list that knows its line and that of each item."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: list[int] = []


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document of a file."""

    value: Mapping
    file: str

    @property
    def kind(self) -> str:
        """The manifest's kind, as written."""
        return str(self.value.get("kind", ""))

    def line_of(self, path: tuple[int | str, ...]) -> int:
        """Return the line of the deepest part of a path that is there."""
        at: Any = self.value
        line = self.value.line
        for step in path:
            is_there = step in at if isinstance(at, Mapping) else isinstance(at, Sequence) and step in range(len(at))
            if not is_there:
                break
            line, at = at.lines[step], at[step]  # pyright: ignore[reportArgumentType, reportCallIssue]
        return line

    def wrong(self, path: tuple[int | str, ...], sentence: str) -> FieldError:
        """Return the error that says what is wrong at a path."""
        return FieldError(dotted(path), sentence, file=self.file, line=self.line_of(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A resource as a person wrote it.

    Parameters
    ----------
    manifest
        The same as plain values, without what only the system writes; with its tenant, where it has one.
    version
        ``metadata.resourceVersion``, where the manifest was read from a control plane; else empty.
    document
        Where it stands, for errors that are found later.
    """

    manifest: dict[str, Any]
    version: str = ""
    document: Document = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name among its kind, or within its tenant."""
        return self.manifest["metadata"]["name"]

    @property
    def kind(self) -> str:
        """The manifest's kind."""
        return self.manifest["kind"]

    @property
    def tenant(self) -> str:
        """Whose it is; empty: it is in no tenant."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenByTenant(Written):
    """A resource that is some tenant's."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.manifest["metadata"]["tenant"]


def dotted(path: tuple[int | str, ...]) -> str:
    """Write a path for people: ``spec.groups[0].template``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_text(path: Path | str) -> str:
    """Read a manifest file.

    Raises
    ------
    FileError
        Missing, unreadable, too large, binary or not UTF-8.
    """
    where = Where(file=str(path))
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileError("there is no such file", where) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where) from None
    if len(raw) > MAX_BYTES:
        raise FileError(f"is larger than {MAX_BYTES // 2**20} MiB, the most that a manifest may be", where)
    if b"\0" in raw:
        raise FileError("is a binary file, not a YAML manifest", where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text, so not a YAML manifest", where) from None


def load_documents(text: str, file: str = "") -> tuple[Document, ...]:
    """Parse YAML text; empty documents are left out.

    Raises
    ------
    FileError
        Not YAML, or beyond a limit.
    FieldError
        A key given twice, a tag or an alias.
    """
    documents = [Document(value, file) for value in _values(text, file) if value is not None]
    if not documents:
        raise FileError("is empty: a manifest has apiVersion, kind, metadata and spec", Where(file=file))
    return tuple(documents)


def document_of(value: object, file: str = "") -> Document:
    """Take a plain value, as parsed from JSON, for a document; its lines are 0: unknown.

    Raises
    ------
    FileError
        Not a mapping, or beyond a limit of :func:`load_documents`.
    FieldError
        Text that YAML could not hold.
    """
    if not isinstance(value, dict) or len(value) > MAX_TOP_KEYS:
        raise FileError(_NO_MANIFEST, Where(file=file))
    root, values = Mapping(0), 0
    waiting: list[tuple[dict | list, Mapping | Sequence, tuple[int | str, ...]]] = [(value, root, ())]
    while waiting:
        plain, into, path = waiting.pop()
        if len(path) >= MAX_DEPTH:
            raise FileError(f"is nested more than {MAX_DEPTH} levels deep", Where(file=file))
        for step, item in plain.items() if isinstance(plain, dict) else enumerate(plain):
            values += 1
            if values > MAX_VALUES:
                raise FileError(f"holds more than {MAX_VALUES:,} values; split it", Where(file=file))
            at = (*path, step)
            for text in (step, item):
                if isinstance(text, str) and (sentence := _unwritable(text)):
                    raise FieldError(dotted(path if text is step else at), sentence, file=file)
            made = Mapping(0) if isinstance(item, dict) else Sequence(0) if isinstance(item, list) else item
            if isinstance(into, Mapping):
                into[str(step)] = made
                into.lines[str(step)] = 0
            else:
                into.append(made)
                into.lines.append(0)
            if isinstance(made, (Mapping, Sequence)):
                waiting.append((item, made, at))
    return Document(root, file)


def plain(value: Any) -> Any:
    """Return a document's value, or a part of it, as dicts and lists that know no lines."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _unwritable(text: str) -> str:
    """Return what keeps text from being stored or sent; nothing does if it is empty."""
    if "\0" in text:
        return "holds a NUL character; leave it out"
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        return "holds half of a surrogate pair, which is no character; leave it out"
    return ""


def _values(text: str, file: str) -> Iterator[Mapping | None]:
    composer = _Composer(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.DocumentStartEvent):
                composer = composer.next_document()
            elif isinstance(event, yaml.DocumentEndEvent):
                yield composer.root
            else:
                composer.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise FileError(f"is not YAML: {problem}", Where(file=file, line=mark.line + 1 if mark else 0)) from None
    except yaml.YAMLError as error:
        problem = " ".join(str(getattr(error, "reason", error)).split())[:120]
        raise FileError(f"is not YAML: {problem}", Where(file=file)) from None


class _Composer:
    """Builds one document's value from parser events."""

    def __init__(self, file: str, documents: int = 0, values: int = 0) -> None:
        self.root: Mapping | None = None
        self._file = file
        self._documents = documents
        self._values = values
        self._open: list[Mapping | Sequence] = []
        self._keys: list[str | None] = []
        self._steps: list[int | str] = []

    def next_document(self) -> _Composer:
        """Return a composer for the document after this one."""
        if self._documents >= MAX_DOCUMENTS:
            raise FileError(f"holds more than {MAX_DOCUMENTS:,} documents; split it", Where(file=self._file))
        return _Composer(self._file, self._documents + 1, self._values)

    def feed(self, event: yaml.Event) -> None:
        """Take the next event."""
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._open.pop()
            self._keys.pop()
            del self._steps[max(len(self._open) - 1, 0) :]
            return
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise self._wrong(f"aliases such as *{event.anchor} are not read; write the value out", line)
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent):
            self._start(Mapping(line), event.tag, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._start(Sequence(line), event.tag, line)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        if sentence := _unwritable(event.value):
            raise self._wrong(sentence, line)
        top = self._open[-1] if self._open else None
        if isinstance(top, Mapping) and self._keys[-1] is None:
            if event.value in top:
                raise self._wrong(f"{event.value[:60]!r} is given twice, first on line {top.lines[event.value]}", line)
            if len(self._open) == 1 and len(top) >= MAX_TOP_KEYS:
                raise self._no_manifest(line)
            self._keys[-1] = event.value
            top.lines[event.value] = line
            return
        if event.tag not in (None, "!"):
            raise self._wrong(f"tags such as {event.tag[:40]} are not read", line)
        plain = event.style in (None, "") and event.tag is None
        self._put(_resolve(event.value) if plain else event.value, line)

    def _start(self, container: Mapping | Sequence, tag: str | None, line: int) -> None:
        if tag is not None:
            raise self._wrong(f"tags such as {tag[:40]} are not read", line)
        if self._open and isinstance(self._open[-1], Mapping) and self._keys[-1] is None:
            raise self._wrong("a key must be text", line)
        if len(self._open) >= MAX_DEPTH:
            raise FileError(f"is nested more than {MAX_DEPTH} levels deep", Where(file=self._file, line=line))
        if self._open:
            top, key = self._open[-1], self._keys[-1]
            self._steps.append(key if key is not None else len(top))
        self._put(container, line)
        self._open.append(container)
        self._keys.append(None)

    def _put(self, value: object, line: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise FileError(f"holds more than {MAX_VALUES:,} values; split it", Where(file=self._file, line=line))
        if not self._open:
            # Nothing but a mapping will do, and nothing more need be read to know.
            if value is not None and not isinstance(value, Mapping):
                raise self._no_manifest(line)
            self.root = value
            return
        top = self._open[-1]
        if isinstance(top, Mapping):
            key = self._keys[-1]
            assert key is not None
            top[key] = value
            self._keys[-1] = None
        else:
            top.append(value)
            top.lines.append(line)

    def _no_manifest(self, line: int) -> FileError:
        return FileError(_NO_MANIFEST, Where(file=self._file, line=line))

    def _wrong(self, sentence: str, line: int) -> FieldError:
        key = self._keys[-1] if self._keys else None
        path = (*self._steps, key) if key is not None else tuple(self._steps)
        return FieldError(dotted(path), sentence, file=self._file, line=line)


def _resolve(text: str) -> object:
    """Return the value of a plain scalar by the YAML 1.2 core schema."""
    if text in _BOOL:
        return _BOOL[text]
    if _NULL.fullmatch(text):
        return None
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
