"""What ``place`` and ``explain`` read: a fleet, what runs on it, what waits, and the decision on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from plenum.cli.console import choose_output
from plenum.cli.progress import compile_note


def situation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a fleet and its workloads."""
    for option in (
        click.argument("jobs", nargs=-1, required=True, type=click.Path(dir_okay=False)),
        click.option("--fleet", "-f", required=True, type=click.Path(dir_okay=False), help="Fleet manifest."),
        click.option(
            "--running",
            multiple=True,
            type=click.Path(dir_okay=False),
            help="Manifests of workloads that run already; placed first.",
        ),
        click.option(
            "--policy", default="plenum", show_default=True, help="fgd, best-fit, plenum, …; any scorer's name."
        ),
        click.option("--seed", default=0, show_default=True, help="For the random policy."),
        choose_output,
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Input of a decision, and the plan made of it."""

    view: Any
    pending: tuple[Any, ...]
    plan: Any
    policy: Any


def decided(jobs: tuple[str, ...], fleet: str, running: tuple[str, ...], policy: str, seed: int) -> Situation:
    """Read manifests, place what runs already, decide on the rest.

    Raises
    ------
    PlenumError
        A manifest is wrong, a name is used twice, or what is said to run does not fit.
    """
    import math

    import numpy as np

    from plenum.adapters.manifests.fleet import read_fleet
    from plenum.adapters.manifests.workloads import read_workloads
    from plenum.model import FieldError, View
    from plenum.placement import place, policy_named
    from plenum.scheduling import decide

    chosen = policy_named(policy)
    view = View(fleet=read_fleet(fleet))
    before = [w for path in running for w in read_workloads(path)]
    pending = [w for path in jobs for w in read_workloads(path)]
    seen: set[str] = set()
    for workload in (*before, *pending):
        if workload.id in seen:
            raise FieldError("metadata.name", f"{workload.id} is there twice; names are unique within a tenant")
        seen.add(workload.id)
    rng = np.random.default_rng(seed)
    with compile_note():
        if before:
            placed = place(view, before, chosen, math.inf, rng)
            if placed.reasons:
                raise FieldError("running", placed.reasons[0].sentence, file=running[0])
            view = placed.applied_to(view)
        plan = decide(view, pending, chosen, math.inf, rng)
    return Situation(view=view, pending=tuple(pending), plan=plan, policy=chosen)


def reason_json(reason: Any) -> dict[str, Any]:
    """Return a reason as plain values."""
    from dataclasses import asdict

    return asdict(reason)
