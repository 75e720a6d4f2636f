"""Alibaba's openb traces: pod lists, replay orders and the published results, in a folder laid out as published.

    DIR/openb/openb_node_list_gpu_node.csv
    DIR/openb/openb_pod_list_<variant>.csv.gz     (or plain .csv)
    DIR/openb/replay/<variant>.npz                (order_<seed>, noderank_<seed>)
    DIR/openb/published_allocation.csv            (optional)

Pods without a GPU, shares, whole GPUs and any-of model lists follow the protocol of Weng et al., "Beware of
Fragmentation" (USENIX ATC 2023).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plenum.adapters.traces.table import Row, read_rows
from plenum.model import GPU, FieldError, Fleet, Request
from plenum.model.errors import FileError, Where
from plenum.model.fleet import MAX_GPUS_PER_NODE
from plenum.model.units import MAX_QUANTITY
from plenum.sim.trace import Arrivals, ArrivalTrace

NODE_LIST = "openb_node_list_gpu_node.csv"
POD_LIST = re.compile(r"openb_pod_list_(?P<variant>.+?)\.csv(\.gz)?")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
MIB = 2**20
MAX_MEMORY_MIB = MAX_QUANTITY // MIB
MAX_REPLAY_BYTES = 512 * MIB
"""Unpacked size of a replay file: a thousand times that of the published ones."""

PUBLISHED_POLICY = {
    "01-Random": "random",
    "02-DotProd": "dot-product",
    "03-GpuClustering": "gpu-clustering",
    "04-GpuPacking": "gpu-packing",
    "05-BestFit": "best-fit",
    "06-FGD": "fgd",
}
"""The published names of the policies, and ours."""


def variants(data: Path) -> list[str]:
    """Return the names of the pod lists under ``data``, sorted; empty where there is none."""
    folder = data / "openb"
    names = [POD_LIST.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({match["variant"] for match in names if match})


def read_trace(data: Path, variant: str, fleet: Fleet, seeds: Sequence[int] | None = None) -> ArrivalTrace:
    """Read one variant.

    Parameters
    ----------
    data
        The folder that holds ``openb/``.
    fleet
        From ``openb_node_list_gpu_node.csv``; the ranks of the replay file are put in its node order.
    seeds
        Those to read; None: all that the replay file has.

    Raises
    ------
    FieldError
        An unknown variant or seed (the sentence says what exists), or a bad value in a pod list.
    FileError
        A file that is missing or not what it should be.
    """
    known = variants(data)
    if variant not in known:
        exist = ", ".join(f"openb/{name}" for name in known) or "none"
        raise FieldError("TRACE", f"there is no pod list openb/{variant} in {data}; there: {exist}")
    pods = read_pods(_pod_list(data, variant))
    arrivals = read_replay(data / "openb" / "replay" / f"{variant}.npz", fleet, len(pods), seeds)
    return ArrivalTrace.of_pods(f"openb/{variant}", fleet, pods, arrivals)


def read_pods(path: Path) -> list[Request]:
    """Read a pod list, sorted by name as the replay orders index it.

    Raises
    ------
    FieldError, FileError
        See :func:`read_trace`.
    """
    pods: dict[str, Request] = {}
    for row in read_rows(path, POD_COLUMNS):
        name = row.text("name")
        if not name:
            raise row.wrong("name", "must not be empty")
        if name in pods:
            raise row.wrong("name", f"pod {name!r} is listed twice; names must differ")
        pods[name] = _request(row)
    if not pods:
        raise FileError("lists no pods", Where(file=str(path)))
    return [pods[name] for name in sorted(pods)]


def read_replay(path: Path, fleet: Fleet, n_pods: int, seeds: Sequence[int] | None = None) -> dict[int, Arrivals]:
    """Read the orders of arrival and the ranks of the nodes, by seed.

    Raises
    ------
    FieldError
        A seed that the file does not have, or an array that is not an order over the pods or a ranking of the nodes.
    FileError
        Not an ``.npz`` of plain arrays.
    """
    file = str(path)
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            known = sorted(int(m[1]) for m in (re.fullmatch(r"order_(\d{1,18})", key) for key in archive.files) if m)
            wanted = known if seeds is None else list(seeds)
            missing = [seed for seed in wanted if seed not in known]
            if missing:
                raise FieldError("--seeds", f"there is no seed {missing[0]}; the file has {spans(known)}", file=file)
            by_name = np.argsort([fleet.node_name(n) for n in range(fleet.n_nodes)], kind="stable")
            arrivals = {}
            for seed in wanted:
                order = _integers(archive, f"order_{seed}", n_pods, "pods", file)
                ranks = _ranking(archive, f"noderank_{seed}", fleet.n_nodes, file)
                node_rank = np.empty(fleet.n_nodes, np.int32)
                node_rank[by_name] = ranks  # the file ranks nodes sorted by name
                arrivals[seed] = Arrivals(order=order, node_rank=node_rank)
            return arrivals
    except (ValueError, OSError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile):
        raise FileError("holds something other than plain arrays", Where(file=file)) from None


def read_published(data: Path) -> dict[tuple[str, str], float]:
    """Return (trace, policy) to the published mean allocation in percent; empty where the file is absent.

    Raises
    ------
    FieldError, FileError
        The file is there and is wrong.
    """
    path = data / "openb" / "published_allocation.csv"
    if not path.exists():
        return {}
    published = {}
    for row in read_rows(path, ("trace", "policy", "mean_allocated_gpu_percent")):
        policy = PUBLISHED_POLICY.get(row.text("policy"))
        if policy is not None:
            trace = "openb/" + row.text("trace").removeprefix("openb_pod_list_")
            published[trace, policy] = row.real("mean_allocated_gpu_percent", 0, 100)
    return published


def spans(numbers: Sequence[int]) -> str:
    """Write ascending numbers the way ``--seeds`` reads them: ``42-51, 60``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts) or "none"


