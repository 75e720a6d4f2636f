"""Experiments: what one name of a model stands for differs from user to user, and what each variant costs and is worth is measured.

A tenant's experiment has arms: another model, a system prompt, a template around what the user says. Who gets which is told by a hash,
so a user keeps an arm, and gateways agree on it without talking. Beside tokens, latencies and prices stand scores: those that clients
report, and those of a judge. The id that a client gets of its request says which arm it had, so any gateway can take its score.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from plenum.gateway.answers import invalid
from plenum.gateway.figures import Figures, verdict
from plenum.gateway.request import RefusedError
from plenum.ports.engine import CHAT
from plenum.ports.gateway import Key
from plenum.ports.policy import PROMPT, Arm, Experiment, Judge, Policy, arm_of, part_of

MAX_REMEMBERED = 100_000
"""Requests that were scored, each of which counts once."""

ARM_DIGITS, PROOF_DIGITS = 16, 16
"""Of an arm's identity and of what proves it, after the dot in a request's id."""

MAX_SHOWN_CHARACTERS = 6_000
"""Of a question and of an answer, as the judge sees them; no more of a question is kept until then."""

MAX_ADDED_CHARACTERS = 2**20
"""To a request, by a template that has what the user says in it more than once."""


class Chosen(msgspec.Struct, frozen=True):
    """A request's arm.

    Parameters
    ----------
    request
        The request's id as its sender gets it: any gateway knows its arm by it.
    judge
        Who is to score its answer; None: nobody.
    question
        What the user said last, for the judge.
    """

    tenant: str
    experiment: str
    arm: Arm
    figures: Figures
    request: str = ""
    judge: Judge | None = None
    question: str = ""

    @property
    def label(self) -> str:
        """For a header."""
        return f"{self.experiment}.{self.arm.name}"


class _Running(msgspec.Struct, frozen=True):
    """An experiment, those of its arms that are served, and of all the figures and what tells them apart."""

    experiment: Experiment
    arms: tuple[Arm, ...]
    figures: dict[str, Figures]
    ids: list[str]

    def id_of(self, arm: Arm) -> str:
        """Return what tells an arm apart."""
        return self.ids[self.experiment.arms.index(arm)]

    def known(self) -> Iterable[tuple[str, Arm]]:
        """Return all arms with their ids."""
        return zip(self.ids, self.experiment.arms, strict=True)


class Variants:
    """The experiments of all tenants, and what was measured of them.

    A change of an arm begins its figures anew; a change of its weight does not.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], _Running] = {}
        self._figures: dict[str, Figures] = {}
        self._salts: Mapping[str, str] = {}
        self._scored: OrderedDict[str, None] = OrderedDict()

    def use(
        self,
        policies: Mapping[str, Policy],
        is_served: Callable[[str, str], bool],
        salts: Mapping[str, str] | None = None,
    ) -> None:
        """Go by other experiments from the next request on.

        Parameters
        ----------
        is_served
            Tells of a tenant and a model whether it is there; arms without one get nobody.
        salts
            Tenant to what gateways alone know.
        """
        self._salts = salts or {}
        before, self._running = self._running, {}
        for tenant, policy in policies.items():
            for each in policy.experiments:
                known = before.get((tenant, each.model))
                ids = (
                    known.ids if known and known.experiment == each else [_identity(tenant, each, a) for a in each.arms]
                )
                figures = {a.name: self._figures.get(id) or Figures() for a, id in zip(each.arms, ids, strict=True)}
                arms = tuple(arm for arm in each.arms if is_served(tenant, arm.model or each.model))
                self._running[tenant, each.model] = _Running(each, arms or each.arms, figures, ids)
        self._figures = {id: found.figures[arm.name] for found in self._running.values() for id, arm in found.known()}

    def kept(self) -> bytes:
        """Return what was measured, for :meth:`restore`."""
        return msgspec.json.encode(self._figures)

    def restore(self, kept: bytes) -> None:
        """Go on from what was measured before, ahead of the first :meth:`use`.

        Raises
        ------
        msgspec.MsgspecError
            It is none of what :meth:`kept` returns.
        """
        self._figures = msgspec.json.decode(kept, type=dict[str, Figures])

    def apply(self, key: Key, path: str, body: dict[str, Any], session: str, id: str) -> Chosen | None:
        """Make a request its arm's; returns the arm, or None where there is no experiment.

        Parameters
        ----------
        session
            What keeps an arm, where the body names no user.
        """
        model = body.get("model")
        found = self._running.get((key.tenant, model)) if type(model) is str else None
        if found is None:
            return None
        name, judge = found.experiment.name, found.experiment.judge
        who = body.get("user") or body.get("prompt_cache_key") or session or id
        arm = arm_of(name, found.arms, str(who))
        if judge is not None and part_of("judge", id) >= judge.sample:
            judge = None
        question = _question(body)[-MAX_SHOWN_CHARACTERS:] if judge else ""
        request = f"{id}.{self._mark(key.tenant, id, found.id_of(arm)[:ARM_DIGITS])}"
        chosen = Chosen(key.tenant, name, arm, found.figures[arm.name], request, judge, question)
        if arm.model:
            body["model"] = arm.model
        if path == CHAT:
            _rewrite(body, arm)
        elif arm.template and type(body.get("prompt")) is str:
            body["prompt"] = _filled(arm.template, body["prompt"])
        return chosen

    def models(self, tenant: str) -> dict[str, str]:
        """Return the names that a tenant's experiments stand for, each with a model that may answer instead."""
        running = {name: found for (whose, name), found in self._running.items() if whose == tenant}
        return {name: found.arms[0].model or name for name, found in running.items()}

    def score(self, tenant: str, request: str, score: float) -> Chosen:
        """Note what somebody thought of an answer; once for each request here, whichever gateway answered it.

        Raises
        ------
        RefusedError
            There was no such request of the tenant's, it has a score, or its arm is no more.
        """
        id, _, mark = request.rpartition(".")
        proven = hmac.compare_digest(_raw(mark), _raw(self._mark(tenant, id, mark[:ARM_DIGITS])))
        arms = [
            (found, arm)
            for (whose, _), found in self._running.items()
            for known, arm in found.known()
            if whose == tenant and known.startswith(mark[:ARM_DIGITS])
        ]
        if not (proven and arms) or request in self._scored:
            raise RefusedError(
                404,
                "invalid_request_error",
                "score.unknown",
                "no arm of an experiment that runs answered such a request, or it was scored; give the whole x-request-id of an answer",
                field="request_id",
            )
        self._scored[request] = None
        if len(self._scored) > MAX_REMEMBERED:
            self._scored.popitem(last=False)
        found, arm = arms[0]
        figures = found.figures[arm.name]
        figures.scores += 1
        figures.score += score
        return Chosen(tenant, found.experiment.name, arm, figures, request)

    def shown(self, tenant: str) -> list[dict[str, Any]]:
        """Return a tenant's experiments with what was measured of each arm."""
        return [_shown(found) for (whose, _), found in self._running.items() if whose == tenant]

    def _mark(self, tenant: str, id: str, arm: str) -> str:
        """Return what says, and proves to those who know the tenant's salt, that an arm answered a request."""
        proof = hmac.new(_raw(self._salts.get(tenant, "")), _raw(f"{id} {arm}"), hashlib.sha256)
        return arm + proof.hexdigest()[:PROOF_DIGITS]


