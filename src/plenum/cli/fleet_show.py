"""``plenum fleet show``: draw one of a fleet's trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, console, write_json
from plenum.model.units import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from plenum.graph.occupancy import Occupancy
    from plenum.model import Fleet, View

MAX_LINES = 40
"""Lines that a tree may take where nobody says how deep it should go."""

MAX_UNLIKE = 8
"""Siblings drawn one by one; the rest become one line."""

BAR_CELLS = 6


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--axis", type=click.Choice(["place", "fabric", "scaleup", "power"]), default="place", show_default=True,
    help="Which tree.",
)  # fmt: skip
@click.option("--depth", type=click.IntRange(1, 16), help="Levels to draw; default: as many as fit a screen.")
@click.option("--level", help="Lowest level to draw, such as rack or place.rack.")
@click.option("--running", multiple=True, type=click.Path(dir_okay=False), help="Workloads to place first.")
@choose_output
def command(file: str, axis: str, depth: int | None, level: str | None, running: tuple[str, ...], output: str) -> None:
    """Draw one of a fleet's trees with what it holds and how full it is.

    Siblings that are alike in everything below them are drawn once.

    \b
    plenum fleet show examples/fleet-100k.yaml
    plenum fleet show examples/fleet-lab.yaml --axis fabric
    plenum fleet show examples/fleet-lab.yaml --running examples/jobs.yaml --level node
    """
    view = _view(file, running)
    lowest = _lowest_level(axis, level)
    if output == "json":
        write_json(fleet_json(view, axis, depth=depth, lowest=lowest))
    else:
        console().print(fleet_tree(view, axis, depth=depth, lowest=lowest))


def _view(file: str, running: tuple[str, ...]) -> View:
    from plenum.adapters.manifests.fleet import read_fleet

    if running:
        from plenum.cli.situation import decided

        situation = decided(running, file, (), "plenum", 0)
        return situation.plan.applied_to(situation.view)
    from plenum.model import View

    return View(fleet=read_fleet(file))


def _lowest_level(axis: str, level: str | None) -> int | None:
    from plenum.model.fleet import LEVEL, level_id

    if level is None:
        return None
    name = level if "." in level else f"{axis}.{level}"
    if name in LEVEL and not name.startswith(f"{axis}."):
        raise click.BadParameter(f"{name} is not on the axis {axis}", param_hint="--level")
    return level_id(name, "--level")


def fleet_json(view: View, axis: str, *, depth: int | None = None, lowest: int | None = None) -> dict[str, Any]:
    """Return every domain of an axis, none folded, as plain values; bytes, watts, bit/s and thousandths."""
    from plenum.graph.occupancy import occupancy

    fleet = view.fleet
    tree = _Tree.of(fleet, occupancy(view), axis)
    domains = []
    for domain, _ in tree.walk(depth, lowest):
        parent = int(fleet.domain_parent[domain])
        domains.append(
            {
                "domain": _path(fleet, domain),
                "parent": _path(fleet, parent) if parent >= 0 else None,
                **tree.numbers(domain),
            }
        )
    totals = {"nodes": fleet.n_nodes, "gpus": fleet.n_gpus, "running": len(view.running)}
    return {"fleet": fleet.name, "axis": axis, **totals, "domains": domains}


def fleet_tree(view: View, axis: str, *, depth: int | None = None, lowest: int | None = None) -> RenderableType:
    """Return a drawing of one axis: a line a domain, like siblings folded.

    Parameters
    ----------
    depth
        Levels to draw; None: as many as take at most :data:`MAX_LINES` lines, or down to ``lowest``.
    lowest
        Id of the lowest level to draw.
    """
    from rich.table import Table

    from plenum.graph.occupancy import occupancy

    fleet = view.fleet
    tree = _Tree.of(fleet, occupancy(view), axis)
    if depth is None and lowest is None:
        depth = next((d for d in range(16, 1, -1) if len(list(tree.folded(d, None))) <= MAX_LINES), 1)
    busy = bool(len(view.rows))
    lines = list(tree.folded(depth, lowest))
    # A column that says nothing is left out, and memory where bars need the room.
    wanted = [name for name in _COLUMNS[axis] if not (busy and name == "memory")]
    columns = [name for name in wanted if any(str(_CELLS[name](line.numbers, busy)) for line in lines)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=_title(view, axis), title_justify="left")
    for name in ("", *columns):
        right = name == "nodes" or (name not in ("", "uplink", "notes") and not busy)
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "notes", overflow="ellipsis")
    for line in lines:
        cells = [_CELLS[name](line.numbers, busy) for name in columns]
        table.add_row(_label(line), *cells, style="dim" if line.like is not None else "")
    if not lines:
        table.add_row(f"nothing is on the axis {axis}")
    return table


# -- the tree ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the drawing: a domain, or ``count`` siblings in one, like the one before or (``like`` False) not."""

    guide: str
    level: str
    name: str
    numbers: dict[str, Any]
    count: int = 1
    like: bool | None = None


