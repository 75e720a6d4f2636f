"""Slurm's files: ``topology.conf``, ``gres.conf`` and ``slurm.conf``.

Switches become the ``fabric`` tree by their height: those with nodes are leaves, those above them spines, those above
these pods; what is higher still is left out, since everything below it is reachable anyway. Blocks (``topology/block``) are
``scaleup.nvlink`` domains, which is what they are made for, unless told otherwise. GPUs come from ``gres.conf``, else from ``Gres=``
in ``slurm.conf``; their ``Cores=`` tell the NUMA nodes. Other generic resources become budgets ``gres_<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plenum.adapters.imports.hostlist import expand, numbers
from plenum.adapters.imports.source import located, read_text, shown
from plenum.graph.build import MAX_NUMA_PER_NODE, Device, FleetBuilder
from plenum.model import units
from plenum.model.errors import FieldError, FileError, Where
from plenum.model.fleet import CPU, MAX_GPUS_PER_NODE, MEMORY, DeviceKind, Fleet, Health

MAX_BYTES = 64 * 2**20
MAX_LINE = 1_000_000
MIB = 2**20
TIERS = ("fabric.leaf", "fabric.spine", "fabric.pod")
BLOCK_LEVELS = ("scaleup.nvlink", "fabric.leaf", "fabric.spine", "place.rack")

_SHARES = ("shard", "mps")  # ways to share the same GPUs, not further devices
_CORDONED = {"DRAIN", "DRAINING", "DRAINED", "MAINT", "FAILING"}
_DOWN = {"DOWN", "FAIL", "NO_RESPOND", "POWER_DOWN"}
_PAIR = re.compile(r'(?P<key>[A-Za-z_]+)\s*=\s*(?P<value>"[^"]*"|[^\s"]*)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One statement: ``Key=Value`` pairs, keys in lower case."""

    file: str
    number: int
    pairs: Mapping[str, str]

    def wrong(self, key: str, sentence: str) -> FieldError:
        """Return the error that says what is wrong with a key."""
        return FieldError(key, sentence, file=self.file, line=self.number)

    def names(self, key: str) -> list[str]:
        """Expand a hostlist."""
        with located(self.file, self.number):
            return expand(self.pairs[key.lower()], key)

    def count(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number, or None where the key is absent."""
        text = self.pairs.get(key.lower())
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 16 and low <= int(text) <= high):
            raise self.wrong(key, f"must be a whole number from {low} to {high}, not {text[:40]!r}")
        return int(text)


@dataclass(slots=True)
class _Gpu:
    """GPUs of one line of gres.conf on one node."""

    model: str
    count: int
    cores: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class _Node:
    """What the files say of one node; ``line`` is where it is named first."""

    line: Line
    leaf: str = ""
    block: str = ""
    gpus: list[_Gpu] = field(default_factory=list)
    other: dict[str, int] = field(default_factory=dict)
    declared: list[_Gpu] | None = None  # by slurm.conf
    config: Line | None = None


def read_fleet(
    topology: Path | None = None,
    gres: Path | None = None,
    slurm: Path | None = None,
    *,
    name: str = "slurm",
    block_level: str = "scaleup.nvlink",
) -> Fleet:
    """Read a cluster from any of its files.

    Where ``slurm`` is given it says which nodes there are, and the other files may name no others.

    Parameters
    ----------
    topology, gres, slurm
        ``topology.conf``, ``gres.conf`` and ``slurm.conf`` (its ``NodeName`` lines); at least one.
    block_level
        What a block of ``topology/block`` is: one of :data:`BLOCK_LEVELS`.

    Raises
    ------
    FieldError
        A value that cannot be meant; a node under two switches, switches in a ring, counts that disagree.
    FileError
        A file that is missing, too large or not such a file.
    """
    if topology is None and gres is None and slurm is None:
        raise FieldError("files", "give at least one of topology.conf, gres.conf and slurm.conf")
    if block_level not in BLOCK_LEVELS:
        raise FieldError("--block-level", f"must be one of {', '.join(BLOCK_LEVELS)}, not {block_level!r}")
    builder = FleetBuilder(name)
    nodes: dict[str, _Node] = {}
    if slurm:
        _read_nodes(slurm, nodes)
    closed = slurm is not None
    if topology:
        _read_topology(topology, builder, nodes, block_level, closed)
    if gres:
        _read_gres(gres, nodes, closed)
    if not nodes:
        given = [path for path in (topology, gres, slurm) if path]
        raise FileError("names no nodes", Where(file=shown(given[0])))
    for node_name, node in nodes.items():
        _add_node(builder, node_name, node, block_level)
    return builder.build()


def statements(path: Path) -> Iterator[Line]:
    """Yield the statements of a configuration file: comments dropped, lines that end in a backslash joined.

    Raises
    ------
    FieldError
        A line that is not made of ``Key=Value`` pairs.
    """
    text, file = read_text(path, MAX_BYTES), shown(path)
    held, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        if len(raw) + len(held) > MAX_LINE:
            raise FileError(f"has a line of more than {MAX_LINE:,} characters", Where(file=file, line=number))
        line = raw.split("#", 1)[0].rstrip()
        first = first if held else number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        line, held = (held + line).strip(), ""
        if line and not line.lower().startswith("include "):
            yield _statement(line, file, first)


def _statement(line: str, file: str, number: int) -> Line:
    pairs: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = _PAIR.match(line, at)
        if match is None or (match.end() < len(line) and not line[match.end()].isspace()):
            raise FieldError("line", f"{line[at : at + 40]!r} is not Key=Value", file=file, line=number)
        key = match["key"].lower()
        if key in pairs:
            raise FieldError(match["key"], "is given twice on one line", file=file, line=number)
        pairs[key] = match["value"].strip('"')
        at = match.end()
        while at < len(line) and line[at].isspace():
            at += 1
    return Line(file=file, number=number, pairs=pairs)


# -- slurm.conf -----------------------------------------------------------------------------------


def _read_nodes(path: Path, nodes: dict[str, _Node]) -> None:
    defaults: dict[str, str] = {}
    for line in statements(path):
        if "nodename" not in line.pairs:
            continue
        if line.pairs["nodename"].upper() == "DEFAULT":
            defaults |= {key: value for key, value in line.pairs.items() if key != "nodename"}
            continue
        line = Line(file=line.file, number=line.number, pairs=defaults | dict(line.pairs))
        if "FUTURE" in _states(line):  # defined, but not there yet
            continue
        for name in line.names("NodeName"):
            if name in nodes:
                first = nodes[name].line.number
                raise line.wrong("NodeName", f"node {name!r} is listed twice, first on line {first}; keep one")
            nodes[name] = _Node(line, config=line, declared=_declared(line, others := {}), other=others)
    if not nodes:
        raise FileError("has no NodeName lines", Where(file=shown(path)))


def _declared(line: Line, others: dict[str, int]) -> list[_Gpu]:
    """Return the GPUs of ``Gres=gpu:h100:8,nvme:2``; other resources go to ``others``."""
    gpus = []
    for item in filter(None, re.split(r",(?![^()]*\))", line.pairs.get("gres", ""))):
        parts = item.partition("(")[0].split(":")
        kind = parts[0].lower()
        tail = parts[-1] if len(parts) > 1 and parts[-1][:1].isdigit() else "1"
        label = ":".join(part for part in parts[1:] if part != "no_consume" and part != tail)
        with located(line.file, line.number):
            amount = units.parse(tail, "count", "Gres")
        if kind == "gpu":
            gpus.append(_Gpu(label, _gpu_count(line, "Gres", amount), ()))
        elif kind not in _SHARES:
            others[f"gres_{kind}"] = others.get(f"gres_{kind}", 0) + amount
    return gpus


# -- topology.conf --------------------------------------------------------------------------------


def _read_topology(path: Path, builder: FleetBuilder, nodes: dict[str, _Node], block_level: str, closed: bool) -> None:
    switches: dict[str, Line] = {}
    blocks = 0
    for line in statements(path):
        if "switchname" in line.pairs:
            for name in line.names("SwitchName"):
                if name in switches:
                    first = switches[name].number
                    raise line.wrong("SwitchName", f"switch {name!r} is defined twice, first on line {first}")
                switches[name] = line
        elif "blockname" in line.pairs:
            blocks += 1
            _read_block(line, builder, nodes, block_level, closed)
        elif "blocksizes" not in line.pairs:
            known = "SwitchName, BlockName or BlockSizes"
            raise line.wrong("line", f"must start with {known}, not {next(iter(line.pairs))!r}")
    if not switches and not blocks:
        raise FileError("has no SwitchName and no BlockName lines", Where(file=shown(path)))
    parents = _parents(switches)
    _add_switches(builder, switches, parents)
    for name, line in switches.items():
        for node_name in line.names("Nodes") if "nodes" in line.pairs else []:
            node = _node(nodes, node_name, line, "Nodes", closed)
            if node.leaf:
                where = f"{node.leaf} and {name}"
                raise line.wrong(
                    "Nodes", f"node {node_name!r} is under two switches, {where}; it can be under one only"
                )
            node.leaf = name


def _read_block(line: Line, builder: FleetBuilder, nodes: dict[str, _Node], level: str, closed: bool) -> None:
    block = line.pairs["blockname"]
    if builder.has(f"{level}:{block}"):
        raise line.wrong("BlockName", f"block {block!r} is defined twice")
    if "nodes" not in line.pairs:
        raise line.wrong("Nodes", f"block {block!r} names no nodes")
    with located(line.file, line.number):
        builder.domain(level, block, parent=None)
    for node_name in line.names("Nodes"):
        node = _node(nodes, node_name, line, "Nodes", closed)
        if node.block:
            where = f"{node.block} and {block}"
            raise line.wrong("Nodes", f"node {node_name!r} is in two blocks, {where}; it can be in one only")
        node.block = block


def _parents(switches: Mapping[str, Line]) -> dict[str, str]:
    """Return each switch's parent, and check that every switch has one at most and something below it."""
    parents: dict[str, str] = {}
    for name, line in switches.items():
        if ("nodes" in line.pairs) == ("switches" in line.pairs):
            raise line.wrong("SwitchName", f"switch {name!r} must have either Nodes= or Switches=")
        for child in line.names("Switches") if "switches" in line.pairs else []:
            if child not in switches:
                raise line.wrong("Switches", f"there is no switch {child!r}; define it with SwitchName={child}")
            if parents.setdefault(child, name) != name:
                where = f"{parents[child]} and {name}"
                raise line.wrong("Switches", f"switch {child!r} is under two switches, {where}; keep one")
    return parents


def _add_switches(builder: FleetBuilder, switches: Mapping[str, Line], parents: Mapping[str, str]) -> None:
    """Add switches as domains, top first; their level is their height over the nodes."""
    _check_rings(switches, parents)
    height = {name: 1 for name, line in switches.items() if "nodes" in line.pairs}
    for leaf in list(height):
        name = leaf
        while name in parents:
            above = parents[name]
            if height.get(above, 0) > height[name]:  # the rest of the way up is high enough already
                break
            height[above] = height[name] + 1
            name = above
    for name in sorted(switches, key=lambda name: (-height[name], switches[name].number, name)):
        if height[name] > len(TIERS):
            continue
        above = parents.get(name)
        parent = f"{TIERS[height[above] - 1]}:{above}" if above and height[above] <= len(TIERS) else None
        with located(switches[name].file, switches[name].number, "SwitchName"):
            builder.domain(TIERS[height[name] - 1], name, parent=parent)


def _check_rings(switches: Mapping[str, Line], parents: Mapping[str, str]) -> None:
    safe: set[str] = set()
    for start in switches:
        way: dict[str, None] = {}
        name = start
        while name not in safe and name in parents and name not in way:
            way[name] = None
            name = parents[name]
        if name in way:
            ring = [*list(way)[list(way).index(name) :], name][::-1]
            shown_ring = " > ".join(ring if len(ring) <= 8 else [*ring[:6], "…", ring[-1]])
            raise switches[name].wrong("Switches", f"switches form a ring, {shown_ring}; a tree has none")
        safe |= set(way)


# -- gres.conf ------------------------------------------------------------------------------------


def _read_gres(path: Path, nodes: dict[str, _Node], closed: bool) -> None:
    everywhere: list[Line] = []
    named: set[tuple[str, str]] = set()
    for line in statements(path):
        kind = line.pairs.get("name", "").lower()
        if not kind:
            if "autodetect" not in line.pairs:
                raise line.wrong("Name", "is missing; a line names a resource, such as Name=gpu")
        elif kind in _SHARES:
            continue
        elif "nodename" not in line.pairs:
            everywhere.append(line)
        else:
            for node_name in line.names("NodeName"):
                node = _node(nodes, node_name, line, "NodeName", closed)
                _add_gres(node, line, kind, fresh=(node_name, kind) not in named)
                named.add((node_name, kind))
    for line in everywhere:  # a line without NodeName is of every node that declares the resource
        kind = line.pairs["name"].lower()
        for node_name, node in nodes.items():
            if (node_name, kind) not in named and (node.config is None or _declares(node, kind)):
                _add_gres(
                    node, line, kind, fresh=line is next(x for x in everywhere if x.pairs["name"].lower() == kind)
                )


def _declares(node: _Node, kind: str) -> bool:
    return bool(node.declared) if kind == "gpu" else f"gres_{kind}" in node.other


def _add_gres(node: _Node, line: Line, kind: str, *, fresh: bool) -> None:
    """Add a line of gres.conf to a node; the first of a kind replaces what slurm.conf counts of it."""
    count = _count(line)
    if kind != "gpu":
        node.other[f"gres_{kind}"] = count + (0 if fresh else node.other.get(f"gres_{kind}", 0))
        return
    with located(line.file, line.number):
        cores = tuple(numbers(line.pairs["cores"], "Cores")) if "cores" in line.pairs else ()
    node.gpus.append(_Gpu(line.pairs.get("type", ""), _gpu_count(line, "Count", count), cores))


def _count(line: Line) -> int:
    files = len(line.names("File")) if "file" in line.pairs else 0
    if "count" not in line.pairs:
        return files or 1
    with located(line.file, line.number):
        count = units.parse(line.pairs["count"], "count", "Count")
    if files and count != files:
        raise line.wrong("Count", f"is {count}, but File names {files} devices; make them agree or leave Count out")
    return count


def _gpu_count(line: Line, key: str, count: int) -> int:
    if count > MAX_GPUS_PER_NODE:
        raise line.wrong(key, f"{count} GPUs in one node; at most {MAX_GPUS_PER_NODE} are supported")
    return count


# -- nodes ----------------------------------------------------------------------------------------


def _node(nodes: dict[str, _Node], name: str, line: Line, key: str, closed: bool) -> _Node:
    if closed and name not in nodes:
        raise line.wrong(key, f"node {name!r} is not in slurm.conf")
    return nodes.setdefault(name, _Node(line))


def _add_node(builder: FleetBuilder, name: str, node: _Node, block_level: str) -> None:
    config = node.config
    homes = {}
    if node.leaf:
        homes["fabric"] = f"{TIERS[0]}:{node.leaf}"
    if node.block:
        homes[block_level.split(".")[0]] = f"{block_level}:{node.block}"
    gpus = node.gpus or node.declared or []
    total, stated = sum(gpu.count for gpu in gpus), sum(gpu.count for gpu in node.declared or [])
    if config and node.gpus and total != stated:
        raise config.wrong("Gres", f"node {name!r} has {stated} GPUs here and {total} in gres.conf; make them agree")
    budgets = dict(node.other)
    numa_cpu: tuple[int, ...] = ()
    per_socket = 0
    if config:
        cpus, sockets, per_socket = _processors(config)
        budgets[CPU] = cpus * 1000
        memory_mib = config.count("RealMemory", 0, 2**40)
        if memory_mib is not None:
            budgets[MEMORY] = memory_mib * MIB
        if 1 < sockets <= MAX_NUMA_PER_NODE and cpus % sockets == 0:
            numa_cpu = (cpus // sockets * 1000,) * sockets
    numa = _numa(gpus, per_socket, len(numa_cpu))
    states = _states(config) if config else set()
    with located(node.line.file, node.line.number):
        builder.node(
            name,
            domains=homes,
            budgets=budgets,
            numa_cpu_milli=numa_cpu,
            devices=[
                Device(kind=DeviceKind.GPU, model=gpu.model, numa=at)
                for gpu, at in zip(gpus, numa, strict=True)
                for _ in range(gpu.count)
            ],
            traits=_features(config) if config else (),
            health=Health.DOWN if states & _DOWN else Health.HEALTHY,
            cordoned=bool(states & _CORDONED),
        )


def _processors(config: Line) -> tuple[int, int, int]:
    """Return a node's logical CPUs, sockets and cores a socket, with Slurm's defaults of one."""
    most = 65_536
    sockets = config.count("Sockets", 1, most) or config.count("SocketsPerBoard", 1, most) or 1
    cores = config.count("CoresPerSocket", 1, most)
    threads = config.count("ThreadsPerCore", 1, most) or 1
    cpus = config.count("CPUs", 1, most)
    if cpus is None:
        cpus = sockets * (cores or 1) * threads
    return cpus, sockets, cores or max(1, cpus // (sockets * threads))


def _numa(gpus: Sequence[_Gpu], per_socket: int, sockets: int) -> list[int | None]:
    """Return the NUMA node of each group of GPUs: its first core's socket, or, with sockets unknown, by distinct core sets."""
    if sockets:
        at = [gpu.cores[0][0] // per_socket if gpu.cores else None for gpu in gpus]
        return [q if q is not None and q < sockets else None for q in at]
    sets = sorted({gpu.cores for gpu in gpus if gpu.cores})
    if not 1 < len(sets) <= MAX_NUMA_PER_NODE:
        return [None] * len(gpus)
    return [sets.index(gpu.cores) if gpu.cores else None for gpu in gpus]


def _features(config: Line) -> list[str]:
    text = config.pairs.get("features") or config.pairs.get("feature") or ""
    return sorted(set(filter(None, re.split(r"[,\s]+", text))))


def _states(config: Line) -> set[str]:
    return set(filter(None, re.split(r"[+,\s]+", config.pairs.get("state", "").upper())))