def _raw(text: str) -> bytes:
    return text.encode(errors="replace")  # clients may send halves of surrogate pairs


def note(
    chosen: Chosen,
    *,
    prompt_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    ttft_s: float,
    total_s: float,
) -> None:
    """Note what a request came to."""
    figures = chosen.figures
    figures.requests += 1
    cost = chosen.arm.cost(prompt_tokens, output_tokens)
    figures.prompt_tokens += prompt_tokens
    figures.cached_tokens += cached_tokens
    figures.output_tokens += output_tokens
    figures.ttft_s += ttft_s
    figures.total_s += total_s
    figures.cost += cost
    figures.cost_squares += cost**2


def note_failed(chosen: Chosen) -> None:
    """Note a request that was not answered to its end."""
    chosen.figures.requests += 1
    chosen.figures.failed += 1


def summary(figures: Mapping[str, Figures], good_enough: float, *, judged: bool, priced: bool) -> dict[str, Any]:
    """Return what figures say of which arm to take."""
    cheapest, sentence = verdict(figures, good_enough, judged=judged, priced=priced)
    return {"cheapest_good_enough": cheapest or None, "verdict": sentence}


def _shown(found: _Running) -> dict[str, Any]:
    each = found.experiment
    arms = [
        {
            "name": arm.name,
            "weight": arm.weight,
            "model": arm.model or each.model,
            "priced": arm.priced,
            "sums": msgspec.structs.asdict(found.figures[arm.name]),
        }
        for arm in each.arms
    ]
    return {
        "id": each.name,
        "object": "experiment",
        "model": each.model,
        "good_enough": each.good_enough,
        "judge": each.judge.model if each.judge else None,
        "arms": arms,
        **summary(
            found.figures, each.good_enough, judged=bool(each.judge), priced=all(arm.priced for arm in each.arms)
        ),
    }


def _identity(tenant: str, each: Experiment, arm: Arm) -> str:
    """Return what figures are of: an arm as it was written, whatever part of the users it has, judged as it is."""
    same = msgspec.structs.replace(each, arms=(msgspec.structs.replace(arm, weight=1.0),), good_enough=0.0)
    return hashlib.sha256(msgspec.json.encode((tenant, same))).hexdigest()


def _question(body: dict[str, Any]) -> str:
    """Return what the user said last, where that is text."""
    if type(body.get("prompt")) is str:
        return body["prompt"]
    messages = body.get("messages")
    for message in reversed(messages if type(messages) is list else ()):
        if type(message) is dict and message.get("role") == "user":
            return message["content"] if type(message.get("content")) is str else ""
    return ""


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
                messages[place] = message | {"content": _filled(arm.template, message["content"])}
                break
    body["messages"] = messages


def _filled(template: str, said: str) -> str:
    if (template.count(PROMPT) - 1) * len(said) > MAX_ADDED_CHARACTERS:
        raise invalid("messages", "this is too long for the template of its experiment, which repeats it")
    return template.replace(PROMPT, said)
