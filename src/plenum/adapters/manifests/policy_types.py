"""What a ``Tenant`` has gateways do with its requests, as people write it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from plenum.adapters.manifests.fields import Seconds, Strict
from plenum.ports.policy import (
    MAX_ARMS,
    MAX_EXPERIMENTS,
    MAX_PROMPT_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    PROMPT,
    Policy,
)

MAX_TIMEOUT_S = 60.0


def _wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})


def _check_word(value: str) -> str:
    """A word that stands in headers and answers: it has nothing that could end one."""
    plain = value.replace("-", "")
    if not (value[:1] != "-" and plain.isascii() and plain.isalnum() and plain == plain.lower()):
        raise _wrong(f"{value!r} is not a name of small letters, digits and '-'")
    return value


def _check_model(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise _wrong("must be printable text without spaces around it")
    return value


def _check_template(value: str) -> str:
    if value and PROMPT not in value:
        raise _wrong(f"must have {PROMPT} where the user's words go")
    return value


def _check_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not (fine and value.isascii() and value.isprintable() and not any(c in value for c in ' \\@#"')):
        raise _wrong("is no address such as http://10.0.0.7:8000/v1/moderations, without a user")
    return value


def _check_apart(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _wrong(f"{what} {name!r} is given twice; give it once")
        seen.add(name)


Word = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_check_word)]
Model = Annotated[str, Field(max_length=256), AfterValidator(_check_model)]
Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Price = Annotated[float, Field(ge=0, le=1e9)]


class ArmSpec(Strict):
    """A variant: another ``model``, a ``system`` prompt in place of the client's, a ``template`` with ``{prompt}`` in it for what the
    user says. ``weight`` is its part of the users; prices are those of a million tokens."""

    name: Word
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    model: Model = ""
    system: Text = ""
    template: Annotated[Text, AfterValidator(_check_template)] = ""
    prompt_price: Price | None = None
    output_price: Price | None = None

    @model_validator(mode="after")
    def _priced_whole(self) -> ArmSpec:
        if (self.prompt_price is None) != (self.output_price is None):
            raise _wrong("promptPrice and outputPrice go together; give both, or neither")
        return self


class JudgeSpec(Strict):
    """A ``model`` of the tenant's that scores a ``sample`` (a part of 1) of the answers by ``criteria``."""

    model: Annotated[Model, Field(min_length=1)]
    sample: Annotated[float, Field(gt=0, le=1)] = 0.1
    criteria: Text = ""


class ExperimentSpec(Strict):
    """``arms`` that stand for what clients write as ``model``; one with a mean score of ``goodEnough`` (0 to 1) will do."""

    name: Word
    model: Annotated[Model, Field(min_length=1)]
    arms: Annotated[list[ArmSpec], Field(min_length=1, max_length=MAX_ARMS)]
    good_enough: Annotated[float, Field(ge=0, le=1)] = 0.0
    judge: JudgeSpec | None = None

    @model_validator(mode="after")
    def _arms_apart(self) -> ExperimentSpec:
        _check_apart((arm.name for arm in self.arms), "arm")
        return self


class HookSpec(Strict):
    """A server that is asked about each prompt as OpenAI's ``/v1/moderations`` is; ``failOpen`` lets prompts pass while it fails."""

    url: Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_check_url)]
    timeout: Annotated[Seconds, Field(gt=0, le=MAX_TIMEOUT_S)] = 1.0
    fail_open: bool = False


class PolicySpec(Strict):
    """What gateways do with a tenant's requests."""

    experiments: Annotated[list[ExperimentSpec], Field(max_length=MAX_EXPERIMENTS)] = Field(default_factory=list)
    moderation: HookSpec | None = None

    @model_validator(mode="after")
    def _experiments_apart(self) -> PolicySpec:
        _check_apart((each.name for each in self.experiments), "experiment")
        _check_apart((each.model for each in self.experiments), "an experiment on model")
        size = sum(len(arm.system) + len(arm.template) for each in self.experiments for arm in each.arms)
        size += sum(len(each.judge.criteria) for each in self.experiments if each.judge)
        if size > MAX_TEXT_CHARACTERS:
            raise _wrong(f"prompts of all experiments have {size:,} characters; at most {MAX_TEXT_CHARACTERS:,}")
        return self


def policy_of(spec: PolicySpec) -> Policy:
    """Return the policy that was written."""
    written = spec.model_dump(by_alias=True, include={"experiments", "moderation"}, exclude_defaults=True)
    return msgspec.convert(written, Policy)
