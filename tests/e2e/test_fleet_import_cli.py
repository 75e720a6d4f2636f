"""``plenum fleet import`` as its users run it: from a file to a manifest that reads back, or to one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.manifests.fleet import read_fleet

NODES = "sn,cpu_milli,memory_mib,gpu,model\nb,64000,262144,2,T4\na,96000,262144,8,V100\n"
HOSTS = "ip,DSW,PSW,ASW\na,G1,P1,S1\nb,G1,P2,S1\n"
MATRIX = "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\nGPU0\tX\tNV4\t0-7\t0\nGPU1\tNV4\tX\t0-7\t0\n"
MACHINE = """<topology version="2.0"><object type="Machine" nodeset="0x1">
<object type="NUMANode" os_index="0" cpuset="0x3" nodeset="0x1" local_memory="4096"/>
<object type="PU" os_index="0"/><object type="PU" os_index="1"/></object></topology>"""
CLUSTER = json.dumps(
    {"items": [{"kind": "Node", "metadata": {"name": "k"}, "status": {"allocatable": {"cpu": "8", "amd.com/gpu": 4}}}]}
)
SWITCHES = "SwitchName=s0 Nodes=n[0-1]\n"
GRES = "NodeName=n[0-1] Name=gpu Count=4\n"


def plenum(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from plenum.cli import main; main()", "fleet", "import", *args]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONUTF8": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, input=stdin, env=environment, timeout=2 * PATIENCE_S, check=False
    )


@pytest.mark.parametrize(
    ("source", "text", "options", "nodes", "gpus"),
    [
        ("openb", NODES, (), 2, 10),
        ("lingjun", HOSTS, (), 2, 16),
        ("lingjun", HOSTS, ("--template", "gb200-nvl72"), 2, 8),
        ("kubernetes", CLUSTER, (), 1, 4),
        ("lstopo", MACHINE, ("--names", "m[01-03]"), 3, 0),
        ("nvidia-smi", MATRIX, ("--count", "2", "--model", "A30", "--gpu-memory", "24GB"), 2, 4),
    ],
)
def test_a_file_becomes_a_manifest_that_reads_back(
    tmp_path: Path, source: str, text: str, options: tuple[str, ...], nodes: int, gpus: int
) -> None:
    file, manifest = tmp_path / "source", tmp_path / "fleet.yaml"
    file.write_text(text)
    run = plenum(source, str(file), *options, "-o", "json", "--out", str(manifest))
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert (facts["nodes"], facts["gpus"]) == (nodes, gpus)
    fleet = read_fleet(str(manifest))
    assert (fleet.n_nodes, fleet.n_gpus) == (nodes, gpus)


def test_slurm_takes_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "topology.conf").write_text(SWITCHES)
    (tmp_path / "gres.conf").write_text(GRES)
    run = plenum("slurm", "--topology", str(tmp_path / "topology.conf"), "--gres", str(tmp_path / "gres.conf"))
    assert run.returncode == 0, run.stderr
    assert "8: 8 unknown" in run.stdout
    assert "1 fabric.leaf" in run.stdout


def test_yaml_goes_to_standard_output_and_input_may_be_piped(tmp_path: Path) -> None:
    run = plenum("kubernetes", "-", "-o", "yaml", stdin=CLUSTER)
    assert run.returncode == 0, run.stderr
    (tmp_path / "fleet.yaml").write_text(run.stdout)
    assert read_fleet(str(tmp_path / "fleet.yaml")).n_gpus == 4


@pytest.mark.parametrize(
    ("args", "stdin", "says"),
    [
        (("openb", "absent.csv"), "", "absent.csv: there is no such file"),
        (("kubernetes", "-"), '{"items": [', "stdin:1: is not JSON"),
        (("lstopo", "-"), "<topology", "stdin:1: is not well-formed XML"),
        (("nvidia-smi", "-"), "\tGPU0\nGPU0\tY\n", "stdin:2: GPU0, column GPU0: must be X"),
        (("nvidia-smi", "-", "--gpu-memory", "much"), MATRIX, "--gpu-memory: 'much' is not a size"),
        (("nvidia-smi", "-", "--names", "n[1-"), MATRIX, "--names: a bracket is left open"),
        (("lingjun", "x", "--template", "toaster"), "", "--template: there is no template 'toaster'"),
        (("kubernetes", "-", "--label", "rack"), CLUSTER, "--label: 'rack' must be LEVEL=LABEL"),
        (("slurm",), "", "give at least one of --topology, --gres and --slurm-conf"),
        (("kubernetes", "-", "--out", "/nonexistent/fleet.yaml"), CLUSTER, "/nonexistent/fleet.yaml: --out: cannot be"),
    ],
)
def test_a_mistake_ends_in_one_sentence(args: tuple[str, ...], stdin: str, says: str) -> None:
    run = plenum(*args, stdin=stdin)
    assert run.returncode == 2
    assert says in run.stderr
    assert "Traceback" not in run.stderr
