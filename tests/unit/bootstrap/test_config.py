"""What is said about a control plane or an agent before anything is started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from plenum.bootstrap.agent import AgentConfig, manifest_of
from plenum.bootstrap.config import (
    ServerConfig,
    host_name,
    instance_of,
    is_loopback,
    journal_instance_of,
    private_folder,
    write_private,
)
from plenum.bootstrap.server import read_settings
from plenum.control.hardware import node_facts
from plenum.model.errors import FieldError, FileError


@pytest.mark.parametrize(
    ("given", "field", "sentence"),
    [
        ({"port": -1}, "--port", "from 0 (any free one) to 65535"),
        ({"port": 65_536}, "--port", "not 65536"),
        ({"tls": False, "host": "0.0.0.0"}, "--no-tls", "tokens would cross the network in the clear"),
        ({"certificate": Path("c.pem")}, "--certificate", "both a certificate and its key"),
        ({"key": Path("k.pem")}, "--certificate", "both a certificate and its key"),
        ({"lease_s": 0.5}, "--lease", "from 2 s to 60 minutes, not 0.5 s"),
        ({"lease_s": 3_601.0}, "--lease", "not 3601 s"),
    ],
)
def test_what_cannot_be_meant_of_a_server(given: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        ServerConfig(**given)
    assert caught.value.where.field == field
    assert sentence in caught.value.sentence


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"servers": ()}, "give the address of a control plane"),
        ({"servers": ("control.example:7070",)}, "is not an address such as"),
        ({"servers": ("ftp://control.example",)}, "is not an address such as"),
        ({"servers": ("https://",)}, "is not an address such as"),
        ({"servers": ("https://127.0.0.1:1", "http://control.example:7070")}, "over HTTPS only"),
    ],
)
def test_what_cannot_be_meant_of_an_agent(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=sentence):
        AgentConfig(data=tmp_path, **given)


def test_secrets_are_not_shown_with_a_configuration(tmp_path: Path) -> None:
    config = AgentConfig(servers=("http://localhost:1",), data=tmp_path, join_token="plm_secret")
    assert "plm_secret" not in repr(config)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "https://127.0.0.1:7"),
        ({"tls": False}, "http://127.0.0.1:7"),
        ({"host": "0.0.0.0"}, "https://127.0.0.1:7"),
        ({"host": "::1"}, "https://[::1]:7"),
        ({"host": "0.0.0.0", "public": "control.example"}, "https://control.example:7"),
        ({"public": "2001:db8::1"}, "https://[2001:db8::1]:7"),
    ],
)
def test_the_address_that_others_use(given: dict[str, Any], address: str) -> None:
    assert ServerConfig(**given).address(7) == address


def test_the_store_is_in_the_data_folder_unless_said_otherwise(tmp_path: Path) -> None:
    config = ServerConfig(data=tmp_path)
    assert (config.store_url, config.shared_store) == (f"sqlite:///{tmp_path}/plenum.db", False)
    assert ServerConfig(store="postgresql://db/plenum").shared_store


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("localhost.example", False)],
)
def test_what_is_this_host_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_folders_and_files_are_for_their_user_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a/b")
    write_private(folder / "token", b"one")
    write_private(folder / "token", b"two")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert ((folder / "token").read_bytes(), os.listdir(folder)) == (b"two", ["token"])
    with pytest.raises(FileError, match="cannot be made a folder"):
        private_folder(folder / "token")


def test_a_copy_of_a_folder_is_another_instance(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a")
    first = instance_of(folder)
    assert instance_of(folder) == first
    folder.rename(tmp_path / "moved")
    assert instance_of(tmp_path / "moved") == first
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    assert instance_of(tmp_path / "copy") != first


def test_an_agent_gives_no_more_than_it_may(tmp_path: Path) -> None:
    from plenum.adapters.manifests.fleet import parse_fleet

    given = {"servers": ("https://127.0.0.1:1",), "data": tmp_path, "name": "n1"}
    (whole,) = node_facts(parse_fleet(manifest_of(AgentConfig(**given))))
    (part,) = node_facts(parse_fleet(manifest_of(AgentConfig(**given, cpu_milli=500, memory_bytes=2**20))))
    (over,) = node_facts(parse_fleet(manifest_of(AgentConfig(**given, cpu_milli=10**9))))
    assert (part.name, part.cpu_milli, part.memory_bytes) == ("n1", 500, 2**20)
    assert whole.cpu_milli == over.cpu_milli > 500


def test_a_host_has_the_name_of_a_node() -> None:
    assert host_name()
    assert not set(host_name()) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read"),
        ("nonsense =", "is not a file of API settings"),
        ("no_such_setting = 1", "there is no API setting no_such_setting"),
        ("[failure_rate]\nper_s = 1.0\nburst = 1\nevery = 2", "there is no API setting failure_rate.every"),
        ("audit_most = 'many'", "audit_most"),
    ],
)
def test_settings_of_the_api_that_cannot_be_meant(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "api.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FileError, match=sentence):
        read_settings(ServerConfig(api_settings=file))


def test_settings_of_the_api_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "api.toml"
    file.write_text("audit_most = 7\n[failure_rate]\nper_s = 2.0\nburst = 3\n")
    settings = read_settings(ServerConfig(api_settings=file))
    assert (settings.audit_most, settings.failure_rate.burst) == (7, 3)
    assert read_settings(ServerConfig()) == type(settings)()


def test_a_journal_that_was_deleted_has_another_name_after(tmp_path: Path) -> None:
    first = journal_instance_of(tmp_path)
    assert journal_instance_of(tmp_path) == first
    shutil.rmtree(tmp_path / "journal")
    assert journal_instance_of(tmp_path) != first


def test_a_journal_from_before_they_had_names_goes_on_under_that_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "0000000000000001.rows").touch()
    assert journal_instance_of(tmp_path) == instance_of(tmp_path)
