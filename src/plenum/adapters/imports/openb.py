"""Alibaba's openb node lists: one row per node, ``sn,cpu_milli,memory_mib,gpu,model``."""

from __future__ import annotations

from pathlib import Path

from plenum.adapters.traces.table import Row, read_rows
from plenum.graph.build import Device, FleetBuilder
from plenum.model.errors import FileError, Where
from plenum.model.fleet import CPU, MAX_GPUS_PER_NODE, MEMORY, PODS, DeviceKind, Fleet
from plenum.model.units import MAX_QUANTITY

COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
MIB = 2**20
PODS_PER_NODE = 1001
"""The limit of the simulator that the published results were measured with."""


def read_fleet(path: Path, *, name: str = "openb") -> Fleet:
    """Read a node list.

    Returns
    -------
    Fleet
        Nodes in the order of their names: replay files rank them so.

    Raises
    ------
    FieldError
        A value that cannot be meant, or a node listed twice.
    FileError
        A file that is missing, empty or not such a table.
    """
    rows: dict[str, Row] = {}
    for row in read_rows(path, COLUMNS):
        sn = row.text("sn")
        if not sn:
            raise row.wrong("sn", "must not be empty")
        if sn in rows:
            raise row.wrong("sn", f"node {sn!r} is listed twice, first on line {rows[sn].line}; keep one")
        rows[sn] = row
    if not rows:
        raise FileError("lists no nodes", Where(file=str(path)))
    builder = FleetBuilder(name)
    for sn in sorted(rows):
        _add_node(builder, sn, rows[sn])
    return builder.build()


def _add_node(builder: FleetBuilder, name: str, row: Row) -> None:
    gpus = row.whole("gpu", 0, MAX_GPUS_PER_NODE)
    model = row.text("model")
    if gpus and not model:
        raise row.wrong("model", f"must name the model of the node's {gpus} GPUs")
    builder.node(
        name,
        budgets={
            CPU: row.whole("cpu_milli", 0, MAX_QUANTITY - 1),
            MEMORY: row.whole("memory_mib", 0, MAX_QUANTITY // MIB - 1) * MIB,
            PODS: PODS_PER_NODE,
        },
        devices=[Device(kind=DeviceKind.GPU, model=model)] * gpus,
    )