def _pod_list(data: Path, variant: str) -> Path:
    zipped = data / "openb" / f"openb_pod_list_{variant}.csv.gz"
    return zipped if zipped.exists() else zipped.with_suffix("")


def _request(row: Row) -> Request:
    gpus = row.whole("num_gpu", 0, MAX_GPUS_PER_NODE)
    milli = row.whole("gpu_milli", 0, GPU)
    if gpus and not milli:
        raise row.wrong("gpu_milli", "must be from 1 to 1000 for a pod with a GPU")
    models = tuple(model.strip() for model in row.text("gpu_spec").split("|") if model.strip())
    try:
        return Request(
            gpus=gpus,
            gpu_milli=milli if gpus else GPU,
            cpu_milli=row.whole("cpu_milli", 0, MAX_QUANTITY - 1),
            memory_bytes=row.whole("memory_mib", 0, MAX_MEMORY_MIB - 1) * MIB,
            gpu_models=models if gpus else (),
        )
    except FieldError as error:
        raise error.located(file=row.file, line=error.where.line or row.line) from None


def _check_archive(path: Path) -> None:
    """Refuse what is absent, not a zip, or would unpack to more than the limit, before NumPy allocates for it."""
    file = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except FileNotFoundError:
        raise FileError("there is no such file; a trace needs its replay orders", Where(file=file)) from None
    except (zipfile.BadZipFile, OSError):
        raise FileError("is not an .npz file", Where(file=file)) from None
    if size > MAX_REPLAY_BYTES:
        raise FileError(f"unpacks to {size:,} bytes; at most {MAX_REPLAY_BYTES:,} are read", Where(file=file))


def _integers(archive: np.lib.npyio.NpzFile, key: str, limit: int, of: str, file: str) -> NDArray[np.int32]:
    """Return a one-dimensional array of indices below ``limit``."""
    if key not in archive.files:
        raise FieldError(key, "is missing; every order_<seed> goes with a noderank_<seed>", file=file)
    array = archive[key]
    # NumPy hands out the bytes of a member that is no array.
    if not isinstance(array, np.ndarray) or array.ndim != 1:
        raise FieldError(key, "must be a one-dimensional array", file=file)
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() < limit):
        raise FieldError(
            key, f"must be a list of whole numbers from 0 to {limit - 1}: there are {limit} {of}", file=file
        )
    return array.astype(np.int32)


def _ranking(archive: np.lib.npyio.NpzFile, key: str, n_nodes: int, file: str) -> NDArray[np.int32]:
    ranks = _integers(archive, key, n_nodes, "nodes", file)
    if not np.array_equal(np.sort(ranks), np.arange(n_nodes)):
        raise FieldError(key, f"must rank each of the fleet's {n_nodes} nodes once", file=file)
    return ranks
