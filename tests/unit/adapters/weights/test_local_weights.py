"""Weights that are here already: the catalogue's, files and folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from plenum.adapters.weights import (
    DigestError,
    ForbiddenWeightsError,
    UnknownWeightsError,
    WeightsError,
    check_allowed,
    gguf_in,
    stage,
)
from plenum.adapters.weights.allowed import ALLOWED


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights.gguf").write_bytes(b"GGUF" + bytes(1000))
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return folder


def test_the_catalogue_has_the_model_that_its_package_carries(tmp_path: Path) -> None:
    staged = stage("smollm2", tmp_path / "cache")
    # As the package's own RECORD says, in base64: sXnJUj0Oag-YozDHVitoJ1Cm-MjBXlvHDqNzcoEQ21M.
    assert staged.digest == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert staged.size_bytes == 98_362_432
    assert gguf_in(staged.path) == staged.path


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError, match="nearest: smollm2"):
        stage("smolm2", tmp_path)


def test_a_file_is_known_by_its_own_digest(model: Path, tmp_path: Path) -> None:
    file = model / "weights.gguf"
    assert stage(str(file), tmp_path / "c").digest == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_folders_digest_tells_content_names_and_places_apart(model: Path, tmp_path: Path) -> None:
    def digest() -> str:
        return stage(str(model), tmp_path / "c").digest

    digests = [digest()]
    (model / "config.json").write_text("[]")
    digests.append(digest())
    (model / "config.json").rename(model / "tokenizer" / "config.json")
    digests.append(digest())
    (model / "tokenizer" / "config.json").rename(model / "tokenizer" / "other.json")
    digests.append(digest())
    assert len(set(digests)) == 4


def test_weights_are_read_once_and_again_when_they_change(model: Path, tmp_path: Path) -> None:
    told: list[int] = []
    reads = []
    for _ in range(2):
        told.clear()
        stage(str(model), tmp_path / "c", progress=lambda done, total: told.append(done))
        reads.append(len(told))
    assert reads == [3, 1]  # three files, then one word from memory
    file = model / "weights.gguf"
    before = stage(str(model), tmp_path / "c").digest
    was = file.stat()
    file.write_bytes(b"GGUF" + bytes(999) + b"x")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    assert stage(str(model), tmp_path / "c").digest != before


def test_a_change_that_left_no_trace_is_found_when_asked_for(model: Path, tmp_path: Path) -> None:
    file = model / "weights.gguf"
    before = stage(str(file), tmp_path / "c").digest
    was = file.stat()
    with file.open("r+b") as stream:
        stream.seek(10)
        stream.write(b"x")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert stage(str(file), tmp_path / "c").digest == before
    with pytest.raises(DigestError, match="not sha256"):
        stage(str(file), tmp_path / "c", digest=before, afresh=True)


def test_links_within_weights_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "secret").symlink_to("/etc/hostname")
    with pytest.raises(WeightsError, match="is a link"):
        stage(str(model), tmp_path / "c")


def test_a_link_to_weights_is_followed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(model)
    assert stage(str(tmp_path / "current"), tmp_path / "c").path == model


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "../model",
        "models/x",
        "ftp://x/y",
        "hf://one",
        "hf://a/b/c@d?",
        "s3://B/x",
        "oci://host",
        "a" * 2000,
        "a\nb",
    ],
)
def test_what_is_no_reference_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError):
        stage(reference, tmp_path)


def test_a_node_serves_tenants_what_it_was_told_and_nothing_else(model: Path, tmp_path: Path) -> None:
    (tmp_path / "way-out").symlink_to("/etc")
    told = {ALLOWED: f"{tmp_path} hf://open acme=s3://acme/models acme=hf://org/one default=*"}

    def allowed(reference: str, tenant: str = "acme", env: Mapping[str, str] = told) -> bool:
        try:
            check_allowed(reference, tenant, env)
        except ForbiddenWeightsError:
            return False
        return True

    yes = (
        str(model),
        "hf://open/x",
        "s3://acme/models",
        "s3://acme/models/y",
        "hf://org/one@main",
        "hf://org/one/a.gguf",
        "smollm2",
    )
    no = (
        "/etc/passwd",
        f"{tmp_path}/../..",
        f"{tmp_path}/way-out/passwd",
        "/",
        "hf://opener/x",
        "s3://acme/models-of-others",
    )
    assert [allowed(each) for each in yes] == [True] * len(yes)
    assert [allowed(each) for each in no] == [False] * len(no)
    with pytest.raises(ForbiddenWeightsError, match=f"{ALLOWED}='other=s3://acme'"):
        check_allowed("s3://acme/models", "other", told)
    assert allowed("/etc/passwd", tenant="default")
    # Untold, the one tenant that there is from the start may name anything, all others what the catalogue has.
    assert [allowed("hf://a/b", each, {}) for each in ("default", "acme")] == [True, False]
    assert allowed("smollm2", env={})


def test_nothing_there_an_empty_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownWeightsError, match="nothing at"):
        stage(str(tmp_path / "missing"), tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownWeightsError, match="empty"):
        stage(str(tmp_path / "empty"), tmp_path / "c")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="no plain file"):
        stage(str(tmp_path / "pipe"), tmp_path / "c")


def test_the_gguf_of_a_folder_is_found_and_its_magic_checked(model: Path) -> None:
    assert gguf_in(model).name == "weights.gguf"
    (model / "more.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnknownWeightsError, match="one GGUF model"):
        gguf_in(model)
    for part in (1, 2):
        (model / f"big-0000{part}-of-00002.gguf").write_bytes(b"GGUF")
    assert gguf_in(model).name == "big-00001-of-00002.gguf"
    (model / "big-00001-of-00002.gguf").write_bytes(b"HTML")
    with pytest.raises(WeightsError, match="no GGUF"):
        gguf_in(model)
