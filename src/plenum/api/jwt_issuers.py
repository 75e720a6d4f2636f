"""JSON Web Tokens of configured issuers: verified against their published keys, their claims turned into grants."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pathlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import jwt
import msgspec

from plenum.api.errors import ExpiredTokenError, InvalidTokenError
from plenum.api.identity import Principal
from plenum.api.settings import JwtIssuer
from plenum.control.events import Grant
from plenum.ports.clock import Clock

JWT_BYTES = 16 * 1024
"""Longest JWT that is looked at."""

KEYS_BYTES = 512 * 1024
"""Largest set of keys that is read."""

KEYS_S = 3600.0
"""How long a set of keys is used without asking again."""

REFRESH_S = 30.0
"""Least time between two fetches of one issuer's keys, whatever tokens claim."""

FETCH_S = 5.0
LEEWAY_S = 30.0
"""By how much the issuer's clock may differ from ours."""

NAME_CHARACTERS = 200
REMEMBERED = 4096
"""Verified tokens kept until they expire or the keys change: a signature takes far longer to check than a hash to look up."""

_LOG = logging.getLogger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]


class JwtVerifier:
    """Knows the issuers.

    Parameters
    ----------
    fetch
        Reads the keys at a path or an https address.
    """

    def __init__(self, issuers: tuple[JwtIssuer, ...], clock: Clock, fetch: Fetch | None = None) -> None:
        self._clock = clock
        self._keys = {i.issuer: _Keys(i, clock, fetch or fetch_keys) for i in issuers}

    def remembered(self, text: str) -> Principal | None:
        """Return whom a token that was verified before speaks for, without any effort; None: it must be verified.

        Raises
        ------
        ExpiredTokenError
            It has expired meanwhile.
        """
        for keys in self._keys.values():
            if (found := keys.remembered(text)) is not None:
                if self._clock.now() >= found.expires_at:
                    raise ExpiredTokenError
                return found
        return None

    async def verify(self, text: str) -> Principal:
        """Return whom a token speaks for.

        Raises
        ------
        InvalidTokenError
            Whatever is wrong with it.
        ExpiredTokenError
            Only its time is over.
        """
        if len(text) > JWT_BYTES:
            raise InvalidTokenError
        try:
            header = jwt.get_unverified_header(text)
            issuer = jwt.decode(text, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, RecursionError, ValueError):
            raise InvalidTokenError from None
        keys = self._keys.get(issuer) if isinstance(issuer, str) else None
        if keys is None:
            raise InvalidTokenError
        key = await keys.find(header.get("kid"), header.get("alg"))
        if key is None:
            raise InvalidTokenError
        return keys.principal(text, key)


class _Keys:
    """One issuer's keys."""

    def __init__(self, issuer: JwtIssuer, clock: Clock, fetch: Fetch) -> None:
        self.verified: OrderedDict[bytes, Principal] = OrderedDict()
        self._issuer = issuer
        self._clock = clock
        self._fetch = fetch
        self._keys: list[jwt.PyJWK] = []
        self._fetched_at = float("-inf")
        self._good_until = float("-inf")
        self._lock = asyncio.Lock()

    def remembered(self, text: str) -> Principal | None:
        """Return whom a verified token speaks for, as long as the keys it was verified with are fresh."""
        return self.verified.get(_digest(text)) if self._clock.monotonic() < self._good_until else None

    async def find(self, kid: object, alg: object) -> jwt.PyJWK | None:
        """Return the key that a token's header names; a name not known yet is looked for once more at the issuer's."""
        if alg not in self._issuer.algorithms or not (kid is None or isinstance(kid, str)):
            return None
        if self._clock.monotonic() >= self._good_until:
            await self._refresh()
        if (key := self._among(kid)) is None:
            await self._refresh()
            key = self._among(kid)
        return key

    def _among(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.key_id == kid), None)

    async def _refresh(self) -> None:
        async with self._lock:
            now = self._clock.monotonic()
            if now - self._fetched_at < REFRESH_S:
                return
            self._fetched_at = now
            try:
                keys = jwt.PyJWKSet.from_dict(msgspec.json.decode(await self._fetch(self._issuer.jwks))).keys
            except (OSError, httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
                # The keys known so far stay good: an issuer that cannot be reached for a while must not lock everybody out.
                _LOG.warning("the keys of %s could not be read: %s", self._issuer.issuer, error)
                return
            self._keys = [key for key in keys if key.public_key_use in (None, "sig")]
            self._good_until = now + KEYS_S
            self.verified.clear()

    def principal(self, text: str, key: jwt.PyJWK) -> Principal:
        """Return whom a token signed by a key speaks for."""
        issuer, now = self._issuer, self._clock.now()
        try:
            claims = jwt.decode(
                text,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                # The times are compared with the clock of the control plane below.
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, RecursionError, ValueError, TypeError):
            raise InvalidTokenError from None
        ends, begins, name = claims["exp"], claims.get("nbf", 0), claims.get(issuer.user_claim)
        if not _is_number(ends) or not _is_number(begins) or begins > now + LEEWAY_S:
            raise InvalidTokenError
        if now >= ends + LEEWAY_S:
            raise ExpiredTokenError
        if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS or not name.isprintable():
            raise InvalidTokenError
        digest = _digest(text)
        principal = Principal(
            kind="user",
            name=issuer.name_prefix + name,
            grants=grants_of(issuer, claims),
            token=f"jwt:{issuer.name_prefix}{name}",
            expires_at=float(ends) + LEEWAY_S,
        )
        self.verified[digest] = principal
        if len(self.verified) > REMEMBERED:
            self.verified.popitem(last=False)
        return principal


def grants_of(issuer: JwtIssuer, claims: dict[str, Any]) -> tuple[Grant, ...]:
    """Return what the claims of a verified token allow."""
    return tuple(sorted({Grant(g.role, g.tenant) for g in issuer.grants if g.value in _values(claims, g.claim)}))


def _values(claims: dict[str, Any], path: str) -> tuple[str, ...]:
    at: Any = claims
    # A claim's own name may hold dots, as those named by an address do.
    if path in claims:
        at = claims[path]
    else:
        for step in path.split("."):
            at = at.get(step) if isinstance(at, dict) else None
    values = at if isinstance(at, list) else [at]
    return tuple(value for value in values if isinstance(value, str))


async def fetch_keys(source: str) -> bytes:
    """Read a set of keys from a file or an https address; no redirects, no more than :data:`KEYS_BYTES`."""
    if not source.startswith("https://"):
        return await asyncio.to_thread(_read, source)
    async with (
        httpx.AsyncClient(timeout=FETCH_S, follow_redirects=False) as client,
        client.stream("GET", source) as response,
    ):
        response.raise_for_status()
        data = b""
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > KEYS_BYTES:
                raise ValueError(f"more than {KEYS_BYTES} bytes of keys")
        return data


def _read(path: str) -> bytes:
    with pathlib.Path(path).open("rb") as stream:
        data = stream.read(KEYS_BYTES + 1)
    if len(data) > KEYS_BYTES:
        raise ValueError(f"more than {KEYS_BYTES} bytes of keys")
    return data


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