@dataclass(frozen=True, slots=True)
class _Tree:
    fleet: Fleet
    columns: dict[str, list[int]]
    uplink: dict[int, int]
    nic_bps: list[int]
    tops: list[int]
    below: dict[int, list[int]]
    kind: dict[int, int]
    """Domains of one kind are alike in everything that is below them."""

    @staticmethod
    def of(fleet: Fleet, full: Occupancy, axis: str) -> _Tree:
        from dataclasses import fields

        import numpy as np

        from plenum.graph.occupancy import children_of, device_totals, own_budgets
        from plenum.model import DeviceKind

        tops, below = children_of(fleet, axis)
        columns = {item.name: getattr(full, item.name).tolist() for item in fields(full)}
        nic = np.where(fleet.device_kind == DeviceKind.NIC, fleet.device_capacity, 0)
        nic_bps = device_totals(fleet, nic).tolist()
        domain, capacity = own_budgets(fleet, "uplink_bps")
        uplink = dict(zip(domain.tolist(), capacity.tolist(), strict=True))
        tree = _Tree(fleet, columns, uplink, nic_bps, tops, below, {})
        tree._find_kinds()
        return tree

    def _find_kinds(self) -> None:
        numbers: dict[tuple, int] = {}
        here = sorted({*self.tops, *(d for under in self.below.values() for d in under)}, reverse=True)
        level = self.fleet.domain_level.tolist()
        values = list(self.columns.values())
        # A parent stands before its children, so going backwards every child's kind is known.
        for domain in here:
            under = sorted(self.kind[child] for child in self.below.get(domain, ()))
            key = (level[domain], self.uplink.get(domain), *(v[domain] for v in values), *under)
            self.kind[domain] = numbers.setdefault(key, len(numbers))

    def walk(self, depth: int | None, lowest: int | None) -> Iterator[tuple[int, int]]:
        """Yield (domain, depth) from the top, a domain before what is in it."""
        stack = [(domain, 1) for domain in reversed(self.tops)]
        while stack:
            domain, at = stack.pop()
            if not self._drawn(domain, at, depth, lowest):
                continue
            yield domain, at
            stack += [(child, at + 1) for child in reversed(self.below.get(domain, ()))]

    def folded(self, depth: int | None, lowest: int | None) -> Iterator[_Line]:
        """Yield the lines of the drawing."""
        yield from self._folded(self.tops, "", 1, depth, lowest, top=True)

    def _folded(
        self, siblings: list[int], guide: str, at: int, depth: int | None, lowest: int | None, *, top: bool
    ) -> Iterator[_Line]:
        entries = self._grouped([d for d in siblings if self._drawn(d, at, depth, lowest)])
        for i, (shown, rest, like) in enumerate(entries):
            last = i == len(entries) - 1
            branch = "" if top else guide + ("└─ " if last else "├─ ")
            if shown is None:
                name, level = "", self._level(rest[0])
                yield _Line(branch, level, name, self._sum(rest), len(rest), like)
                continue
            yield _Line(branch, self._level(shown), self.fleet.domain_name[shown], self.numbers(shown))
            deeper = "" if top else guide + ("   " if last else "│  ")
            yield from self._folded(self.below.get(shown, []), deeper, at + 1, depth, lowest, top=False)

    def _grouped(self, siblings: list[int]) -> list[tuple[int | None, list[int], bool]]:
        """Return what to draw: a domain by itself, or (None, domains, alike) as one line."""
        by_kind: dict[int, list[int]] = {}
        for domain in siblings:
            by_kind.setdefault(self.kind[domain], []).append(domain)
        entries: list[tuple[int | None, list[int], bool]] = []
        groups = list(by_kind.values())
        shown = groups if len(groups) <= MAX_UNLIKE else groups[: MAX_UNLIKE - 1]
        for group in shown:
            entries.append((group[0], [], False))
            if len(group) == 2:
                entries.append((group[1], [], False))
            elif len(group) > 2:
                entries.append((None, group[1:], True))
        rest = [domain for group in groups[len(shown) :] for domain in group]
        if rest:
            entries.append((None, rest, False))
        return entries

    def _drawn(self, domain: int, at: int, depth: int | None, lowest: int | None) -> bool:
        return (depth is None or at <= depth) and (lowest is None or self.fleet.domain_level[domain] <= lowest)

    def _level(self, domain: int) -> str:
        from plenum.model.fleet import LEVELS

        return LEVELS[self.fleet.domain_level[domain]].split(".")[1]

    def numbers(self, domain: int) -> dict[str, Any]:
        """Return what a domain holds."""
        uplink = self.uplink.get(domain)
        own = {name: column[domain] for name, column in self.columns.items()}
        return {**own, "nic_bps": self.nic_bps[domain], "uplink_bps": uplink}

    def _sum(self, domains: list[int]) -> dict[str, Any]:
        parts = [self.numbers(domain) for domain in domains]
        uplinks = [part.pop("uplink_bps") for part in parts]
        total = {name: sum(part[name] for part in parts) for name in parts[0]}
        return {**total, "uplink_bps": None if None in uplinks else sum(uplinks)}


