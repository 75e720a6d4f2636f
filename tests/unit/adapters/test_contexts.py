"""Contexts: which control plane is meant, and the file that remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plenum.adapters.contexts import (
    Context,
    NoContextError,
    chosen_context,
    config_path,
    contexts,
    forget_context,
    save_context,
    save_key,
    saved_key,
    server_url,
)
from plenum.model.errors import FieldError, FileError

LAB = Context(name="lab", server="https://lab.example:7070", token="plm_lab", ca="/etc/lab.pem", tenant="research")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_what_is_saved_is_found_again_and_private(env: dict[str, str]) -> None:
    path = save_context(LAB, env=env)
    assert path == config_path(env)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert contexts(env) == ({"lab": LAB}, "lab")
    assert chosen_context(env=env) == LAB


def test_a_file_that_others_could_read_is_made_private(env: dict[str, str]) -> None:
    path = save_context(LAB, env=env)
    path.chmod(0o644)
    save_context(replace(LAB, token="plm_new"), env=env)
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_contexts(env: dict[str, str]) -> None:
    save_context(LAB, env=env)
    save_context(Context(name="local", server="http://127.0.0.1:7070"), env=env)
    save_context(Context(name="third", server="http://127.0.0.1:1"), use=False, env=env)
    assert chosen_context(env=env).name == "local"
    assert chosen_context("lab", env) == LAB
    assert chosen_context(env={**env, "PLENUM_CONTEXT": "third"}).name == "third"
    forget_context("local", env=env)
    with pytest.raises(NoContextError):
        chosen_context(env=env)
    with pytest.raises(NoContextError, match="there is lab, third"):
        chosen_context("local", env)


def test_nothing_known_says_what_to_do(env: dict[str, str]) -> None:
    with pytest.raises(NoContextError, match="plenum up"):
        chosen_context(env=env)


def test_the_environment_goes_first(env: dict[str, str]) -> None:
    save_context(LAB, env=env)
    assert chosen_context(env={**env, "PLENUM_TENANT": "other", "PLENUM_TOKEN": "t"}) == replace(
        LAB, tenant="other", token="t"
    )


def test_a_server_of_the_environment_gets_no_token_of_another(env: dict[str, str]) -> None:
    save_context(LAB, env=env)
    assert chosen_context(env={**env, "PLENUM_SERVER": "evil.example"}) == Context(server="https://evil.example")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"contexts": {"a": 1}}', '{"contexts": {"a": {"token": 5}}}'])
def test_a_damaged_file_is_said(env: dict[str, str], text: str) -> None:
    path = save_context(LAB, env=env)
    path.write_text(text)
    with pytest.raises(FileError, match=r"config\.json"):
        chosen_context(env=env)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("lab.example:7070", "https://lab.example:7070"),
        ("https://lab.example/", "https://lab.example"),
        ("http://127.0.0.1:7070", "http://127.0.0.1:7070"),
        ("http://[::1]:7070", "http://[::1]:7070"),
        ("http://localhost:1", "http://localhost:1"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert server_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "https://", "ftp://x", "https://a@b", "https://x/path", "https://x?q", "https://x:port", "http://lab.example", "http://10.0.0.1",
     "http://127.evil.example", "http://127.0.0.1.evil.example", "https://["],
)  # fmt: skip
def test_what_is_no_address_or_no_safe_one(text: str) -> None:
    with pytest.raises(FieldError):
        server_url(text)


def test_keys_for_models_are_kept_beside_their_context_and_go_with_it(env: dict[str, str]) -> None:
    path = save_context(LAB, env=env)
    assert saved_key("lab", "research", env) == ""
    save_key("lab", "research", "plk_one", env)
    save_key("lab", "vision", "plk_two", env)
    assert [saved_key("lab", tenant, env) for tenant in ("research", "vision")] == ["plk_one", "plk_two"]
    assert path.stat().st_mode & 0o777 == 0o600
    save_context(replace(LAB, tenant="vision"), env=env)
    assert saved_key("lab", "research", env) == "plk_one"
    forget_context("lab", env=env)
    assert saved_key("lab", "research", env) == ""


@pytest.mark.parametrize("keys", ['"x"', "[]", '{"lab": 1}', '{"lab": {"research": 7}}'])
def test_what_is_no_key_is_none(env: dict[str, str], keys: str) -> None:
    path = save_context(LAB, env=env)
    path.write_text(path.read_text().rstrip().removesuffix("}") + f', "keys": {keys}}}')
    assert saved_key("lab", "research", env) == ""
    save_key("lab", "research", "plk_one", env)
    assert saved_key("lab", "research", env) == "plk_one"
    forget_context("lab", env=env)
