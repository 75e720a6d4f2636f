import gzip
import zipfile

import numpy as np
import pytest

from plenum.adapters.traces import openb
from plenum.graph.build import Device, FleetBuilder
from plenum.model import DeviceKind, FieldError, Request
from plenum.model.errors import FileError

HEADER = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"


@pytest.fixture
def fleet():
    builder = FleetBuilder("two")
    for name in ("b", "a"):
        builder.node(name, devices=[Device(kind=DeviceKind.GPU, model="T4")])
    return builder.build()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "openb"
    (folder / "replay").mkdir(parents=True)
    text = HEADER + "p1,4000,1024,1,460,T4|G2\np0,8000,2048,0,0,\np2,1000,1,8,1000,\n"
    with gzip.open(folder / "openb_pod_list_mine.csv.gz", "wt") as stream:
        stream.write(text)
    save(folder / "replay" / "mine.npz", order_5=[2, 0, 0, 1], noderank_5=[1, 0])
    return tmp_path


def save(path, **arrays):
    np.savez(path, **{key: np.array(value) for key, value in arrays.items()})


def test_pods_are_sorted_by_name_and_models_are_any_of(data, fleet) -> None:
    trace = openb.read_trace(data, "mine", fleet)
    assert trace.name == "openb/mine"
    assert [trace.requests[i] for i in trace.request_of] == [
        Request(cpu_milli=8000, memory_bytes=2048 * 2**20),
        Request(gpus=1, gpu_milli=460, cpu_milli=4000, memory_bytes=2**30, gpu_models=("G2", "T4")),
        Request(gpus=8, cpu_milli=1000, memory_bytes=2**20),
    ]
    assert trace.arrivals[5].order.tolist() == [2, 0, 0, 1]


def test_ranks_follow_the_nodes_by_name_whatever_the_order_of_the_fleet(data, fleet) -> None:
    rank = openb.read_trace(data, "mine", fleet).arrivals[5].node_rank
    by_name = {fleet.node_name(n): int(rank[n]) for n in range(2)}
    assert by_name == {"a": 1, "b": 0}


def test_variants_are_whatever_lies_there(data) -> None:
    (data / "openb" / "openb_pod_list_plain-2.csv").write_text(HEADER + "p,1,1,0,0,\n")
    (data / "openb" / "openb_pod_list_notes.txt").write_text("")
    assert openb.variants(data) == ["mine", "plain-2"]
    assert openb.variants(data / "nowhere") == []


def test_plain_lists_need_no_gpu_spec(tmp_path) -> None:
    path = tmp_path / "pods.csv"
    path.write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,2,1000\n")
    assert openb.read_pods(path)[0].gpu_models == ()


def test_unknown_variant_says_what_there_is(data, fleet) -> None:
    with pytest.raises(FieldError, match="openb/mine"):
        openb.read_trace(data, "yours", fleet)


def test_unknown_seed_says_what_there_is(data, fleet) -> None:
    with pytest.raises(FieldError, match="there is no seed 6; the file has 5"):
        openb.read_trace(data, "mine", fleet, [5, 6])


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ("p,-1,1,0,0,", "cpu_milli", "whole number"),
        ("p,1.5,1,0,0,", "cpu_milli", "whole number"),
        ("p,1," + "9" * 30 + ",0,0,", "memory_mib", "whole number"),
        ("p,1,1,1,0,", "gpu_milli", "from 1 to 1000"),
        ("p,1,1,4,300,", "gpu_milli", "exactly one GPU"),
        ("p,1,1,1,1001,", "gpu_milli", "from 0 to 1000"),
        ("p,1,1,x,0,", "num_gpu", "whole number"),
        (",1,1,0,0,", "name", "empty"),
        ("p0,1,1,0,0,", "name", "twice"),
        ("p,1,1", "row", "3 columns"),
    ],
)
def test_bad_rows_are_named_by_file_line_and_field(tmp_path, row, field, says) -> None:
    path = tmp_path / "pods.csv"
    path.write_text(HEADER + "p0,1,1,0,0,\n" + row + "\n")
    with pytest.raises(FieldError, match=says) as caught:
        openb.read_pods(path)
    where = caught.value.where
    assert (where.file, where.line, where.field) == (str(path), 3, field)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "header lacks"),
        (b"name,cpu_milli\n", "header lacks memory_mib"),
        (HEADER.encode(), "lists no pods"),
        (b"\xff\xfe" * 50, "not UTF-8"),
        (b"\x00" * 50, "NUL"),
        (HEADER.encode() + b'"' + b"x" * 10_000_000, "too long"),
        (HEADER.encode() + b'p,"1', "not a CSV"),
    ],
)
def test_junk_is_one_sentence(tmp_path, content, says) -> None:
    path = tmp_path / "pods.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=says):
        openb.read_pods(path)


@pytest.mark.parametrize("cut", [0, 20])
def test_a_gz_that_is_none_or_is_cut_short(tmp_path, cut) -> None:
    path = tmp_path / "pods.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode() * 100)[:cut] or b"plain text")
    with pytest.raises(FileError, match="gzip"):
        openb.read_pods(path)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"order_5": [0, 3], "noderank_5": [0, 1]}, "order_5: must be a list of whole numbers from 0 to 2"),
        ({"order_5": [0.5], "noderank_5": [0, 1]}, "order_5"),
        ({"order_5": [[0]], "noderank_5": [0, 1]}, "one-dimensional"),
        ({"order_5": [0], "noderank_5": [0, 0]}, "must rank each of the fleet's 2 nodes once"),
        ({"order_5": [0], "noderank_5": [0]}, "must rank each"),
        ({"order_5": [0]}, "noderank_5: is missing"),
    ],
)
def test_bad_replays_are_refused(tmp_path, fleet, arrays, says) -> None:
    save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FieldError, match=says):
        openb.read_replay(tmp_path / "bad.npz", fleet, 3)


def test_pickles_are_never_loaded(tmp_path, fleet) -> None:
    np.savez(tmp_path / "bad.npz", order_5=np.array([object()]), noderank_5=np.array([0, 1]), allow_pickle=True)
    with pytest.raises(FileError, match="plain arrays"):
        openb.read_replay(tmp_path / "bad.npz", fleet, 3)


def test_replay_that_is_no_archive_or_holds_junk(tmp_path, fleet) -> None:
    path = tmp_path / "bad.npz"
    with pytest.raises(FileError, match="no such file"):
        openb.read_replay(path, fleet, 3)
    path.write_bytes(b"junk" * 100)
    with pytest.raises(FileError, match=r"not an \.npz"):
        openb.read_replay(path, fleet, 3)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("order_5.npy", b"junk")
    with pytest.raises(FieldError, match="one-dimensional"):
        openb.read_replay(path, fleet, 3)


def test_published_values_are_optional(data) -> None:
    assert openb.read_published(data) == {}
    (data / "openb" / "published_allocation.csv").write_text(
        "trace,policy,mean_allocated_gpu_percent,sd,seeds\nopenb_pod_list_mine,06-FGD,95.5,0.1,10\nopenb_pod_list_mine,99-New,1,0,1\n"
    )
    assert openb.read_published(data) == {("openb/mine", "fgd"): 95.5}


def test_spans_read_back_as_seeds() -> None:
    assert openb.spans([42, 43, 44, 50, 52, 53]) == "42-44, 50, 52-53"
    assert openb.spans([]) == "none"
