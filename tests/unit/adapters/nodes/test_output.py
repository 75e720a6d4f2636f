"""What a run writes is kept, rotated and read by offset."""

import os

import pytest

from plenum.adapters.nodes.output import read_output

FLOOD = "import sys; [sys.stdout.write(f'{i:09d}\\n') for i in range(20_000)]"  # 10 bytes a line, 200,000 in all


def test_the_streams_are_kept_apart(node) -> None:
    node.start("r", "sh", "-c", "echo out; echo err >&2")
    node.finish("r")
    assert (node.text("r"), node.text("r", "stderr")) == ("out\n", "err\n")


def test_rotation_keeps_the_newest_and_the_offsets(node) -> None:
    node.options = {"log_file_bytes": 30_000, "log_files": 3}
    node.python("r", FLOOD)
    node.finish("r")
    files = sorted(path for path in (node.folder / "runs" / "r").glob("stdout.*"))
    assert [path.stat().st_size for path in files] == [30_000, 30_000, 20_000]
    chunk = node.driver.logs("r", "stdout", 0, 1 << 20)
    assert (chunk.offset, len(chunk.data), chunk.end) == (120_000, 80_000, True)
    assert chunk.data.startswith(b"000012000\n")
    middle = node.driver.logs("r", "stdout", 149_990, 20)
    assert (middle.offset, middle.data) == (149_990, b"000014999\n000015000\n")
    assert node.driver.logs("r", "stdout", -10, 100).data == b"000019999\n"


def test_following_loses_nothing_that_is_kept(node) -> None:
    node.python("r", FLOOD)
    text, end = b"", False
    while not end:
        chunk = node.driver.logs("r", "stdout", len(text), 7_001)
        assert chunk.offset == len(text)
        text, end = text + chunk.data, chunk.end
    assert text.splitlines() == [f"{i:09d}".encode() for i in range(20_000)]


def test_output_of_the_last_moment_is_there_once_the_exit_is_reported(node) -> None:
    for i in range(10):
        node.start(f"r{i}", "sh", "-c", "echo first; sleep 0.01; echo last")
    for i in range(10):
        node.finish(f"r{i}")
        assert node.text(f"r{i}") == "first\nlast\n"


def test_a_planted_link_is_not_written_through(node, tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    node.options = {"log_file_bytes": 10}
    # The process puts a link where its next file of output will be.
    code = (
        "import os, sys, time\n"
        f"os.symlink({str(victim)!r}, {str(node.folder)!r} + '/runs/r/stdout.' + '0' * 18 + '10')\n"
        "sys.stdout.write('0123456789'); sys.stdout.flush()\n"
        "sys.stdout.write('abcdefghij'); sys.stdout.flush()\n"
        "sys.stdout.write('ABCDEFGHIJ'); sys.stdout.flush()\n"
    )
    node.python("r", code)
    assert node.finish("r").exit_code == 0
    assert victim.read_text() == "untouched"
    assert "untouched" not in node.text("r")


def test_a_link_is_not_read_through(tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / f"stdout.{0:020d}").symlink_to(secret)
    os.mkfifo(folder / f"stdout.{5:020d}")
    assert read_output(folder, "stdout", 0, 100, exited=True).data == b""


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, (0, b"abc")), (3, (10, b"xyz")), (7, (10, b"xyz")), (12, (12, b"z")), (-2, (11, b"yz")), (99, (13, b""))],
)
def test_a_gap_is_skipped_openly(tmp_path, offset, expected) -> None:
    (tmp_path / f"stdout.{0:020d}").write_bytes(b"abc")
    (tmp_path / f"stdout.{10:020d}").write_bytes(b"xyz")
    chunk = read_output(tmp_path, "stdout", offset, 100, exited=True)
    assert (chunk.offset, chunk.data) == expected
    assert chunk.end == (offset != 0)


def test_output_of_forgotten_runs_goes_when_there_are_too_many(node, monkeypatch) -> None:
    monkeypatch.setattr("plenum.adapters.nodes.local.MAX_OLD", 2)
    for i in range(4):
        node.start(f"r{i}", "echo", "hello")
        node.finish(f"r{i}")
        node.driver.forget([f"r{i}"], node.fence)
    assert sorted(path.name for path in (node.folder / "old").iterdir()) == ["r2", "r3"]
    node.reopen()
    assert node.driver.observe() == ()
    assert node.text("r3") == "hello\n"
