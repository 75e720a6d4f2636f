"""Experiments: who gets which arm, what becomes of a request, what is measured and judged, and which arm is to be taken."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from tests.patience import PATIENCE_S
from tests.unit.gateway.canned import (
    RIVAL,
    SECRET,
    CannedAnswer,
    CannedDispatch,
    canned_gateway,
    completion,
    echo,
    table,
)

from plenum.gateway.app import Gateway
from plenum.gateway.figures import Figures, quality_of, verdict
from plenum.gateway.judging import MAX_WAITING, said_in, score_in
from plenum.gateway.kept_figures import KeptFigures
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.responses import RESPONSES
from plenum.gateway.variants import MAX_SHOWN_CHARACTERS, Variants
from plenum.ports.engine import CHAT, COMPLETIONS
from plenum.ports.gateway import Key, Table
from plenum.ports.policy import Arm, Experiment, Judge, Policy, arm_of

KEY = Key(id="k", hash="", tenant="acme")
PLAIN = Arm(name="plain", model="chat", weight=3.0)
KIND = Arm(name="kind", model="chat", system="Be kind.", template="Dear model, {prompt}")
TONE = Experiment(name="tone", model="helper", arms=(PLAIN, KIND))


def running(*experiments: Experiment, gone: str = "") -> Variants:
    variants = Variants()
    variants.use({"acme": Policy(experiments=experiments)}, lambda tenant, model: model != gone)
    return variants


def score(variants: Variants, id: str, score: float) -> None:
    chosen = variants.apply(KEY, COMPLETIONS, {"model": "helper", "prompt": "hi"}, "", id)
    assert chosen
    variants.score("acme", chosen.request, score)


def arm(who: str) -> str:
    return arm_of("tone", TONE.arms, who).name


def test_a_user_keeps_an_arm_and_arms_have_their_share() -> None:
    found = Counter(arm(f"user-{n}") for n in range(4_000))
    assert 0.72 < found["plain"] / 4_000 < 0.78
    together = sum(arm(f"u{n}") == arm_of("other", TONE.arms, f"u{n}").name for n in range(1_000))
    assert 500 < together < 750  # experiments are dealt out apart: 3/4 · 3/4 + 1/4 · 1/4
    here, there = running(TONE), running(TONE)  # two gateways that never spoke
    for n in range(20):
        bodies = [{"model": "helper", "prompt": "x"} for _ in range(2)]
        pair = [v.apply(KEY, COMPLETIONS, b, f"s{n}", f"{n}") for v, b in zip((here, there), bodies, strict=True)]
        assert pair[0].label == pair[1].label  # type: ignore[union-attr]


def test_a_template_makes_no_mountain_of_what_is_said() -> None:
    twice = Experiment(name="tone", model="helper", arms=(Arm(name="twice", template="{prompt} " * 2_000),))
    body = {"model": "helper", "prompt": "x" * 100}
    assert running(twice).apply(KEY, COMPLETIONS, body, "", "req-1")
    assert len(body["prompt"]) == 2_000 * 101
    for path, long in (
        (COMPLETIONS, {"prompt": "x" * 2**20}),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 2**20}]}),
    ):
        with pytest.raises(RefusedError, match="too long for the template"):
            running(twice).apply(KEY, path, {"model": "helper"} | long, "", "req-1")
    running(TONE).apply(KEY, COMPLETIONS, {"model": "helper", "prompt": "x" * 2**21, "user": "u"}, "", "req-1")


def test_no_more_of_a_question_waits_for_the_judge_than_it_is_shown() -> None:
    judged = Experiment(name="tone", model="helper", arms=(PLAIN,), judge=Judge(model="judge", sample=1.0))
    chosen = running(judged).apply(KEY, COMPLETIONS, {"model": "helper", "prompt": "x" * 2**20 + "end"}, "", "req-1")
    assert chosen
    assert len(chosen.question) == MAX_SHOWN_CHARACTERS
    assert chosen.question.endswith("end")


def test_an_arm_rewrites_a_request_and_nobody_elses() -> None:
    variants = running(TONE)
    user = next(f"u{n}" for n in range(100) if arm(f"u{n}") == "kind")
    asked = [
        {"role": "system", "content": "Be rude"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x"},
    ]
    body: dict[str, Any] = {"model": "helper", "messages": asked, "user": user}
    chosen = variants.apply(KEY, CHAT, body, "", "req-1")
    assert chosen
    assert (chosen.label, chosen.tenant, chosen.judge) == ("tone.kind", "acme", None)
    assert body["model"] == "chat"
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Dear model, hi"},
        {"role": "assistant", "content": "x"},
    ]
    assert asked[0]["content"] == "Be rude"
    text: dict[str, Any] = {"model": "helper", "prompt": "hi", "user": user}
    variants.apply(KEY, COMPLETIONS, text, "", "req-2")
    assert text["prompt"] == "Dear model, hi"
    for key, model in ((Key(id="k", hash="", tenant="rival"), "helper"), (KEY, "chat"), (KEY, ["helper"])):
        other: dict[str, Any] = {"model": model, "prompt": "hi"}
        assert variants.apply(key, COMPLETIONS, other, "", "req-3") is None
        assert other == {"model": model, "prompt": "hi"}


def test_experiments_change_while_requests_come_and_keep_what_was_measured() -> None:
    variants = running(TONE)
    user = next(f"u{n}" for n in range(100) if arm(f"u{n}") == "kind")

    def asked(id: str) -> str:
        chosen = variants.apply(KEY, COMPLETIONS, {"model": "helper", "prompt": "hi", "user": user}, "", id)
        assert not chosen or chosen.label == "tone.kind"
        return chosen.request if chosen else ""

    def scores() -> list[int]:
        return [each["sums"]["scores"] for each in variants.shown("acme")[0]["arms"]]

    variants.score("acme", asked("a"), 1.0)
    arms = (msgspec.structs.replace(PLAIN, weight=1e-9), KIND)
    variants.use({"acme": Policy(experiments=(msgspec.structs.replace(TONE, arms=arms),))}, lambda *_: True)
    assert scores() == [0, 1], "another weight is the same arm"
    before = asked("b")
    arms = (PLAIN, msgspec.structs.replace(KIND, system="Be very kind."))
    variants.use({"acme": Policy(experiments=(msgspec.structs.replace(TONE, arms=arms),))}, lambda *_: True)
    assert scores() == [0, 0], "another prompt is another arm"
    with pytest.raises(RefusedError, match="that runs"):
        variants.score("acme", before, 1.0)
    assert scores() == [0, 0]
    variants.use({}, lambda *_: True)
    assert (asked("c"), variants.shown("acme")) == ("", [])


def test_a_gateway_whose_token_is_refused_for_a_while_forgets_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch()) as (_, gateway):
            known = msgspec.structs.replace(table(), policies={"acme": Policy(experiments=(TONE,))})
            variants = gateway.inference.variants
            for news in (known, Table(version=-1), known):
                gateway.use(news)
                if news is known and not variants.kept().count(b'"scores":1'):
                    score(variants, "r", 0.5)
                assert variants.kept().count(b'"scores":1') == 1

    asyncio.run(go())


def test_a_gateway_that_starts_again_goes_on_from_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "experiments.json"
    variants = running(TONE)
    kept = KeptFigures(path, variants)
    score(variants, "r", 0.5)
    kept.keep()

    again = Variants()
    KeptFigures(path, again)
    again.use({"acme": Policy(experiments=(TONE,))}, lambda *_: True)

    assert again.shown("acme") == variants.shown("acme")
    path.write_bytes(b"\xff")
    KeptFigures(path, running(TONE))


def test_arms_without_a_model_get_nobody() -> None:
    experiment = Experiment(name="tone", model="helper", arms=(PLAIN, Arm(name="gone", model="gone", weight=1e6)))
    variants = running(experiment, gone="gone")
    chosen = variants.apply(KEY, COMPLETIONS, {"model": "helper", "prompt": "hi"}, "", "r")
    assert chosen
    assert chosen.arm == PLAIN


def test_any_gateway_takes_a_score_once_and_none_that_was_made_up() -> None:
    here, there, salts = Variants(), Variants(), {"acme": "secret", "rival": "other"}
    for each in (here, there):
        policy = Policy(experiments=(TONE,))
        each.use({"acme": policy, "rival": policy}, lambda *_: True, salts)
    chosen = here.apply(KEY, CHAT, {"model": "helper", "messages": [], "user": "ann"}, "", "req-1")
    assert chosen
    other = chosen.request[:-17] + ("0" if chosen.request[-17] != "0" else "1") + chosen.request[-16:]
    for tenant, request in (
        ("rival", chosen.request), ("acme", "req-1"), ("acme", "req-2" + chosen.request[5:]), ("acme", other),
        ("acme", chosen.request[:-1]), ("acme", "\ud800.é"), ("acme", ""),
    ):  # fmt: skip
        with pytest.raises(RefusedError, match="such a request"):
            there.score(tenant, request, 1.0)
    assert there.score("acme", chosen.request, 1.0).label == f"tone.{arm('ann')}"
    with pytest.raises(RefusedError, match="it was scored"):
        there.score("acme", chosen.request, 1.0)
    assert sum(each["sums"]["scores"] for each in there.shown("acme")[0]["arms"]) == 1


# -- through a gateway ------------------------------------------------------------------------------


@asynccontextmanager
async def asking(
    folder: Path, experiment: Experiment, answer: Callable[[Ask], Awaitable[CannedAnswer]] = echo
) -> AsyncIterator[tuple[openai.AsyncOpenAI, httpx.AsyncClient, CannedDispatch, Gateway]]:
    dispatch = CannedDispatch(answer)
    async with (
        canned_gateway(folder, dispatch) as (url, gateway),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as client,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {SECRET}"}) as plain,
    ):
        gateway.use(msgspec.structs.replace(table(), policies={"acme": Policy(experiments=(experiment,))}))
        yield client, plain, dispatch, gateway


async def say(client: openai.AsyncOpenAI, text: str, user: str) -> Any:
    return await client.chat.completions.with_raw_response.create(
        model="helper", messages=[{"role": "user", "content": text}], user=user
    )


def test_what_an_arm_costs_and_is_worth_is_measured(tmp_path: Path) -> None:
    priced = msgspec.structs.replace(
        TONE,
        good_enough=0.2,
        arms=tuple(msgspec.structs.replace(each, prompt_price=1.0, output_price=2.0) for each in TONE.arms),
    )

    async def go() -> None:
        async with asking(tmp_path, priced) as (client, plain, _, gateway):
            gateway.add(RESPONSES)
            for number in range(20):
                answer = await say(client, "hi", f"u{number}")
                chosen = arm(f"u{number}")
                assert answer.headers["x-plenum-variant"] == f"tone.{chosen}"
                score = {"request_id": answer.headers["x-request-id"], "score": 1.0 if chosen == "kind" else 0.5}
                assert (await plain.post("/v1/scores", json=score)).json()["arm"] == chosen
                assert (await plain.post("/v1/scores", json=score)).status_code == 404
            (shown,) = (await plain.get("/v1/experiments")).json()["data"]
            arms = {each["name"]: each["sums"] for each in shown["arms"]}
            assert arms["plain"]["requests"] + arms["kind"]["requests"] == 20
            assert arms["plain"]["score"] == arms["plain"]["scores"] / 2
            assert arms["kind"]["score"] == arms["kind"]["scores"] == arms["kind"]["requests"]
            assert arms["kind"]["output_tokens"] == 3 * arms["kind"]["requests"]
            tokens = arms["kind"]["prompt_tokens"] + 2 * arms["kind"]["output_tokens"]
            assert arms["kind"]["cost"] == pytest.approx(tokens / 1e6)
            assert shown["cheapest_good_enough"] is None
            assert "not enough yet" in shown["verdict"]
            names = [each["id"] for each in (await plain.get("/v1/models")).json()["data"]]
            assert "helper" in names
            theirs = await plain.get("/v1/experiments", headers={"Authorization": f"Bearer {RIVAL}"})
            assert theirs.json()["data"] == []
            for wrong in (
                {"request_id": 5, "score": 1},
                {"request_id": "x", "score": 2},
                {"request_id": "x", "score": True},
            ):
                assert (await plain.post("/v1/scores", json=wrong)).status_code == 400
            other = await client.responses.with_raw_response.create(model="helper", input="hi")
            score = {"request_id": other.headers["x-request-id"], "score": 1}
            assert (await plain.post("/v1/scores", json=score)).status_code == 200

    asyncio.run(go())


def test_a_judge_scores_answers_after_they_were_sent_and_is_billed_by_itself(tmp_path: Path) -> None:
    free = asyncio.Event()

    async def judge(ask: Ask) -> CannedAnswer:
        if ask.key.id != "judge":
            return await echo(ask)
        await free.wait()
        return CannedAnswer([completion("none at all" if "echo: bad" in ask.prompt else "8")])

    experiment = msgspec.structs.replace(TONE, judge=Judge(model="chat", sample=1.0, criteria="It echoes."))

    async def go() -> None:
        async with asking(tmp_path, experiment, judge) as (client, _, dispatch, gateway):
            variants = gateway.inference.variants
            for text in ("good", "bad", *["more"] * (MAX_WAITING + 1)):
                await say(client, text, "ann")  # none of which waits for the judge

            def sums() -> dict[str, Any]:
                return next(a["sums"] for a in variants.shown("acme")[0]["arms"] if a["name"] == arm("ann"))

            assert (sums()["judged"], sums()["unjudged"]) == (0, 2), (
                "one is with the judge, the rest waits up to a limit"
            )
            free.set()
            async with asyncio.timeout(PATIENCE_S):
                while sums()["judged"] + sums()["unjudged"] < MAX_WAITING + 3:
                    await asyncio.sleep(0.01)
            assert sums()["judgement"] == pytest.approx(0.8 * sums()["judged"])
            assert sums()["unjudged"] == 3
            asked = next(ask for ask in dispatch.asked if ask.key.id == "judge")
            assert (asked.key.tenant, asked.tier, asked.model) == ("acme", "batch", "chat")
            assert "It echoes." in asked.prompt
            assert "Question:\ngood" in asked.prompt, "what the user said, not what the arm made of it"
            assert sums()["requests"] == MAX_WAITING + 3, "the judge is in no experiment"

    asyncio.run(go())


def test_requests_that_no_engine_answers_count_as_failed(tmp_path: Path) -> None:
    async def refuse(ask: Ask) -> CannedAnswer:
        raise RefusedError(503, "overloaded_error", "queue.full", "too many wait")

    async def broken(ask: Ask) -> CannedAnswer:
        return CannedAnswer([b"{}"], status=500)

    async def go(answer: Callable[[Ask], Awaitable[CannedAnswer]], folder: Path) -> None:
        async with asking(folder, TONE, answer) as (client, _, _, gateway):
            with pytest.raises(openai.InternalServerError):
                await say(client, "hi", "ann")
            arms = gateway.inference.variants.shown("acme")[0]["arms"]
            assert [each["sums"]["failed"] for each in arms if each["name"] == arm("ann")] == [1]
            assert sum(each["sums"]["requests"] for each in arms) == 1

    asyncio.run(go(refuse, tmp_path / "refused"))
    asyncio.run(go(broken, tmp_path / "broken"))


def test_answers_and_grades_are_read_as_far_as_they_can_be() -> None:
    stream = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"delta":{"content":"b"}}]}\n\ndata: [DONE]\n\n'
    assert said_in(stream) == "ab"
    assert said_in(b'{"choices":[{"text":"c"},{"text":"d"}]}') == "c"
    assert said_in(b"\xff") == said_in(b"[]") == ""
    grades = {"8": 0.8, "10": 1.0, "Grade: 7/10": 0.7, "7.5": 0.75, "0": 0.0, "100": None, "-3": None, "good": None}
    assert {text: score_in(text) for text in grades} == grades


# -- which to take ----------------------------------------------------------------------------------


def test_intervals_of_scores_hold_however_often_they_are_looked_at() -> None:
    missed = 0
    for seed in range(200):
        chance, truth = random.Random(seed), 0.2 + 0.6 * seed / 200
        total = 0
        for count in range(1, 400):
            total += chance.random() < truth
            found = quality_of(count, total, 0.1)
            if not found.low <= truth <= found.high:
                missed += 1
                break
    assert missed <= 20  # 10 % at most
    assert quality_of(0, 0, 0.1).mean is None


def measured(score: float, scores: int, cost: float, answers: int = 1_000) -> Figures:
    return Figures(
        requests=answers,
        cost=cost * answers,
        cost_squares=cost**2 * answers * 1.01,
        scores=scores,
        score=score * scores,
    )


@pytest.mark.parametrize(
    ("arms", "best", "says"),
    [
        ({"a": measured(0.9, 1_000, 1.0), "b": measured(0.9, 1_000, 2.0)}, "a", "a is the cheapest"),
        ({"a": measured(0.5, 1_000, 1.0), "b": measured(0.9, 1_000, 2.0)}, "b", "b is the only arm"),
        (
            {"a": measured(0.7, 20, 1.0), "b": measured(0.9, 1_000, 2.0)},
            "",
            "not enough yet: b is good enough, and a may",
        ),
        ({"a": measured(0.7, 20, 3.0), "b": measured(0.9, 1_000, 2.0)}, "b", "b is the cheapest"),
        ({"a": measured(0.7, 20, 1.0), "b": measured(0.7, 20, 1.0)}, "", "more scores are needed of a, b"),
        ({"a": measured(0.3, 1_000, 1.0), "b": measured(0.2, 1_000, 2.0)}, "", "no arm is good enough"),
        (
            {"a": measured(0.9, 1_000, 1.0, 5), "b": measured(0.9, 1_000, 2.0)},
            "",
            "not enough yet: b is good enough, and a",
        ),
    ],
)
def test_an_arm_is_named_only_where_it_is_sure(arms: dict[str, Figures], best: str, says: str) -> None:
    found = verdict(arms, 0.7, judged=False, priced=True)
    assert found[0] == best
    assert says in found[1]
    assert verdict(arms, 0.0, judged=False, priced=True)[0] == ""
    if len(best) == 1 and "cheapest" in says:
        assert "prices" in verdict(arms, 0.7, judged=False, priced=False)[1]
