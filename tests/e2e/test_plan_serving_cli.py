"""``plenum plan serving`` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE_S

from plenum.adapters.manifests.workloads import read_jobs

QUESTION = ("--model", "Llama-3.1-8B", "--isl", "1000", "--osl", "200", "--ttft-p99", "500ms", "--tpot-p99", "40ms")


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plenum", "plan", "serving", *arguments, "--no-simulate"]
    return subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False)


def test_a_plan_is_told_written_and_drawn(tmp_path: Path) -> None:
    manifest, launch = tmp_path / "plan.yaml", tmp_path / "launch"
    files = ("--manifest", str(manifest), "--launch", str(launch))
    told = plan(*QUESTION, "--hardware", "H100:8,L40S:8", *files)
    assert told.returncode == 0, told.stderr
    for words in ("requests a second", "Frontier", "What would give more", "1. measure"):
        assert words in told.stdout
    assert read_jobs(manifest)
    assert sorted(path.name for path in launch.iterdir()) == ["kubernetes.yaml", "sglang.sh", "trtllm.sh", "vllm.sh"]


def test_programs_get_the_same_as_json() -> None:
    told = plan(*QUESTION, "--hardware", "H100", "--rps", "30", "-o", "json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["recommended"]["rate_rps"] == 30
    assert answer["recommended"]["ttft_s"]["typical"] <= 0.5
    assert answer["frontier"]
    assert answer["drivers"]


def test_what_cannot_be_exits_with_1_and_the_limit() -> None:
    told = plan("--model", "Llama-3.1-70B", "--hardware", "L40S", "--gpus", "1", "--weights", "fp16", "-o", "json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["limit"]["code"] == "serving.memory"


def test_what_cannot_be_meant_exits_with_2_and_the_nearest_names() -> None:
    told = plan("--model", "Lama-3.1-70B", "--hardware", "H200", "--gpus", "8")
    assert told.returncode == 2
    assert "Llama-3.1-70B" in told.stderr
    assert "H200" in plan("--model", "Llama-3.1-8B", "--hardware", "H201", "--gpus", "8").stderr
    assert "--rps" in plan("--model", "Llama-3.1-8B", "--hardware", "H200").stderr
