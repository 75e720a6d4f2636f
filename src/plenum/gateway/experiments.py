"""What an experiment is: arms that stand for one name of a tenant's, and who gets which."""

from __future__ import annotations

import hashlib
import math
import re

import msgspec

from plenum.model.errors import FieldError

MAX_ARMS = 16
PROMPT = "{prompt}"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Arm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """

    name: str
    weight: float = 1.0
    model: str = ""
    system: str = ""
    template: str = ""


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arms that stand for one name of a tenant's.

    Parameters
    ----------
    model
        What clients write as ``model``; it need not be an endpoint.
    """

    name: str
    tenant: str
    model: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        names = [self.name, *(arm.name for arm in self.arms)]
        if not all(_NAME.fullmatch(name) for name in names) or len(set(names[1:])) < len(self.arms):
            raise FieldError(
                "experiments", f"names of {self.name[:60]!r} and its arms must be small letters, digits and -"
            )
        if not 1 <= len(self.arms) <= MAX_ARMS:
            raise FieldError("experiments", f"{self.name} must have 1 to {MAX_ARMS} arms")
        if not all(math.isfinite(arm.weight) and arm.weight > 0 for arm in self.arms):
            raise FieldError("experiments", f"weights of {self.name} must be above 0")
        if any(arm.template and PROMPT not in arm.template for arm in self.arms):
            raise FieldError("experiments", f"a template of {self.name} must have {PROMPT} where the user's words go")

    def arm_of(self, who: str) -> Arm:
        """Return somebody's arm: the same at every gateway and every time, and as many have it as its weight says."""
        digest = hashlib.sha256(f"{self.tenant}\0{self.name}\0{who}".encode()).digest()
        at = int.from_bytes(digest[:8], "big") / 2**64 * sum(arm.weight for arm in self.arms)
        for arm in self.arms:
            at -= arm.weight
            if at < 0:
                return arm
        return self.arms[-1]
