"""The matrix that ``nvidia-smi topo -m`` prints.

GPUs joined by NVLink (``NV#``), directly or through others, share a ``scaleup.nvlink`` domain; GPUs and NICs that reach each other
without a host bridge (``PIX``, ``PXB``) share a ``place.pcie`` domain. A NIC has the NUMA node of a GPU that it reaches without
crossing sockets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plenum.adapters.host import Host, HostDevice, connected, fleet_of
from plenum.adapters.imports.hostlist import numbers
from plenum.adapters.imports.source import located, read_text, shown
from plenum.model.errors import FieldError, FileError, Where
from plenum.model.fleet import DeviceKind, Fleet

MAX_BYTES = 2 * 2**20
MAX_DEVICES = 256
MAX_CPUS = 65_536

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL = re.compile(r"X|NV\d{1,3}|PIX|PXB|PHB|NODE|SYS|SOC|N/A")
_TAIL = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: tuple[str, ...]
    rest: tuple[str, ...]


def read_fleet(
    path: Path,
    *,
    names: Sequence[str] = ("host",),
    name: str = "nvidia-smi",
    model: str = "",
    gpu_memory_bytes: int = 0,
    memory_bytes: int | None = None,
) -> Fleet:
    """Read a host, and make a fleet of as many copies as there are names.

    Parameters
    ----------
    model, gpu_memory_bytes, memory_bytes
        GPU model, memory of a GPU and of the host: the matrix does not say.

    Raises
    ------
    FieldError
        A cell or an affinity that cannot be meant; a matrix that is not symmetric.
    FileError
        A file that is missing, too large or holds no matrix.
    """
    file = shown(path)
    columns, rows = _matrix(read_text(path, MAX_BYTES), file)
    _check_symmetry(columns, rows, file)
    ids = range(len(columns))
    gpus = [i for i in ids if columns[i].startswith("GPU")]
    pairs = [(i, j) for i in ids for j in ids if i < j]
    link = {(i, j): rows[columns[i]].cells[j] for i in ids for j in ids}
    nvlink = connected(gpus, [p for p in pairs if link[p].startswith("NV") and set(p) <= set(gpus)])
    switch = connected(ids, [p for p in pairs if link[p] in ("PIX", "PXB")])
    affinity = {i: _affinity(rows[columns[i]], file) for i in gpus}
    numa = {i: at for i, (_, at) in affinity.items()}
    for i in ids:
        if i not in affinity:
            near = [numa[g] for g in gpus if link[i, g] in ("PIX", "PXB", "PHB", "NODE")]
            numa[i] = near[0] if near else None
    host = Host(
        devices=tuple(
            HostDevice(
                kind=DeviceKind.GPU if i in affinity else DeviceKind.NIC,
                model=model if i in affinity else "",
                capacity=gpu_memory_bytes if i in affinity else 0,
                numa=numa[i],
                pcie=f"switch{switch[i]}" if i in switch else None,
                nvlink=nvlink.get(i),
            )
            for i in ids
        ),
        **_processors(list(affinity.values())),
        memory_bytes=memory_bytes,
    )
    with located(file):
        return fleet_of(host, list(names), fleet_name=name)


def _matrix(text: str, file: str) -> tuple[list[str], dict[str, _Row]]:
    columns: list[str] = []
    rows: dict[str, _Row] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = _ANSI.sub("", raw)
        if not columns:
            columns = _header(line, file, number)
        elif line.strip():
            name, row = _row(line.split(), columns, file, number)
            if name in rows:
                raise FieldError(name, f"has two rows, the first on line {rows[name].line}", file=file, line=number)
            rows[name] = row
            if len(rows) == len(columns):
                return columns, rows  # below is the legend
    if not columns:
        raise FileError("holds no matrix; write it with `nvidia-smi topo -m`", Where(file=file))
    missing = next(name for name in columns if name not in rows)
    raise FileError(f"has no row for {missing}: it is cut short", Where(file=file))


def _row(words: Sequence[str], columns: Sequence[str], file: str, line: int) -> tuple[str, _Row]:
    name, cells = words[0], words[1 : len(columns) + 1]
    if name not in columns:
        raise FieldError(
            "row", f"{name[:40]!r} is not one of the columns {columns[0]} to {columns[-1]}", file=file, line=line
        )
    if len(cells) < len(columns):
        raise FieldError(name, f"has {len(cells)} cells, but there are {len(columns)} columns", file=file, line=line)
    for column, cell in zip(columns, cells, strict=True):
        if not _CELL.fullmatch(cell) or (cell == "X") != (column == name):
            known = "X on the diagonal, else NV#, PIX, PXB, PHB, NODE or SYS"
            raise FieldError(f"{name}, column {column}", f"must be {known}, not {cell[:40]!r}", file=file, line=line)
    return name, _Row(line, tuple(cells), tuple(words[len(columns) + 1 :]))


def _header(line: str, file: str, number: int) -> list[str]:
    """Return the names of the devices if the line is the header, else nothing."""
    for title in _TAIL:
        line = line.replace(title, "")
    names = line.split()
    if not names or names[0] != "GPU0" or "X" in names:
        return []
    if len(names) > MAX_DEVICES:
        raise FieldError("header", f"{len(names)} devices; at most {MAX_DEVICES} are supported", file=file, line=number)
    if len(set(names)) != len(names):
        raise FieldError("header", "names a device twice", file=file, line=number)
    return names


def _check_symmetry(columns: Sequence[str], rows: dict[str, _Row], file: str) -> None:
    for i, a in enumerate(columns):
        for j, b in enumerate(columns[:i]):
            here, there = rows[a].cells[j], rows[b].cells[i]
            if here != there:
                sentence = f"is {here}, but {b}, column {a} is {there}; both ways must agree"
                raise FieldError(f"{a}, column {b}", sentence, file=file, line=rows[a].line)


def _affinity(row: _Row, file: str) -> tuple[frozenset[int], int | None]:
    """Return a GPU's CPUs and its NUMA node; several NUMA nodes are none in particular."""
    cpu = row.rest[0] if row.rest else "N/A"
    numa = row.rest[1] if len(row.rest) > 1 else "N/A"
    cpus: frozenset[int] = frozenset()
    if cpu != "N/A":
        with located(file, row.line):
            ranges = numbers(cpu, "CPU Affinity")
        if max(last for _, last in ranges) >= MAX_CPUS:
            raise FieldError("CPU Affinity", f"CPU numbers must be below {MAX_CPUS}", file=file, line=row.line)
        cpus = frozenset(i for first, last in ranges for i in range(first, last + 1))
    if numa == "N/A":
        return cpus, None
    with located(file, row.line):
        at = numbers(numa, "NUMA Affinity")
    return cpus, at[0][0] if len(at) == 1 and at[0][0] == at[0][1] else None


def _processors(affinity: Sequence[tuple[frozenset[int], int | None]]) -> dict:
    """Return the CPUs that the GPUs are near to, in all and by NUMA node; NUMA nodes without a GPU are not in the matrix."""
    every = frozenset[int]().union(*(cpus for cpus, _ in affinity))
    by_numa: dict[int, frozenset[int]] = {}
    for cpus, numa in affinity:
        if numa is not None and cpus:
            by_numa[numa] = by_numa.get(numa, frozenset()) | cpus
    return {
        "cpu_milli": len(every) * 1000 if every else None,
        "numa_cpu_milli": {numa: len(cpus) * 1000 for numa, cpus in by_numa.items()},
    }
