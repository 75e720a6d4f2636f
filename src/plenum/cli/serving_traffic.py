"""Traffic as people name it on the command line: ``azure-conv``, ``mooncake``, a file, or ``poisson:20``."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plenum.cli.units import count
from plenum.model.errors import FieldError, FileError

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from plenum.serving.workload import Requests

INVENTED_S = 600.0
"""Duration of invented traffic unless told."""

PROMPT_TOKENS, OUTPUT_TOKENS = 1024, 256
"""Lengths of invented requests unless told."""

VARIATION = 2.0
"""Of ``bursty`` unless told: in the range of production traces (BurstGPT, arXiv 2401.17644)."""

ROUTING = (
    "round-robin", "random", "least-loaded", "prefix-aware", "kv-aware", "predicted-latency", "session", "mooncake",
)  # fmt: skip
"""Names of :data:`plenum.serving.routing.POLICIES`, which help must not wait for."""

NAMED = ("azure-conv", "mooncake")
INVENTED = ("poisson", "steady", "bursty", "diurnal", "chat", "agent")
EXAMPLES = "azure-conv, mooncake, a CSV or JSONL file, poisson:20, bursty:20:2.5, steady:20, diurnal:20, chat:2 or agent:react:2"

TRACE_HELP = (
    "Traffic: azure-conv, mooncake, a CSV or JSONL file, or poisson:RATE, bursty:RATE[:VARIATION], steady:RATE, \
diurnal:RATE, chat:CONVERSATIONS or agent:KIND:QUERIES (a second)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTraffic:
    """Requests and what to call them."""

    label: str
    requests: Requests


def traffic_named(
    text: str,
    *,
    prompts: str | None = None,
    outputs: str | None = None,
    duration_s: float | None = None,
    scale: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    data: Path | None = None,
) -> NamedTraffic:
    """Return the traffic that ``text`` names.

    Parameters
    ----------
    prompts, outputs
        Lengths of invented requests: ``4000``, or ``4000:0.8`` for a lognormal with that variation.
    duration_s
        Of invented traffic; of a trace, only so much of its beginning (after scaling).
    scale
        Times the load.
    limit
        Requests at most.
    seed
        Of what is invented.
    data
        Folder of the public traces; None: ``$PLENUM_DATA``, then ``../shared/data``.

    Raises
    ------
    FieldError, FileError
        A name, rate, length or file that cannot be meant.
    """
    from plenum.sim.serving import slices

    kind, colon, rest = text.partition(":")
    if colon and kind in INVENTED:
        try:
            requests = _invented(kind, rest, prompts, outputs, duration_s or INVENTED_S, seed)
        except FieldError as error:
            if error.where.field.startswith("--"):
                raise
            raise FieldError(
                "--trace", f"{text[:40]} is too much or too little: {error.where.field} {error.sentence}"
            ) from None
    else:
        for option, value in (("--isl", prompts), ("--osl", outputs)):
            if value:
                raise FieldError(
                    option, f"goes with invented traffic such as poisson:20; {text[:60]!r} has lengths of its own"
                )
        requests = _read(text, data)
    if scale != 1.0:
        requests = slices.scaled(requests, scale)
    if duration_s is not None:
        requests = slices.window(requests, 0.0, duration_s)
    if limit is not None:
        requests = slices.first(requests, limit)
    if not len(requests):
        raise FieldError("--trace", f"{text[:60]} has no requests in that time")
    label = text if scale == 1.0 else f"{text}, {scale:g}x"
    return NamedTraffic(label=label, requests=requests)


def _read(text: str, data: Path | None) -> Requests:
    from plenum.adapters.traces import azure, mooncake
    from plenum.adapters.traces.folder import find_data
    from plenum.adapters.traces.requests import read_requests

    if text in NAMED:
        folder = find_data(data, os.environ)
        if folder is None:
            raise FileError(
                f"there is no data folder with {text}: name one with --data or $PLENUM_DATA, or try poisson:20"
            )
        return (azure if text == "azure-conv" else mooncake).read_conversation(folder)
    path = Path(text)
    if path.suffix or path.exists():
        return read_requests(path)
    near = difflib.get_close_matches(text.split(":")[0].lower(), (*NAMED, *INVENTED), 1, 0.5)
    hint = f"did you mean {near[0]}{':20' if near[0] in INVENTED else ''}? " if near else ""
    raise FieldError("--trace", f"there is no traffic {text[:60]!r}; {hint}choose from {EXAMPLES}")


def _invented(kind: str, rest: str, prompts: str | None, outputs: str | None, duration_s: float, seed: int) -> Requests:
    import numpy as np

    from plenum.serving.workload import requests_of
    from plenum.sim.serving import traffic
    from plenum.sim.serving.chats import Chat, chats

    rng = np.random.default_rng(seed)
    if kind == "agent":
        return _agents(rng, rest, prompts, outputs, duration_s)
    first, *more = rest.split(":")
    rate = _number(first, "--trace", f"the rate of {kind}:RATE")
    if more and (kind != "bursty" or len(more) > 1):
        raise FieldError("--trace", f"{kind}:{rest[:40]} has too many parts; such as {EXAMPLES}")
    made: dict[str, Callable[[], NDArray[np.float64]]] = {
        "poisson": lambda: traffic.poisson(rng, rate, duration_s),
        "chat": lambda: traffic.poisson(rng, rate, duration_s),
        "steady": lambda: traffic.steady(rate, duration_s),
        "diurnal": lambda: traffic.diurnal(rng, rate, duration_s, period_s=duration_s, peak_s=duration_s / 2),
        "bursty": lambda: traffic.bursty(
            rng, rate, duration_s, _number(more[0], "--trace", "the variation") if more else VARIATION
        ),
    }
    arrivals = made[kind]()
    if kind == "chat":
        asked, answered = _length(prompts, "--isl"), _length(outputs, "--osl")
        usual = Chat()
        chat = replace(
            usual,
            user_tokens=round(asked[0]) if asked else usual.user_tokens,
            output_tokens=round(answered[0]) if answered else usual.output_tokens,
        )
        return chats(rng, arrivals, chat)
    return requests_of(arrivals, *drawn_lengths(rng, len(arrivals), prompts, outputs))


def drawn_lengths(rng: Generator, count: int, prompts: str | None, outputs: str | None) -> list[Any]:
    """Return tokens of ``count`` prompts and of their answers, as ``4000`` or ``4000:0.8`` says.

    Raises
    ------
    FieldError
        Something else.
    """
    return [
        _drawn(rng, count, _length(text, option) or (float(usual), 0.0))
        for text, option, usual in ((prompts, "--isl", PROMPT_TOKENS), (outputs, "--osl", OUTPUT_TOKENS))
    ]


def _agents(rng: Generator, rest: str, prompts: str | None, outputs: str | None, duration_s: float) -> Requests:
    from plenum.planning.agents import agent_requests
    from plenum.planning.published import AGENT_KINDS
    from plenum.sim.serving import traffic

    name, _, rate = rest.partition(":")
    if name not in AGENT_KINDS:
        near = difflib.get_close_matches(name[:40], AGENT_KINDS, 1, 0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise FieldError(
            "--trace", f"there is no kind of agent {name[:40]!r}; {hint}choose from {', '.join(AGENT_KINDS)}"
        )
    for option, value in (("--isl", prompts), ("--osl", outputs)):
        if value:
            raise FieldError(option, f"does not go with agent:{name}, whose calls have lengths of their own")
    start_s = traffic.poisson(rng, _number(rate, "--trace", "the rate of agent:KIND:RATE"), duration_s)
    return agent_requests(AGENT_KINDS[name], start_s, rng).requests


def _drawn(rng: Generator, count: int, length: tuple[float, float]) -> Any:
    from plenum.sim.serving import traffic

    mean, variation = length
    return traffic.lognormal(rng, count, mean, variation) if variation else traffic.fixed(count, round(mean))


def _length(text: str | None, option: str) -> tuple[float, float] | None:
    """Read ``4000`` or ``4000:0.8`` into a mean and a variation."""
    if not text:
        return None
    mean, _, variation = text.partition(":")
    tokens = count(mean, option)
    spread = _number(variation, option, "the variation after the colon") if variation else 0.0
    if not 1 <= tokens <= 10_000_000 or spread > 20:
        raise FieldError(option, f"must be tokens such as 4000, or 4000:0.8 with a variation, not {text[:40]!r}")
    return tokens, spread


def _number(text: str, option: str, what: str) -> float:
    try:
        value = float(text) if len(text) <= 40 else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise FieldError(option, f"{what} must be a number above 0, not {text[:40]!r}")
    return value
