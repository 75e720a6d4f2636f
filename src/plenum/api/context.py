"""What every request needs: the service behind the API, and who guards its doors."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import HTTPConnection

from plenum.api.authorise import Policies, Target
from plenum.api.errors import ForbiddenError, HiddenError, InvalidTokenError, RateError, UnauthenticatedError
from plenum.api.identity import Principal, is_own_token, principal_of
from plenum.api.jwt_issuers import Fetch, JwtVerifier
from plenum.api.metrics import Metrics
from plenum.api.rates import Rates
from plenum.api.refusals import Refusals
from plenum.api.settings import ApiSettings
from plenum.control.service import Service

TURNS_EACH = 4
"""Questions that take long (``explain``, ``why``) which one token may have waiting; of each kind one is answered at a time."""


MAX_GATEWAYS = 1_000
GATEWAY_S = 120.0
"""A gateway that has not asked for its table for so long is shown no more."""


class Gateways:
    """Which gateways ask for their tables: soft state, known again a moment after a restart."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float, int]] = {}

    def heard(self, name: str, url: str, now: float, version: int) -> None:
        """Note that a gateway asked, where clients reach it, and which table it has."""
        if name in self._seen or len(self._seen) < MAX_GATEWAYS:
            self._seen[name] = (url, now, version)

    def has(self, name: str, version: int) -> bool:
        """Whether a gateway has asked for what comes after a version of the table, and so has that one."""
        return name in self._seen and self._seen[name][2] >= version

    def lately(self, now: float) -> dict[str, tuple[str, float, int]]:
        """Return those heard of lately: name to URL, when, and version of the table that it had."""
        self._seen = {name: seen for name, seen in self._seen.items() if abs(now - seen[1]) < GATEWAY_S}
        return self._seen


_IN_WORDS = {
    "experiments:write": (
        "a change of the tenant itself",
        "its admins change its spec.experiments, and operators the rest",
    ),
}
"""Actions that do not say themselves what somebody wanted, and who may."""


