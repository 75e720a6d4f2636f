"""What ``place`` and ``explain`` read: a fleet, what runs on it, what waits, and the decision on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from plenum.cli.console import choose_output
from plenum.cli.progress import compile_note


def situation_options(command: Callable[..., Any], *, required: bool = True) -> Callable[..., Any]:
    """Add the options that name a fleet and its workloads."""
    for option in (
        click.argument("jobs", nargs=-1, required=required, type=click.Path(dir_okay=False)),
        click.option("--fleet", "-f", required=required, type=click.Path(dir_okay=False), help="Fleet manifest."),
        click.option(
            "--running",
            multiple=True,
            type=click.Path(dir_okay=False),
            help="Manifests of workloads that run already; placed first.",
        ),
        click.option(
            "--policy", default="plenum", show_default=True, help="fgd, best-fit, plenum, …; any scorer's name."
        ),
        click.option(
            "--cap",
            "caps",
            multiple=True,
            metavar="LEVEL:RESOURCE=N[@TENANT]",
            help="Cap in each domain: fabric.leaf:gpu=8@research.",
        ),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="For the random policy."),
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


def decided(
    jobs: tuple[str, ...], fleet: str, running: tuple[str, ...], policy: str, seed: int, caps: tuple[str, ...] = ()
) -> Situation:
    """Read manifests, place what runs already, decide on the rest.

    Raises
    ------
    PlenumError
        A manifest is wrong, a name is used twice, or what is said to run does not fit.
    """
    import math
    from dataclasses import replace

    import numpy as np

    from plenum.adapters.manifests.fleet import read_fleet
    from plenum.adapters.manifests.workloads import read_workloads
    from plenum.model import FieldError, View
    from plenum.placement import place, policy_named
    from plenum.scheduling import decide

    chosen = replace(policy_named(policy), caps=tuple(_cap(text) for text in caps))
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


def _cap(text: str) -> Any:
    """Read ``fabric.leaf:gpu=8@research``."""
    from plenum.model import FieldError
    from plenum.model.units import parse, unit_of
    from plenum.placement import Cap

    level, colon, rest = text.partition(":")
    name, equals, rest = rest.partition("=")
    amount, _, tenant = rest.partition("@")
    if not (colon and equals and name and amount):
        raise FieldError("--cap", f"{text!r} is not LEVEL:RESOURCE=N[@TENANT], such as fabric.leaf:gpu=8@research")
    resource = {"gpu": "gpu_milli", "cpu": "cpu_milli", "memory": "memory_bytes", "power": "power_w"}.get(name, name)
    return Cap(level=level, resource=resource, amount=parse(amount, unit_of(resource), "--cap"), tenant=tenant)


def reason_json(reason: Any) -> dict[str, Any]:
    """Return a reason as plain values."""
    from dataclasses import asdict

    return asdict(reason)
