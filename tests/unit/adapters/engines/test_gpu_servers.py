"""What starts vLLM and SGLang: the planner's lines with a replica's own weights, ports and key, and no key where others see it."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines import LLAMA
from tests.patience import PATIENCE_S

from plenum.adapters.authorities import OwnCertificate
from plenum.adapters.engines.gpu_servers import Spread, sglang_command, vllm_command
from plenum.adapters.engines.table import Start, command_of, engine_to_start
from plenum.model.endpoint import Endpoint, Pool
from plenum.model.errors import FieldError
from plenum.model.workload import Parallelism

KEY = "a-secret"


@pytest.fixture
def weights(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def _after(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def _endpoint(*pools: Pool, **fields) -> Endpoint:
    return Endpoint(name="small", model="/models/small", engine="vllm", pools=pools or (Pool(),), **fields)


def test_vllm_gets_the_replicas_own(weights, monkeypatch):
    monkeypatch.setenv("PLENUM_VLLM", "/opt/vllm/bin/vllm serve")
    spread = Pool(parallelism=Parallelism(tp=2, pp=2))
    endpoint = _endpoint(
        spread,
        adapters=(("law", "/models/law"),),
        arguments=("--enforce-eager",),
        context_tokens=4096,
        slots=32,
        cache_format="fp8",
        served_as="tiny",
    )

    command = vllm_command(endpoint, "serve", weights, host="10.0.0.1", port=8123, key=KEY)

    words = list(command.words)
    assert words[3:6] == ["/opt/vllm/bin/vllm", "serve", str(weights)]
    assert (_after(words, "--host"), _after(words, "--port")) == ("10.0.0.1", "8123")
    assert (_after(words, "--tensor-parallel-size"), _after(words, "--pipeline-parallel-size")) == ("2", "2")
    assert (_after(words, "--max-model-len"), _after(words, "--max-num-seqs")) == ("4096", "32")
    assert _after(words, "--kv-cache-dtype") == "fp8"
    assert _after(words, "--served-model-name") == "tiny"
    assert _after(words, "--lora-modules") == "law=/models/law"
    assert words[-1] == "--enforce-eager"
    assert command.env["VLLM_API_KEY"] == KEY
    assert not [name for name in command.env if name.startswith("PLENUM_")]
    assert KEY not in " ".join(words)
    assert "--kv-transfer-config" not in words


@pytest.mark.parametrize("rank", [0, 1])
def test_vllm_on_each_node_of_a_replica_knows_where_the_first_is(weights, monkeypatch, rank):
    monkeypatch.setenv("PLENUM_VLLM", "vllm serve")
    endpoint = _endpoint(Pool(parallelism=Parallelism(tp=8, pp=2), nodes=2))
    spread = Spread(rank=rank, nodes=2, address="10.0.0.1", port=20_077)

    command = vllm_command(endpoint, "serve", weights, host="10.0.0.9", port=8123, key="", spread=spread)

    words = list(command.words)
    assert (_after(words, "--nnodes"), _after(words, "--node-rank")) == ("2", str(rank))
    assert (_after(words, "--master-addr"), _after(words, "--master-port")) == ("10.0.0.1", "20077")
    assert ("--headless" in words) == bool(rank)
    assert command.env["VLLM_HOST_IP"] == "10.0.0.9"
    assert not [word for word in words if "$" in word]


def test_vllms_module_has_no_servers_without_an_api(weights, monkeypatch):
    monkeypatch.setenv("PLENUM_VLLM", "python -m vllm.entrypoints.openai.api_server")

    with pytest.raises(FieldError, match="must end in serve"):
        vllm_command(_endpoint(), "serve", weights, host="127.0.0.1", port=1, key="", spread=Spread(nodes=2))


def test_sglang_on_each_node_of_a_replica_knows_where_the_first_is(weights):
    endpoint = _endpoint(Pool(parallelism=Parallelism(tp=16), nodes=2))
    spread = Spread(rank=1, nodes=2, address="fd00::1", port=20_077)

    words = list(sglang_command(endpoint, "serve", weights, host="fd00::2", port=8123, key="", spread=spread).words)

    assert (_after(words, "--nnodes"), _after(words, "--node-rank")) == ("2", "1")
    assert _after(words, "--dist-init-addr") == "[fd00::1]:20077"


def test_vllms_module_wants_the_model_named(weights, monkeypatch):
    monkeypatch.setenv("PLENUM_VLLM", "python -m vllm.entrypoints.openai.api_server")

    words = list(vllm_command(_endpoint(), "serve", weights, host="127.0.0.1", port=8123, key="").words)

    assert _after(words, "--model") == str(weights)


@pytest.mark.parametrize(("pool", "side"), [("prefill", "kv_producer"), ("decode", "kv_consumer")])
def test_vllm_pools_that_are_apart_have_a_side_channel_each(weights, pool, side):
    endpoint = _endpoint(Pool(name="prefill"), Pool(name="decode"))

    command = vllm_command(endpoint, pool, weights, host="127.0.0.1", port=8123, key="")

    assert json.loads(_after(list(command.words), "--kv-transfer-config"))["kv_role"] == side
    assert command.env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "127.0.0.1"
    assert 0 < int(command.env["VLLM_NIXL_SIDE_CHANNEL_PORT"]) != 8123


def test_sglang_gets_the_replicas_own_and_its_key_where_nobody_sees_it(weights):
    endpoint = _endpoint(Pool(name="prefill"), Pool(name="decode"))

    command = sglang_command(endpoint, "prefill", weights, host="127.0.0.1", port=8123, key=KEY)

    words = list(command.words)
    assert (_after(words, "--host"), _after(words, "--port")) == ("127.0.0.1", "8123")
    assert _after(words, "--model-path") == str(weights)
    assert _after(words, "--disaggregation-mode") == "prefill"
    assert int(_after(words, "--disaggregation-bootstrap-port")) > 0
    assert "--enable-metrics" in words
    assert KEY not in " ".join(words)
    assert KEY not in str(command.env.values())
    assert command.told == f"{KEY}\n".encode()


def test_sglangs_key_reaches_it_inside_of_its_process(weights, tmp_path, monkeypatch):
    package = tmp_path / "lib" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "launch_server.py").write_text("import sys; print(sys.argv)\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    command = sglang_command(_endpoint(), "serve", weights, host="127.0.0.1", port=8123, key=KEY)

    words = [sys.executable if word == "python" else word for word in command.words]
    done = subprocess.run(
        words, input=command.told, env=dict(command.env), capture_output=True, timeout=PATIENCE_S, check=True
    )

    said = done.stdout.decode()
    assert said.startswith("['sglang.launch_server', '--model-path'")
    assert said.rstrip().endswith(f"'--api-key', '{KEY}']")


def test_a_program_on_the_leash_ends_with_whoever_started_it(weights, monkeypatch):
    monkeypatch.setenv("PLENUM_VLLM", "sleep 600 #")
    words = list(vllm_command(_endpoint(), "serve", weights, host="127.0.0.1", port=8123, key="").words)
    words = [*words[:3], "sleep", "600"]
    starter = (
        "import os, subprocess, sys; "
        f"p = subprocess.Popen({words!r}, env=dict(os.environ, PLENUM_LEASH=str(os.getpid()))); "
        "print(p.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path(f"/proc/{int(parent.stdout.readline())}")
    until = time.monotonic() + PATIENCE_S
    while b"600" not in (child / "cmdline").read_bytes() or b"python" in (child / "cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.01)

    parent.kill()
    parent.communicate()

    with suppress(OSError):  # which says that it is gone, and was waited for by the first of all processes
        while (child / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.parametrize(("engine", "made_by"), [("vllm", vllm_command), ("sglang", sglang_command)])
def test_with_a_certificate_they_speak_tls_whatever_their_arguments_say(weights, engine, made_by):
    own = OwnCertificate(file="/tls/own.pem", key_file="/tls/own.key", sha256="a" * 64)
    endpoint = replace(_endpoint(arguments=("--ssl-certfile", "/other")), engine=engine)
    start = Start(endpoint=endpoint, weights=weights, host="10.0.0.1", port=8123, certificate=own)

    words = list(command_of(made_by, start).words)
    assert words[-4:] == ["--ssl-certfile", "/tls/own.pem", "--ssl-keyfile", "/tls/own.key"]
    reached = engine_to_start(start)
    assert (reached.url, reached.certificate_sha256) == ("https://10.0.0.1:8123", own.sha256)
    assert engine_to_start(replace(start, certificate=None)).url == "http://10.0.0.1:8123"
