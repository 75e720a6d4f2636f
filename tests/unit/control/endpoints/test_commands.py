"""What may be asked about endpoints, keys and usage, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from tests.unit.control.cloud import Log, log
from tests.unit.control.endpoints.city import City, chat, imitated
from tests.unit.control.endpoints.test_scale import apart

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.commands import AbsentError, ChangedError, LimitError, TakenError
from plenum.control.endpoints import commands as ec
from plenum.control.endpoints import state as es
from plenum.control.endpoints.table import salt_of, table_of
from plenum.control.state import State
from plenum.model.endpoint import Endpoint
from plenum.model.errors import FieldError
from plenum.ports.gateway import Key, LoadReport, PoolLoad, Table, Usage, UsageBatch
from plenum.ports.store import TERM_GAP

KEY = Key(id="k1", hash="0" * 64, tenant="red", models=("chat",), tokens_per_minute=1000)


def row(request: str, *, at: float = 86_400.0, model: str = "chat", outcome: str = "done", tokens: int = 10) -> Usage:
    return Usage(
        request=request,
        at=at,
        tenant="red",
        key="k1",
        endpoint="red/chat",
        model=model,
        revision=1,
        prompt_tokens=tokens,
        cached_tokens=2,
        output_tokens=3,
        outcome=outcome,
    )


def batch(number: int, *rows: Usage, gateway: str = "g") -> UsageBatch:
    return UsageBatch(gateway=gateway, number=number, rows=rows)


def replace_batch(one: UsageBatch, **more: object) -> UsageBatch:
    return msgspec.structs.replace(one, **more)


# -- endpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        (chat(name="UPPER"), FieldError, "is not a name"),
        (chat(name="x" * 41), FieldError, "at most 40"),
        (chat(tenant="nobody"), FieldError, "no tenant 'nobody'"),
        (chat(1, 5000), FieldError, "2,000 replicas"),
        (chat(cheaper="chat"), FieldError, "another that is cheaper"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        log().command(ec.apply_endpoint(spec, {}))


def test_two_endpoints_of_a_tenant_are_not_served_under_one_name() -> None:
    it = log()
    it.command(ec.apply_endpoint(chat(adapters=(("poet", "/weights/poet"),)), {}))
    for name in ("chat", "poet"):
        with pytest.raises(TakenError, match=f"red/chat is served as '{name}' already"):
            it.command(ec.apply_endpoint(chat(name="other", served_as=name), {}))
    it.command(ec.apply_endpoint(chat(name="other"), {}))


def test_one_that_goes_has_its_names_until_it_is_gone() -> None:
    it = log()
    it.command(ec.apply_endpoint(chat(), {}))
    it.command(ec.delete_endpoint("red/chat"))
    with pytest.raises(TakenError, match="red/chat is served as 'chat' already"):
        it.command(ec.apply_endpoint(chat(name="other", served_as="chat"), {}))


def test_a_job_and_an_endpoint_of_one_name_are_not_made_at_once() -> None:
    from tests.unit.control.cloud import job

    from plenum.model import Kind

    it = log()
    wanted = job("chat", Kind.ENDPOINT)
    it.command(ec.apply_endpoint(chat(), {}))
    with pytest.raises(TakenError, match="is the endpoint of a model"):
        it.command(c.apply_job(wanted, imitated(chat(), chat().pools[0]), {}))
    it = log()
    it.command(c.apply_job(wanted, imitated(chat(), chat().pools[0]), {}))
    with pytest.raises(TakenError, match="there is a job red/chat already"):
        it.command(ec.apply_endpoint(chat(), {}))


def test_a_tenant_has_no_more_endpoints_than_it_may_have_jobs() -> None:
    it = log()
    it.command(c.apply_tenant("red", quota={}, max_jobs=1))
    it.command(ec.apply_endpoint(chat(), {}))
    with pytest.raises(LimitError, match="as many as it may have jobs"):
        it.command(ec.apply_endpoint(chat(name="other"), {}))
    it.command(ec.apply_endpoint(chat(2), {"changed": True}))


@pytest.mark.parametrize(
    "bad", [{"cache_used": 1e308}, {"waiting": -1}, {"prompt_tokens": -5}, {"arrived": 2**62}, {"running": 2**62}]
)
def test_a_gateway_that_reports_nonsense_is_refused(bad: dict) -> None:
    pool = PoolLoad(endpoint="red/chat", revision=1, pool="serve", **bad)
    with pytest.raises(FieldError, match=next(iter(bad))):
        ec.check_report(LoadReport(gateway="g", seconds=1.0, table=1, pools=(pool,)))
    with pytest.raises(FieldError, match="seconds"):
        ec.check_report(LoadReport(gateway="g", seconds=-1.0, table=1))


def test_changes_are_for_a_version() -> None:
    it = log()
    it.command(ec.apply_endpoint(chat(), {}))
    version = it.state.endpoints["red/chat"].version
    with pytest.raises(ChangedError):
        it.command(ec.apply_endpoint(chat(2), {}, if_version=0))
    it.command(ec.apply_endpoint(chat(2), {}, if_version=version))
    with pytest.raises(ChangedError):
        it.command(ec.delete_endpoint("red/chat", if_version=version))


def test_one_that_goes_is_not_changed_and_one_that_is_not_there_not_deleted() -> None:
    it = log()
    it.command(ec.apply_endpoint(chat(), {}))
    it.command(ec.delete_endpoint("red/chat"))
    assert it.command(ec.delete_endpoint("red/chat")) == []
    with pytest.raises(TakenError, match="being deleted"):
        it.command(ec.apply_endpoint(chat(2), {}))
    with pytest.raises(AbsentError):
        it.command(ec.delete_endpoint("red/none"))


def test_a_table_and_a_spec_without_promises_cross_the_wire_as_they_are() -> None:
    city = City(1)
    city.apply(chat())
    city.run(5)
    city.execute(ec.issue_key(KEY))
    table = table_of(city.state, "secret")
    again = msgspec.json.decode(msgspec.json.encode(table), type=Table)
    assert again == table
    assert math.isinf(again.served[0].spec.promise.ttft_s)
    assert table.keys == (KEY,)
    assert table.salts == {"red": salt_of("secret", "red")} != {"red": salt_of("other", "red")}


def test_the_table_changes_its_version_with_what_it_says_and_only_then() -> None:
    city = City(1)
    city.apply(chat())
    seen: dict[int, Table] = {}
    for _ in range(12):
        city.run(1)
        table = table_of(city.state, "secret")
        assert seen.setdefault(table.version, table) == table
    before = city.state.served_version
    city.execute(ec.record_usage(batch(1, row("a"))))
    city.execute(c.cordon("n0", True))
    assert city.state.served_version == before
    city.execute(ec.issue_key(KEY))
    assert city.state.served_version > before


# -- keys -------------------------------------------------------------------------------------------


def test_a_key_is_issued_once_and_revoked_once() -> None:
    it = log()
    it.command(ec.issue_key(KEY, "for the demo"))
    assert it.state.keys["k1"].key == KEY
    with pytest.raises(TakenError):
        it.command(ec.issue_key(KEY))
    it.command(ec.revoke_key("k1"))
    with pytest.raises(AbsentError):
        it.command(ec.revoke_key("k1"))


@pytest.mark.parametrize(
    "change",
    [{"tenant": "nobody"}, {"tier": "royal"}, {"tokens_per_minute": -1}, {"models": ("x" * 300,)}, {"id": ""}],
)
def test_a_key_that_cannot_be_meant_is_refused(change: dict) -> None:
    with pytest.raises((FieldError, TakenError)):
        log().command(ec.issue_key(msgspec.structs.replace(KEY, **change)))


def test_keys_go_with_their_tenant_and_endpoints_keep_it() -> None:
    it = log()
    it.command(ec.issue_key(KEY))
    it.command(ec.apply_endpoint(chat(), {}))
    with pytest.raises(TakenError, match="1 endpoints"):
        it.command(c.delete_tenant("red"))
    it.command(ec.delete_endpoint("red/chat"))
    it.write(ev.EVENTS["EndpointDeleted"](endpoint="red/chat"))  # pyright: ignore[reportCallIssue]
    it.command(c.delete_tenant("red"))
    assert it.state.keys == {}


# -- usage ------------------------------------------------------------------------------------------


def sums(it: Log) -> list[tuple[int, str, int, int, int, dict[str, int]]]:
    return [
        (day, used.model, used.prompt_tokens, used.cached_tokens, used.output_tokens, used.requests)
        for day, rows in sorted(it.state.billed.items())
        for used in rows.values()
    ]


def test_a_batch_that_comes_twice_counts_once() -> None:
    it = log()
    first = batch(1, row("a"), row("b", outcome="cancelled"), row("c", at=2 * 86_400.0))
    it.command(ec.record_usage(first), now=3 * 86_400.0)
    assert it.command(ec.record_usage(first)) == []
    it.command(ec.record_usage(batch(2, row("d", model="poet"))))
    assert it.command(ec.record_usage(first)) == []
    assert sums(it) == [
        (1, "chat", 20, 4, 6, {"done": 1, "cancelled": 1}),
        (1, "poet", 10, 2, 3, {"done": 1}),
        (2, "chat", 10, 2, 3, {"done": 1}),
    ]
    assert State.from_snapshot(it.state.snapshot()).snapshot() == it.state.snapshot()


def test_a_batch_that_comes_too_early_waits_for_the_one_before() -> None:
    it = log()
    it.command(ec.record_usage(batch(1, row("a"))))
    with pytest.raises(ec.MissedError, match="send 2 first"):
        it.command(ec.record_usage(batch(3, row("c"))))


def test_a_journal_that_was_moved_and_has_another_name_goes_on_where_it_was() -> None:
    it = log()
    it.command(ec.record_usage(batch(57, row("a"), gateway="g.moved")))
    it.command(ec.record_usage(batch(58, row("b"), gateway="g.moved")))
    assert it.state.metered["g.moved"].number == 58
    with pytest.raises(ec.MissedError, match="send 59 first"):
        it.command(ec.record_usage(batch(60, gateway="g.moved")))


def test_after_a_restore_a_gateway_goes_on_from_where_it_is() -> None:
    it = log()
    it.command(ec.record_usage(batch(1, row("a"))))
    it.write(ev.LeaderChanged(term=TERM_GAP + 1, holder="c0"))
    it.command(ec.record_usage(batch(9, row("i"))))
    assert it.state.metered["g"].number == 9
    with pytest.raises(ec.MissedError, match="send 10 first"):
        it.command(ec.record_usage(batch(12)))


@pytest.mark.parametrize(
    "bad",
    [row("x", at=math.nan), row("x", tokens=-1), row("x", tokens=10**13), row("x", outcome="lost"), row("x" * 500)],
)
def test_rows_that_cannot_be_meant_are_refused(bad: Usage) -> None:
    with pytest.raises(FieldError, match=r"rows\[1\]"):
        log().command(ec.record_usage(batch(1, row("a"), bad)))


def test_sums_are_bounded_and_lose_no_tokens_before_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(es, "MAX_SUMS_A_DAY", 3)
    monkeypatch.setattr(es, "KEEP_DAYS", 2)
    it = log()
    it.command(ec.record_usage(batch(1, *(row(f"r{i}", model=f"m{i}") for i in range(8)))))
    assert [model for _, model, *_ in sums(it)] == ["m0", "m1", "m2", "m3", "m4", "m5", "*"]
    assert [used.key for used in it.state.billed[1].values()] == ["k1"] * 3 + ["*"] * 4
    assert sum(prompt for _, _, prompt, *_ in sums(it)) == 80
    it.command(ec.record_usage(batch(2, *(row("r", at=86_400.0 * day) for day in (2, 3, 4)))), now=86_400.0 * 4)
    assert sorted(it.state.billed) == [3, 4]


def test_rows_dated_ahead_do_not_push_out_what_was_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(es, "KEEP_DAYS", 2)
    it = log()
    it.command(ec.record_usage(batch(1, row("a", at=9 * 86_400.0))), now=9 * 86_400.0)
    it.command(ec.record_usage(batch(2, *(row("b", at=1e9 + 86_400.0 * day) for day in range(9)))), now=9 * 86_400.0)
    assert sorted(it.state.billed) == [9, 10]
    assert sum(prompt for _, _, prompt, *_ in sums(it)) == 100


def test_what_a_gateway_takes_from_an_engine_is_taken_from_a_gateway() -> None:
    from plenum.gateway import meter

    assert log().command(ec.record_usage(batch(1, row("x", tokens=getattr(meter, "MAX_TOKENS", 0)))))


def test_a_gateway_gives_its_place_up_once_it_has_sent_all_and_is_silent_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ec, "MAX_GATEWAYS", 2)
    it, later = log(), 86_400.0 * 40
    it.command(ec.record_usage(replace_batch(batch(1, row("a"), gateway="owes"), waiting=1)), now=1.0)
    it.command(ec.record_usage(batch(1, row("b", at=2.0))), now=2.0)
    with pytest.raises(LimitError):
        it.command(ec.record_usage(batch(1, gateway="h")), now=86_400.0)
    it.command(ec.record_usage(batch(1, row("c", at=later), gateway="h")), now=later)
    assert sorted(it.state.metered) == ["h", "owes"]
    assert State.from_snapshot(it.state.snapshot()).forgotten_at == it.state.forgotten_at > 0


def test_a_gateway_that_was_forgotten_goes_on_where_it_was_and_bills_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ec, "MAX_GATEWAYS", 1)
    it, later = log(), 86_400.0 * 40
    it.command(ec.record_usage(batch(1, row("a", at=900.0))))
    it.command(ec.record_usage(batch(1, row("b", at=later), gateway="h")), now=later)
    it.write(at=2 * later)
    monkeypatch.setattr(ec, "MAX_GATEWAYS", 2)
    it.command(ec.record_usage(batch(1, row("a", at=900.0))), now=2 * later)  # it never heard that it had arrived
    it.command(ec.record_usage(batch(2, row("c", at=2 * later))), now=2 * later)
    assert sum(requests["done"] for *_, requests in sums(it)) == 3
    assert it.state.metered["g"].number == 2


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (chat(budget_gpus=4), "is shared by prefill and decode"),
        (replace(chat(), pools=apart(2, 4), budget_gpus=7), "must hold the fewest replicas of both, 8 GPUs; not 7"),
    ],
)
def test_a_budget_is_for_two_pools_and_holds_the_fewest_of_both(spec: Endpoint, sentence: str) -> None:
    with pytest.raises(FieldError, match=sentence):
        log().command(ec.apply_endpoint(spec, {}))


def test_a_job_that_has_the_name_of_a_replica_is_named() -> None:
    from tests.unit.control.cloud import job

    from plenum.control.endpoints.status import status_of
    from plenum.model import Kind

    city = City(1)
    city.submit(replace(job("chat-r1", Kind.ENDPOINT)))
    city.apply(chat())
    city.run(5)
    assert "red/chat-r1 has the name" in status_of(city.state, city.endpoint()).message
    city.execute(c.delete_job("red/chat-r1"))
    city.run(10)
    assert len(city.replicas()) == 1


def test_a_job_that_has_ended_does_not_keep_the_name_from_a_replica() -> None:
    from tests.unit.control.cloud import imitation, job

    city = City(1)
    city.submit(job("chat-r1"), imitation(duration_s=1.0))
    city.run(10)
    assert city.state.jobs["red/chat-r1"].phase == "Succeeded"
    city.apply(chat())
    city.run(10)
    assert len(city.replicas()) == 1
