"""What each key may take: requests and tokens per minute, and requests at once; and each tenant of memory.

Tokens are taken by estimate when a request comes, and put right when its engine has said how many there were; so who estimates low owes
the rest, and the bucket may go below nothing.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from plenum.gateway.answers import Headers, overloaded
from plenum.gateway.request import RefusedError
from plenum.ports.gateway import Key

MAX_KEYS = 65_536
MAX_ADDRESSES = 16_384
MINUTE_S = 60.0


class Bucket:
    """A token bucket that holds a minute's worth."""

    __slots__ = ("_at_s", "_level", "per_minute")

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """Return what is in it; below 0: what is owed."""
        self._level = min(self.per_minute, self._level + (now_s - self._at_s) * self.per_minute / MINUTE_S)
        self._at_s = now_s
        return self._level

    def resize(self, per_minute: int, now_s: float) -> None:
        """Hold another amount from now on, and be as full as before."""
        self._level = self.level(now_s) * per_minute / self.per_minute
        self.per_minute = per_minute

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return after how long there will be so much in it; 0: there is."""
        return max(0.0, (amount - self.level(now_s)) * MINUTE_S / self.per_minute)

    def take(self, amount: float) -> None:
        """Take out, or with a negative amount put back."""
        self._level = min(self.per_minute, self._level - amount)


class _Taken:
    """What one key has taken."""

    __slots__ = ("parallel", "requests", "tokens")

    def __init__(self) -> None:
        self.parallel = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None


class Grant(msgspec.Struct):
    """A request that was let in.

    Parameters
    ----------
    estimate
        Tokens taken for it.
    counted
        Whether its key had limits.
    headers
        What OpenAI's clients read of the limits that it came under.
    """

    key: Key
    estimate: float = 0.0
    counted: bool = False
    headers: Headers = []


class Limits:
    """The limits of all keys: of each the part that falls to one of the gateways, as far as this one sees its requests.

    Attributes
    ----------
    gateways
        That are alive. Each gives an equal share, one at least; so a key comes to all that it may have where requests are spread evenly,
        and to more for a moment after one has come or gone.
    """

    def __init__(self) -> None:
        self.gateways = 1
        self._taken: OrderedDict[str, _Taken] = OrderedDict()

    def take(self, key: Key, tokens: int, now_s: float) -> Grant:
        """Let a request in.

        Parameters
        ----------
        tokens
            That it will come to, by estimate.

        Raises
        ------
        RefusedError
            It is one too many, says when it would not be.
        """
        if not (key.max_parallel or key.requests_per_minute or key.tokens_per_minute):
            return Grant(key)
        taken = self._of(key, now_s)
        if key.max_parallel and taken.parallel >= self._share(key.max_parallel):
            raise _refused(
                "limit.parallel", f"this key may have {self._said(key.max_parallel)} requests open at once", 1.0
            )
        # What asks for more than a minute's worth at once could never pass; it passes when nothing else was taken.
        estimate = float(min(tokens, taken.tokens.per_minute)) if taken.tokens else 0.0
        for bucket, amount, limit, code, noun in (
            (taken.requests, 1.0, key.requests_per_minute, "limit.requests", "requests"),
            (taken.tokens, estimate, key.tokens_per_minute, "limit.tokens", "tokens"),
        ):
            if bucket is not None and (wait_s := bucket.wait_s(amount, now_s)) > 0:
                raise _refused(code, f"this key may take {self._said(limit)} {noun} a minute", wait_s)
        if taken.requests is not None:
            taken.requests.take(1.0)
        if taken.tokens is not None:
            taken.tokens.take(estimate)
        taken.parallel += 1
        return Grant(key, estimate, True, _headers(taken, now_s))

    def settle(self, grant: Grant, tokens: int) -> None:
        """Put a request that has ended right: it came to so many tokens."""
        taken = self._taken.get(grant.key.id) if grant.counted else None
        if taken is None:
            return
        taken.parallel = max(0, taken.parallel - 1)
        if taken.tokens is not None and grant.key.tokens_per_minute:
            taken.tokens.take(tokens - grant.estimate)

    def _of(self, key: Key, now_s: float) -> _Taken:
        taken = self._taken.get(key.id)
        if taken is None:
            taken = self._taken[key.id] = _Taken()
            self._forget()
        self._taken.move_to_end(key.id)
        taken.requests = _bucket(taken.requests, self._share(key.requests_per_minute), now_s)
        taken.tokens = _bucket(taken.tokens, self._share(key.tokens_per_minute), now_s)
        return taken

    def _share(self, limit: int) -> int:
        return max(limit // self.gateways, 1) if limit else 0

    def _said(self, limit: int) -> str:
        here = f" ({self._share(limit):,} at each of {self.gateways} gateways)" if self.gateways > 1 else ""
        return f"{limit:,}{here}"

    def _forget(self) -> None:
        if len(self._taken) > MAX_KEYS:
            id = next((id for id, taken in self._taken.items() if not taken.parallel), None)
            if id is not None:
                del self._taken[id]


class Room:
    """Memory for bodies of requests that are open: so many bytes in all, and of one tenant.

    Parameters
    ----------
    most_bytes, tenant_bytes
        At once.
    """

    def __init__(self, most_bytes: int, tenant_bytes: int) -> None:
        self._most_bytes, self._tenant_bytes = most_bytes, tenant_bytes
        self._held: dict[str, int] = {}
        self.held_bytes = 0

    def take(self, tenant: str, size_bytes: int) -> None:
        """Set room aside.

        Raises
        ------
        RefusedError
            There is none left, here or for the tenant.
        """
        held = self._held.get(tenant, 0) + size_bytes
        if held > self._tenant_bytes:
            sentence = f"this tenant's open requests may hold {self._tenant_bytes:,} bytes"
            raise _refused("limit.bytes", sentence, 1.0)
        if self.held_bytes + size_bytes > self._most_bytes:
            sentence = "the requests that are open here hold as many bytes as they may; try again in a moment"
            raise overloaded("gateway.full", sentence)
        self._held[tenant] = held
        self.held_bytes += size_bytes

    def give_back(self, tenant: str, size_bytes: int) -> None:
        """Let room go."""
        self.held_bytes -= size_bytes
        self._held[tenant] -= size_bytes
        if not self._held[tenant]:
            del self._held[tenant]


class Failures:
    """Wrong keys by address: who guesses is soon told to wait, and no more of what is wrong."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def check(self, address: str, now_s: float) -> None:
        """Pass unless an address has got too many keys wrong.

        Raises
        ------
        RefusedError
            It has.
        """
        bucket = self._buckets.get(address)
        if bucket is not None and (wait_s := bucket.wait_s(1.0, now_s)) > 0:
            raise _refused("limit.failures", "too many wrong keys came from this address", wait_s)

    def note(self, address: str, now_s: float) -> None:
        """Count a wrong key."""
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = Bucket(self._per_minute, now_s)
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(address)
        bucket.level(now_s)
        bucket.take(1.0)


def _bucket(bucket: Bucket | None, per_minute: int, now_s: float) -> Bucket | None:
    if not per_minute:
        return None
    if bucket is None:
        return Bucket(per_minute, now_s)
    if bucket.per_minute != per_minute:
        bucket.resize(per_minute, now_s)
    return bucket


def _headers(taken: _Taken, now_s: float) -> Headers:
    headers: Headers = []
    for bucket, noun in ((taken.requests, b"requests"), (taken.tokens, b"tokens")):
        if bucket is not None:
            headers += [
                (b"x-ratelimit-limit-" + noun, b"%d" % bucket.per_minute),
                (b"x-ratelimit-remaining-" + noun, b"%d" % max(0, int(bucket.level(now_s)))),
                (b"x-ratelimit-reset-" + noun, b"%.3fs" % bucket.wait_s(bucket.per_minute, now_s)),
            ]
    return headers


def _refused(code: str, sentence: str, wait_s: float) -> RefusedError:
    return RefusedError(429, "rate_limit_error", code, f"{sentence}; come back in {wait_s:.1f} s", retry_after_s=wait_s)
