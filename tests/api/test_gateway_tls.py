"""A gateway that speaks TLS, as the process that `plenum gateway` runs, before curl and OpenAI's client."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import msgspec
import openai
import pytest
from click.testing import CliRunner
from cryptography import x509
from tests.api.gateway_lab import end, line, spawn, table_of, until
from tests.patience import PATIENCE_S

from plenum.adapters.authorities import authority_for
from plenum.bootstrap.gateway import GatewayConfig, config_text, tls_files
from plenum.bootstrap.tls import Credentials, credentials
from plenum.cli.asking import openai_lines
from plenum.cli.bench import command as bench
from plenum.cli.variants import command as variants
from plenum.model.errors import FieldError, FileError

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """No decision of the control plane's is made here, so nothing needs compiling for one."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Credentials]]:
    """A gateway with a certificate, that goes by the table that it kept: where it is, and its files."""
    files = credentials(tmp_path / "tls", ["localhost"])
    engine = spawn(["benchmarks.trivial_engine"], tmp_path / "engine.log")
    (tmp_path / "table.json").write_bytes(msgspec.json.encode(table_of(int(line(engine)))))
    (tmp_path / "token").write_text("none")
    (tmp_path / "settings").write_text("headers_s = 3.0")
    config = GatewayConfig(
        data=tmp_path,
        servers=(NOWHERE,),
        port=0,
        certificate=files.certificate,
        key=files.key,
        settings=tmp_path / "settings",
    )
    gateway = spawn(["plenum.bootstrap.gateway", config_text(config)], tmp_path / "gateway.log")
    address = tmp_path / "address.json"
    try:
        until(address.exists, "the gateway")
        yield json.loads(address.read_bytes())["url"], files
    finally:
        end(gateway)
        end(engine)


def test_curl_and_openai_s_client_trust_its_authority_and_others_do_not(served: tuple[str, Credentials]):
    url, files = served
    assert url.startswith("https://127.0.0.1:")
    silent = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE_S)
    with (
        httpx.Client(verify=ssl.create_default_context(cafile=files.ca)) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-acme", max_retries=0, http_client=http) as client,
    ):
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "chunks=3"}], stream=True
        )
        assert "".join(each.choices[0].delta.content or "" for each in stream if each.choices) == " word" * 3
    curl = ["curl", "-sS", "--cacert", str(files.ca), "-H", "Authorization: Bearer sk-acme", f"{url}/v1/models"]
    said = subprocess.run(curl, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    assert json.loads(said)["data"][0]["id"] == "m"
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{url}/healthz")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url.replace('https', 'http')}/healthz")
    with silent:
        assert silent.recv(1) == b"", "who begins no handshake is not waited for"


def test_our_own_commands_trust_the_authority_of_the_control_plane(
    served: tuple[str, Credentials], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    url, files = served
    monkeypatch.setenv("PLENUM_SERVER", NOWHERE)

    def run(command: click.Command, *args: str) -> str:
        told = CliRunner().invoke(command, [*args, "--url", url, "--key", "sk-acme"])
        return told.output + str(told.exception)

    assert "ConnectError" in run(variants)
    monkeypatch.setenv("PLENUM_CA", str(files.ca))
    assert "There are no experiments" in run(variants)
    assert "words are 11 tokens there" in run(bench, "m", "--rps", "5"), "this engine answers, and counts no words"
    assert authority_for(url, str(files.ca)) == str(files.ca), "the system's authorities do not know it"
    assert authority_for("http://127.0.0.1:9", str(files.ca)) == ""
    pasted = openai_lines(url, "sk-acme", "m", ca=str(files.ca))
    exec(compile(pasted, "pasted", "exec"), {})
    assert "word" in capfd.readouterr().out


def test_beyond_this_host_it_has_a_certificate_for_its_names_unless_told_to_go_without(tmp_path: Path):
    cloud = credentials(tmp_path / "cloud", [])
    config = GatewayConfig(
        data=tmp_path,
        servers=(NOWHERE,),
        host="192.0.2.7",
        public="https://models.example:8443",
        authority=cloud.ca.parent,
    )
    files = tls_files(config)
    assert files.ca == cloud.ca
    shown = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    shown.verify_directly_issued_by(x509.load_pem_x509_certificate(cloud.ca.read_bytes()))
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"192.0.2.7", "models.example", "localhost"} <= {str(name.value) for name in names}
    for host, plain in (("127.0.0.1", False), ("::1", False), ("192.0.2.7", True)):
        assert tls_files(GatewayConfig(data=tmp_path, servers=(NOWHERE,), host=host, plain=plain)) is None


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path):
    one, other = credentials(tmp_path / "1", []), credentials(tmp_path / "2", [])
    with pytest.raises(FieldError, match="both a certificate and its key"):
        GatewayConfig(data=tmp_path, servers=(NOWHERE,), certificate=one.certificate)
    config = GatewayConfig(data=tmp_path, servers=(NOWHERE,), certificate=one.certificate, key=other.key)
    with pytest.raises(FileError, match="cannot be used for TLS"):
        tls_files(config)
