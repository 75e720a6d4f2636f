"""What a bench measured: for people, for programs, and drawn."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from plenum.cli import charts
from plenum.cli.sentences import write_sentences
from plenum.cli.tables import Column, write_table
from plenum.model.units import counted, show_duration

if TYPE_CHECKING:
    from plenum.adapters.load import Gauge, Measured, Summary
    from plenum.cli.bench_prediction import Beside

LATENCIES = (
    ("time to first token", "ttft_s"),
    ("time per output token", "tpot_s"),
    ("between chunks", "itl_s"),
    ("whole request", "e2e_s"),
)
LATE_S = 0.02
"""Above this the sender's own lateness is told."""

FEW = 20
"""Requests below which no rate is told at which they came."""

POINTS = 200
"""Of a drawn curve."""


def print_run(endpoint: str, label: str, gauge: Gauge, seen: Summary, beside: Beside | None) -> None:
    """Print what was measured, and the prediction beside it."""
    write_sentences(
        f"{endpoint}: {label}, {counted(seen.requests, 'request')} over {show_duration(seen.span_s)}; on average "
        f"{_number(seen.isl)} prompt tokens ({_number(seen.cached)} cached) and {_number(seen.osl)} output tokens",
        "",
    )
    _print_latencies(seen)
    click.echo()
    _print_service(seen)
    if beside:
        click.echo()
        _print_beside(seen, beside)
    before = f"Before them, {counted(gauge.requests, 'short request')} told how words become tokens there; they count as usage too."
    write_sentences("", *_notes(seen), before)


def as_json(endpoint: str, label: str, gauge: Gauge, seen: Summary, beside: Beside | None) -> dict[str, Any]:
    """Return the same for programs; what was not measured is null."""
    return {
        "endpoint": endpoint,
        "traffic": label,
        "gauge": asdict(gauge),
        **asdict(seen),
        "prediction": _plain(seen, beside) if beside else None,
    }


def draw(path: Path, title: str, run: Measured) -> None:
    """Draw which part of the requests was at least so fast."""
    panels = []
    for what, name in LATENCIES:
        values = getattr(run, name)
        values = values[np.isfinite(values)]
        share = np.linspace(0, 100, POINTS)
        curves = [charts.Curve(label="measured", x=share, y=np.percentile(values, share))] if len(values) else []
        panels.append(charts.Panel(title=what, x_label="% , fastest first", y_label="seconds", curves=curves))
    charts.write_png(path, title, panels)


def _print_latencies(seen: Summary) -> None:
    heads = ("MEAN", "P50", "P90", "P95", "P99")
    columns = [Column(head="WHAT"), *(Column(head=head, right=True) for head in heads)]
    rows = []
    for what, name in LATENCIES:
        found = getattr(seen, name)
        rows.append([what, *(_time(getattr(found, head.lower())) for head in heads)])
    write_table(columns, rows)


def _print_service(seen: Summary) -> None:
    goodput = f"{_number(seen.goodput_rps)} a second; {100 * seen.slo_attained:.1f} % of all kept every promise"
    if not math.isfinite(seen.slo_attained):
        goodput = "nothing is promised: give the endpoint an slo, or --slo"
    # Of a handful one cannot say at which rate they came, nor compare that with one that counts the wait for the last.
    offered = f" of {_number(seen.offered_rps)} offered" if seen.requests >= FEW else ""
    rows = [
        ("requests", f"{seen.served:,} of {seen.requests:,} served, {_number(seen.served_rps)} a second{offered}"),
        ("goodput", goodput),
        ("output tokens a second", _number(seen.output_tokens_per_s)),
        ("in flight", _number(seen.in_flight)),
    ]
    write_table([Column(head="SERVICE"), Column(head="", fold=True)], rows)


def _print_beside(seen: Summary, beside: Beside) -> None:
    columns = [
        Column(head="MEAN OF"), Column(head="MEASURED", right=True), Column(head="90 % INTERVAL", right=True),
        Column(head="PREDICTED", right=True), Column(head="90 % INTERVAL", right=True), Column(head="RATIO", right=True),
    ]  # fmt: skip
    rows = []
    for what, line in _lines(seen, beside).items():
        rows.append(
            [
                what,
                _time(line["measured_s"]),
                f"{_time(line['low_s'])} to {_time(line['high_s'])}" if math.isfinite(line["low_s"]) else "",
                _time(line["predicted_s"]),
                f"{_time(line['predicted_low_s'])} to {_time(line['predicted_high_s'])}",
                f"{line['ratio']:.2f}" if math.isfinite(line["ratio"]) else "-",
            ]
        )
    write_table(columns, rows)
    if beside.prediction.saturated:
        write_sentences("", "Saturated, as predicted: more was asked than can be served, and what is left waits.")


def _lines(seen: Summary, beside: Beside) -> dict[str, dict[str, float]]:
    found = beside.prediction
    parts = {
        "ttft": (seen.ttft_s.mean, seen.ttft_between_s, found.ttft_s, found.ttft_low_s, found.ttft_high_s),
        "tpot": (seen.tpot_s.mean, seen.tpot_between_s, found.tpot_s, found.tpot_low_s, found.tpot_high_s),
    }
    return {
        what: {
            "measured_s": measured,
            "low_s": between[0],
            "high_s": between[1],
            "predicted_s": predicted,
            "predicted_low_s": low,
            "predicted_high_s": high,
            "ratio": measured / predicted if predicted > 0 and math.isfinite(predicted) else math.nan,
            "held": float(low <= measured <= high),
        }
        for what, (measured, between, predicted, low, high) in parts.items()
    }


def _plain(seen: Summary, beside: Beside) -> dict[str, Any]:
    return {
        "model": beside.instance.model.name,
        "hardware": beside.instance.hardware.name,
        "parallelism": str(beside.instance.parallelism),
        "replicas": beside.replicas,
        "prefill": beside.prefill,
        "saturated": beside.prediction.saturated,
        **{what: line | {"held": bool(line["held"])} for what, line in _lines(seen, beside).items()},
    }


def _notes(seen: Summary) -> list[str]:
    notes = [
        f"{count:,} were not served: {seen.said.get(reason) or 'no reason was given'} ({reason})."
        for reason, count in seen.refused.items()
    ]
    if seen.served and seen.exact_prompts < 1:
        asked, got = _number(seen.asked_isl), _number(seen.isl)
        notes.append(
            f"Prompts were {got} tokens on average where {asked} were asked for; {100 * seen.exact_prompts:.0f} % were exact."
        )
    if seen.served and seen.osl < 0.98 * seen.asked_osl:
        notes.append(
            f"Answers ended early: {_number(seen.osl)} tokens on average of {_number(seen.asked_osl)} asked for."
        )
    if seen.late_s > LATE_S:
        notes.append(
            f"The sender itself was late by {_time(seen.late_s)} (p99): it is too slow for this load, or waited for --max-open."
        )
    return notes


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-" if math.isnan(seconds) else "without end"
    return f"{seconds * 1e3:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _number(amount: float) -> str:
    if not math.isfinite(amount):
        return "-"
    return f"{amount:,.0f}" if amount >= 100 or amount == round(amount) else f"{amount:#.3g}"
