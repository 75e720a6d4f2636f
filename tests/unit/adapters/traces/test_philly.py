import gzip

import pytest

from plenum.adapters.traces.philly import read_jobs
from plenum.model import FieldError
from plenum.model.errors import FileError

HEADER = "timestamp,duration,num_gpus,gpu_time,cluster\n"


def test_jobs_are_sorted_by_submission_and_start_at_zero(tmp_path) -> None:
    path = tmp_path / "jobs.csv.gz"
    rows = "2017-10-09 07:01:55,66.0,1,66.0,b\n2017-10-09 07:00:55,10,16,160,a\n2017-10-09 07:01:55,5,2,10,c\n"
    path.write_bytes(gzip.compress((HEADER + rows).encode()))
    trace = read_jobs(path)
    assert trace.submit_s.tolist() == [0, 60, 60]
    assert trace.duration_s.tolist() == [10, 66, 5]
    assert trace.gpus.tolist() == [16, 1, 2]
    assert trace.tenant == ("a", "b", "c")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("yesterday,1,1,1,a", "timestamp"),
        ("2017-10-09 07:01:55,0,1,1,a", "duration"),
        ("2017-10-09 07:01:55,nan,1,1,a", "duration"),
        ("2017-10-09 07:01:55,inf,1,1,a", "duration"),
        ("2017-10-09 07:01:55,1,0,1,a", "num_gpus"),
        ("2017-10-09 07:01:55,1,0.5,1,a", "num_gpus"),
    ],
)
def test_bad_values_are_named(tmp_path, row, field) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(HEADER + row + "\n")
    with pytest.raises(FieldError) as caught:
        read_jobs(path)
    assert (caught.value.where.line, caught.value.where.field) == (2, field)


def test_no_jobs(tmp_path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(HEADER)
    with pytest.raises(FileError, match="no jobs"):
        read_jobs(path)
