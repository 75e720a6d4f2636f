"""Experiments: what one name of a model stands for differs from user to user, and what each variant costs and is worth is measured.

A tenant's experiment has arms: another model, a system prompt, a template around what the user says. Who gets which is told by a hash, so a
user keeps an arm, and gateways agree on it without talking. Beside tokens and latencies stand the scores that clients report.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from plenum.gateway.experiments import PROMPT, Arm, Experiment
from plenum.gateway.request import RefusedError
from plenum.model.errors import FieldError
from plenum.ports.engine import CHAT
from plenum.ports.gateway import Key

MAX_EXPERIMENTS = 256
MAX_REMEMBERED = 100_000
"""Requests whose arm is remembered, so that they can be scored."""


class Figures(msgspec.Struct, kw_only=True):
    """Running means of one arm.

    Parameters
    ----------
    score, score_error
        Mean of what was reported, from 0 to 1, and its standard error; NaN: too few.
    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float = 0.0
    total_s: float = 0.0
    scores: int = 0
    score_sum: float = 0.0
    score_squares: float = 0.0

    def shown(self) -> dict[str, Any]:
        """Return means; null where there is nothing to take one of."""
        done, scores = max(self.requests - self.failed, 0), self.scores
        mean = self.score_sum / scores if scores else 0.0
        squares = max(self.score_squares - scores * mean**2, 0.0)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "prompt_tokens": self.prompt_tokens / done if done else None,
            "cached_tokens": self.cached_tokens / done if done else None,
            "output_tokens": self.output_tokens / done if done else None,
            "ttft_s": self.ttft_s / done if done else None,
            "total_s": self.total_s / done if done else None,
            "scores": scores,
            "score": mean if scores else None,
            "score_error": math.sqrt(squares / (scores - 1) / scores) if scores > 1 else None,
        }


class Chosen(msgspec.Struct, frozen=True):
    """A request's arm."""

    experiment: str
    arm: str
    tenant: str

    @property
    def label(self) -> str:
        """For a header."""
        return f"{self.experiment}.{self.arm}"


class Variants:
    """The experiments of all tenants, and what was measured since this gateway started.

    Raises
    ------
    FieldError
        Two of a tenant's experiments have one name, or stand for one model.
    """

    def __init__(self, experiments: Iterable[Experiment] = ()) -> None:
        found = tuple(experiments)
        self._by_model = {(each.tenant, each.model): each for each in found}
        self._by_name = {(each.tenant, each.name): each for each in found}
        if len(found) > MAX_EXPERIMENTS or not len(found) == len(self._by_model) == len(self._by_name):
            raise FieldError(
                "experiments", f"at most {MAX_EXPERIMENTS}, and of a tenant one for each name and each model"
            )
        self._figures = {(each.tenant, each.name, arm.name): Figures() for each in found for arm in each.arms}
        self._remembered: OrderedDict[str, Chosen] = OrderedDict()

    def apply(self, key: Key, path: str, body: dict[str, Any], session: str, id: str) -> Chosen | None:
        """Make a request its arm's; returns the arm, or None where there is no experiment.

        Parameters
        ----------
        session
            What keeps an arm, where the body names no user.
        """
        model = body.get("model")
        found = self._by_model.get((key.tenant, model)) if type(model) is str else None
        if found is None:
            return None
        who = body.get("user") or body.get("prompt_cache_key") or session or id
        arm = found.arm_of(str(who))
        if arm.model:
            body["model"] = arm.model
        if path == CHAT:
            _rewrite(body, arm)
        elif arm.template and type(body.get("prompt")) is str:
            body["prompt"] = arm.template.replace(PROMPT, body["prompt"])
        chosen = Chosen(found.name, arm.name, key.tenant)
        self._remember(id, chosen)
        return chosen

    def note(
        self,
        chosen: Chosen,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        ttft_s: float,
        total_s: float,
        failed: bool,
    ) -> None:
        """Note what a request came to."""
        figures = self._figures[chosen.tenant, chosen.experiment, chosen.arm]
        figures.requests += 1
        figures.failed += failed
        if failed:
            return
        figures.prompt_tokens += prompt_tokens
        figures.cached_tokens += cached_tokens
        figures.output_tokens += output_tokens
        figures.ttft_s += ttft_s
        figures.total_s += total_s

    def score(self, tenant: str, request: str, score: float) -> Chosen:
        """Note what somebody thought of an answer; once for each request.

        Raises
        ------
        RefusedError
            There was no such request of the tenant's, or it has a score.
        """
        chosen = self._remembered.get(request)
        if chosen is None or chosen.tenant != tenant:
            raise RefusedError(
                404,
                "invalid_request_error",
                "score.unknown",
                "there is no such request, or it was scored, or is long ago",
                field="request_id",
            )
        del self._remembered[request]
        figures = self._figures[chosen.tenant, chosen.experiment, chosen.arm]
        figures.scores += 1
        figures.score_sum += score
        figures.score_squares += score**2
        return chosen

    def shown(self, tenant: str) -> list[dict[str, Any]]:
        """Return a tenant's experiments with what was measured of each arm."""
        return [
            {
                "id": each.name,
                "object": "experiment",
                "model": each.model,
                "arms": [
                    {
                        "name": arm.name,
                        "weight": arm.weight,
                        "model": arm.model or each.model,
                        **self._figures[each.tenant, each.name, arm.name].shown(),
                    }
                    for arm in each.arms
                ],
            }
            for each in self._by_name.values()
            if each.tenant == tenant
        ]

    def _remember(self, id: str, chosen: Chosen) -> None:
        self._remembered[id] = chosen
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _rewrite(body: dict[str, Any], arm: Arm) -> None:
    """Put an arm's prompts into a chat; what is no list of messages is left to who checks it."""
    messages = body.get("messages")
    if type(messages) is not list or not all(type(message) is dict for message in messages):
        return
    if arm.system:
        kept = [message for message in messages if message.get("role") not in ("system", "developer")]
        messages = [{"role": "system", "content": arm.system}, *kept]
    if arm.template:
        for place in reversed(range(len(messages))):
            message = messages[place]
            if message.get("role") == "user" and type(message.get("content")) is str:
                messages[place] = message | {"content": arm.template.replace(PROMPT, message["content"])}
                break
    body["messages"] = messages
