"""Published systems as presets: the constants of their papers, small, each with its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plenum.planning.agents import AgentKind
from plenum.planning.experts import Platform
from plenum.planning.lengths import lognormal_lengths
from plenum.planning.prefill.split import PrefillScenario
from plenum.serving.curves import fit_quadratic

MIB, GIB, TIB = 2.0**20, 2.0**30, 2.0**40


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPreset:
    """A scenario for ``plan prefill``, and how many local instances cost the same without the remote site (0: not known)."""

    title: str
    source: str
    scenario: Callable[[], PrefillScenario]
    homogeneous_instances: int


def _prfaas_paper() -> PrefillScenario:
    """Return the case study of arXiv 2604.15039, section on the 1T hybrid model.

    Prefill seconds and cache of an 8-GPU H200 instance: table 5. Of an H20 instance none are printed; two points follow from table 6:
    3 instances prefill 1.64 prompts of 10.2K tokens a second, 9 prefill 2.11 of 27.3K. Decode: 5 instances take 3.91 requests of 1,024
    tokens a second. Lengths: lognormal(9.90, 1.00) in 128 to 128K (K = 1000 gives the mean of about 27K).
    """
    return PrefillScenario(
        lengths=lognormal_lengths(9.90, 1.00, 128, 128_000),
        remote_instances=4,
        remote_prefill_s=fit_quadratic((1_000, 8_000, 32_000, 128_000), (0.44, 0.72, 1.84, 7.40)),
        local_instances=8,
        local_prefill_s=fit_quadratic((10_200, 27_300), (3 / 1.64, 9 / 2.11)),
        decode_tokens_per_s=800.0,
        output_tokens=1024.0,
        cache_bytes=fit_quadratic(
            (1_000, 8_000, 32_000, 128_000), tuple(mib * MIB for mib in (190.8, 308.9, 701.3, 2316.3)), degree=1
        ),
        link_bytes_per_s=100e9 / 8,
    )


PREFILL_PRESETS = {
    "prfaas-paper": PrefillPreset(
        title="1T hybrid model: 32 H200 prefill for 64 H20 over 100 Gbit/s",
        source="Qin et al., arXiv 2604.15039, tables 5 and 6",
        scenario=_prfaas_paper,
        homogeneous_instances=12,
    ),
}
"""Scenarios of ``plenum plan prefill --preset``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsPreset:
    """A composition of equal experts and the platforms to compare."""

    title: str
    source: str
    experts: int
    expert_bytes: float
    pinned_bytes: float
    platforms: tuple[Platform, ...]


_SN40L_TIMES = (
    "table 5 gives the ratios of expert times at 20 and 200 tokens, table 4 the tokens a second of an 8B model on SN40L; the time of "
    "one prompt pass there is fitted to one row of table 5 (overall, one prompt, 20 tokens, against DGX A100)"
)

EXPERTS_PRESETS = {
    "sn40l": ExpertsPreset(
        title="150 experts of 14 GB, all alike popular, the router counted as one of them",
        source="Prabhakar et al., arXiv 2405.07518, tables 4 and 5",
        experts=150,
        expert_bytes=14e9,
        pinned_bytes=0.0,
        platforms=(
            Platform(
                name="SN40L-node",
                hbm_bytes=8 * 64 * GIB,
                pool_bytes=8 * 1.5 * TIB,
                switch_bytes_per_s=1e12,
                prompt_s=0.0310,
                token_s=1 / 1042,
                source=f"eight sockets, over 1 TB/s from DDR to HBM; {_SN40L_TIMES}",
            ),
            Platform(
                name="DGX-H100",
                hbm_bytes=640e9,
                pool_bytes=2 * TIB,
                switch_bytes_per_s=64e9,
                prompt_s=0.0269,
                token_s=0.00243,
                source=f"64 GB/s from the host; {_SN40L_TIMES}",
            ),
            Platform(
                name="DGX-A100",
                hbm_bytes=640e9,
                pool_bytes=2 * TIB,
                switch_bytes_per_s=32e9,
                prompt_s=0.0324,
                token_s=0.00340,
                source=f"32 GB/s from the host; {_SN40L_TIMES}",
            ),
        ),
    ),
}
"""Compositions of ``plenum plan experts --preset``."""


_ASSUMED = "tokens and tool seconds are assumptions of ours: the paper's traces are not published"

AGENT_KINDS = {
    kind.name: kind
    for kind in (
        AgentKind(name="single", question_tokens=230, output_tokens=200, source=f"one turn of a chat; {_ASSUMED}"),
        AgentKind(
            name="cot", shared_tokens=1_000, output_tokens=180, source=f"chain of thought: the paper's unit; {_ASSUMED}"
        ),
        AgentKind(
            name="react",
            steps=6.2,
            tools=1,
            shared_tokens=1_500,
            output_tokens=80,
            observation_tokens=150,
            tool_s=0.5,
            source=f"with reflexion and llmcompiler 9.2 times the calls of cot on average (arXiv 2506.04301); {_ASSUMED}",
        ),
        AgentKind(
            name="reflexion",
            steps=5.6,
            trials=3,
            reflects=True,
            tools=1,
            shared_tokens=1_500,
            output_tokens=100,
            observation_tokens=150,
            tool_s=0.5,
            source=f"see react; {_ASSUMED}",
        ),
        AgentKind(
            name="lats",
            steps=7.1,
            branches=5,
            judges=1,
            tools=1,
            shared_tokens=1_500,
            output_tokens=80,
            judge_tokens=40,
            observation_tokens=150,
            tool_s=0.5,
            source=f"71.0 calls a request on average (arXiv 2506.04301); {_ASSUMED}",
        ),
        AgentKind(
            name="llmcompiler",
            steps=2.6,
            tools=3,
            shared_tokens=1_800,
            output_tokens=160,
            observation_tokens=450,
            tool_s=0.5,
            source=f"plan, tools side by side, join, perhaps again; see react; {_ASSUMED}",
        ),
    )
}
"""Kinds of agents of ``plenum plan agents``."""

QUERY_WH = {
    ("Llama-3.1-8B", "ShareGPT"): 0.32,
    ("Llama-3.1-8B", "Reflexion"): 41.53,
    ("Llama-3.1-8B", "LATS"): 22.76,
    ("Llama-3.1-70B", "ShareGPT"): 2.55,
    ("Llama-3.1-70B", "Reflexion"): 348.41,
    ("Llama-3.1-70B", "LATS"): 158.48,
}
"""Measured Wh a query, GPUs alone: Kim et al., arXiv 2506.04301, table 3 (8B on one A100-40GB, 70B on eight; vLLM 0.6.6)."""
