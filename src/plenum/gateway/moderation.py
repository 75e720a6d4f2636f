"""A hook that says of each prompt whether it may pass: a callable here, or a server that speaks OpenAI's moderations.

What it says of, it is told in full, so it is for servers that the operator trusts with prompts. It does not log them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec

from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.settings import ModerationSettings

MAX_PROMPT_CHARACTERS = 1_000_000
"""Of one question to the hook."""

MAX_ANSWER_BYTES = 1 << 20
MAX_CATEGORIES = 16

Judge = Callable[[str, str], Awaitable[tuple[str, ...]]]
"""Takes tenant and prompt; gives the categories that it objects by, none where it does not. May raise anything."""


class Moderation:
    """Lets prompts pass, or refuses them.

    Parameters
    ----------
    judge
        None: the server that the settings name.
    """

    def __init__(self, settings: ModerationSettings, judge: Judge | None = None) -> None:
        self._settings, self._judge = settings, judge or self._ask
        self._places = asyncio.Semaphore(settings.parallel)
        self._session: aiohttp.ClientSession | None = None
        self.failures = 0

    async def check(self, ask: Ask) -> None:
        """Pass if a request's prompt may.

        Raises
        ------
        RefusedError
            It may not, or nobody could say and that is not enough.
        """
        settings, tenant = self._settings, ask.key.tenant
        if settings.tenants and tenant not in settings.tenants:
            return
        given = ask.body.get("prompt") or ask.body.get("input")
        if isinstance(given, list) and type(given[0]) is not str:
            sentence = "prompts are moderated here, so they must be text: nobody can read tokens"
            raise RefusedError(400, "invalid_request_error", "moderation.tokens", sentence, field="prompt")
        try:
            async with asyncio.timeout(settings.timeout_s), self._places:
                objections = await self._judged(tenant, ask.prompt)
        except Exception:
            # Whatever a hook can raise: it must not be what decides whether requests are served.
            self.failures += 1
            if settings.fail_open:
                return
            sentence = "prompts cannot be moderated at the moment, so none is served; try again later"
            raise RefusedError(503, "server_error", "moderation.failed", sentence, retry_after_s=5.0) from None
        if objections:
            named = ", ".join(word for word in objections[:MAX_CATEGORIES] if word.isprintable())[:200]
            sentence = f"the prompt was refused by this service's moderation: {named}"
            raise RefusedError(400, "invalid_request_error", "moderation.flagged", sentence)

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _judged(self, tenant: str, prompt: str) -> tuple[str, ...]:
        """Ask about all of a prompt, in pieces where it is long, until one is objected to."""
        for start in range(0, max(len(prompt), 1), MAX_PROMPT_CHARACTERS):
            if objections := await self._judge(tenant, prompt[start : start + MAX_PROMPT_CHARACTERS]):
                return objections
        return ()

    async def _ask(self, tenant: str, prompt: str) -> tuple[str, ...]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s))
        body = msgspec.json.encode({"input": prompt, "tenant": tenant})
        async with self._session.post(
            self._settings.url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
        ) as answer:
            answer.raise_for_status()
            return objections_of(await answer.content.read(MAX_ANSWER_BYTES))


def objections_of(body: bytes) -> tuple[str, ...]:
    """Return the categories by which an answer of OpenAI's moderations objects.

    Raises
    ------
    ValueError
        It is no such answer, so nobody knows.
    """
    said: Any = msgspec.json.decode(body)
    results = said.get("results") if isinstance(said, dict) else None
    if not isinstance(results, list) or not results or not all(type(r.get("flagged")) is bool for r in results):
        raise ValueError("no answer of a moderation")
    found: list[str] = []
    for result in results:
        if result["flagged"]:
            categories = result.get("categories") or {}
            found += [str(name) for name, holds in categories.items() if holds] or ["flagged"]
    return tuple(dict.fromkeys(found))
