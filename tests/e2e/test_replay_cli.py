"""``plenum replay`` as a person runs it, on a small trace of its own."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.patience import PATIENCE_S

from plenum.cli.root import root
from plenum.model.errors import PlenumError

KEYS = ["trace", "policy", "seed", "allocated_gpu_percent", "fragmented_gpu_percent", "failed_count", "decisions_per_s"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four nodes of two GPUs, twelve pods, two seeds, five jobs."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "openb" / "replay").mkdir(parents=True)
    (folder / "training-traces").mkdir()
    nodes = "".join(f"node-{i},16000,65536,2,T4\n" for i in range(4))
    (folder / "openb" / "openb_node_list_gpu_node.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\n" + nodes)
    pods = "".join(f"pod-{i:02d},1000,1024,1,{(600, 400, 1000)[i % 3]},\n" for i in range(12))
    with gzip.open(folder / "openb" / "openb_pod_list_tiny.csv.gz", "wt") as stream:
        stream.write("name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + pods)
    arrays = {}
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        arrays |= {f"order_{seed}": rng.integers(0, 12, 15), f"noderank_{seed}": rng.permutation(4)}
    np.savez(folder / "openb" / "replay" / "tiny.npz", **arrays)
    (folder / "openb" / "published_allocation.csv").write_text(
        "trace,policy,mean_allocated_gpu_percent,sd,seeds\nopenb_pod_list_tiny,06-FGD,90.0,0.1,10\n"
    )
    jobs = "".join(f"2017-10-09 07:0{i}:00,{60 * (i + 1)},{n},0,a\n" for i, n in enumerate((1, 2, 8, 4, 1)))
    with gzip.open(folder / "training-traces" / "philly_jobs.csv.gz", "wt") as stream:
        stream.write("timestamp,duration,num_gpus,gpu_time,cluster\n" + jobs)
    return folder


def plenum(*arguments: object):
    return CliRunner().invoke(root, ["replay", *map(str, arguments)])


def test_json_has_a_row_for_each_policy_and_seed(data) -> None:
    done = plenum("openb/tiny", "--policy", "fgd,plenum,random", "--seeds", "1-2", "--data", data, "-o", "json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [list(row) for row in rows] == [KEYS] * 6
    assert [(row["policy"], row["seed"]) for row in rows] == [
        (p, s) for p in ("fgd", "plenum", "random") for s in (1, 2)
    ]
    assert {row["trace"] for row in rows} == {"openb/tiny"}
    assert all(50 < row["allocated_gpu_percent"] <= 100 and row["decisions_per_s"] > 0 for row in rows)


def test_two_runs_agree_but_for_their_speed(data) -> None:
    runs = [json.loads(plenum("openb/tiny", "--data", data, "-o", "json").stdout) for _ in range(2)]
    for rows in runs:
        for row in rows:
            del row["decisions_per_s"]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 4


def test_table_shows_the_published_value_beside_ours(data) -> None:
    pytest.importorskip("plotext")
    done = plenum("openb/tiny", "--data", data)
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["fgd"])
    _, ours, published, difference = line.split()[:4]
    assert published == "90.00"
    assert float(difference) == pytest.approx(float(ours) - 90, abs=0.011)
    assert "plenum leaves" in done.stdout
    assert "arrived demand" in done.stdout


def test_plot_is_a_png(data, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    done = plenum("openb/tiny", "--data", data, "--plot", tmp_path / "out.png", "--no-chart")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_library_is_named_with_its_cure(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("plenum.cli.charts.find_spec", lambda name: None)
    done = plenum("openb/tiny", "--data", data, "--plot", tmp_path / "out.png")
    assert isinstance(done.exception, PlenumError)
    assert "pip install 'plenum-os[plot]'" in str(done.exception)
    assert plenum("openb/tiny", "--data", data).exit_code == 0


def test_synthetic_says_that_it_is_generated() -> None:
    done = plenum("synthetic", "--policy", "best-fit", "--seeds", "3", "--limit", "200", "-o", "json")
    assert done.exit_code == 0, done.output
    assert "generated" in done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["trace"], row["seed"], row["failed_count"]) == ("synthetic", 3, 0)


def test_without_a_data_folder_the_default_is_generated(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("plenum.adapters.traces.folder.find_data", lambda named, environ: None)
    done = plenum("--policy", "best-fit", "--seeds", "1", "--limit", "50", "--no-chart")
    assert done.exit_code == 0, done.output
    assert "generated" in done.stderr
    refused = plenum("openb/default")
    assert "plenum replay synthetic" in str(refused.exception)


def test_philly_reports_waits_and_utilisation(data) -> None:
    done = plenum("philly", "--data", data, "--policy", "fgd", "-o", "json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["jobs"], row["never_count"], row["makespan_s"]) == (5, 0, 540)
    assert row["wait"][-1]["gpus"] == "all"
    assert row["wait"][-1]["mean_s"] == 0
    table = plenum("philly", "--data", data, "--policy", "fgd", "--queue", "fifo", "--jobs", 3)
    assert table.exit_code == 0, table.output
    assert "3 jobs on 768 GPUs, fifo queue" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["openb/none"], "openb/tiny, philly, synthetic"),
        (["nonsense"], "openb/tiny, philly, synthetic"),
        (["openb/../tiny"], "there is no trace"),
        (["openb/tiny", "--policy", "fgd,best"], "choose one of"),
        (["openb/tiny", "--seeds", "1-3"], "there is no seed 3; the file has 1-2"),
        (["openb/tiny", "--seeds", "3-1"], "must ascend"),
        (["openb/tiny", "--seeds", "a"], "must be numbers and spans"),
        (["openb/tiny", "--seeds", "0-999999999999"], "at most 1000 seeds"),
        (["openb/tiny", "--queue", "fifo"], "goes with philly"),
        (["openb/tiny", "--plot", "out.jpg"], "ends in .png"),
        (["openb/tiny", "--plot", "nowhere/out.png"], "no such folder"),
        (["philly", "--plot", "out.png"], "goes with openb/VARIANT"),
    ],
)
def test_mistakes_are_one_sentence(data, arguments, says) -> None:
    done = plenum(*arguments, "--data", data)
    assert isinstance(done.exception, PlenumError), done.output
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)


def test_the_command_exits_with_2_and_without_a_traceback(tmp_path) -> None:
    command = [
        sys.executable,
        "-c",
        "from plenum.cli import main; main()",
        "replay",
        "--data",
        str(tmp_path / "nowhere"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "--data names no folder" in done.stderr
    assert "Traceback" not in done.stderr
