"""Weights in an OCI registry: files as ORAS pushes them, or layers of an image that hold them (OCI distribution 1.1).

Credentials are the node's own: Docker's configuration (``$DOCKER_CONFIG``, ``~/.docker``). A registry on loopback may speak plain HTTP.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec

from plenum.adapters.weights.http_files import ask, is_inside, new_client, raise_for, read_from
from plenum.adapters.weights.listings import Item, Listing, checked
from plenum.adapters.weights.references import DigestError, Reference, WeightsError

TITLE = "org.opencontainers.image.title"
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None


class _Manifest(msgspec.Struct):
    layers: list[_Descriptor] = []
    manifests: list[_Descriptor] = []


@contextmanager
def list_registry(reference: Reference) -> Iterator[Listing]:
    """Give the files of an artifact or image.

    Raises
    ------
    UnknownWeightsError
        There is no such repository or tag.
    AwayError
        The registry does not answer.
    WeightsError
        It refuses, or what it has is no manifest of files.
    """
    with new_client() as client:
        registry = _Registry(client, reference)
        manifest = registry.manifest(reference.version)
        if manifest.manifests:  # weights are the same for every platform
            manifest = registry.manifest(manifest.manifests[0].digest)
        yield checked(reference.text, [registry.item(n, layer) for n, layer in enumerate(manifest.layers)])


class _Registry:
    def __init__(self, client: httpx.Client, reference: Reference) -> None:
        self._client, self._reference = client, reference
        scheme = "http" if _LOOPBACK.fullmatch(reference.place) else "https"
        self._base = f"{scheme}://{reference.place}/v2/{reference.within}"
        self._headers: dict[str, str] = {}

    def manifest(self, version: str) -> _Manifest:
        """Return a manifest, checked against its digest where that is how it was asked for."""
        headers = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))}
        url = f"{self._base}/manifests/{version}"
        answer = ask(self._client, url, headers | self._headers, self._reference.text)
        if answer.status_code == 401:
            self._log_in(answer.headers.get("www-authenticate", ""))
            answer = ask(self._client, url, headers | self._headers, self._reference.text)
        raise_for(answer, self._reference.text)
        _check(version, answer.content)
        try:
            return msgspec.json.decode(answer.content, type=_Manifest)
        except msgspec.MsgspecError:
            raise WeightsError(f"{self._reference.text} is no manifest of files") from None

    def item(self, number: int, layer: _Descriptor) -> Item:
        """Return a layer as a file: under its title, or as an archive of files."""
        found = _DIGEST.fullmatch(layer.digest)
        if not found or layer.size < 0:
            raise WeightsError(f"{self._reference.text} has a layer without a SHA-256 digest")
        title = (layer.annotations or {}).get(TITLE, "")
        packed = "tar" in layer.media_type.rpartition(".")[2] and (not title or _unpacks(layer))
        name = title if title and not packed else f"layer-{number}"
        url = f"{self._base}/blobs/{layer.digest}"
        return Item(
            name=name,
            size_bytes=layer.size,
            version=layer.digest,
            sha256=found[1],
            archive=packed,
            read=partial(self._read, url, name),
        )

    def _read(self, url: str, name: str, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        return read_from(self._client, url, offset, self._headers, name)

    def _log_in(self, challenge: str) -> None:
        """Get a token as the registry asks for it, with this node's credentials or without any."""
        scheme, _, rest = challenge.partition(" ")
        basic = _credentials(self._reference.place)
        if scheme.lower() == "basic" and basic:
            self._headers["Authorization"] = f"Basic {basic}"
            return
        asked = dict(_PARAMETER.findall(rest[:4_096]))
        if scheme.lower() != "bearer":
            return
        realm = self._realm(asked.get("realm", ""))
        scope = asked.get("scope") or f"repository:{self._reference.within}:pull"
        url = realm.copy_merge_params({"service": asked.get("service", ""), "scope": scope})
        headers = {"Authorization": f"Basic {basic}"} if basic else {}
        answer = ask(self._client, str(url), headers, self._reference.text)
        raise_for(answer, self._reference.text)
        try:
            said = answer.json()
            self._headers["Authorization"] = f"Bearer {said.get('token') or said['access_token']}"
        except (ValueError, KeyError, AttributeError):
            raise WeightsError(f"the registry of {self._reference.text} gave no token") from None

    def _realm(self, text: str) -> httpx.URL:
        """Return where tokens are given; a registry elsewhere must not make this node ask its own services for something."""
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL:
            realm = httpx.URL("")
        what = f"the registry of {self._reference.text} asks to log in"
        if not realm.host or realm.scheme not in ("http", "https"):
            raise WeightsError(f"{what} at {text[:100]!r}, which is no address")
        own = httpx.URL(self._base).host
        if is_inside(realm.host) and not is_inside(own):
            raise WeightsError(f"{what} at {realm.host}, which is not where the registry is but within this network")
        if realm.scheme == "http" and not _LOOPBACK.fullmatch(realm.netloc.decode()):
            raise WeightsError(f"{what} over plain HTTP")
        return realm


def _unpacks(layer: _Descriptor) -> bool:
    return (layer.annotations or {}).get("io.deis.oras.content.unpack") == "true"


def _check(version: str, content: bytes) -> None:
    import hashlib

    if (found := _DIGEST.fullmatch(version)) and hashlib.sha256(content).hexdigest() != found[1]:
        raise DigestError(f"the registry's manifest is not {version}")


def _credentials(registry: str) -> str:
    """Return what Docker's configuration has for a registry: ``user:password`` in base64, or nothing."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser())
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))["auths"]
        found = known.get(registry) or known.get(f"https://{registry}") or {}
        if found.get("username"):
            return base64.b64encode(f"{found['username']}:{found['password']}".encode()).decode()
        return str(found.get("auth", ""))
    except (OSError, ValueError, KeyError, AttributeError):
        return ""
