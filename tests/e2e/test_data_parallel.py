"""The example of a gang: two processes train together, one dies, and both go on from the checkpoint."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S
from tests.ports import free_port

SCRIPT = Path(__file__).parents[2] / "examples" / "data_parallel.py"
STEPS = 60


@contextmanager
def gang(checkpoints: Path, *options: str, steps: int = STEPS) -> Iterator[list[subprocess.Popen[str]]]:
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "--steps", str(steps), *options],
            env={
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "PLENUM_CHECKPOINT_DIR": str(checkpoints),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def await_line(process: subprocess.Popen[str], start: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    pytest.fail(f"ended without a line {start!r}")


def losses(text: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in re.findall(r"^step (\d+) loss ([\d.]+)$", text, re.MULTILINE)}


def test_a_gang_resumes_after_a_death_and_ends_where_it_would_have(tmp_path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    with gang(whole) as ranks:
        code, out, err = finish(ranks[0])
        assert (code, finish(ranks[1])[0]) == (0, 0), err
        expected = losses(out)
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert expected[STEPS] < 0.7 * expected[1]

    with gang(broken, "--step-s", "0.02") as ranks:
        await_line(ranks[0], "step 12 ")
        ranks[1].kill()
        code, _, err = finish(ranks[0])
        assert code == 1
        assert "lost the gang" in err

    with gang(broken) as ranks:
        code, out, err = finish(ranks[0])
        assert (code, finish(ranks[1])[0]) == (0, 0), err
    resumed = re.match(r"resumed from step (\d+)\n", out)
    assert resumed
    assert 10 <= int(resumed[1]) < STEPS
    assert losses(out) == {step: loss for step, loss in expected.items() if step > int(resumed[1])}


def test_the_others_end_when_rank_0_dies(tmp_path) -> None:
    with gang(tmp_path, "--step-s", "0.02", steps=10_000) as ranks:
        await_line(ranks[0], "step 3 ")
        ranks[0].kill()
        code, _, err = finish(ranks[1])
        assert code == 1
        assert "rank 1: lost the gang" in err


def test_a_request_to_stop_saves_what_was_done(tmp_path) -> None:
    with gang(tmp_path, "--step-s", "0.02", "--checkpoint-every", "9999", steps=10_000) as ranks:
        await_line(ranks[0], "step 3 ")
        ranks[0].send_signal(signal.SIGTERM)
        assert finish(ranks[0])[0] == 143
    assert (tmp_path / "checkpoint.npz").exists()


def test_one_process_alone_trains_too(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--steps", "7"], capture_output=True, text=True, env={}, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(done.stdout)) == 7
