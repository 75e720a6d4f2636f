"""``plenum plan``: which subcommands there are."""

from __future__ import annotations

from typing import ClassVar

import click

from plenum.cli.root import LazyGroup


class _PlanGroup(LazyGroup):
    table: ClassVar[dict[str, tuple[str, str]]] = {
        "serving": (
            "plenum.cli.plan_serving",
            "Find how to serve a model: hardware, parallelism, pools, and what it costs.",
        ),
        "predict": ("plenum.cli.plan_predict", "Predict one configuration's latencies, with intervals."),
        "calibrate": ("plenum.cli.plan_calibrate", "Fit the performance model to measured points."),
        "training": ("plenum.cli.plan_training", "Size a training run: memory, step time, checkpoints, GPU-hours."),
        "prefill": ("plenum.cli.plan_prefill", "Split prefill between sites: threshold, pools, throughput."),
        "experts": ("plenum.cli.plan_experts", "Compose many experts over tiers of memory."),
        "agents": ("plenum.cli.plan_agents", "Size for agents: calls, tokens, energy and tool waits of a query."),
        "surroundings": (
            "plenum.cli.plan_surroundings",
            "Size hosts, drives, network, watts and racks around a serving plan.",
        ),
        "models": ("plenum.cli.plan_models", "List the models that are known, or describe one, or a file."),
        "hardware": ("plenum.cli.plan_hardware", "List the accelerators that are known, with sources."),
    }


@click.group(cls=_PlanGroup)
def command() -> None:
    """Answer "what should we buy, and how should we run it"."""
