"""Asgar, Nguyen and Katti, "Efficient and Scalable Agentic AI with Heterogeneous Systems" (arXiv 2507.19635).

Table 3, the worked example: 1,000 tokens in, 500 out, 120 ms; high-performance (HP) and cost-optimised (CO) devices.
"""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from plenum.adapters.traces.folder import find_data
from plenum.planning.assignment import Assignment, AssignmentQuestion, Impossible, Task, assign, judge

FOLDER = (find_data(None, os.environ) or Path("absent")) / "papers" / "agentic_hetero"
TOKENS = {"prefill": 1000, "decode": 500}
SLA_S = 0.120

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no papers/agentic_hetero: set PLENUM_DATA"),
]


def question() -> AssignmentQuestion:
    with (FOLDER / "table3_worked_example.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs: dict[str, dict[str, tuple[float, float]]] = {"prefill": {}, "decode": {}}
    for row in rows:
        if row["task"] in runs:
            seconds, price = float(row["latency_ms"]) / 1000, float(row["usd_per_token"]) * TOKENS[row["task"]]
            runs[row["task"]][row["device"]] = (seconds, price)
    moved = next(row for row in rows if row["task"] == "kv HP->CO")
    transfer = (float(moved["latency_ms"]) / 1000, float(moved["usd_per_token"]) * TOKENS["prefill"])
    return AssignmentQuestion(
        tasks=[
            Task(name="prefill", runs=runs["prefill"]),
            Task(name="decode", runs=runs["decode"], after=("prefill",)),
        ],
        transfers={("HP", "CO"): transfer},
        latency_s=SLA_S,
    )


@pytest.mark.parametrize(
    ("prefill", "decode", "milliseconds", "usd"),
    [("HP", "HP", 105, 0.110), ("HP", "CO", 120, 0.095), ("CO", "CO", 160, 0.060)],
)
def test_assignments(prefill: str, decode: str, milliseconds: float, usd: float) -> None:
    """Table 3, rows A, B and C: exact; C is printed with $0.07, its own prices add up to 0.06."""
    told = judge(question(), {"prefill": prefill, "decode": decode})
    assert told.latency_s * 1000 == pytest.approx(milliseconds)
    assert told.cost == pytest.approx(usd)


def test_optimum() -> None:
    """Within 120 ms row B is the cheapest: prefill on HP, decode on CO."""
    best = assign(question())
    assert isinstance(best, Assignment)
    assert best.device == {"prefill": "HP", "decode": "CO"}
    assert best.proven


@pytest.mark.parametrize(("limit_ms", "expected"), [(119, ("HP", "HP")), (160, ("CO", "CO"))])
def test_other_promises(limit_ms: float, expected: tuple[str, str]) -> None:
    """A tighter promise moves decode to HP (row A); a looser one both to CO (row C)."""
    best = assign(replace(question(), latency_s=limit_ms / 1000))
    assert isinstance(best, Assignment)
    assert (best.device["prefill"], best.device["decode"]) == expected


def test_impossible() -> None:
    """Below 105 ms nothing serves; the answer says what is the least."""
    answer = assign(replace(question(), latency_s=0.100))
    assert isinstance(answer, Impossible)
    assert answer.least_latency_s == pytest.approx(0.105)
