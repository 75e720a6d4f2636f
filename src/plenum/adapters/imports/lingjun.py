"""Alibaba's Lingjun topology table: one row per host, ``ip,DSW,PSW,ASW``, a three-tier Clos.

A DSW (core switch) becomes a ``fabric.pod``, a PSW (aggregation) a ``fabric.spine`` below it, an ASW (top of rack) a
``fabric.leaf`` below that. ASW labels are numbered anew under each PSW: in the published table ``S14`` stands
under three PSWs, and every (PSW, ASW) pair has at most eight hosts, as one rack has, while a label alone has up to 24. So a leaf
is named ``DSW/PSW/ASW`` and a spine ``DSW/PSW``, which keeps the tree a tree whatever is numbered anew.
"""

from __future__ import annotations

from pathlib import Path

from plenum.adapters.imports.source import located
from plenum.adapters.traces.table import Row, read_rows
from plenum.graph.build import Device, FleetBuilder, NodeShape
from plenum.graph.templates import NodeTemplate
from plenum.model.errors import FileError, Where
from plenum.model.fleet import DeviceKind, Fleet

COLUMNS = ("ip", "DSW", "PSW", "ASW")
PLAIN = NodeTemplate(shape=NodeShape(devices=(Device(kind=DeviceKind.GPU),) * 8))
"""A host that nothing is known of but that it has eight GPUs."""


def read_fleet(path: Path, *, name: str = "lingjun", template: NodeTemplate = PLAIN) -> Fleet:
    """Read a topology table; hosts stand in the order of the file.

    Parameters
    ----------
    template
        What each host is: the table does not say.

    Raises
    ------
    FieldError
        An empty cell, or a host listed twice (it would be in two racks).
    FileError
        A file that is missing, empty or not such a table.
    """
    builder = FleetBuilder(name)
    hosts: dict[str, Row] = {}
    leaves: list[str] = []
    for row in read_rows(path, COLUMNS):
        ip = _cell(row, "ip")
        if ip in hosts:
            raise row.wrong(
                "ip", f"host {ip!r} is listed twice, first on line {hosts[ip].line}; it is in one rack only"
            )
        hosts[ip] = row
        with located(row.file, row.line):
            leaves.append(_leaf(builder, *(_cell(row, column) for column in COLUMNS[1:])))
    if not hosts:
        raise FileError("lists no hosts", Where(file=str(path)))
    homes = {"fabric": leaves}
    if template.nodes_per_nvlink == 1:
        homes["scaleup"] = [builder.domain("scaleup.nvlink", ip, parent=None) for ip in hosts]
    with located(str(path)):
        builder.nodes(list(hosts), template.shape, domains=homes)
    return builder.build()


def _leaf(builder: FleetBuilder, dsw: str, psw: str, asw: str) -> str:
    """Return the path of a host's leaf, made with all that is above it."""
    pod = builder.domain("fabric.pod", dsw, parent=None)
    spine = builder.domain("fabric.spine", f"{dsw}/{psw}", parent=pod)
    return builder.domain("fabric.leaf", f"{dsw}/{psw}/{asw}", parent=spine)


def _cell(row: Row, column: str) -> str:
    text = row.text(column)
    if not text:
        raise row.wrong(column, "must not be empty")
    return text
