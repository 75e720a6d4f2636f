"""The policies that can be named: a scorer, a gang picker and caps, together."""

from __future__ import annotations

from dataclasses import dataclass, field

from plenum.model.errors import FieldError
from plenum.model.fleet import level_id
from plenum.placement.pickers import PICKERS
from plenum.placement.scorers import SCORERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most ``amount`` of a resource per domain of a level for one tenant ("8 GPUs per leaf").

    Parameters
    ----------
    tenant
        Empty: every tenant, each for itself.
    amount
        In the resource's unit; ``gpu_milli`` counts 1000 a GPU.
    """

    level: str
    resource: str
    amount: int
    tenant: str = ""

    def __post_init__(self) -> None:
        level_id(self.level, "caps.level")
        if self.level in ("place.numa", "place.pcie"):
            raise FieldError("caps.level", f"{self.level} is inside a node; cap a level that holds whole nodes")
        if self.amount < 0:
            raise FieldError("caps.amount", f"must be at least 0, not {self.amount}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to choose among what fits.

    Parameters
    ----------
    scorer
        Ranks nodes for single replicas; a name in ``SCORERS``.
    picker
        Ranks domains for gangs; a name in ``PICKERS``.
    """

    name: str
    scorer: str = "plenum"
    picker: str = "best-fit"
    caps: tuple[Cap, ...] = field(default=())

    def __post_init__(self) -> None:
        for value, table, name in ((self.scorer, SCORERS, "scorer"), (self.picker, PICKERS, "picker")):
            if value not in table:
                raise FieldError(name, f"there is no {name} {value!r}; choose one of {', '.join(table)}")


POLICIES = {name: Policy(name=name, scorer=name) for name in SCORERS}
"""Each scorer with the default gang picker, by name."""

DEFAULT = POLICIES["plenum"]


def policy_named(name: str) -> Policy:
    """Return a policy by name, or say which there are.

    Raises
    ------
    FieldError
        Unknown name.
    """
    if name not in POLICIES:
        raise FieldError("policy", f"there is no policy {name!r}; choose one of {', '.join(POLICIES)}")
    return POLICIES[name]
