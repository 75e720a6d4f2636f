"""What a tenant has gateways do with its requests: experiments on prompts and models, and who moderates.

It stands in the tenant's manifest, whose names these are, and goes to every gateway with the table.
"""

from __future__ import annotations

import hashlib

import msgspec

MAX_EXPERIMENTS = 16
"""Of one tenant."""

MAX_ARMS = 16
MAX_PROMPT_CHARACTERS = 16_384
MAX_TEXT_CHARACTERS = 65_536
"""Of all prompts of a tenant's experiments together: every gateway holds those of all tenants."""

PROMPT = "{prompt}"


class Written(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a manifest."""


class Arm(Written, frozen=True, kw_only=True):
    """One variant.

    Parameters
    ----------
    weight
        Part of the users, beside those of the other arms.
    model
        Asked instead of the one that was named; empty: the same.
    system
        System prompt in place of the client's; empty: the client's.
    template
        What the user's last message becomes, ``{prompt}`` standing for it; empty: as it is.
    prompt_price, output_price
        Of a million tokens, in one currency for all arms; None: not known.
    """

    name: str
    weight: float = 1.0
    model: str = ""
    system: str = ""
    template: str = ""
    prompt_price: float | None = None
    output_price: float | None = None

    @property
    def priced(self) -> bool:
        """Whether it is known what its tokens cost."""
        return self.prompt_price is not None and self.output_price is not None

    def cost(self, prompt_tokens: int, output_tokens: int) -> float:
        """Return the price of a request; 0 where none is known."""
        return ((self.prompt_price or 0.0) * prompt_tokens + (self.output_price or 0.0) * output_tokens) / 1e6


class Judge(Written, frozen=True, kw_only=True):
    """A model that scores answers.

    Parameters
    ----------
    model
        One of the tenant's own.
    sample
        Part of the answers that it is asked about.
    criteria
        What makes an answer good, in words; empty: that it is right, helpful and to the point.
    """

    model: str
    sample: float = 0.1
    criteria: str = ""


class Experiment(Written, frozen=True, kw_only=True):
    """Arms that stand for one name of a tenant's.

    Parameters
    ----------
    model
        What clients write as ``model``; it need not be an endpoint.
    good_enough
        Mean score, from 0 to 1, with which an arm will do; 0: nobody says.
    judge
        Scores a sample of the answers; None: only clients do.
    """

    name: str
    model: str
    arms: tuple[Arm, ...]
    good_enough: float = 0.0
    judge: Judge | None = None


class Hook(Written, frozen=True, kw_only=True):
    """A server that says which prompts may pass, as OpenAI's ``/v1/moderations`` does.

    Parameters
    ----------
    timeout_s
        For one prompt.
    fail_open
        Whether prompts pass while the hook fails or takes too long; else they are refused then.
    """

    url: str
    timeout_s: float = msgspec.field(default=1.0, name="timeout")
    fail_open: bool = False


class Policy(Written, frozen=True, kw_only=True):
    """All of it; a tenant's admins set its experiments, operators the rest.

    Parameters
    ----------
    moderation
        Asked about the tenant's prompts, beside the hook that a gateway has for everybody; None: nobody.
    """

    experiments: tuple[Experiment, ...] = ()
    moderation: Hook | None = None


NOTHING = Policy()


def arm_of(name: str, arms: tuple[Arm, ...], who: str) -> Arm:
    """Return somebody's arm of an experiment: the same at every gateway and every time, and as many have it as its weight says."""
    at = part_of(name, who) * sum(arm.weight for arm in arms)
    for arm in arms:
        at -= arm.weight
        if at < 0:
            return arm
    return arms[-1]


def part_of(*words: str) -> float:
    """Return a number from 0 to 1 that looks like chance, and is always the same for the same words."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big") / 2**64
