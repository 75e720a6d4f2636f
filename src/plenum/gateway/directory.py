"""The table as requests look things up in it: whose key this is, and what a tenant's model names mean."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from urllib.parse import urlsplit

from plenum.gateway.answers import invalid, is_loopback
from plenum.gateway.request import RefusedError
from plenum.ports.gateway import Key, Served, Table

MAX_SECRET_BYTES = 256


class Directory:
    """A table, indexed; made once for each version.

    Parameters
    ----------
    table
        As the control plane gave it.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._keys = {key.hash.encode(): key for key in table.keys}
        self._served = {(served.spec.tenant, name): served for served in table.served for name in _names(served)}
        self._by_endpoint = {served.spec.id: served for served in table.served}
        self._tenants: dict[str, set[str]] = {}
        for served in table.served:
            for url in served.spec.attached:
                self._tenants.setdefault(_where(url), set()).add(served.spec.tenant)

    def key_of(self, authorization: bytes, now: float) -> Key:
        """Return the key that a request's ``Authorization`` proves.

        Parameters
        ----------
        now
            Seconds since the epoch.

        Raises
        ------
        RefusedError
            There is none, it is unknown, or it has expired.
        """
        scheme, _, secret = authorization.partition(b" ")
        secret = secret.strip()
        if scheme.lower() != b"bearer" or not secret or len(secret) > MAX_SECRET_BYTES:
            raise _unproven("key.missing", "send an API key as 'Authorization: Bearer KEY'")
        # Looked up by its hash: what timing tells of hashes brings nobody nearer to a secret.
        digest = hashlib.sha256(secret).hexdigest().encode()
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.hash.encode(), digest):
            raise _unproven("key.unknown", "this API key is not known here; check it, or ask for another")
        if key.expires_at and key.expires_at <= now:
            raise _unproven("key.expired", "this API key has expired; ask for another")
        return key

    def served(self, key: Key, model: str, named: str = "") -> Served:
        """Return what a key's holder means by a model.

        Parameters
        ----------
        named
            What they named, where an experiment made ``model`` of it; empty: the same.

        Raises
        ------
        RefusedError
            Nothing: there is none, another tenant has it, or the key may not use it. Which of these is told to nobody.
        """
        found = self._served.get((key.tenant, model))
        if found is None or (key.models and (named or model) not in key.models):
            shown = model if len(model) <= 100 else f"{model[:100]}…"
            raise RefusedError(
                404,
                "invalid_request_error",
                "model_not_found",
                f"there is no model {shown!r} for this key; GET /v1/models lists those that there are",
                field="model",
            )
        return found

    def has(self, tenant: str, model: str) -> bool:
        """Return whether a tenant has a model."""
        return (tenant, model) in self._served

    def endpoint(self, id: str) -> Served | None:
        """Return an endpoint by ``tenant/name``."""
        return self._by_endpoint.get(id)

    def models(self, key: Key) -> Iterator[tuple[str, Served]]:
        """Yield every name that a key's holder may use and would be answered under, in order, and what serves it."""
        for (tenant, name), served in sorted(self._served.items(), key=lambda item: item[0]):
            if tenant == key.tenant and (not key.models or name in key.models) and _is_there(served, name):
                yield name, served

    def is_shared(self, served: Served) -> bool:
        """Whether a server that is attached to an endpoint is attached to another tenant's too."""
        return any(len(self._tenants[_where(url)]) > 1 for url in served.spec.attached)

    def salt(self, tenant: str) -> str:
        """Return what keeps a tenant's prefixes apart; empty: nothing was given."""
        return self.table.salts.get(tenant, "")


def _where(url: str) -> str:
    """Return what is alike of addresses of one server, as far as it can be told from them."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{'loopback' if is_loopback(host) else host}:{parts.port or parts.scheme}"


def _names(served: Served) -> Iterator[str]:
    yield served.spec.model_name
    for name, _ in served.spec.adapters:
        yield name


def _is_there(served: Served, name: str) -> bool:
    """Whether replicas that are ready have an adapter; where none are, whether those have it that a request would wake or wait for."""
    if name not in dict(served.spec.adapters):
        return True
    ready = {replica.revision for replica in served.replicas if replica.phase == "ready"}
    specs = [spec for revision, spec in served.specs.items() if not ready or revision in ready] or [served.spec]
    return any(name in dict(spec.adapters) for spec in specs)


def _unproven(code: str, sentence: str) -> RefusedError:
    return RefusedError(401, "authentication_error", code, sentence)


def check_text(value: object, field: str) -> str:
    """Return a name that a client wrote.

    Raises
    ------
    RefusedError
        It is no text, empty, or has characters that no name has.
    """
    if not isinstance(value, str) or not value or len(value) > 256 or not value.isprintable():
        raise invalid(field, f"{field} must be a name of at most 256 printable characters")
    return value
