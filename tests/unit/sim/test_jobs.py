import numpy as np
import pytest

from plenum.model import FieldError, Placement, Reason, Rows
from plenum.sim.jobs import gang_roles, replay_jobs, request_frequencies
from plenum.sim.trace import JobTrace


class PoolPlacer:
    """Any free GPUs will do: what waits, waits for the queue's sake alone."""

    def __init__(self, gpus: int) -> None:
        self.free_gpu_milli = 1000 * gpus
        self.held: dict[str, int] = {}
        self.started: list[str] = []

    def place(self, workload):
        if workload.total_gpu_milli > self.free_gpu_milli:
            return Reason(workload=workload.id, code="wait.gpu", constraint="gpus", sentence="no room")
        self.free_gpu_milli -= workload.total_gpu_milli
        self.held[workload.id] = workload.total_gpu_milli
        self.started.append(workload.name)
        return Placement(workload=workload, rows=Rows())

    def release(self, workload_id: str, /) -> None:
        self.free_gpu_milli += self.held.pop(workload_id)

    def fragmented_gpu_milli(self) -> float:
        return 0.0


def jobs(*rows: tuple[float, float, int], priority: tuple[int, ...] = ()) -> JobTrace:
    submit_s, duration_s, gpus = zip(*rows, strict=True)
    return JobTrace(
        name="test",
        submit_s=np.array(submit_s, float),
        duration_s=np.array(duration_s, float),
        gpus=np.array(gpus, np.int32),
        tenant=("t",) * len(rows),
        priority=np.array(priority or [0] * len(rows), np.int32),
    )


# Four GPUs: job 0 takes three for 100 s, job 1 wants all four, job 2 wants the one that is idle.
BLOCKED_HEAD = jobs((0, 100, 3), (10, 50, 4), (20, 30, 1))


def test_fifo_lets_nothing_overtake() -> None:
    replay = replay_jobs(BLOCKED_HEAD, PoolPlacer(4), gpus_per_node=4, discipline="fifo")
    assert replay.start_s.tolist() == [0, 100, 150]
    assert replay.makespan_s == 180


def test_backfill_uses_what_is_idle() -> None:
    replay = replay_jobs(BLOCKED_HEAD, PoolPlacer(4), gpus_per_node=4, discipline="backfill")
    assert replay.start_s.tolist() == [0, 100, 20]
    assert replay.makespan_s == 150


def test_nothing_overtakes_a_head_that_lost_patience() -> None:
    stream = jobs((0, 100, 3), (10, 50, 4), (20, 100, 1), (90, 10, 1), (110, 60, 1))
    patient = replay_jobs(stream, PoolPlacer(4), gpus_per_node=4, patience_s=1e9)
    strict = replay_jobs(stream, PoolPlacer(4), gpus_per_node=4, patience_s=60)
    assert patient.start_s.tolist() == [0, 170, 20, 100, 110]
    # At 100 s the job of four GPUs has waited 90 s: the others stand behind it although GPUs are idle.
    assert strict.start_s.tolist() == [0, 120, 20, 170, 170]


def test_priority_goes_first_then_submission() -> None:
    placer = PoolPlacer(1)
    replay_jobs(jobs((0, 10, 1), (1, 10, 1), (2, 10, 1), (3, 10, 1), priority=(0, 0, 5, 5)), placer, gpus_per_node=1)
    assert placer.started == ["job-0", "job-2", "job-3", "job-1"]


@pytest.mark.parametrize("discipline", ["fifo", "backfill"])
def test_a_job_that_no_fleet_could_hold_holds_up_nobody(discipline) -> None:
    placer = PoolPlacer(4)
    replay = replay_jobs(jobs((0, 10, 9), (1, 10, 4), (2, 10, 9)), placer, gpus_per_node=4, discipline=discipline)
    assert np.isnan(replay.start_s).tolist() == [True, False, True]
    assert replay.never_count == 2
    assert placer.free_gpu_milli == 4000
    assert replay.waits()[-1].jobs == 1


def test_utilisation_is_time_weighted() -> None:
    replay = replay_jobs(jobs((0, 10, 2), (10, 10, 4), (40, 1, 1)), PoolPlacer(4), gpus_per_node=4)
    assert replay.utilisation(np.array([0.0, 10.0, 20.0, 40.0])).tolist() == [50.0, 100.0, 0.0]
    assert replay.utilisation_percent == pytest.approx(100 * (20 + 40) / 160)


def test_idle_while_waiting_counts_only_idle_gpus_and_only_while_someone_waits() -> None:
    replay = replay_jobs(BLOCKED_HEAD, PoolPlacer(4), gpus_per_node=4, discipline="fifo")
    # Jobs arrive over 20 s; from 10 s on job 1 waits beside one idle GPU of four.
    assert replay.idle_while_waiting_percent == pytest.approx(100 * 10 / 80)


def test_waits_are_by_class_of_gpus() -> None:
    replay = replay_jobs(jobs((0, 10, 16), (0, 10, 1), (0, 10, 3)), PoolPlacer(16), gpus_per_node=8)
    assert [(w.gpus, w.jobs, w.mean_s) for w in replay.waits()] == [
        ("1", 1, 10.0),
        ("2-4", 1, 10.0),
        (">8", 1, 0.0),
        ("all", 3, pytest.approx(20 / 3)),
    ]


def test_gangs_are_full_nodes_and_a_rest() -> None:
    sizes = {n: [(r.replicas, r.request.gpus) for r in gang_roles(n, 8)] for n in (1, 8, 12, 128)}
    assert sizes == {1: [(1, 1)], 8: [(1, 8)], 12: [(1, 8), (1, 4)], 128: [(16, 8)]}
    counted = {request.gpus: n for request, n in request_frequencies(jobs((0, 1, 12), (0, 1, 4), (0, 1, 16)), 8)}
    assert counted == {4: 2, 8: 3}


def test_an_unknown_queue_is_refused() -> None:
    with pytest.raises(FieldError, match="fifo, backfill"):
        replay_jobs(BLOCKED_HEAD, PoolPlacer(4), gpus_per_node=4, discipline="lifo")  # type: ignore[arg-type]
