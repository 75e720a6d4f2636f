"""Backups of a cloud that works, filled into other stores, and states rebuilt from the log, by the command line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.e2e.clouds import Cloud, cloud_in

from plenum.adapters.contexts import save_context
from plenum.adapters.stores.opening import open_store
from plenum.cli.root import root
from plenum.model.errors import PlenumError


class Line:
    """A command line whose person knows the cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._env = {"XDG_CONFIG_HOME": str(cloud.folder / "person"), "PLENUM_HOME": str(cloud.folder / "home")}
        save_context(replace(cloud.context, name="lab"), env=self._env)

    def __call__(self, *args: str) -> tuple[int, str]:
        result = CliRunner().invoke(root, list(args), env=self._env)
        if isinstance(result.exception, PlenumError):
            return 2, str(result.exception)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def json(self, *args: str) -> dict[str, Any]:
        return json.loads(self(*args, "-o", "json")[1])


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud with a job that has ended, one that runs, and the steady news of a third that fails again and again."""
    with cloud_in(tmp_path_factory.mktemp("cloud")) as cloud:
        cloud.server(command="up")
        for name, command in (("done", "true"), ("long", "exec sleep 600"), ("busy", "exit 1")):
            run = {"command": ["sh", "-c", command], "restarts": 1000, "backoff": "1ms"}
            cloud.apply(name, {"resources": {"cpu": 0.05}, "run": run}, kind="Task")
        cloud.comes_to("done", "Succeeded", kind="Task")
        cloud.comes_to("long", "Running", kind="Task")
        yield cloud


@pytest.fixture(scope="module")
def line(cloud: Cloud) -> Line:
    return Line(cloud)


@pytest.fixture(scope="module")
def backup(cloud: Cloud, line: Line) -> Path:
    file = cloud.folder / "monday.plenum"
    code, said = line("backup", str(file))
    assert code == 0, said
    assert "up to position" in said
    return file


def records(url: str) -> list[tuple[int, str, bytes]]:
    store = open_store(url, read_only=True)
    try:
        return [(r.position, r.type, r.body) for r in store.read(0, 100_000)]
    finally:
        store.close()


def test_a_backup_is_not_overwritten_and_only_its_owner_reads_it(backup: Path, line: Line) -> None:
    assert backup.stat().st_mode & 0o077 == 0
    code, said = line("backup", str(backup))
    assert code == 2
    assert "exists already" in said


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], tuple[str, str]]:
    """Returns the options that name an empty store, and its URL."""
    if request.param == "sqlite":
        return lambda: ("--data", str(tmp_path / "new"))
    url = request.getfixturevalue("postgres_url")
    return lambda: ("--store", url)


def test_a_backup_fills_an_empty_store_and_adds_up_to_the_same(
    cloud: Cloud, line: Line, backup: Path, empty_store: Callable[[], tuple[str, str]]
) -> None:
    where = empty_store()
    code, said = line("restore", str(backup), *where)
    assert code == 0, said
    rebuilt = line.json("rebuild", *where)
    assert rebuilt["same"]
    url = where[1] if where[0] == "--store" else f"sqlite:///{where[1]}/plenum.db"
    restored = records(url)
    assert restored[-1][0] == rebuilt["position"]
    assert restored == records(f"sqlite:///{cloud.data}/plenum.db")[: len(restored)]
    assert "JobEnded" in {kind for _, kind, _ in restored}

    code, said = line("restore", str(backup), *where)
    assert code == 2, "it is not empty any more"
    assert "empty" in said


def test_a_restored_cloud_goes_on(line: Line, backup: Path, tmp_path: Path) -> None:
    with cloud_in(tmp_path) as again:
        for data in (again.data, tmp_path / "same"):
            assert line("restore", str(backup), "--data", str(data))[0] == 0
        again.server("--new-token")
        assert again.job("done", "Task")["phase"] == "Succeeded"
        assert (
            again.job("long", "Task")["phase"] == "Running"
        )  # as far as is known until its node has been silent for long
        again.apply("next", {"run": {"simulate": {}}}, kind="Task")
        found = again.do("POST", "/admin/verify")
        assert found["same"]
        assert found["position"] > line.json("rebuild", "--data", str(tmp_path / "same"))["position"]


def test_a_damaged_backup_is_refused(line: Line, backup: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.plenum"
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    code, _ = line("restore", str(damaged), "--data", str(tmp_path / "new"))
    assert code == 2
    (tmp_path / "text").write_text("not a backup")
    assert line("restore", str(tmp_path / "text"), "--data", str(tmp_path / "other"))[0] == 2


def test_the_state_in_memory_is_what_the_log_adds_up_to(line: Line) -> None:
    found = line.json("rebuild")
    assert found["same"]
    assert found["digest"] == found["rebuilt"]


def test_a_damaged_snapshot_is_found_and_made_anew(line: Line, backup: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "new")
    assert line("restore", str(backup), "--data", data)[0] == 0
    assert line("rebuild", "--data", data)[0] == 0  # leaves a snapshot
    with sqlite3.connect(tmp_path / "new/plenum.db") as database:
        assert database.execute("UPDATE snapshots SET data = zeroblob(length(data))").rowcount == 1
    database.close()
    code, said = line("rebuild", "--data", data)
    assert code == 1, said
    assert "is damaged" in said
    assert line("rebuild", "--data", data)[0] == 0


def test_a_store_in_use_is_left_alone(cloud: Cloud, line: Line) -> None:
    code, said = line("rebuild", "--data", str(cloud.data))
    assert code == 2
    assert "in use" in said


def test_a_stopped_cloud_is_backed_up_from_its_folder(line: Line, backup: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "new")
    assert line("restore", str(backup), "--data", data)[0] == 0
    code, said = line("backup", str(tmp_path / "again.plenum"), "--data", data)
    assert code == 0, said
    assert line("restore", str(tmp_path / "again.plenum"), "--data", str(tmp_path / "third"))[0] == 0
    assert records(f"sqlite:///{tmp_path}/third/plenum.db") == records(f"sqlite:///{data}/plenum.db")
