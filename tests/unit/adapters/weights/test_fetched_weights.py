"""Weights from stores: the Hub, S3 and registries, all resumed, checked, cached and published in the same way."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.patience import PATIENCE_S
from tests.unit.adapters.weights.stores import COMMIT, Store, hub, registry, served, titled

from plenum.adapters.weights import DigestError, Staged, UnknownWeightsError, WeightsError, stage
from plenum.adapters.weights.http_files import Connections, new_client
from plenum.adapters.weights.listings import AwayError, BrokenError

BIG = random.Random(1).randbytes(1 << 20)
FILES = {"config.json": b"{}", "model.safetensors": BIG, "pytorch_model.bin": b"pickle", ".gitattributes": b"x"}
REPOSITORY = "org/small"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with served(Store()) as store:
        monkeypatch.setenv("HF_ENDPOINT", store.url)
        monkeypatch.setattr("plenum.adapters.weights.fetching.PAUSE_S", 0.001)
        yield store


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Any]:
    held: list[Staged] = []

    def go(reference: str, **more: Any) -> Staged:
        held.append(stage(reference, tmp_path / "cache", **more))
        return held[-1]

    yield go
    for staged in held:
        staged.release()


def oci(store: Store, rest: str) -> str:
    return f"oci://{store.url.removeprefix('http://')}/{rest}"


def test_a_repository_is_the_same_weights_as_its_files_in_a_folder(store: Store, staging: Any, tmp_path: Path) -> None:
    hub(store, REPOSITORY, FILES)
    told: list[tuple[int, int]] = []
    staged = staging(f"hf://{REPOSITORY}", progress=lambda done, total: told.append((done, total)))
    assert sorted(path.name for path in staged.path.iterdir()) == ["config.json", "model.safetensors"]
    assert (staged.path / "model.safetensors").read_bytes() == BIG
    assert staged.size_bytes == len(BIG) + 2
    assert told[-1] == (staged.size_bytes, staged.size_bytes)
    assert told == sorted(told)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes(FILES[name])
    assert staging(str(copy)).digest == staged.digest


def test_one_file_of_a_repository_is_a_file(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, {"q4/model.gguf": b"GGUF" + BIG, "config.json": b"{}"})
    staged = staging(f"hf://{REPOSITORY}@main/q4/model.gguf")
    assert staged.path.name == "model.gguf"
    assert staged.digest == "sha256:" + hashlib.sha256(b"GGUF" + BIG).hexdigest()


def test_what_is_here_is_not_fetched_again_and_serves_while_the_store_is_away(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, FILES)
    first = staging(f"hf://{REPOSITORY}")
    fetched = len(store.asked)
    second = staging(f"hf://{REPOSITORY}")
    assert (second.path, second.digest) == (first.path, first.digest)
    assert len(store.asked) == fetched + 1  # what is there now was asked for, and no file
    store.down = True
    assert staging(f"hf://{REPOSITORY}").path == first.path
    assert staging(f"hf://{REPOSITORY}", digest=first.digest).path == first.path
    with pytest.raises(AwayError):
        staging("hf://org/other")


def test_weights_that_changed_at_the_store_are_fetched_and_the_old_ones_stay(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, FILES)
    first = staging(f"hf://{REPOSITORY}")
    hub(store, REPOSITORY, FILES | {"model.safetensors": BIG[::-1]})
    second = staging(f"hf://{REPOSITORY}")
    assert second.digest != first.digest
    assert (first.path / "model.safetensors").read_bytes() == BIG
    with pytest.raises(DigestError):
        staging(f"hf://{REPOSITORY}@main", digest="sha256:" + "0" * 64)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_goes_on_where_it_was(store: Store, staging: Any, ranges: bool) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG})
    store.break_after, store.breaks, store.ranges = 300_000, 2, ranges
    staged = staging(f"hf://{REPOSITORY}")
    assert (staged.path / "model.gguf").read_bytes() == BIG
    asked = store.ranges_of(f"/{REPOSITORY}/resolve/{COMMIT}/model.gguf")
    assert asked[:2] == ["", "bytes=300000-"]


def test_a_transfer_that_breaks_off_again_and_again_ends_and_the_next_call_goes_on(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG})
    store.break_after, store.breaks = 50_000, 6
    with pytest.raises(BrokenError, match=r"300,000 of 1,048,576|broke off"):
        staging(f"hf://{REPOSITORY}")
    store.asked.clear()
    assert (staging(f"hf://{REPOSITORY}").path / "model.gguf").read_bytes() == BIG
    assert store.ranges_of(f"/{REPOSITORY}/resolve/{COMMIT}/model.gguf") == ["bytes=300000-"]


def test_a_process_killed_in_the_middle_leaves_what_it_had(store: Store, staging: Any, tmp_path: Path) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG})
    store.hold = threading.Event()
    code = "import sys; from pathlib import Path; from plenum.adapters.weights import stage; stage(sys.argv[1], Path(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", code, f"hf://{REPOSITORY}", str(tmp_path / "cache")])
    until = time.monotonic() + PATIENCE_S
    while not any(part.stat().st_size >= 500_000 for part in tmp_path.glob("cache/parts/*/*/parts/*")):
        assert time.monotonic() < until
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    store.hold.set()
    store.hold = None
    store.asked.clear()
    assert (staging(f"hf://{REPOSITORY}").path / "model.gguf").read_bytes() == BIG
    (asked,) = store.ranges_of(f"/{REPOSITORY}/resolve/{COMMIT}/model.gguf")
    assert int(asked.removeprefix("bytes=").rstrip("-")) >= 500_000
    assert not list(tmp_path.glob("cache/parts/*"))


def test_processes_that_want_the_same_fetch_it_once(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG})
    store.hold = threading.Event()
    found: list[Staged] = []
    waiting = threading.Event()

    def first() -> None:
        found.append(staging(f"hf://{REPOSITORY}"))

    def told(done: int, total: int) -> None:
        if total == len(BIG):
            waiting.set()

    def second() -> None:
        found.append(staging(f"hf://{REPOSITORY}", progress=told))

    threads = [threading.Thread(target=first)]
    threads[0].start()
    until = time.monotonic() + PATIENCE_S
    while not store.ranges_of(f"/{REPOSITORY}/resolve/{COMMIT}/model.gguf"):
        assert time.monotonic() < until
        time.sleep(0.01)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    assert waiting.wait(PATIENCE_S)
    store.hold.set()
    for thread in threads:
        thread.join()
    assert len({staged.path for staged in found}) == 1
    assert len(store.ranges_of(f"/{REPOSITORY}/resolve/{COMMIT}/model.gguf")) == 1


def test_what_is_not_as_published_is_thrown_away(store: Store, staging: Any, tmp_path: Path) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG}, lies={"model.gguf": "0" * 64})
    with pytest.raises(DigestError, match="not as published"):
        staging(f"hf://{REPOSITORY}")
    assert not [path for path in tmp_path.glob("cache/parts/*/*/parts/*") if path.is_file()]
    assert not list(tmp_path.glob("cache/models/*"))


def test_damage_in_the_cache_is_found_when_asked_for_and_fetched_anew(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG})
    first = staging(f"hf://{REPOSITORY}")
    file = first.path / "model.gguf"
    was = file.stat()
    file.chmod(0o600)
    file.write_bytes(BIG[:-1] + b"?")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert staging(f"hf://{REPOSITORY}", afresh=True).digest == first.digest
    assert file.read_bytes() == BIG


def test_a_callback_that_raises_ends_the_work(store: Store, staging: Any) -> None:
    hub(store, REPOSITORY, {"model.gguf": BIG})

    def told(done: int, total: int) -> None:
        if done > 100_000:
            raise InterruptedError("told to stop")

    with pytest.raises(InterruptedError):
        staging(f"hf://{REPOSITORY}", progress=told)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\b", ".hidden", "a//b", "x" * 300, "a\0b"])
def test_names_that_leave_the_folder_are_refused(store: Store, staging: Any, tmp_path: Path, name: str) -> None:
    registry(store, "models/small", [(titled(name), b"x")])
    with pytest.raises(WeightsError, match="no name"):
        staging(oci(store, "models/small:v1"))
    assert not (tmp_path / "evil").exists()


def test_what_may_not_be_read_is_said_without_the_token(
    store: Store, staging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(store, REPOSITORY, FILES)
    store.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UnknownWeightsError, match="HF_TOKEN") as refused:
        staging(f"hf://{REPOSITORY}")
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert staging(f"hf://{REPOSITORY}").size_bytes


def test_the_token_stays_with_the_hub_when_it_redirects(
    store: Store, staging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(Store()) as elsewhere:
        hub(store, REPOSITORY, {"model.gguf": BIG})
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        path = f"/{REPOSITORY}/resolve/{COMMIT}/model.gguf"
        elsewhere.blobs["/cdn"] = store.blobs.pop(path)
        store.redirects[path] = elsewhere.url.replace("127.0.0.1", "localhost") + "/cdn"
        assert (staging(f"hf://{REPOSITORY}").path / "model.gguf").read_bytes() == BIG
        assert all("authorization" not in {name.lower() for name in headers} for headers in elsewhere.headers)


def test_an_artifact_comes_file_by_file_or_as_an_archive(store: Store, staging: Any) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in (("./model.gguf", BIG), ("sub/config.json", b"{}")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    plain = registry(store, "models/plain", [(titled("model.gguf"), BIG), (titled("sub/config.json"), b"{}")])
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
    registry(store, "models/packed", [(layer, packed.getvalue())])
    first, second = staging(oci(store, "models/plain:v1")), staging(oci(store, "models/packed:v1"))
    assert first.digest == second.digest
    assert (second.path / "sub" / "config.json").read_bytes() == b"{}"
    assert staging(oci(store, f"models/plain@{plain}")).digest == first.digest


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archives_with_anything_but_files_are_refused(store: Store, staging: Any, tmp_path: Path, kind: bytes) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("model")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    registry(store, "models/evil", [({"mediaType": "application/vnd.oci.image.layer.v1.tar"}, packed.getvalue())])
    with pytest.raises(WeightsError, match="no plain file"):
        staging(oci(store, "models/evil:v1"))


def test_an_archive_that_swells_is_not_unpacked(store: Store, staging: Any) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("model.gguf")
        member.size = 50_000_000
        archive.addfile(member, io.BytesIO(bytes(50_000_000)))
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
    registry(store, "models/bomb", [(layer, packed.getvalue())])
    with pytest.raises(WeightsError, match="far more than its size"):
        staging(oci(store, "models/bomb:v1"))


def test_a_registry_gives_a_token_and_a_manifest_is_what_its_digest_says(store: Store, staging: Any) -> None:
    digest = registry(store, "models/small", [(titled("model.gguf"), BIG)])
    store.token = "pull"
    store.challenge = f'Bearer realm="{store.url}/token",service="here",scope="repository:models/small:pull"'
    assert staging(oci(store, "models/small:v1")).size_bytes == len(BIG)
    for realm, says in (
        ("http://example.com/token", "plain HTTP"),
        ("http://[::1", "no address"),
        ("/token", "no address"),
    ):
        store.challenge = f'Bearer realm="{realm}"'
        with pytest.raises(WeightsError, match=says):
            staging(oci(store, "models/small:other"))
    store.token = ""
    store.documents[f"/v2/models/small/manifests/{digest}"] = ("application/json", b'{"layers": []}')
    with pytest.raises(DigestError, match="manifest is not"):
        staging(oci(store, f"models/small@{digest}"))


@pytest.mark.parametrize(
    "realm",
    [
        *("http://127.0.0.1:1/", "https://localhost/", "https://[::1]/t", "https://10.0.0.7/t"),
        *("https://127.1/t", "https://2130706433/t", "https://0x7f.0.0.1/t"),
    ],
)
@pytest.mark.parametrize("header", ["WWW-Authenticate", "Location"])
def test_a_registry_elsewhere_makes_nobody_ask_services_of_this_network(
    staging: Any, monkeypatch: pytest.MonkeyPatch, realm: str, header: str
) -> None:
    said = {"WWW-Authenticate": f'Bearer realm="{realm}"', "Location": realm}
    answer = httpx.Response(401 if header == "WWW-Authenticate" else 307, headers={header: said[header]})
    client = new_client(httpx.MockTransport(lambda request: answer))
    monkeypatch.setattr("plenum.adapters.weights.registries.new_client", lambda: client)
    with pytest.raises(WeightsError, match="within this network"):
        staging("oci://registry.example.com/models/small:v1")


def test_a_name_that_means_this_network_by_now_is_sent_nothing(store: Store) -> None:
    with new_client(outside=True) as client, pytest.raises(WeightsError, match=r"127\.0\.0\.1 is within this network"):
        client.get(store.url)
    assert not store.asked
    with new_client() as client:
        assert client.get(store.url).status_code == 404


def test_where_a_store_is_its_first_connection_tells() -> None:
    class Stream:
        def __init__(self, address: str) -> None:
            self.address, self.closed = address, False

        def get_extra_info(self, info: str) -> tuple[str, int]:
            return self.address, 443

        def close(self) -> None:
            self.closed = True

    within = Connections()
    for address in ("10.0.0.7", "8.8.8.8", "::1"):
        within.take("registry", Stream(address))
    elsewhere, stream = Connections(), Stream("::ffff:127.0.0.1")
    elsewhere.take("registry", Stream("8.8.8.8"))
    with pytest.raises(WeightsError, match="registry is within this network"):
        elsewhere.take("registry", stream)
    assert stream.closed


def test_an_answer_without_end_is_read_no_further_than_it_may_be(staging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield bytes(2**20)

    client = new_client(httpx.MockTransport(lambda request: httpx.Response(200, content=endless())))
    monkeypatch.setattr("plenum.adapters.weights.registries.new_client", lambda: client)
    with pytest.raises(WeightsError, match="more than 4,194,304 bytes"):
        staging("oci://registry.example.com/models/small:v1")
    assert sent < 10


def test_what_was_asked_for_longest_ago_makes_room_unless_it_is_in_use(
    store: Store, staging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        hub(store, f"org/m{number}", {"model.gguf": bytes([number]) * 1000})
    held = [staging(f"hf://org/m{number}", cap_bytes=3000) for number in range(3)]
    with pytest.raises(WeightsError, match="in use"):
        staging("hf://org/m3", cap_bytes=3000)
    held[0].release()
    held[1].release()
    staging("hf://org/m0", cap_bytes=3000).release()  # so that the second one is the oldest
    staging("hf://org/m3", cap_bytes=3000)
    assert [staged.path.exists() for staged in held] == [True, False, True]
    with pytest.raises(WeightsError, match="needs"):
        staging("hf://org/m1", cap_bytes=500)
    monkeypatch.setenv("PLENUM_WEIGHTS_CAP", "1KB")
    with pytest.raises(WeightsError, match="needs"):
        staging("hf://org/m1")
    monkeypatch.setenv("PLENUM_WEIGHTS_CAP", "1GB")
    assert staging("hf://org/m1").size_bytes == 1000


def test_objects_of_a_bucket(staging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-the-node"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="weights")
        for key, data in (
            ("llama/config.json", b"{}"),
            ("llama/model.gguf", BIG),
            ("llama-large/model.gguf", b"other"),
        ):
            client.put_object(Bucket="weights", Key=key, Body=data)
        whole = staging("s3://weights/llama")
        assert sorted(path.name for path in whole.path.iterdir()) == ["config.json", "model.gguf"]
        assert (whole.path / "model.gguf").read_bytes() == BIG
        assert staging("s3://weights/llama/model.gguf").path.name == "model.gguf"
        for nothing in ("s3://weights/none", "s3://no-such-bucket/x"):
            with pytest.raises(UnknownWeightsError):
                staging(nothing)
        client.close()
    finally:
        server.stop()
