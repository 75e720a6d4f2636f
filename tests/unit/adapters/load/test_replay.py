"""Open-loop replay against a small server: lengths, times from when requests were due, and what refusals count as."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from aiohttp import web
from tests.patience import PATIENCE_S
from tests.unit.adapters.load.openai_server import TEMPLATE_TOKENS, openai_server, refused

from plenum.adapters.load import Gauge, Target, prompt_of, replay, summarise
from plenum.adapters.load.prompts import GaugeError
from plenum.adapters.load.replay import BenchError
from plenum.serving.workload import Requests, Slo, requests_of


def requests(arrival_s: list[float], prompt: int = 40, output: int = 3, **columns: object) -> Requests:
    count = len(arrival_s)
    return requests_of(
        np.array(arrival_s),
        np.full(count, prompt),
        np.full(count, output),
        **columns,  # type: ignore[arg-type]
    )


def run(coroutine: object) -> object:
    return asyncio.run(coroutine)  # type: ignore[arg-type]


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("prompt", [8, 9, 500])
def test_prompts_have_exactly_the_tokens_that_were_asked_for(api: str, prompt: int) -> None:
    async def go() -> None:
        async with openai_server() as (url, _):
            seen, gauge = await replay(Target(url=url, model="m", api=api), requests([0.0, 0.0], prompt))
            assert gauge.around_tokens == TEMPLATE_TOKENS
            assert seen.prompt_tokens.tolist() == [prompt, prompt]
            assert seen.cached_tokens.tolist() == [3, 3]
            assert seen.output_tokens.tolist() == [3, 3]
            assert len(seen.itl_s) == 4
            figures = summarise(seen, Slo())
            assert figures.exact_prompts == 1.0
            assert np.isnan([figures.slo_attained, figures.goodput_rps]).all(), "nothing is promised"
            assert gauge.requests == 2

    run(go())


def test_words_of_several_tokens_are_counted_out() -> None:
    async def go() -> None:
        async with openai_server(per_word=3) as (url, _):
            seen, gauge = await replay(Target(url=url, model="m"), requests([0.0], 307))
            assert gauge.tokens_per_word == 3
            assert seen.prompt_tokens.tolist() == [307]

    run(go())


def test_requests_of_equal_blocks_share_just_these_words() -> None:
    shared = requests(
        [0.0, 0.0, 0.0],
        107,
        block_offset=np.array([0, 2, 4, 5]),
        block_id=np.array([0, 1, 0, 2, 3]),
        block_tokens=40,
    )
    gauge = Gauge(around_tokens=TEMPLATE_TOKENS, tokens_per_word=1.0)
    first, second, third = (prompt_of(shared, index, gauge, seed=0).split() for index in range(3))
    assert len(first) == len(second) == len(third) == 100
    assert first[:40] == second[:40]
    assert first[40:80] != second[40:80]
    assert first[80:] != second[80:]
    assert third[:40] != first[:40]
    assert prompt_of(shared, 0, gauge, seed=1).split() != first


def test_a_request_is_sent_when_it_is_due_though_none_before_it_has_an_answer() -> None:
    """The server answers the first only when the third has come: a closed loop would wait for ever."""
    third = asyncio.Event()
    came = 0

    async def hook(request: web.Request, body: dict) -> None:
        nonlocal came
        if body["max_tokens"] == 3:
            came += 1
            if came == 3:
                third.set()
            await third.wait()

    async def go() -> None:
        async with openai_server(hook) as (url, _):
            seen, _ = await replay(Target(url=url, model="m", timeout_s=20), requests([0.0, 0.1, 0.2]))
            assert seen.served.all()
            # Counted from when each was due: the first waited for the third.
            assert seen.ttft_s[0] >= 0.2
            assert seen.ttft_s[0] > seen.ttft_s[2]

    run(go())


def test_waiting_for_a_place_at_the_sender_counts_as_latency() -> None:
    async def hook(request: web.Request, body: dict) -> None:
        if body["max_tokens"] == 3:
            await asyncio.sleep(0.1)

    async def go() -> None:
        async with openai_server(hook) as (url, _):
            seen, _ = await replay(Target(url=url, model="m"), requests([0.0, 0.0, 0.0]), max_open=1)
            assert seen.e2e_s.max() >= 0.3
            assert seen.late_s.max() >= 0.2

    run(go())


def test_what_follows_an_answer_waits_for_it() -> None:
    async def go() -> None:
        async with openai_server() as (url, _):
            follows = requests([0.0, 0.0], after=np.array([-1, 0], np.int32), pause_s=np.array([0.0, 0.05]))
            seen, _ = await replay(Target(url=url, model="m"), follows)
            assert seen.due_s[1] >= seen.e2e_s[0] + 0.05
            assert seen.served.all()

    run(go())


def test_refusals_broken_and_late_answers_are_counted_by_reason_and_keep_no_promise() -> None:
    number = 0

    async def hook(request: web.Request, body: dict) -> web.StreamResponse | None:
        nonlocal number
        if body["max_tokens"] != 3:
            return None
        number += 1
        if number == 1:
            return refused(429, "admission.saturated")
        if number == 2:
            answer = web.StreamResponse(headers={"Content-Length": "1000"})
            await answer.prepare(request)
            await answer.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
            assert request.transport
            request.transport.close()
            return answer
        if number == 3:
            await asyncio.sleep(60)
        if number == 4:
            return web.Response(body=b'data: {"error": {"message": "gone", "code": "engine.lost"}}\n\n')
        return None

    async def go() -> None:
        async with openai_server(hook) as (url, _):
            arrivals = [0.0, 0.2, 0.4, 0.6, 0.8]
            seen, _ = await replay(Target(url=url, model="m", timeout_s=1.5), requests(arrivals))
            assert list(seen.reasons) == ["admission.saturated", "client.broken", "client.timeout", "engine.lost", ""]
            figures = summarise(seen, Slo(ttft_s=PATIENCE_S))
            assert figures.slo_attained == pytest.approx(0.2)
            assert figures.refused == dict.fromkeys(seen.reasons[:4], 1)
            assert (figures.said["client.timeout"], figures.said["engine.lost"]) == ("no answer within 1.5s", "gone")

    run(go())


def test_a_server_that_knows_openais_fields_only_is_measured_too() -> None:
    async def hook(request: web.Request, body: dict) -> web.StreamResponse | None:
        return refused(400, "field.unknown") if "ignore_eos" in body else None

    async def go() -> None:
        async with openai_server(hook) as (url, bodies):
            seen, _ = await replay(Target(url=url, model="m"), requests([0.0]))
            assert seen.served.all()
            assert "ignore_eos" not in bodies[-1]

    run(go())


def test_nothing_there_a_refusal_and_odd_counts_end_the_run_with_a_sentence() -> None:
    async def no(request: web.Request, body: dict) -> web.StreamResponse:
        return refused(401, "key.unknown")

    async def go() -> None:
        with pytest.raises(BenchError, match=r"nobody answers there \(client\.unreachable\)"):
            await replay(Target(url="http://127.0.0.1:9", model="m"), requests([0.0]))
        async with openai_server(no) as (url, _):
            with pytest.raises(BenchError, match=r"plenum key create.*key\.unknown"):
                await replay(Target(url=url, model="m"), requests([0.0]))
            with pytest.raises(BenchError, match=r"key\.unknown") as refusal:
                await replay(Target(url=url, model="m", key="wrong"), requests([0.0]))
            assert "key create" not in str(refusal.value)
        async with openai_server(per_word=0) as (url, _):
            with pytest.raises(GaugeError):
                await replay(Target(url=url, model="m"), requests([0.0]))

    run(go())


def test_the_interval_of_a_mean_holds_it_and_narrows_with_more_requests() -> None:
    from plenum.adapters.load.measured import Sample, measured_of

    def width(count: int) -> float:
        rng = np.random.default_rng(1)
        samples = [
            Sample(
                due_s=i,
                sent_s=i,
                first_s=i + t,
                last_s=i + t + 1,
                output_tokens=11,
                prompt_tokens=5,
                asked_prompt_tokens=5,
                asked_output_tokens=11,
            )
            for i, t in enumerate(rng.exponential(0.2, count))
        ]
        figures = summarise(measured_of(samples, {}), Slo())
        low, high = figures.ttft_between_s
        assert low < figures.ttft_s.mean < high
        assert figures.tpot_s.mean == pytest.approx(0.1)
        return high - low

    assert width(400) < 0.5 * width(40)
