"""Questions that take long: one at a time, and few of one caller."""

import asyncio

import pytest
from tests.api.lab import Lab

from plenum.api.context import TURNS_EACH
from plenum.api.errors import RateError
from plenum.api.identity import Principal

ANN, BOB = (Principal(kind="user", name=name, token=name) for name in ("ann", "bob"))


def test_who_asks_many_long_questions_holds_up_themselves(lab: Lab) -> None:
    running, most = 0, 0

    async def ask(who: Principal) -> str:
        nonlocal running, most
        try:
            async with lab.context.turn(who, "why"):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1
        except RateError:
            return "refused"
        return "answered"

    async def flood() -> list[str]:
        return await asyncio.gather(*(ask(ANN) for _ in range(10 * TURNS_EACH)), ask(BOB))

    *anns, bobs = lab.run(flood())
    assert anns.count("answered") == TURNS_EACH
    assert (bobs, most) == ("answered", 1)
    assert lab.run(ask(ANN)) == "answered"


def test_a_question_that_fails_gives_its_turn_back(lab: Lab) -> None:
    async def fail() -> None:
        async with lab.context.turn(ANN, "why"):
            raise KeyError

    for _ in range(2 * TURNS_EACH):
        with pytest.raises(KeyError):
            lab.run(fail())
