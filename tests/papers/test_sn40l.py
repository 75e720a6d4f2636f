"""Prabhakar et al., "SambaNova SN40L: Scaling the AI Memory Wall with Dataflow and Composition of Experts" (arXiv 2405.07518).

Switching, footprint and the overall rows of table 5. The three rows of expert time are inputs: why a socket runs a model faster
(fusion, dataflow) is not modelled. From them, table 4 and one prompt time fitted to one row, the other overall rows follow.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from plenum.adapters.traces.folder import find_data
from plenum.planning.experts import (
    Composition,
    Platform,
    Work,
    most_experts,
    resident_experts,
    serve_on,
    servers_needed,
    switch_s,
    zipf,
)
from plenum.planning.published import EXPERTS_PRESETS

FOLDER = (find_data(None, os.environ) or Path("absent")) / "papers" / "sn40l"
EXPERT_BYTES = 14e9
DGX = ("A100", "H100")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no papers/sn40l: set PLENUM_DATA"),
]


@cache
def tiers() -> dict:
    return json.loads((FOLDER / "tiers.json").read_text())


@cache
def published() -> dict[str, dict[str, str]]:
    with (FOLDER / "table5.csv").open() as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


def ratio(metric: str, against: str) -> float:
    return float(published()[metric][f"vs_DGX_{against}"])


def token_s() -> float:
    with (FOLDER / "table4_llama31.csv").open() as file:
        return 1 / float(next(row["tokens_per_s_user"] for row in csv.DictReader(file) if row["model"] == "8B"))


def node(prompt_s: float) -> Platform:
    socket = tiers()["per_socket"]
    count = tiers()["node_sockets"]
    return Platform(
        name="SN40L-node",
        hbm_bytes=count * socket["HBM_GiB"] * 2**30,
        pool_bytes=count * socket["DDR_TiB"] * 2**40,
        switch_bytes_per_s=1e12,
        prompt_s=prompt_s,
        token_s=token_s(),
    )


def dgx(kind: str, prompt_s: float) -> Platform:
    """Prompt and token time such that an expert takes as much longer as table 5 has it, at 20 and at 200 tokens."""
    short, long = (ratio(f"expert BS1 {n} tok", kind) * (prompt_s + n * token_s()) for n in (20, 200))
    each = (long - short) / 180
    return Platform(
        name=f"DGX-{kind}",
        hbm_bytes=640e9,
        pool_bytes=2 * 2**40,
        switch_bytes_per_s=tiers()["DGX_host_to_GPU_GBps"][kind] * 1e9,
        prompt_s=short - 20 * each,
        token_s=each,
    )


def experts(count: int) -> Composition:
    return Composition(popularity=zipf(count, 0.0), expert_bytes=EXPERT_BYTES)


def overall(kind: str, batch: int, tokens: int, prompt_s: float) -> float:
    work = Work(batch=batch, output_tokens=tokens)
    ours, theirs = (serve_on(p, experts(150), work, 1, "tiers") for p in (node(prompt_s), dgx(kind, prompt_s)))
    return theirs.request_s / ours.request_s


@cache
def fitted_prompt_s() -> float:
    """The one constant: such that table 5, overall BS1 20 tokens against DGX A100 (4.8) holds."""
    low, high = 1e-3, 0.2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if overall("A100", 1, 20, middle) > ratio("overall BS1 20 tok", "A100") else (low, middle)
        )
    return high


@pytest.mark.parametrize(("kind", "exact"), [("A100", 31.25), ("H100", 15.625)])
def test_switching(kind: str, exact: float) -> None:
    """Table 5, model switching: 31 and 15 (its text: 16) times faster, from 1 TB/s against 32 and 64 GB/s; within 5 %."""
    ours, theirs = switch_s(node(0.03), EXPERT_BYTES), switch_s(dgx(kind, 0.03), EXPERT_BYTES)
    assert ours == pytest.approx(14e-3)
    assert theirs / ours == pytest.approx(exact)
    assert theirs / ours == pytest.approx(ratio("model switching", kind), rel=0.05)


def test_footprint() -> None:
    """850 experts: one node of eight sockets, or 19 DGX whose HBM holds them all; exact."""
    count = tiers()["node_max_experts"]
    for kind in DGX:
        assert servers_needed(dgx(kind, 0.03), experts(count), "hbm") == tiers()["DGX_nodes_for_850"]
    assert servers_needed(node(0.03), experts(count), "tiers") == 1
    assert servers_needed(node(0.03), experts(943), "tiers") == 2  # 8 x 1.5 TiB hold 942


def test_what_a_dgx_holds() -> None:
    """A DGX spills out of HBM at about 50 experts (within 15 %: 45), and is out of memory somewhere above 150 (within 10 %: 157)."""
    assert resident_experts(dgx("A100", 0.03), experts(850)) == pytest.approx(50, rel=0.15)
    most = most_experts(dgx("A100", 0.03), experts(850))
    assert 150 <= most == pytest.approx(150, rel=0.10)


@pytest.mark.parametrize("kind", DGX)
@pytest.mark.parametrize(("batch", "tokens"), [(8, 20), (1, 20), (8, 200), (1, 200)])
def test_overall_rows(kind: str, batch: int, tokens: int) -> None:
    """Table 5, the four overall rows of either column; one of the eight is the fit, the other seven are within 6 %."""
    expected = ratio(f"overall BS{batch} {tokens} tok", kind)
    assert overall(kind, batch, tokens, fitted_prompt_s()) == pytest.approx(expected, rel=0.06)


def test_order_of_the_rows() -> None:
    """Table 5: every two of the eight overall figures that lie more than 5 % apart come in the paper's order.

    Two do not (2.8 and 2.7, against DGX H100): ours are 2.79 and 2.82.
    """
    cases = [(kind, batch, tokens) for kind in DGX for batch in (1, 8) for tokens in (20, 200)]
    figures = [
        (overall(*case, fitted_prompt_s()), ratio(f"overall BS{case[1]} {case[2]} tok", case[0])) for case in cases
    ]
    pairs = [(one, two) for one in figures for two in figures if one[1] > 1.05 * two[1]]
    assert len(pairs) >= 24
    assert all(ours > less for (ours, _), (less, _) in pairs)


def test_preset_says_the_same() -> None:
    """The constants of the preset are those derived here, within 2 %."""
    preset = {platform.name: platform for platform in EXPERTS_PRESETS["sn40l"].platforms}
    derived = [node(fitted_prompt_s()), *(dgx(kind, fitted_prompt_s()) for kind in DGX)]
    for platform in derived:
        mine = preset[platform.name]
        assert mine.prompt_s == pytest.approx(platform.prompt_s, rel=0.02)
        assert mine.token_s == pytest.approx(platform.token_s, rel=0.02)
        assert replace(mine, prompt_s=0, token_s=0, source="") == replace(platform, prompt_s=0, token_s=0)
