"""Experiments: who gets which arm, what becomes of a request, and what is measured."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.unit.gateway.canned import RIVAL, SECRET, CannedDispatch, canned_gateway

from plenum.gateway.experiments import Arm, Experiment
from plenum.gateway.settings import GatewaySettings
from plenum.gateway.variants import Chosen, Variants
from plenum.model.errors import FieldError
from plenum.ports.engine import CHAT, COMPLETIONS
from plenum.ports.gateway import Key

KEY = Key(id="k", hash="", tenant="acme")
TONE = Experiment(
    name="tone",
    tenant="acme",
    model="helper",
    arms=(
        Arm(name="plain", model="chat", weight=3.0),
        Arm(name="kind", model="chat", system="Be kind.", template="Dear model, {prompt}"),
    ),
)


def test_a_user_keeps_an_arm_and_arms_have_their_share() -> None:
    found = Counter(TONE.arm_of(f"user-{n}").name for n in range(4_000))
    assert 0.72 < found["plain"] / 4_000 < 0.78
    other = Experiment(name="other", tenant="acme", model="x", arms=TONE.arms)
    together = sum(TONE.arm_of(f"u{n}").name == other.arm_of(f"u{n}").name for n in range(1_000))
    assert 500 < together < 750  # experiments are dealt out apart: 3/4 · 3/4 + 1/4 · 1/4
    assert {TONE.arm_of("ann").name for _ in range(5)} == {TONE.arm_of("ann").name}


def test_an_arm_rewrites_a_request_and_nobody_elses() -> None:
    variants = Variants([TONE])
    user = next(f"u{n}" for n in range(100) if TONE.arm_of(f"u{n}").name == "kind")
    asked = [
        {"role": "system", "content": "Be rude"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x"},
    ]
    body: dict[str, Any] = {"model": "helper", "messages": asked, "user": user}
    chosen = variants.apply(KEY, CHAT, body, "", "req-1")
    assert chosen == Chosen("tone", "kind", "acme")
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


def test_what_an_arm_costs_and_is_worth_is_measured(tmp_path: Path) -> None:
    async def go() -> None:
        settings = GatewaySettings(experiments=(TONE,))
        dispatch = CannedDispatch()
        async with (
            canned_gateway(tmp_path, dispatch, settings=settings) as (url, _),
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
            httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {SECRET}"}) as plain,
        ):
            for number in range(20):
                answer = await asking.chat.completions.with_raw_response.create(
                    model="helper", messages=[{"role": "user", "content": "hi"}], user=f"u{number}"
                )
                arm = TONE.arm_of(f"u{number}").name
                assert answer.headers["x-plenum-variant"] == f"tone.{arm}"
                score = {"request_id": answer.headers["x-request-id"], "score": 1.0 if arm == "kind" else 0.5}
                assert (await plain.post("/v1/scores", json=score)).json()["arm"] == arm
                assert (await plain.post("/v1/scores", json=score)).status_code == 404
            (shown,) = (await plain.get("/v1/experiments")).json()["data"]
            arms = {arm["name"]: arm for arm in shown["arms"]}
            assert arms["plain"]["requests"] + arms["kind"]["requests"] == 20
            assert (arms["kind"]["score"], arms["plain"]["score"]) == (1.0, 0.5)
            assert arms["kind"]["score_error"] == 0.0
            assert arms["kind"]["output_tokens"] == 3
            assert arms["plain"]["total_s"] > 0
            theirs = await plain.get("/v1/experiments", headers={"Authorization": f"Bearer {RIVAL}"})
            assert theirs.json()["data"] == []
            for wrong in (
                {"request_id": 5, "score": 1},
                {"request_id": "x", "score": 2},
                {"request_id": "x", "score": True},
            ):
                assert (await plain.post("/v1/scores", json=wrong)).status_code == 400

    asyncio.run(go())


def test_scores_of_another_tenants_requests_are_refused() -> None:
    variants = Variants([TONE])
    variants.apply(KEY, CHAT, {"model": "helper", "messages": []}, "", "req-1")
    with pytest.raises(Exception, match="no such request"):
        variants.score("rival", "req-1", 0.0)
    assert variants.score("acme", "req-1", 1.0).experiment == "tone"


@pytest.mark.parametrize(
    "change",
    [
        {"arms": ()},
        {"arms": (Arm(name="a"), Arm(name="a"))},
        {"arms": (Arm(name="a", weight=0.0),)},
        {"arms": (Arm(name="a", weight=float("nan")),)},
        {"arms": (Arm(name="a", template="no place"),)},
        {"name": "A b"},
    ],
)
def test_experiments_that_cannot_be_meant_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        Experiment(**({"name": "a", "tenant": "acme", "model": "m", "arms": (Arm(name="b"),)} | change))


def test_two_experiments_on_one_model_are_refused() -> None:
    with pytest.raises(FieldError):
        Variants([TONE, Experiment(name="second", tenant="acme", model="helper", arms=TONE.arms)])
