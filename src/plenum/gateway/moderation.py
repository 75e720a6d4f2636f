"""A hook that says of each prompt whether it may pass: a callable here, or a server that speaks OpenAI's moderations.

What it says of, it is told in full, so it is for servers that the operator trusts with prompts. It does not log them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.settings import ModerationSettings
from plenum.ports.policy import Hook

MAX_PROMPT_CHARACTERS = 1_000_000
"""Of one question to the hook."""

MAX_ANSWER_BYTES = 1 << 20
MAX_CATEGORIES = 16
MAX_TIMEOUT_S = 600.0

Judge = Callable[[str, str], Awaitable[tuple[str, ...]]]
"""Takes tenant and prompt; gives the categories that it objects by, none where it does not. May raise anything."""


class Moderation:
    """Lets prompts pass, or refuses them.

    Parameters
    ----------
    settings
        Of the hook that the gateway has for everybody, or for the tenants that it names; None: there is none.
    judge
        None: the servers that settings and tenants name.
    """

    def __init__(self, settings: ModerationSettings | None = None, judge: Judge | None = None) -> None:
        self._own, self._judge = settings, judge
        self._hooks: dict[str, ModerationSettings] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        self._session: aiohttp.ClientSession | None = None
        self.failures = 0

    def use(self, hooks: Mapping[str, Hook]) -> None:
        """Ask about tenants' prompts as they wish, from the next one on."""
        self._hooks = {
            tenant: ModerationSettings(url=hook.url, timeout_s=hook.timeout_s, fail_open=hook.fail_open)
            for tenant, hook in hooks.items()
        }
        asked = {settings.url for settings in (*self._hooks.values(), self._own) if settings is not None}
        self._places = {url: places for url, places in self._places.items() if url in asked}

    async def check(self, ask: Ask) -> None:
        """Pass if a request's prompt may: by the gateway's hook, and by its tenant's.

        Raises
        ------
        RefusedError
            It may not, or nobody could say and that is not enough.
        """
        own, tenant = self._own, ask.key.tenant
        if own is not None and (not own.tenants or tenant in own.tenants):
            await self._check(ask, own)
        if (hook := self._hooks.get(tenant)) is not None:
            await self._check(ask, hook)

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _check(self, ask: Ask, settings: ModerationSettings) -> None:
        given = ask.body.get("prompt") or ask.body.get("input")
        if isinstance(given, list) and type(given[0]) is not str:
            sentence = "prompts are moderated here, so they must be text: nobody can read tokens"
            raise RefusedError(400, "invalid_request_error", "moderation.tokens", sentence, field="prompt")
        places = self._places.setdefault(settings.url, asyncio.Semaphore(settings.parallel))
        try:
            async with asyncio.timeout(settings.timeout_s), places:
                objections = await self._judged(settings, ask.key.tenant, ask.prompt)
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

    async def _judged(self, settings: ModerationSettings, tenant: str, prompt: str) -> tuple[str, ...]:
        """Ask about all of a prompt, in pieces where it is long, until one is objected to."""
        for start in range(0, max(len(prompt), 1), MAX_PROMPT_CHARACTERS):
            piece = prompt[start : start + MAX_PROMPT_CHARACTERS]
            if objections := await (
                self._judge(tenant, piece) if self._judge else self._ask(settings.url, tenant, piece)
            ):
                return objections
        return ()

    async def _ask(self, url: str, tenant: str, prompt: str) -> tuple[str, ...]:
        if self._session is None:
            # Each hook has its places: one that is slow takes no connections from others.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=MAX_TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0)
            )
        body = msgspec.json.encode({"input": prompt, "tenant": tenant})
        async with self._session.post(
            url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
        ) as answer:
            answer.raise_for_status()
            said = bytearray()
            async for part in answer.content.iter_any():
                said += part
                if len(said) > MAX_ANSWER_BYTES:
                    raise ValueError("no answer of a moderation is so long")
            return objections_of(bytes(said))


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
