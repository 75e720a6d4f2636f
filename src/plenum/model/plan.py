"""What a decision returns: placements, and a reason for everything left undone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from plenum.model.view import Rows, View
from plenum.model.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class CommunicationCost:
    """An estimate of what a gang's collectives cost where it lies (see :mod:`plenum.fabric.collectives`).

    Parameters
    ----------
    bottleneck
        Level that the slowest parallel dimension crosses (``node`` when none leaves its node).
    dimension
        That dimension: ``tp``, ``dp``, ``pp`` or ``ep``.
    algorithm
        ``ring`` or ``tree``, whichever is faster there.
    step_s
        Seconds of communication a training step under the reference volumes; compare, do not bill.
    relative
        ``step_s`` over that of the same gang in the best place an empty fleet has.
    """

    bottleneck: str
    dimension: str
    algorithm: Literal["ring", "tree", "none"]
    step_s: float
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """One workload's (or, for independent replicas, some of its replicas') place: applied whole or not at all.

    Parameters
    ----------
    rows
        One row a replica, in rank order; ``rows.workload`` is the workload's index in ``Plan.pending``.
    levels
        For each level that a constraint names, the domains used, lowest index first.
    cost
        Of gangs of several GPU replicas; None for everything else.
    """

    workload: Workload
    rows: Rows
    levels: tuple[tuple[str, tuple[int, ...]], ...] = ()
    cost: CommunicationCost | None = None
    degraded: tuple[str, ...] = ()
    """Preferences given up, as sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A domain that is short of something."""

    domain: str
    resource: str
    needed: int
    free: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A workload that holds what is missing."""

    workload: str
    tenant: str
    domain: str
    resource: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """A change that was tried with the same engine, and what came of it."""

    change: str
    starts: bool
    sentence: str
    relative_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a workload waits.

    Parameters
    ----------
    code
        Permanent: ``never.*`` cannot fit this fleet even when empty; ``wait.*`` fits once something ends.
    constraint
        The constraint that binds, as written in the manifest (``gpus``, ``together fabric.leaf``, …).
    sentence
        For a person; complete on its own.
    short
        The domains that come closest, and what each is short of.
    """

    workload: str
    code: str
    constraint: str
    sentence: str
    short: tuple[Gap, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    counterfactuals: tuple[Counterfactual, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The outcome of one decision.

    Parameters
    ----------
    pending
        What was to be placed, in the order it was considered.
    optimality_gap
        Only from the exact solver: (bound - value) / bound, 0 when proven optimal.
    """

    pending: tuple[Workload, ...]
    placements: tuple[Placement, ...] = ()
    reasons: tuple[Reason, ...] = ()
    policy: str = ""
    optimality_gap: float | None = None
    notes: tuple[str, ...] = field(default=())

    def applied_to(self, view: View) -> View:
        """Return the view after every placement of the plan."""
        return view.with_placed([(p.workload, p.rows) for p in self.placements])
