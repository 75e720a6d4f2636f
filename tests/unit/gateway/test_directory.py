"""Whose key this is, and which models they have."""

import hashlib

import pytest

from plenum.gateway.directory import Directory
from plenum.gateway.request import RefusedError
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Replica, Served, Table


def key(id: str, secret: str, **more) -> Key:
    return Key(id=id, hash=hashlib.sha256(secret.encode()).hexdigest(), tenant="acme", **more)


DIRECTORY = Directory(
    Table(
        version=1,
        keys=(key("a", "sk-a"), key("old", "sk-old", expires_at=100.0), key("one", "sk-one", models=("two",))),
        served=tuple(
            Served(spec=Endpoint(name=name, tenant=tenant, model="/w", adapters=adapters), uid=1)
            for tenant, name, adapters in (
                ("acme", "two", ()),
                ("acme", "one", (("lora", "/l"),)),
                ("other", "three", ()),
            )
        ),
    )
)


def test_a_key_proves_who_asks():
    assert DIRECTORY.key_of(b"Bearer sk-a", 50.0).id == "a"
    assert DIRECTORY.key_of(b"bearer  sk-a ", 50.0).id == "a"
    assert DIRECTORY.key_of(b"Bearer sk-old", 99.0).id == "old"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", "key.missing"),
        (b"Bearer", "key.missing"),
        (b"Bearer ", "key.missing"),
        (b"Basic sk-a", "key.missing"),
        (b"Bearer " + b"x" * 300, "key.missing"),
        (b"Bearer sk-b", "key.unknown"),
        (b"Bearer sk-a\x00", "key.unknown"),
        (b"Bearer " + hashlib.sha256(b"sk-a").hexdigest().encode(), "key.unknown"),
        (b"Bearer \xff\xfe", "key.unknown"),
        (b"Bearer sk-old", "key.expired"),
    ],
)
def test_anything_else_proves_nobody(said, code):
    with pytest.raises(RefusedError) as refused:
        DIRECTORY.key_of(said, 100.0)
    assert (refused.value.status, refused.value.code) == (401, code)
    assert "sk-" not in refused.value.sentence


def test_an_adapter_is_listed_where_a_replica_has_it_or_would_once_woken():
    plain = Endpoint(name="chat", tenant="acme", model="/w")
    tuned = Endpoint(name="chat", tenant="acme", model="/w", adapters=(("poet", "/l"),))

    def listed(specs: dict[int, Endpoint], *ready: int) -> list[str]:
        replicas = tuple(
            Replica(run=f"r{n}", url="", engine="vllm", revision=n, pool="serve", phase="ready") for n in ready
        )
        one = Served(spec=tuned, uid=1, specs=specs, replicas=replicas)
        return [name for name, _ in Directory(Table(version=1, served=(one,))).models(key("a", "x"))]

    assert listed({1: plain, 2: tuned}, 1) == ["chat"]  # the new revision has not come up, or went back
    assert listed({1: plain, 2: tuned}, 1, 2) == ["chat", "poet"]
    assert listed({2: tuned}) == ["chat", "poet"]
    assert listed({1: plain}) == ["chat"]


def test_models_are_those_of_the_tenant_that_the_key_may_use():
    assert [name for name, _ in DIRECTORY.models(key("a", "x"))] == ["lora", "one", "two"]
    assert [name for name, _ in DIRECTORY.models(key("a", "x", models=("two", "three")))] == ["two"]
