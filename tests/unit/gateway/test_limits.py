"""Limits of keys: never more than they say, by estimate first and by what it came to after."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.patience import PATIENCE_S
from tests.unit.gateway.canned import RIVAL, SECRET, CannedDispatch, canned_gateway

from plenum.gateway.limits import Failures, Limits
from plenum.gateway.request import RefusedError
from plenum.gateway.settings import GatewaySettings
from plenum.ports.engine import CHAT
from plenum.ports.gateway import Key


def key(**limits) -> Key:
    return Key(id="k", hash="", tenant="acme", **limits)


def test_no_limits_no_books():
    limits = Limits()
    for _ in range(1_000):
        limits.settle(limits.take(key(), 10**9, 0.0), 10**9)


def test_requests_a_minute_and_when_to_come_back():
    limits, k = Limits(), key(requests_per_minute=60)
    for _ in range(60):
        limits.take(k, 1, 100.0)
    with pytest.raises(RefusedError) as refused:
        limits.take(k, 1, 100.5)
    assert (refused.value.status, refused.value.code) == (429, "limit.requests")
    assert refused.value.retry_after_s == pytest.approx(0.5)
    limits.take(k, 1, 101.0)


def test_each_gateway_gives_its_share_and_a_change_of_their_number_fills_nothing_up():
    limits, k = Limits(), key(requests_per_minute=60)
    for _ in range(30):
        limits.take(k, 1, 100.0)
    limits.gateways = 3  # of 20 that fall to each, half are taken
    for _ in range(10):
        limits.take(k, 1, 100.0)
    with pytest.raises(RefusedError, match=r"60 \(20 at each of 3 gateways\) requests a minute"):
        limits.take(k, 1, 100.0)


def test_tokens_are_put_right_by_what_it_came_to():
    limits, k = Limits(), key(tokens_per_minute=600)
    grant = limits.take(k, 500, 0.0)
    limits.settle(grant, 100)
    grant = limits.take(k, 500, 0.0)
    limits.settle(grant, 700)  # estimated low: owes 200
    with pytest.raises(RefusedError) as refused:
        limits.take(k, 100, 0.0)
    assert refused.value.code == "limit.tokens"
    assert refused.value.retry_after_s == pytest.approx(30.0)


def test_more_than_a_minute_holds_passes_when_nothing_else_was_taken():
    limits, k = Limits(), key(tokens_per_minute=100)
    limits.settle(limits.take(k, 5_000, 0.0), 5_000)
    with pytest.raises(RefusedError):
        limits.take(k, 1, 60.0)
    limits.take(k, 1, 60.0 * 60)


def test_parallel_requests_are_given_back():
    limits, k = Limits(), key(max_parallel=2)
    first = limits.take(k, 1, 0.0)
    limits.take(k, 1, 0.0)
    with pytest.raises(RefusedError) as refused:
        limits.take(k, 1, 0.0)
    assert refused.value.code == "limit.parallel"
    limits.settle(first, 0)
    limits.take(k, 1, 0.0)


def test_headers_that_clients_read():
    grant = Limits().take(key(requests_per_minute=10, tokens_per_minute=1_000), 250, 0.0)
    headers = dict(grant.headers)
    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"9"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"750"
    assert headers[b"x-ratelimit-reset-tokens"] == b"15.000s"


def test_a_refusal_takes_nothing():
    limits, k = Limits(), key(requests_per_minute=10, tokens_per_minute=100)
    limits.take(k, 100, 0.0)
    for _ in range(20):
        with pytest.raises(RefusedError):
            limits.take(k, 50, 0.0)
    assert dict(limits.take(k, 50, 30.0).headers)[b"x-ratelimit-remaining-requests"] == b"9"


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 60), st.integers(0, 60)), max_size=40),
)
def test_over_any_time_no_more_tokens_begin_than_a_minutes_worth_and_what_flowed_in(per_minute, asks):
    """Whatever was estimated: what has been spent before a request begins stays under the bucket and its inflow."""
    limits, k = Limits(), key(tokens_per_minute=per_minute)
    now, spent = 0.0, 0
    for pause, estimate, real in asks:
        now += pause
        try:
            grant = limits.take(k, estimate, now)
        except RefusedError:
            continue
        assert spent + min(estimate, per_minute) <= per_minute * (1 + now / 60) + 1e-6
        limits.settle(grant, real)
        spent += real


def test_who_guesses_keys_is_told_to_wait():
    failures = Failures(3)
    for _ in range(3):
        failures.check("10.0.0.9", 0.0)
        failures.note("10.0.0.9", 0.0)
    with pytest.raises(RefusedError) as refused:
        failures.check("10.0.0.9", 0.0)
    assert refused.value.status == 429
    failures.check("10.0.0.8", 0.0)
    failures.check("10.0.0.9", 21.0)


def test_bodies_that_are_open_have_room_for_each_tenant_and_in_all(tmp_path):
    """Of three that have sent half of what they announced, two are one tenant's; then there is no room, and when they leave there is."""

    async def go():
        settings = GatewaySettings(bodies_bytes=300, tenant_bodies_bytes=200)
        async with canned_gateway(tmp_path, CannedDispatch(), settings=settings) as (_, gateway):

            async def ask(secret: str, size_bytes: int, *, more: bool = True) -> bytes:
                come = [b"x" * size_bytes] * (size_bytes > 0)
                said: list[MutableMapping[str, Any]] = []
                headers = [(b"authorization", b"Bearer " + secret.encode()), (b"content-length", b"200")]
                scope: dict[str, Any] = {
                    "type": "http",
                    "method": "POST",
                    "path": CHAT,
                    "headers": headers,
                    "client": ("127.0.0.1", 1),
                }

                async def receive() -> dict[str, Any]:
                    if come:
                        return {"type": "http.request", "body": come.pop(), "more_body": more}
                    if not said:
                        await asyncio.Event().wait()
                    return {"type": "http.disconnect"}

                async def send(message: MutableMapping[str, Any]) -> None:
                    said.append(message)

                await gateway(scope, receive, send)
                return msgspec.json.decode(said[1]["body"])["error"]["code"]

            announced = [asyncio.create_task(ask(SECRET, 0)) for _ in range(9)]
            waiting = [asyncio.create_task(ask(secret, 100)) for secret in (SECRET, SECRET, RIVAL)]
            async with asyncio.timeout(PATIENCE_S):
                while gateway.room.held_bytes < 300:
                    await asyncio.sleep(0)
            assert (await ask(SECRET, 100), await ask(RIVAL, 100)) == ("limit.bytes", "gateway.full")
            for each in (*announced, *waiting):
                each.cancel()
            await asyncio.gather(*announced, *waiting, return_exceptions=True)
            assert await ask(SECRET, 100, more=False) == "request.too_large", "read, it takes more than there ever is"
            assert gateway.room.held_bytes == 0

    asyncio.run(go())
