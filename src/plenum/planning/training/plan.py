"""Sizes a training run: searches a layout that fits, and says how long it takes, what it costs, and what stands in the way.

Way in: :func:`plan_training`. Memory is in :mod:`~plenum.planning.training.memory`, step time in
:mod:`~plenum.planning.training.step`, failures and energy in :mod:`~plenum.planning.training.upkeep`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from plenum.model.errors import FieldError
from plenum.planning.training.memory import Layout, Memory, Recompute, memory
from plenum.planning.training.step import Step, step
from plenum.planning.training.upkeep import PUE, Upkeep, upkeep, watts
from plenum.serving.architecture import Architecture
from plenum.serving.hardware import Accelerator

DEVICES_LIMIT = 1_000_000
LAYOUTS_LIMIT = 60_000
"""Layouts looked at, at most: some four seconds."""

SHOWN_LIMIT = 8
"""Layouts that a plan lists besides the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be trained.

    Parameters
    ----------
    model, hardware, devices
        On how many of which devices.
    tokens
        To train on.
    sequence, batch
        Tokens of a sequence; sequences of a step.
    form
        Format of the matrix products: ``bf16`` or ``fp8``.
    layout
        Use just this; None: search.
    device_mtbf_h, restart_s, storage_bps, pue, usd_per_hour
        See :mod:`~plenum.planning.training.upkeep`; ``usd_per_hour`` of a device, 0: the catalogue's.
    """

    model: Architecture
    hardware: Accelerator
    devices: int
    tokens: float
    sequence: int = 8192
    batch: int = 1024
    form: str = "bf16"
    layout: Layout | None = None
    device_mtbf_h: float = 50_000.0
    restart_s: float = 600.0
    storage_bps: float = 1.0e12
    pue: float = PUE
    usd_per_hour: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A layout that was tried."""

    layout: Layout
    memory: Memory
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The answer.

    Parameters
    ----------
    best
        The fastest layout that fits; None: there is none, and ``why_not`` says why.
    others
        The next fastest ones of other shapes, fastest first.
    tried, fitted
        How many layouts were looked at, and how many of them fit.
    steps, days, device_hours
        To the last token, checkpoints and failures included.
    mfu, goodput_mfu
        Model FLOP utilisation of a step, and over the whole run.
    energy_kwh, usd
        Of the whole run, at the meter.
    why_not
        The binding limit where nothing fits.
    """

    best: Choice | None
    others: tuple[Choice, ...] = ()
    tried: int
    fitted: int
    upkeep: Upkeep
    steps: float = 0.0
    days: float = 0.0
    device_hours: float = 0.0
    mfu: float = 0.0
    goodput_mfu: float = 0.0
    energy_kwh: float = 0.0
    usd: float = 0.0
    watts: float = 0.0
    why_not: str = ""
    notes: tuple[str, ...] = field(default=())


def plan_training(question: Question) -> TrainingPlan:
    """Find the fastest layout that fits and what the whole run takes.

    Raises
    ------
    FieldError
        The question cannot be meant: nothing to train on, a format that the hardware has no units for, a layout of another size.
    """
    _check(question)
    tried, fitted = 0, []
    closest: Choice | None = None
    for layout in _layouts(question):
        tried += 1
        held = _memory(question, layout)
        if held.fits:
            fitted.append(Choice(layout=layout, memory=held, step=_step(question, layout)))
        elif closest is None or held.total < closest.memory.total:
            closest = Choice(layout=layout, memory=held, step=_step(question, layout))
    fitted.sort(key=lambda choice: (choice.step.total_s, choice.memory.total, str(choice.layout)))
    kept = upkeep(
        question.model, question.hardware, question.devices, device_mtbf_h=question.device_mtbf_h,
        restart_s=question.restart_s, storage_bps=question.storage_bps,
    )  # fmt: skip
    if not fitted or kept.available <= 0.0:
        why = _why_not(question, closest) if not fitted else _never_ends(question, kept)
        return TrainingPlan(best=None, tried=tried, fitted=len(fitted), upkeep=kept, why_not=why)
    return _finished(question, fitted, tried, kept)


def _finished(question: Question, fitted: list[Choice], tried: int, kept: Upkeep) -> TrainingPlan:
    best = fitted[0]
    hardware, devices = question.hardware, question.devices
    steps = question.tokens / (question.batch * question.sequence)
    seconds = steps * best.step.total_s / kept.available
    hours = seconds / 3600.0 * devices
    drawn = watts(hardware, devices, pue=question.pue)
    mfu = best.step.mfu(devices, hardware.peak_flops["bf16"])
    return TrainingPlan(
        best=best,
        others=tuple(_unlike(fitted)),
        tried=tried,
        fitted=len(fitted),
        upkeep=kept,
        steps=steps,
        days=seconds / 86_400.0,
        device_hours=hours,
        mfu=mfu,
        goodput_mfu=mfu * kept.available,
        energy_kwh=drawn * seconds / 3.6e6,
        usd=hours * (question.usd_per_hour or hardware.usd_per_hour),
        watts=drawn,
        notes=tuple(_notes(question, best, kept, tried)),
    )


def _unlike(fitted: list[Choice]) -> Iterator[Choice]:
    """Yield the fastest of each other combination of degrees, so that the list shows alternatives rather than variations."""
    seen = {_degrees(fitted[0].layout)}
    for choice in fitted:
        degrees = _degrees(choice.layout)
        if degrees not in seen and len(seen) <= SHOWN_LIMIT:
            seen.add(degrees)
            yield choice


def _degrees(layout: Layout) -> tuple[int, ...]:
    return layout.tp, layout.pp, layout.cp, layout.ep


def _notes(question: Question, best: Choice, kept: Upkeep, tried: int) -> Iterator[str]:
    if tried >= LAYOUTS_LIMIT:
        yield f"the search stopped after {tried:,} layouts; give --layout to try others"
    micro_batches = question.batch // (best.layout.dp * best.layout.micro_batch)
    if best.layout.pp > 1 and best.step.bubble_s > 0.1 * best.step.total_s:
        yield (
            f"the pipeline's bubble takes {best.step.bubble_s / best.step.total_s:.0%} of a step: {micro_batches} micro-batches "
            f"over {best.layout.pp} stages are few; a larger batch or fewer devices help"
        )
    if best.step.communication_share > 0.25:
        yield f"devices wait for data {best.step.communication_share:.0%} of a step"
    if kept.available < 0.9:
        yield f"failures and checkpoints take {1 - kept.available:.0%} of the time: one failure in {kept.mtbf_s / 3600:.1f} h"
    if best.memory.total > 0.95 * best.memory.usable:
        yield "memory is within 5 % of its limit"


def _check(question: Question) -> None:
    wanted = {"devices": question.devices, "tokens": question.tokens, "seq": question.sequence, "batch": question.batch}
    for name, value in wanted.items():
        if not 1 <= value < 1e18:
            raise FieldError(name, "must be at least 1, and less than 1e18")
    if question.tokens < (one := question.batch * question.sequence):
        raise FieldError(
            "tokens", f"are fewer than one step takes: {question.batch:,} x {question.sequence:,}, {one:,}"
        )
    if question.devices > DEVICES_LIMIT:
        raise FieldError("devices", f"must be at most {DEVICES_LIMIT:,}")
    if question.form not in ("bf16", "fp16", "fp8"):
        raise FieldError("format", f"training computes in bf16, fp16 or fp8, not {question.form}")
    if question.form not in question.hardware.peak_flops:
        raise FieldError("format", f"{question.hardware.name} has no units for {question.form}")
    layout = question.layout
    if layout is None:
        return
    if layout.devices != question.devices:
        raise FieldError("layout", f"takes {layout.devices} devices, not {question.devices}")
    if (layout.dp * layout.cp) % layout.ep:
        raise FieldError("layout", f"experts cannot be dealt out over {layout.ep} of {layout.dp * layout.cp} devices")
    if question.batch % (layout.dp * layout.micro_batch):
        raise FieldError("batch", f"of {question.batch} cannot be divided by {layout.dp} ranks x {layout.micro_batch}")
    if layout.pp * layout.interleave > question.model.layers:
        raise FieldError("layout", f"has more stages than the model has layers ({question.model.layers})")


def _memory(question: Question, layout: Layout) -> Memory:
    micro_batches = max(1, question.batch // (layout.dp * layout.micro_batch))
    return memory(
        question.model, layout, question.sequence, micro_batches=micro_batches, hbm_bytes=question.hardware.hbm_bytes
    )


def _step(question: Question, layout: Layout) -> Step:
    return step(
        question.model, question.hardware, layout, sequence=question.sequence, batch=question.batch, form=question.form
    )


def _layouts(question: Question) -> Iterator[Layout]:
    if question.layout is not None:
        yield question.layout
        return
    model, hardware, devices = question.model, question.hardware, question.devices
    heads = min((b.attention.heads for b in model.blocks), default=1)
    count = 0
    for tp in _powers(min(hardware.scaleup_size, heads, devices)):
        for cp in _powers(max(1, question.sequence // 8192)):
            for pp in _stages(model.layers, devices // (tp * cp) if devices % (tp * cp) == 0 else 0):
                dp, rest = divmod(devices, tp * cp * pp)
                if rest or question.batch % dp:
                    continue
                for layout in _variants(question, tp, cp, pp, dp):
                    count += 1
                    if count > LAYOUTS_LIMIT:
                        return
                    yield layout


def _variants(question: Question, tp: int, cp: int, pp: int, dp: int) -> Iterator[Layout]:
    for ep in _expert_degrees(question.model, dp * cp):
        for micro in _powers(min(8, question.batch // dp)):
            if question.batch % (dp * micro):
                continue
            for interleave in _interleaves(question.model.layers, pp, question.batch // (dp * micro)):
                for zero in (1,) if pp > 1 else (1, 2, 3):
                    for recompute in _RECOMPUTE:
                        yield Layout(
                            tp=tp, pp=pp, dp=dp, cp=cp, ep=ep, micro_batch=micro, interleave=interleave, zero=zero,
                            recompute=recompute,
                        )  # fmt: skip


_RECOMPUTE: tuple[Recompute, ...] = ("selective", "full")


def _powers(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def _stages(layers: int, ranks: int) -> Iterator[int]:
    """Yield pipeline degrees that divide the ranks, up to the layers."""
    for pp in range(1, min(layers, ranks, 128) + 1):
        if ranks % pp == 0 and (layers / pp >= 1):
            yield pp


def _interleaves(layers: int, pp: int, micro_batches: int) -> list[int]:
    """Return how many runs a stage may have: one, or as many as its layers where micro-batches come in whole rounds."""
    most = layers // pp
    return [1] if pp == 1 or micro_batches % pp or most == 1 else sorted({1, 2, most} & set(range(1, most + 1)))


def _expert_degrees(model: Architecture, ranks: int) -> list[int]:
    counts = [b.feed_forward.experts for b in model.blocks if b.feed_forward.experts]
    if not counts:
        return [1]
    return [size for size in _powers(min(64, ranks, min(counts))) if ranks % size == 0 and min(counts) % size == 0]


def _why_not(question: Question, closest: Choice | None) -> str:
    if closest is None:
        return (
            f"no layout divides {question.batch} sequences over {question.devices} devices: the batch must be a multiple of the "
            f"data parallel ranks; try a batch or a number of devices with more common factors"
        )
    held = closest.memory
    parts = ", ".join(
        f"{name} {getattr(held, name) / 1e9:,.0f} GB" for name in ("weights", "gradients", "optimiser", "activations")
    )
    states = 16.0 + 2.0
    least = question.model.parameters * states / max(held.usable, 1.0)
    return (
        f"memory: even {closest.layout} holds {held.total / 1e9:,.0f} GB a device ({parts}), and {held.usable / 1e9:,.0f} GB are "
        f"usable on {question.hardware.name}; states alone need {least:,.0f} of them"
    )


def _never_ends(question: Question, kept: Upkeep) -> str:
    return (
        f"failures: {question.devices:,} devices fail every {kept.mtbf_s / 60:,.0f} min, and a restart of {question.restart_s:,.0f} s "
        f"and half an interval of {kept.interval_s:,.0f} s take longer than that"
    )
