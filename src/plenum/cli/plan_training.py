"""``plenum plan training``: how to lay a training run out, how long it takes and what it costs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_format
from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import DONE, NO
from plenum.cli.facts import write_facts
from plenum.cli.fields import fields_as_options
from plenum.cli.instance_options import hardware_option, model_option
from plenum.cli.serving_cluster import accelerator_of
from plenum.cli.tables import Column, write_table
from plenum.cli.units import RATE, SECONDS, Number, Quantity, count
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.planning.training.memory import Layout
    from plenum.planning.training.plan import Choice, Question, TrainingPlan


TOKENS = Quantity("number", count, positive=True, most=1e17)


@click.command()
@model_option
@hardware_option
@click.option(
    "--gpus", "--devices", "devices", required=True, type=click.IntRange(1, 1_000_000), help="How many of them."
)
@click.option("--tokens", type=TOKENS, required=True, help="Tokens to train on, such as 15T or 300B.")
@click.option(
    "--seq", type=click.IntRange(1, 10_000_000), default=8192, show_default=True, help="Tokens of a sequence."
)
@click.option(
    "--batch", type=click.IntRange(1, 10_000_000), default=1024, show_default=True, help="Sequences of a step."
)
@click.option("--format", "form", default="bf16", show_default=True, help="Of matrix products: bf16, fp16 or fp8.",
              shell_complete=complete_format)  # fmt: skip
@click.option("--layout", metavar="KEY=N,…", help="Use this: tp, pp, dp, cp, ep, micro, interleave, zero, recompute.")
@click.option("--mtbf-h", type=Number(0, min_open=True), default=50_000, show_default=True,
              help="Hours between failures of one device.")  # fmt: skip
@click.option("--restart", type=SECONDS, default="10m", show_default=True, help="How long a restart takes.")
@click.option(
    "--storage", type=RATE, default="1TB", show_default=True, help="What the checkpoint store takes each second."
)
@click.option(
    "--pue",
    type=Number(1, 3),
    default=1.2,
    show_default=True,
    help="Watts at the meter over watts of machines.",
)
@click.option("--usd-per-hour", type=Number(0), default=0.0, help="Of a device; default: the catalogue's.")
@choose_output
def command(**options: Any) -> None:
    """Size a training run: layout, memory, step time, MFU, checkpoints, device-hours, energy and cost.

    Searches tensor, pipeline, context, data and expert parallelism, micro-batch, ZeRO and recomputation for the fastest that fits. Exits
    with 1, and says why, where nothing does.

    \b
    plenum plan training --model Llama-3.1-405B --hardware H100 --gpus 16384 --tokens 15.6T --batch 2048
    plenum plan training --model Llama-3.1-8B --hardware H100 --gpus 64 --tokens 1T --layout tp=1,dp=64,zero=3
    """
    from plenum.planning.training.plan import plan_training

    question = _question(options)
    with fields_as_options(form="--format", devices="--gpus", sequence="--seq"):
        plan = plan_training(question)
    if options["output"] == "json":
        write_json(plan_json(plan))
    else:
        _write(question, plan)
    sys.exit(NO if plan.best is None else DONE)


def _question(options: dict[str, Any]) -> Question:
    from plenum.adapters.models import find_architecture
    from plenum.planning.training.plan import Question
    from plenum.serving.formats import format_named

    return Question(
        model=find_architecture(options["model"], "--model"),
        hardware=accelerator_of(options["hardware"]),
        devices=options["devices"],
        tokens=options["tokens"],
        sequence=options["seq"],
        batch=options["batch"],
        form=format_named(options["form"], "--format").name,
        layout=_layout(options["layout"], options["devices"]) if options["layout"] else None,
        device_mtbf_h=options["mtbf_h"],
        restart_s=options["restart"],
        storage_bps=options["storage"],
        pue=options["pue"],
        usd_per_hour=options["usd_per_hour"],
    )


def _written(tokens: float) -> str:
    """Write a count of tokens as people give it."""
    return f"{tokens / 1e12:,.4g}T" if tokens >= 1e12 else f"{tokens / 1e9:,.4g}B"


def _layout(text: str, devices: int) -> Layout:
    from plenum.planning.training.memory import Layout

    names = {"micro": "micro_batch"}
    known = ("tp", "pp", "dp", "cp", "ep", "micro", "interleave", "zero", "recompute")
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key not in known:
            raise FieldError("--layout", f"{key[:40]!r} is none of {', '.join(known)}")
        if key == "recompute":
            if value not in ("none", "selective", "full"):
                raise FieldError("--layout", f"recompute is none, selective or full, not {value[:40]!r}")
            values[key] = value
            continue
        if not value.isascii() or not value.isdigit() or len(value) > 7 or (int(value) < 1 and key != "zero"):
            raise FieldError("--layout", f"{key} must be a whole number of at least 1, not {value[:40]!r}")
        values[names.get(key, key)] = int(value)
    if values.get("zero", 1) > 3:
        raise FieldError("--layout", "zero is 0, 1, 2 or 3")
    others = values.get("tp", 1) * values.get("pp", 1) * values.get("cp", 1)
    if "dp" not in values and devices % others == 0:
        values["dp"] = devices // others
    return Layout(**values)


def plan_json(plan: TrainingPlan) -> dict[str, Any]:
    """Return a plan as plain values."""
    from dataclasses import asdict

    values = asdict(plan)
    for choice, shown in zip(_choices(plan), _shown(values), strict=True):
        shown["memory"] |= {"total": choice.memory.total}
        shown["step"] |= {"total_s": choice.step.total_s, "communication_share": choice.step.communication_share}
    return values


def _choices(plan: TrainingPlan) -> list[Choice]:
    return [choice for choice in (plan.best, *plan.others) if choice is not None]


def _shown(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for value in (values["best"], *values["others"]) if value is not None]


def _energy(kwh: float, watts: float) -> str:
    """Write energy and power in the units in which they have digits."""
    energy = f"{kwh / 1e3:,.0f} MWh" if kwh >= 1e5 else f"{kwh:,.0f} kWh" if kwh >= 10 else f"{kwh:,.3g} kWh"
    power = f"{watts / 1e6:,.2f} MW" if watts >= 1e6 else f"{watts / 1e3:,.3g} kW"
    return f"{energy} at {power}"


def _span(days: float) -> str:
    """Write how long a run takes."""
    return f"{days:,.1f} days" if days >= 1.0 else f"{days * 24:,.3g} hours"


def _write(question: Question, plan: TrainingPlan) -> None:
    best = plan.best
    where = f"{question.model.name} on {question.devices:,} x {question.hardware.name}"
    if best is None:
        click.echo(click.style(f"{where}: it cannot be done.", bold=True))
        write_facts([("why", plan.why_not), ("tried", f"{plan.tried:,} layouts; {plan.fitted:,} fit")])
        return
    step, held = best.step, best.memory
    click.echo(click.style(f"{where}: {_span(plan.days)}", bold=True) + f" for {_written(question.tokens)} tokens\n")
    facts = [
        ("layout", str(best.layout)),
        ("step", f"{step.total_s:,.2f} s for {question.batch * question.sequence / 1e6:,.2f} M tokens; {plan.steps:,.0f} steps"),
        ("MFU", f"{plan.mfu:.1%} of a step, {plan.goodput_mfu:.1%} over the run"),
        ("memory", f"{held.total / 1e9:,.1f} of {held.usable / 1e9:,.1f} GB: weights {held.weights / 1e9:,.1f}, gradients "
                   f"{held.gradients / 1e9:,.1f}, optimiser {held.optimiser / 1e9:,.1f}, activations {held.activations / 1e9:,.1f}"),
        ("checkpoint", f"{plan.upkeep.checkpoint_bytes / 1e12:,.2f} TB, {plan.upkeep.write_s:,.1f} s to write, every "
                       f"{plan.upkeep.interval_s / 60:,.1f} min"),
        ("failures", f"one in {plan.upkeep.mtbf_s / 3600:,.1f} h; {plan.upkeep.available:.1%} of the time is progress"),
        ("device-hours", f"{plan.device_hours:,.0f}" if plan.device_hours >= 10 else f"{plan.device_hours:,.3g}"),
        ("energy", _energy(plan.energy_kwh, plan.watts)),
        ("cost", f"{plan.usd:,.0f} USD"),
    ]  # fmt: skip
    write_facts([*facts, *(("note", note) for note in plan.notes)])
    click.echo()
    names = {
        "compute_s": "matrices and attention", "elementwise_s": "between them", "tensor_s": "tensor parallel", "experts_s": "experts",
        "context_s": "context parallel", "pipeline_s": "between stages",
        "bubble_s": "pipeline bubble", "data_s": "data parallel", "optimiser_s": "optimiser",
    }  # fmt: skip
    rows = [
        (t, f"{getattr(step, n):,.3f} s", f"{getattr(step, n) / step.total_s:.1%}")
        for n, t in names.items()
        if getattr(step, n)
    ]
    write_table(
        [Column(head="PART OF A STEP"), Column(head="SECONDS", right=True), Column(head="SHARE", right=True)], rows
    )
    if plan.others:
        click.echo()
        columns = [
            Column(head="OTHER LAYOUTS", fold=True),
            Column(head="STEP", right=True),
            Column(head="MEMORY", right=True),
        ]
        write_table(
            columns,
            [(str(c.layout), f"{c.step.total_s:,.2f} s", f"{c.memory.total / 1e9:,.0f} GB") for c in plan.others],
        )
    click.echo(click.style(f"\n{plan.tried:,} layouts tried, {plan.fitted:,} fit.", dim=True))
