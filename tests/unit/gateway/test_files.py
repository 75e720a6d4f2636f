"""Files of tenants: apart from one another, within limits, and whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.gateway.files import FileLimits, Files
from plenum.gateway.peers import Peers
from plenum.gateway.request import RefusedError
from plenum.ports.gateway import Peer


def upload(files: Files, tenant: str = "acme", data: bytes = b"{}\n", filename: str = "in.jsonl") -> str:
    with files.begin(tenant, filename, "batch") as writing:
        writing.write(data)
        return writing.end().id


def test_a_file_is_there_after_a_restart(tmp_path: Path) -> None:
    id = upload(Files(tmp_path), data=b"x" * 1000)
    files = Files(tmp_path)
    kept = files.get("acme", id)
    assert b"".join(files.pieces(kept)) == b"x" * 1000
    assert [file["id"] for file in (k.shown() for k in files.listed("acme"))] == [id]


def test_another_tenants_file_does_not_exist(tmp_path: Path) -> None:
    files = Files(tmp_path)
    id = upload(files)
    for act in (files.get, files.delete):
        with pytest.raises(RefusedError, match="no such file"):
            act("rival", id)
    assert files.listed("rival") == []
    assert files.get("acme", id).id == id


@pytest.mark.parametrize("id", ["../acme", "file-../../x", "", "file-" + "a" * 22])
def test_ids_that_are_none_lead_nowhere(tmp_path: Path, id: str) -> None:
    with pytest.raises(RefusedError):
        Files(tmp_path).get("acme", id)


def test_what_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with files.begin("acme", "b", "batch") as dropped:
        dropped.write(b"half")
    part = next(tmp_path.glob("*")) / ".part-file-killed"
    part.mkdir()
    (part / "content").write_bytes(b"half")
    again = Files(tmp_path)
    assert again.listed("acme") == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_limits_hold_for_a_file_for_a_tenant_and_while_uploading(tmp_path: Path) -> None:
    files = Files(tmp_path, FileLimits(file_bytes=100, tenant_bytes=150, tenant_files=3))
    with pytest.raises(RefusedError, match="at most 100"):
        upload(files, data=b"x" * 101)
    with files.begin("acme", "a", "batch") as first, files.begin("acme", "b", "batch") as second:
        first.write(b"x" * 80)
        with pytest.raises(RefusedError, match="come to 150"):
            second.write(b"x" * 80)
        first.end()
    upload(files, data=b"x" * 60)
    with pytest.raises(RefusedError, match="come to 150"):
        upload(files, data=b"x" * 20)
    upload(files, data=b"x")
    with pytest.raises(RefusedError, match="as many as it may"):
        upload(files, data=b"x")
    upload(files, "rival", data=b"x" * 100)


def test_purposes_that_are_not_for_clients_are_refused(tmp_path: Path) -> None:
    for purpose in ("batch_output", "assistants", ""):
        with pytest.raises(RefusedError, match="purpose"):
            Files(tmp_path).begin("acme", "a", purpose)


def test_files_expire(tmp_path: Path) -> None:
    now = 1_000.0
    files = Files(tmp_path, FileLimits(keep_s=60.0), now=lambda: now)
    id = upload(files)
    now = 1_059.0
    assert files.get("acme", id)
    now = 1_060.0
    with pytest.raises(RefusedError):
        files.get("acme", id)
    assert files.listed("acme") == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_file_names_cannot_do_harm(tmp_path: Path) -> None:
    files = Files(tmp_path)
    id = upload(files, filename='../../etc/"; rm\r\nx: y')
    assert files.get("acme", id).filename == "__ rm__x_ y"


def test_the_disk_is_not_filled_to_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path)
    monkeypatch.setattr("plenum.gateway.files.SPARE_BYTES", 2**62)
    with pytest.raises(RefusedError, match="no space") as refused:
        upload(files)
    assert refused.value.status == 507
    assert files.listed("acme") == []


def test_an_id_of_another_gateway_says_where_it_is(tmp_path: Path) -> None:
    one, other = Peers("edge-1.0123abcd"), Peers("edge-2.89abcdef")
    id = upload(Files(tmp_path / "1", peers=one))
    files = Files(tmp_path / "2", peers=other)
    with pytest.raises(RefusedError) as refused:
        files.get("acme", id)
    assert refused.value.status == 404
    other.take([Peer(name="edge-1.0123abcd", url="https://edge-1:8080"), Peer(name="edge-2.89abcdef")])
    for noun, each in (("file", id), ("batch", one.prefix("batch_") + "00")):
        error = other.absent(each, noun)
        assert (error.status, error.code) == (421, f"{noun}.elsewhere")
        assert "edge-1.0123abcd at https://edge-1:8080" in error.sentence
    assert other.count == 2
    assert other.absent(other.prefix("batch_") + "00", "batch").status == 404
