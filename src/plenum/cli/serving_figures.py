"""What came of simulated serving: tables, curves and JSON."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from plenum.cli import charts
from plenum.cli.sentences import write_sentences
from plenum.cli.serving_cluster import words_of
from plenum.cli.tables import Column, terminal_width, write_table
from plenum.model.units import counted, show_duration
from plenum.serving.admission import VERDICTS
from plenum.sim.serving import REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from plenum.cli.serving_traffic import NamedTraffic
    from plenum.serving.pools import Serving
    from plenum.serving.report import ServingReport
    from plenum.serving.workload import Requests, Slo
    from plenum.sim.serving import Outcome

LATENCIES = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("ITL", "itl_s"), ("E2E", "e2e_s"), ("WAIT", "queue_s"))
REFUSED = {
    "request.too_long": "longer than a cache holds",
    "queue.full": "because the queue was full",
    "admission.refused": "by admission",
    "instance.lost": "whose instance was lost",
    "instance.none": "because no instance was up",
    "predecessor.refused": "that follow one that was refused",
}
"""Reasons of the simulator in words."""

VERDICT_WORDS = {
    "admit": "as asked",
    "cap": "cut short",
    "cheaper": "by the cheaper model",
    "defer": "put off",
    "shed": "refused",
}
"""Steps of the ladder of admission in words."""

POINTS = 200
"""Of a drawn curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise: what was seen at its percentile, and whether it was kept."""

    what: str
    percentile: float
    promised_s: float
    seen_s: float

    @property
    def kept(self) -> bool:
        """Whether it was; what was never measured was not."""
        return self.seen_s <= self.promised_s


def promises_kept(outcome: Outcome, slo: Slo) -> list[Promise]:
    """Return the promises that were made. A request that was refused counts as one that is for ever late."""
    rows: list[Promise] = []
    e2e_s = outcome.e2e_s
    lost = outcome.reason != 0
    for what, promised_s, values in (
        ("TTFT", slo.ttft_s, outcome.ttft_s),
        ("TPOT", slo.tpot_s, outcome.tpot_s),
        ("E2E", slo.e2e_s, e2e_s),
    ):
        if promised_s == float("inf"):
            continue
        late = np.where(lost, np.inf, values)
        seen_s = _percentile(late[~np.isnan(late)], slo.percentile)
        rows.append(Promise(what=what, percentile=slo.percentile, promised_s=promised_s, seen_s=seen_s))
    return rows


def print_run(
    traffic: NamedTraffic,
    serving: Serving,
    outcomes: Mapping[str, Outcome],
    slo: Slo,
    wall_s: float,
    *,
    chart: bool,
) -> None:
    """Print what came of every policy, for people."""
    requests = traffic.requests
    reports = {name: outcome.report(slo) for name, outcome in outcomes.items()}
    write_sentences(words_of(serving), f"{traffic.label}: {_traffic_words(requests)}", "")
    _print_latencies(reports)
    click.echo()
    _print_service(reports)
    click.echo()
    _print_use(reports)
    sentences = [
        *_span_sentences(reports),
        *_context_sentences(requests, serving),
        *_promise_sentences(outcomes, slo),
        *_refusal_sentences(outcomes),
        *_admission_sentences(outcomes),
        *_scaling_sentences(reports, serving),
    ]
    if sentences:
        write_sentences("", *sentences)
    wide = (terminal_width() or charts.TERMINAL_SIZE[0]) >= charts.TERMINAL_SIZE[0]
    if chart and wide and charts.has_terminal_charts():
        click.echo()
        click.echo(charts.terminal_text(_panel(outcomes, "ttft_s"), colour=sys.stdout.isatty()))
    total = len(requests) * len(outcomes)
    write_sentences("", f"simulated {counted(total, 'request')} in {show_duration(wall_s)}")


def as_json(
    traffic: NamedTraffic,
    serving: Serving,
    outcomes: Mapping[str, Outcome],
    slo: Slo,
    seed: int,
    wall_s: float,
) -> dict[str, Any]:
    """Return the same for programs; what was not measured is null."""
    requests = traffic.requests
    runs: list[dict[str, Any]] = []
    for name, outcome in outcomes.items():
        report = outcome.report(slo)
        promises = [asdict(row) | {"kept": row.kept} for row in promises_kept(outcome, slo)]
        run = {"routing": name, **asdict(report), "hit_rate": _hit_rate(report)}
        runs.append(
            run | {"promises": promises, "refused_because": _refusals(outcome), "admission": _verdicts(outcome)}
        )
    return {
        "serving": words_of(serving),
        "devices": sum(pool.count * pool.instance.devices for pool in serving.pools),
        "traffic": {
            "label": traffic.label,
            "requests": len(requests),
            "beginnings": int(np.count_nonzero(requests.after < 0)),
            "span_s": float(np.ptp(requests.arrival_s[requests.after < 0])),
            "prompt_tokens": int(requests.prompt_tokens.sum(dtype=np.int64)),
            "output_tokens": int(requests.output_tokens.sum(dtype=np.int64)),
        },
        "seed": seed,
        "wall_s": round(wall_s, 3),
        "runs": runs,
    }


def draw(path: Path, title: str, outcomes: Mapping[str, Outcome]) -> None:
    """Draw which part of the requests was at least so fast: to the first token, between tokens, to the end."""
    charts.write_png(path, title, [_panel(outcomes, name) for name in ("ttft_s", "tpot_s", "e2e_s")])


def _traffic_words(requests: Requests) -> str:
    """Say how much is asked; of conversations and agents how many begin, for what follows comes when the answer before it is there."""
    begins = requests.arrival_s[requests.after < 0]
    span_s = float(begins[-1] - begins[0])
    follows = len(requests) - len(begins)
    rate = f" in {show_duration(span_s)} ({(len(begins) - 1) / span_s:.2f}/s)" if span_s > 0 else ""
    asked = (
        f"{len(begins):,} conversations begin{rate}, {len(requests):,} requests in all"
        if follows
        else f"{counted(len(requests), 'request')}{rate}"
    )
    return f"{asked}, prompts {requests.prompt_tokens.mean():,.0f} tokens and outputs {requests.output_tokens.mean():,.0f} on average"


def _context_sentences(requests: Requests, serving: Serving) -> list[str]:
    model = serving.pools[0].instance.model
    longer = int(np.count_nonzero(requests.prompt_tokens.astype(np.int64) + requests.output_tokens > model.max_context))
    if not longer:
        return []
    return [
        f"{longer:,} of {len(requests):,} requests are longer than the context of {model.name}, {model.max_context:,} tokens"
    ]


def _span_sentences(reports: Mapping[str, ServingReport]) -> list[str]:
    spans = sorted({show_duration(report.duration_s) for report in reports.values()})
    return [f"rates and shares: over {' or '.join(spans)}, from the first arrival to the last answer"]


def _print_latencies(reports: Mapping[str, ServingReport]) -> None:
    several = len(reports) > 1
    heads = ("MEAN", "P50", "P90", "P95", "P99")
    columns = [Column(head="LATENCY"), *([Column(head="ROUTING")] if several else [])]
    columns += [Column(head=head, right=True) for head in heads]
    rows = [
        [label, *([name] if several else []), *(_time(value) for value in asdict(getattr(report, field)).values())]
        for label, field in LATENCIES
        for name, report in reports.items()
    ]
    write_table(columns, rows)


def _print_service(reports: Mapping[str, ServingReport]) -> None:
    heads = ("DONE", "REFUSED", "PREEMPT", "GOOD/S", "KEPT", "HIT", "OUT TOK/S")
    columns = [Column(head="ROUTING"), *(Column(head=head, right=True) for head in heads)]
    rows = [
        [
            name,
            f"{report.finished:,}",
            f"{report.refused:,}",
            f"{report.preemptions:,}",
            f"{report.goodput_rps:.2f}",
            _part(report.slo_attained),
            _part(_hit_rate(report)),
            f"{report.output_tokens / report.duration_s if report.duration_s else 0:,.0f}",
        ]
        for name, report in reports.items()
    ]
    write_table(columns, rows)


def _print_use(reports: Mapping[str, ServingReport]) -> None:
    heads = ("PREFILL", "DECODE", "KV", "KV MAX", "KWH", "USD", "USD/M TOK")
    columns = [Column(head="ROUTING"), *(Column(head=head, right=True) for head in heads)]
    rows = [
        [
            name,
            _part(report.busy_prefill),
            _part(report.busy_decode),
            _part(report.cache_used_mean),
            _part(report.cache_used_max),
            _figure(report.energy_j / 3.6e6),
            _figure(report.usd),
            _figure(report.usd_per_million_tokens),
        ]
        for name, report in reports.items()
    ]
    write_table(columns, rows)


def _scaling_sentences(reports: Mapping[str, ServingReport], serving: Serving) -> list[str]:
    """Say how many devices were on, where they were not all on all the time."""
    most = sum(pool.count * pool.instance.devices for pool in serving.pools)
    sentences: list[str] = []
    for name, report in reports.items():
        used = report.device_s / report.duration_s if report.duration_s else most
        if used < 0.995 * most:
            sentences.append(f"{name}: {used:.1f} of {most:,} devices were on, on average")
    return sentences


def _promise_sentences(outcomes: Mapping[str, Outcome], slo: Slo) -> list[str]:
    sentences: list[str] = []
    for name, outcome in outcomes.items():
        rows = promises_kept(outcome, slo)
        if not rows:
            continue
        seen = ", ".join(
            f"{row.what} p{row.percentile:g} {_time(row.seen_s)} {'<=' if row.kept else '>'} {_time(row.promised_s)}"
            for row in rows
        )
        kept = "kept" if all(row.kept for row in rows) else "NOT KEPT"
        sentences.append(f"{name}: {kept}: {seen}")
    return sentences


def _refusal_sentences(outcomes: Mapping[str, Outcome]) -> list[str]:
    sentences: list[str] = []
    for name, outcome in outcomes.items():
        refused = _refusals(outcome)
        if refused:
            told = ", ".join(f"{count:,} {REFUSED.get(why, why)}" for why, count in refused.items())
            sentences.append(f"{name} refused: {told}")
    return sentences


def _refusals(outcome: Outcome) -> dict[str, int]:
    counts = np.bincount(outcome.reason, minlength=len(REASONS))
    return {REASONS[k]: int(counts[k]) for k in range(1, len(REASONS)) if counts[k]}


def _admission_sentences(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Say what admission decided, where it was asked."""
    sentences: list[str] = []
    for name, outcome in outcomes.items():
        told = [f"{count:,} {VERDICT_WORDS[verdict]}" for verdict, count in _verdicts(outcome).items()]
        if told:
            sentences.append(f"{name} admission: {', '.join(told)}")
    return sentences