class ApiContext:
    """One API's parts. Lives on the event loop's thread, as the service's state does."""

    def __init__(self, service: Service, settings: ApiSettings, fetch: Fetch | None = None) -> None:
        self.service = service
        self.settings = settings
        self.policies = Policies()
        self.metrics = Metrics(service)
        self.refusals = Refusals(service, settings.audit_window_s, settings.audit_most, settings.audit_rate)
        self.backing_up = asyncio.Lock()
        self.joining = asyncio.Lock()
        self._jwt = JwtVerifier(settings.jwt, service.clock, fetch)
        self._rates = Rates(settings.rate, service.clock.monotonic)
        self._failures = Rates(settings.failure_rate, service.clock.monotonic)
        self._streams: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self.gateways = Gateways()

    # -- who ---------------------------------------------------------------------------------------

    async def identify(self, connection: HTTPConnection) -> Principal:
        """Return who asks, and count the request against their rate.

        Raises
        ------
        UnauthenticatedError
            Nobody who can prove it.
        RateError
            Too many requests; or too many failures from this address, for what takes effort to check.
        """
        source = source_of(connection)
        try:
            principal = await self._principal(bearer_of(connection), source)
        except UnauthenticatedError:
            if wait_s := self._failures.take(source):
                raise RateError("too many requests from here were refused; wait a little", _whole(wait_s)) from None
            raise
        if wait_s := self._rates.take(principal.token):
            raise RateError("too many requests for this token; slow down", _whole(wait_s))
        return principal

    async def known(self, connection: HTTPConnection) -> Principal:
        """Return who asks, without counting it.

        Raises
        ------
        UnauthenticatedError
            Nobody who can prove it (any more).
        """
        return await self._principal(bearer_of(connection), source_of(connection))

    async def _principal(self, text: str, source: str) -> Principal:
        if is_own_token(text):
            return principal_of(self.service.state, text, self.service.clock.now())
        if not self.settings.jwt or text.count(".") != 2:
            raise InvalidTokenError
        if (known := self._jwt.remembered(text)) is not None:
            return known
        # A signature costs us more than it costs them.
        if wait_s := self._failures.wait_s(source):
            raise RateError("too many requests from here were refused; wait a little", _whole(wait_s))
        return await self._jwt.verify(text)

    # -- what --------------------------------------------------------------------------------------

    def require(self, principal: Principal, action: str, target: Target) -> None:
        """Pass if somebody may do something.

        Raises
        ------
        ForbiddenError
            They may not, and may know that it is there.
        HiddenError
            They may not, and may not know whether it is there.
        """
        if self.policies.allows(principal, action, target):
            return
        if principal.kind == "user" and target.kind == "Tenant":
            if not self.policies.allows(principal, "tenants:read", target):
                raise HiddenError(f"there is no tenant {target.name}, or it is not yours to see")
            what, whom = _IN_WORDS.get(action, (action, "ask an admin of the tenant"))
            raise ForbiddenError(f"your role in tenant {target.name} does not allow {what}; {whom}")
        if principal.kind == "user" and target.kind == "Account":
            raise HiddenError(f"there is no user {target.name}, or it is not yours to see")
        if principal.kind != "user":
            raise ForbiddenError(f"a token of kind {principal.kind} does not allow {action} here")
        raise ForbiddenError(f"{action} is for operators")

    def visible(self, principal: Principal, action: str) -> frozenset[str] | None:
        """Return the tenants in which somebody may do something; None: in every one."""
        if self.policies.allows(principal, action, Target(kind="Tenant", name="*")):
            return None
        tenants = {grant.tenant for grant in principal.grants}
        return frozenset(
            name for name in tenants if self.policies.allows(principal, action, Target(kind="Tenant", name=name))
        )

    # -- turns -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, principal: Principal, kind: str) -> AsyncIterator[None]:
        """Let one question of a kind be answered at a time, so that those who ask many hold up themselves and not the work.

        Raises
        ------
        RateError
            Too many of theirs wait already.
        """
        if self._waiting[principal.token] >= TURNS_EACH:
            raise RateError(f"{TURNS_EACH} such questions of this token wait for an answer; ask again after that", 1)
        self._waiting[principal.token] += 1
        try:
            async with self._turns.setdefault(kind, asyncio.Lock()):
                await asyncio.sleep(0)  # what else there is to do goes in between
                yield
        finally:
            self._waiting[principal.token] -= 1
            if not self._waiting[principal.token]:
                del self._waiting[principal.token]

    # -- streams -----------------------------------------------------------------------------------

    def open_stream(self, principal: Principal) -> None:
        """Count a stream that begins; :meth:`close_stream` when it ends.

        Raises
        ------
        RateError
            There are too many, theirs or altogether.
        """
        settings = self.settings
        if self._streams[principal.token] >= settings.watchers_each:
            raise RateError(f"there are {settings.watchers_each} streams open for this token; close one first", 5)
        if self.streams >= settings.watchers:
            raise RateError("too many streams are open; try again later", 5)
        self._streams[principal.token] += 1

    def close_stream(self, principal: Principal) -> None:
        """Count a stream that ended."""
        self._streams[principal.token] -= 1
        if not self._streams[principal.token]:
            del self._streams[principal.token]

    @property
    def streams(self) -> int:
        """Streams open now."""
        return self._streams.total()


def bearer_of(connection: HTTPConnection) -> str:
    """Return the bearer token of a request.

    Raises
    ------
    UnauthenticatedError
        There is none, or more than one.
    """
    given = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    if len(given) != 1:
        raise UnauthenticatedError("send one bearer token: Authorization: Bearer plm_…")
    scheme, _, text = given[0].decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not text.strip() or not text.isascii():
        raise UnauthenticatedError("send one bearer token: Authorization: Bearer plm_…")
    return text.strip()


def source_of(connection: HTTPConnection) -> str:
    """Return the address that a request came from."""
    client = connection.scope.get("client")
    return str(client[0])[:64] if client else "local"


def _whole(seconds: float) -> int:
    return int(seconds) + 1
