"""Control planes that a person knows: address, token, CA and tenant, kept in a file that only they can read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plenum.model.errors import FieldError, FileError, PlenumError, Where

MAX_BYTES = 2**20
_HOST = re.compile(r"[\w.:%-]+")
_FIELDS = ("server", "token", "ca", "tenant")


class NoContextError(PlenumError):
    """Nobody has said which control plane is meant."""

    code = "client.no-context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A control plane and who one is there.

    Parameters
    ----------
    server
        URL, without a path.
    token
        Bearer token; empty: none.
    ca
        File of the authority that signed the server's certificate; empty: the system's.
    tenant
        Whose jobs are meant where nobody says; empty: ``default``.
    """

    name: str = ""
    server: str
    token: str = ""
    ca: str = ""
    tenant: str = ""


def config_path(env: Mapping[str, str] = os.environ) -> Path:
    """Return the file: ``plenum/config.json`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(home) / "plenum" / "config.json"


def contexts(env: Mapping[str, str] = os.environ) -> tuple[dict[str, Context], str]:
    """Return the contexts that were saved, by name, and the name of the one in use (empty: none).

    Raises
    ------
    FileError
        The file is not what :func:`save_context` writes.
    """
    path = config_path(env)
    stored = _stored(path)
    found = {}
    for name, fields in stored["contexts"].items():
        if not isinstance(fields, dict) or not all(isinstance(fields.get(key, ""), str) for key in _FIELDS):
            raise FileError(f"context {name!r} must hold text under {', '.join(_FIELDS)}", Where(file=str(path)))
        found[name] = Context(name=name, **{"server": "", **{k: fields[k] for k in _FIELDS if k in fields}})
    current = stored.get("current", "")
    return found, current if current in found else ""


def chosen_context(name: str = "", env: Mapping[str, str] = os.environ) -> Context:
    """Return the control plane that is meant.

    ``$PLENUM_SERVER``, ``$PLENUM_TOKEN``, ``$PLENUM_CA`` and ``$PLENUM_TENANT`` each go before what is saved. A server from the
    environment does not get a saved token, which may be another server's.

    Parameters
    ----------
    name
        As ``--context`` says; empty: ``$PLENUM_CONTEXT``, else the one in use.

    Raises
    ------
    NoContextError
        None is, or none of that name.
    """
    name = name or env.get("PLENUM_CONTEXT", "")
    server = env.get("PLENUM_SERVER", "")
    if server and not name:
        context = Context(server=server_url(server))
    else:
        found, current = contexts(env)
        if name and name not in found:
            known = f"there is {', '.join(found)}" if found else "there is none yet"
            raise NoContextError(f"there is no context {name!r}; {known}. Make one with `plenum login`")
        if not (name or current):
            raise NoContextError(
                "no control plane is known here: start one with `plenum up`, or name one with `plenum login URL`"
            )
        context = found[name or current]
    given = {key: env[f"PLENUM_{key.upper()}"] for key in ("token", "ca", "tenant") if env.get(f"PLENUM_{key.upper()}")}
    return replace(context, **given)


def save_context(context: Context, *, use: bool = True, env: Mapping[str, str] = os.environ) -> Path:
    """Keep a context under its name, in place of an older one; ``use`` makes it the one in use. Returns the file.

    Raises
    ------
    FileError
        The file cannot be read or written.
    """
    path = config_path(env)
    stored = _stored(path)
    stored["contexts"][context.name] = {key: getattr(context, key) for key in _FIELDS if getattr(context, key)}
    if use or not stored.get("current"):
        stored["current"] = context.name
    _write(path, stored)
    return path


def forget_context(name: str, *, env: Mapping[str, str] = os.environ) -> None:
    """Remove a context and its token.

    Raises
    ------
    NoContextError
        There is none of that name.
    """
    path = config_path(env)
    stored = _stored(path)
    if name not in stored["contexts"]:
        raise NoContextError(f"there is no context {name!r}")
    del stored["contexts"][name]
    if isinstance(keys := stored.get("keys"), dict):
        keys.pop(name, None)
    _write(path, stored)


def saved_key(context: str, tenant: str, env: Mapping[str, str] = os.environ) -> str:
    """Return the key for models of a tenant that was saved for a context; empty: none.

    Raises
    ------
    FileError
        See :func:`contexts`.
    """
    keys = _stored(config_path(env)).get("keys")
    of_context = keys.get(context) if isinstance(keys, dict) else None
    found = of_context.get(tenant, "") if isinstance(of_context, dict) else ""
    return found if isinstance(found, str) else ""


def save_key(context: str, tenant: str, key: str, env: Mapping[str, str] = os.environ) -> None:
    """Keep a key for models of a tenant beside the context that it belongs to.

    Raises
    ------
    FileError
        The file cannot be read or written.
    """
    path = config_path(env)
    stored = _stored(path)
    keys = stored["keys"] if isinstance(stored.get("keys"), dict) else {}
    of_context = keys[context] if isinstance(keys.get(context), dict) else {}
    stored["keys"] = {**keys, context: {**of_context, tenant: key}}
    _write(path, stored)


def server_url(text: str) -> str:
    """Return a server's URL as it is kept: with a scheme, without a path.

    Raises
    ------
    FieldError
        It is none, or would send tokens over a network in the clear.
    """
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if (
        not (host and _HOST.fullmatch(host))
        or parts.scheme not in ("http", "https")
        or parts.username
        or parts.query
        or parts.path not in ("", "/")
    ):
        raise FieldError(
            "server", f"{text[:80]!r} is not the address of a control plane, such as https://127.0.0.1:7070"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise FieldError("server", f"{url[:80]} would send your token over the network in the clear; use https")
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def _stored(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(MAX_BYTES))
    except FileNotFoundError:
        return {"contexts": {}}
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", Where(file=str(path))) from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("contexts"), dict):
        raise FileError("is not a list of contexts; remove it and log in again", Where(file=str(path)))
    return value


def _write(path: Path, stored: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made anew, so that no other mode than ours can be on the file that tokens go into.
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            json.dump(stored, stream, indent=2)
            stream.write("\n")
        part.replace(path)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(path))) from None