def _verdicts(outcome: Outcome) -> dict[str, int]:
    counts = np.bincount(outcome.verdict[outcome.verdict >= 0], minlength=len(VERDICTS))
    return {verdict: int(count) for verdict, count in zip(VERDICTS, counts, strict=True) if count}


def _hit_rate(report: ServingReport) -> float:
    """Part of the prompt tokens that needed a prefill and were found in a cache."""
    total = report.prompt_tokens + report.cached_tokens
    return report.cached_tokens / total if total else 0.0


def _panel(outcomes: Mapping[str, Outcome], name: str) -> charts.Panel:
    titles = {"ttft_s": "To the first token", "tpot_s": "For each token after it", "e2e_s": "To the last token"}
    curves: list[charts.Curve] = []
    share = np.linspace(0, 100, POINTS)
    for routing, outcome in outcomes.items():
        values = _values(outcome, name)
        if len(values):
            curves.append(charts.Curve(label=routing, x=share, y=np.percentile(values, share)))
    return charts.Panel(title=titles[name], x_label="% of requests, fastest first", y_label="seconds", curves=curves)


def _values(outcome: Outcome, name: str) -> NDArray[np.float64]:
    values = getattr(outcome, name)
    return values[np.isfinite(values) & outcome.finished]


def _percentile(values: NDArray[np.float64], percentile: float) -> float:
    """Return a percentile of values that may be infinite: the least that so many do not exceed."""
    if not len(values):
        return float("nan")
    place = int(np.ceil(percentile / 100 * len(values))) - 1
    return float(np.sort(values)[max(place, 0)])


def _time(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "-" if np.isnan(seconds) else "never"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _figure(amount: float) -> str:
    """Return three digits that count, or more where there are more before the point."""
    if not np.isfinite(amount):
        return "-"
    return f"{amount:,.0f}" if amount >= 100 or not amount else f"{amount:#.3g}"


def _part(share: float) -> str:
    return f"{100 * share:.1f}%"
