"""Microsoft's Philly training jobs: when each was submitted, how long it ran and on how many GPUs.

    DIR/training-traces/philly_jobs.csv.gz     (timestamp, duration [s], num_gpus, cluster)

Described by Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads" (USENIX ATC 2019).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from plenum.adapters.traces.table import Row, read_rows
from plenum.model.errors import FileError, Where
from plenum.sim.trace import JobTrace

PATH = Path("training-traces") / "philly_jobs.csv.gz"
COLUMNS = ("timestamp", "duration", "num_gpus", "cluster")
MAX_DURATION_S = 1e9
MAX_GPUS = 100_000


def read_jobs(path: Path) -> JobTrace:
    """Read the jobs, by time of submission; equal times keep the order of the file.

    Raises
    ------
    FieldError
        A value that cannot be meant: file, line and field are named.
    FileError
        A file that is missing, empty or not such a table.
    """
    rows = [_job(row) for row in read_rows(path, COLUMNS)]
    if not rows:
        raise FileError("lists no jobs", Where(file=str(path)))
    rows.sort(key=lambda job: job[0])
    submit_s, duration_s, gpus, tenant = zip(*rows, strict=True)
    return JobTrace(
        name="philly",
        submit_s=np.array(submit_s, np.float64) - submit_s[0],
        duration_s=np.array(duration_s, np.float64),
        gpus=np.array(gpus, np.int32),
        tenant=tuple(tenant),
        priority=np.zeros(len(rows), np.int32),
    )


def _job(row: Row) -> tuple[float, float, int, str]:
    text = row.text("timestamp")
    try:
        # The trace names no zone; differences are all that is used of it.
        submitted = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise row.wrong(
            "timestamp", f"must be a date and time such as 2017-10-09 07:01:55, not {text[:40]!r}"
        ) from None
    duration_s = row.real("duration", 1e-3, MAX_DURATION_S)
    return submitted, duration_s, row.whole("num_gpus", 1, MAX_GPUS), row.text("cluster") or "default"