def _path(fleet: Fleet, domain: int) -> str:
    return fleet.domain_path(domain).replace(" ", ":", 1)


# -- the drawing ------------------------------------------------------------------------------------


def _title(view: View, axis: str) -> Any:
    from rich.text import Text

    fleet = view.fleet
    text = Text(fleet.name, style="bold")
    size = f"{counted(fleet.n_nodes, 'node')}, {counted(fleet.n_gpus, 'GPU')}"
    text.append(f"  {size}, {counted(len(view.running), 'workload')}", style="not bold")
    return text.append(f"; axis {axis}", style="not bold")


def _label(line: _Line) -> Any:
    from rich.text import Text

    text = Text(line.guide, style="dim")
    if line.like is None:
        return text.append(f"{line.level} ", style="not dim cyan").append(line.name, style="not dim")
    like = " like it" if line.like else ""
    return text.append(f"… {line.count:,} more {line.level}{'s' if line.count > 1 else ''}{like}")


def _nodes(n: dict[str, Any], busy: bool) -> str:
    return f"{n['nodes']:,}" if n["nodes"] else ""


def _gpus(n: dict[str, Any], busy: bool) -> Any:
    used = f"{n['gpu_used_milli'] / 1000:,.6g}/" if busy else ""
    return _bar(n["gpu_used_milli"] / 1000, n["gpus"], f"{used}{n['gpus']:,}", busy)


def _cores(n: dict[str, Any], busy: bool) -> str:
    used = f"{_short(n['cpu_used_milli'] / 1000)}/" if busy else ""
    return used + _short(n["cpu_milli"] / 1000) if n["cpu_milli"] else ""


def _memory(n: dict[str, Any], busy: bool) -> str:
    return _amount(n["memory_used_bytes"], n["memory_bytes"], "memory_bytes", busy)


def _watts(n: dict[str, Any], busy: bool) -> str:
    return _amount(n["power_used_w"], n["power_w"], "power_w", busy)


def _watts_bar(n: dict[str, Any], busy: bool) -> Any:
    return _bar(n["power_used_w"], n["power_w"], _watts(n, busy), busy)


def _uplink(n: dict[str, Any], busy: bool) -> str:
    if not n["uplink_bps"]:
        return "" if n["uplink_bps"] is None else "cut off"
    ratio = f"  {n['nic_bps'] / n['uplink_bps']:.3g}:1"
    return _amount(0, n["uplink_bps"], "uplink_bps", False) + ratio


def _notes(n: dict[str, Any], busy: bool) -> Any:
    from rich.text import Text

    parts = [f"{n[key]:,} {word}" for key, word in (("closed", "closed"), ("gpus_bad", "GPUs bad")) if n[key]]
    return Text(", ".join(parts).replace("1 GPUs", "1 GPU"), style="not dim yellow")


def _short(number: float) -> str:
    """Write a number in at most five characters."""
    for factor, letter in ((10**6, "M"), (10**4, "k")):
        if number >= factor:
            return f"{number / (factor if letter == 'M' else 1000):.3g}{letter}"
    return f"{number:.4g}"


def _amount(used: int, capacity: int, resource: str, busy: bool) -> str:
    """Write ``5.4/42 kW``: what is used in the unit of what there is."""
    from plenum.model.units import show

    if not capacity:
        return ""
    text = show(capacity, resource)
    number, _, _ = text.partition(" ")
    return f"{used * float(number) / capacity:.3g}/{text}" if busy else text


def _bar(used: float, capacity: float, label: str, busy: bool) -> Any:
    """Return figures, after a bar where something runs; empty where there is no capacity."""
    from rich.text import Text

    if not capacity:
        return Text("")
    if not busy:
        return Text(label)
    share = min(used / capacity, 1.0)
    # A little use shows as one cell, and only a full domain shows all of them.
    cells = min(max(round(share * BAR_CELLS), used > 0), BAR_CELLS - (share < 1))
    colour = "red" if share >= 0.95 else "yellow" if share >= 0.75 else "green"
    text = Text("█" * cells, style=colour)
    return text.append("░" * (BAR_CELLS - cells), style="dim").append(f" {label}", style="default")


_CELLS = {
    "nodes": _nodes,
    "GPUs": _gpus,
    "cores": _cores,
    "memory": _memory,
    "power": _watts,
    "watts": _watts_bar,
    "uplink": _uplink,
    "notes": _notes,
}
_COLUMNS = {
    "place": ("nodes", "GPUs", "cores", "memory", "power", "notes"),
    "fabric": ("nodes", "GPUs", "uplink", "notes"),
    "scaleup": ("nodes", "GPUs", "notes"),
    "power": ("nodes", "GPUs", "watts", "notes"),
}
