"""A plan in sentences: why this layout, and what to do with the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plenum.planning.serving.confirm import Confirmed, Replay
from plenum.planning.serving.layout import Layout, PoolChoice
from plenum.planning.serving.options import MAX_DEVICES, beyond_domain
from plenum.planning.serving.points import Point
from plenum.planning.serving.question import Question
from plenum.planning.serving.words import duration, figure
from plenum.serving.formats import FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan: its name, and what to do or what was done."""

    name: str
    sentence: str


def pool_words(pool: PoolChoice) -> str:
    """Describe a pool: ``6 decode x TP2 on H200, fp8``."""
    role = "" if pool.role == "both" else f"{pool.role} "
    precision = pool.option.instance.precision
    cache = "" if precision.kv_cache in ("bf16", "fp16") else f" (KV {precision.kv_cache})"
    instance = pool.option.instance
    return f"{pool.count} {role}x {instance.parallelism} {pool.option.hardware.name} {precision.weights}{cache}"


def layout_words(layout: Layout) -> str:
    """Describe a layout: its pools, joined."""
    return " + ".join(pool_words(pool) for pool in layout.pools)


def reasons_of(
    question: Question, best: Point, others: Sequence[Point], bound: tuple[str, float], confirmed: Sequence[Confirmed]
) -> tuple[str, ...]:
    """Return why ``best`` is recommended."""
    return tuple(_reasons(question, best, others, bound, confirmed))


def _reasons(
    question: Question, best: Point, others: Sequence[Point], bound: tuple[str, float], confirmed: Sequence[Confirmed]
) -> Iterator[str]:
    asked = question.traffic.rps > 0
    if asked:
        price = f"${best.usd_per_hour:,.2f} an hour"
        yield f"It is the cheapest found that serves {figure(best.rate_rps)} requests a second within the promises: {price}."
    else:
        yield f"It serves the most requests within the promises of all that were found: {figure(best.rate_rps)} a second."
    apart = best.layout.disaggregated
    other = next((p for p in others if p.layout.disaggregated != apart), None)
    if other:
        why = (
            "apart, prompts do not stretch the iterations that decode, so batches can be larger"
            if apart
            else "together, no instance waits for the other kind of work, and no cache is sent"
        )
        yield f"{'Apart' if apart else 'Together'} rather than {'together' if apart else 'apart'} ({_versus(asked, best, other)}): {why}."
    same = next((p for p in others if p.layout.disaggregated == apart), None)
    if same:
        yield f"Next of its kind: {layout_words(same.layout)} ({_versus(asked, best, same)})."
    name, part = bound
    yield f"What it has too little of is {name}: a tenth more of it would give {part * 10:.0f} % more requests."
    beside = "; ".join(f"{layout_words(c.candidate.layout)}: {figure(c.rate_rps)}" for c in confirmed[1:] if c.keeps)
    if beside:
        yield f"Simulated beside it, in requests a second: {beside}."
    for broken in (c for c in confirmed if not c.keeps):
        report = broken.replays[-1].report
        seen = f"TTFT p99 {duration(report.ttft_s.p99)}, TPOT p99 {duration(report.tpot_s.p99)}"
        price = f"${broken.candidate.layout.usd_per_hour:,.2f} an hour"
        yield f"{layout_words(broken.candidate.layout)} ({price}) broke a promise in simulation ({seen})."
    if apart:
        yield (
            "Apart, a router stands in front: the Kubernetes file has one that lists every instance (for vLLM a dated build of its router; "
            "it has no released image), so change the list whenever the number of instances changes."
        )
    yield from _widths(question, best.layout)
    precision = best.layout.pools[0].option.instance.precision
    if precision.weights != question.model.weights_format and FORMATS[precision.weights].error:
        yield (
            f"{question.model.name} is published in {question.model.weights_format}; {precision.weights} loses something "
            f"({FORMATS[precision.weights].error}): check quality on your own tasks, or ask for --weights {question.model.weights_format}."
        )


def _widths(question: Question, layout: Layout) -> Iterator[str]:
    """Say what rests on the network, and which scale-up domains cannot be used as one."""
    for pool in layout.pools:
        hardware, devices = pool.option.hardware, pool.option.devices
        if beyond_domain(pool.option.instance):
            yield (
                f"Experts are dealt out over {devices} {hardware.name}, {devices // hardware.scaleup_size} scale-up domains: what tokens "
                f"send them is priced at the network's {hardware.scaleout_bps / 1e9:.0f} GB/s a device, with no more latency a layer than "
                "within a domain; measure it first."
            )
    experts = max(block.feed_forward.experts for block in question.model.blocks)
    for hardware in {stock.hardware.name: stock.hardware for stock in question.stocks}.values():
        size = hardware.scaleup_size
        if experts and size & (size - 1) and size <= MAX_DEVICES and experts % size:
            yield f"No instance takes all {size} {hardware.name} of a scale-up domain: {experts} experts do not divide by {size}."


def _versus(asked: bool, best: Point, other: Point) -> str:
    if asked:
        return f"${best.usd_per_hour:,.2f} against ${other.usd_per_hour:,.2f} an hour"
    return f"{figure(best.rate_rps)} against {figure(other.rate_rps)} requests a second, the latter unsimulated"


def steps_of(question: Question, best: Point, replays: Sequence[Replay]) -> tuple[Step, ...]:
    """Return the four steps of a plan."""
    prediction = best.layout.pools[-1].option.prediction
    ttft, tpot = best.ttft_s, best.tpot_s
    run = "; ".join(
        f"at {r.times:g}x {'every promise is kept' if r.keeps else 'a promise breaks'} "
        f"(TTFT p99 {duration(r.report.ttft_s.p99)}, TPOT p99 {duration(r.report.tpot_s.p99)})"
        for r in replays
    )
    width = max(tpot.high / tpot.typical - 1.0, ttft.high / ttft.typical - 1.0) if tpot.typical > 0 else 0.0
    loads = f"{figure(best.rate_rps * 0.5)}, {figure(best.rate_rps * 0.8)} and {figure(best.rate_rps)}"
    traffic = question.traffic
    return (
        Step(
            name="measure",
            sentence=(
                f"Run one instance of each pool with the launch lines of this plan and measure {traffic.prompt_tokens:,.0f} tokens in, "
                f"{traffic.output_tokens:,.0f} out at three loads ({loads} requests a second over the whole); better, replay your trace."
            ),
        ),
        Step(
            name="model",
            sentence=f"The figures come from {prediction.measured}; the interval reaches {width:.0%} above what is typical.",
        ),
        Step(
            name="verify",
            sentence=f"Simulated: {run}." if run else "Nothing was simulated; leave out --no-simulate to do it.",
        ),
        Step(
            name="correct",
            sentence=(
                "Feed what you measured to `plenum plan calibrate --measurements FILE --out CALIBRATION`, and plan again with "
                "--calibration CALIBRATION: the intervals shrink to what your points leave open."
            ),
        ),
    )
