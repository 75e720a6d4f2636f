"""Agents as call graphs: how many model calls a query takes, how prompts grow, how long tools keep the cache waiting.

One shape covers the usual ones. A query is a few attempts; an attempt is a few steps; a step is one or several model calls side by
side, each perhaps judged by further calls; between two steps tools run. Single turn and chain of thought are one step; ReAct is many;
Reflexion adds attempts with what was learnt; LATS adds branches and judges; LLMCompiler runs several tools at once. Way in:
:func:`agent_requests`, :func:`calls_of`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.serving.workload import Requests, requests_of

MAX_CALLS = 5_000_000
"""Calls that one invented workload holds at most."""

MAX_STEPS, MAX_TRIALS = 200, 50
"""Of one attempt, and of one query: an agent that goes on and on is stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentKind:
    """How one kind of agent calls a model.

    Parameters
    ----------
    name
        As people write it.
    steps, trials
        Means, at least 1: steps of an attempt and attempts of a query; one more than a Poisson number each.
    branches, judges
        Calls side by side in each step, and calls that judge each of them.
    reflects
        One more call after each attempt but the last; its answer is part of every later prompt.
    tools
        Tools that run at once between two steps: the slowest sets the pace.
    shared_tokens, question_tokens
        Instructions, examples and tools' descriptions, the same for all queries; and what is asked.
    output_tokens, judge_tokens, observation_tokens
        Means of what a call answers, what a judge answers, and what tools add to the next prompt.
    tool_s, tool_variation
        Mean seconds of a tool, and standard deviation over mean (gamma distributed).
    source
        Of these figures.
    """

    name: str
    steps: float = 1.0
    trials: float = 1.0
    branches: int = 1
    judges: int = 0
    reflects: bool = False
    tools: int = 0
    shared_tokens: int = 0
    question_tokens: int = 100
    output_tokens: float = 200.0
    judge_tokens: float = 0.0
    observation_tokens: float = 0.0
    tool_s: float = 0.0
    tool_variation: float = 1.0
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AgentWorkload:
    """Requests of many queries.

    Parameters
    ----------
    requests
        Ordered by arrival; a call follows the one before it (``after``), tools running meanwhile (``pause_s``).
    query
        (R,) int64: which query each request is of.
    reused_tokens
        (R,) int64: tokens of each prompt that earlier calls of the same query had in whole blocks, as prompt or as answer; the part
        that all queries share counts as there from the first.
    queries
        How many.
    """

    requests: Requests
    query: NDArray[np.int64]
    reused_tokens: NDArray[np.int64]
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """A conversation so far: its tokens, and the ids of those of its blocks that are full."""

    tokens: int
    blocks: tuple[int, ...]


@dataclass(slots=True)
class _Calls:
    """Rows of the requests that are being made."""

    block_tokens: int
    next_block: int
    rows: list[tuple[int, int, int, float, int, int, int]] = field(default_factory=list)
    blocks: list[tuple[int, ...]] = field(default_factory=list)

    def grown(self, path: _Path, tokens: int) -> _Path:
        """Return the path with more tokens; blocks that became full are nobody else's."""
        total = path.tokens + tokens
        fresh = total // self.block_tokens - len(path.blocks)
        ids = tuple(range(self.next_block, self.next_block + fresh))
        self.next_block += fresh
        return _Path(tokens=total, blocks=path.blocks + ids)

    def call(
        self, path: _Path, output: int, *, after: int, pause_s: float, query: int, session: int, reused: int
    ) -> int:
        """Add a request whose prompt is the path; returns its row."""
        if len(self.rows) >= MAX_CALLS:
            raise FieldError("queries", f"make more than {MAX_CALLS:,} calls; ask for fewer")
        self.rows.append((path.tokens, output, after, pause_s, query, session, reused))
        self.blocks.append(path.blocks)
        return len(self.rows) - 1


def calls_of(kind: AgentKind) -> float:
    """Return the mean calls of a query."""
    per_attempt = kind.steps * kind.branches * (1 + kind.judges)
    return kind.trials * per_attempt + (kind.trials - 1 if kind.reflects else 0.0)


def tool_waits_of(kind: AgentKind) -> float:
    """Return the mean number of times that a query waits for tools."""
    return kind.trials * (kind.steps - 1) if kind.tools else 0.0


def agent_requests(
    kind: AgentKind,
    start_s: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    queries_each: int = 1,
    block_tokens: int = 64,
    hold: bool = True,
) -> AgentWorkload:
    """Invent the calls of queries.

    Parameters
    ----------
    start_s
        (S,) when each session's first query comes, ascending.
    queries_each
        Queries of a session, each as soon as the one before is answered: ``np.zeros(N)`` with many of them is a closed loop of N agents.
    hold
        Keep the cache of a call while its tools run, where one call follows it.

    Raises
    ------
    FieldError
        A kind that cannot be meant, or too many calls.
    """
    _check(kind)
    if len(start_s) * queries_each * calls_of(kind) > MAX_CALLS:
        raise FieldError("queries", f"make more than {MAX_CALLS:,} calls; ask for fewer")
    shared_blocks = kind.shared_tokens // block_tokens
    calls = _Calls(block_tokens=block_tokens, next_block=shared_blocks)
    shared = _Path(tokens=kind.shared_tokens, blocks=tuple(range(shared_blocks)))
    starts: list[float] = []
    query = 0
    for session, start in enumerate(start_s.tolist()):
        last = -1
        for _ in range(queries_each):
            last = _query(kind, calls, shared, rng, query, session, last)
            query += 1
        starts.extend([start] * (len(calls.rows) - len(starts)))
    return _workload(calls, starts, query, hold)


def mean_context(workload: AgentWorkload) -> float:
    """Return the mean tokens that a call has in its cache while it decodes."""
    requests = workload.requests
    return float(np.mean(requests.prompt_tokens + requests.output_tokens / 2))


def _query(
    kind: AgentKind, calls: _Calls, shared: _Path, rng: np.random.Generator, query: int, session: int, after: int
) -> int:
    """Add the calls of one query; returns the last of them."""
    base = calls.grown(shared, kind.question_tokens)
    known = (shared.tokens // calls.block_tokens) * calls.block_tokens
    trials = _count(kind.trials, MAX_TRIALS, rng)
    for trial in range(trials):
        path = base
        for step in range(_count(kind.steps, MAX_STEPS, rng)):
            pause = _tool_wait(kind, rng) if step else 0.0
            after, path = _step(kind, calls, path, rng, (query, session), after, pause, known)
            known = len(path.blocks) * calls.block_tokens
            path = calls.grown(path, round(kind.observation_tokens)) if kind.tools else path
        if kind.reflects and trial < trials - 1:
            learnt = _tokens(kind.output_tokens, rng)
            after = calls.call(path, learnt, after=after, pause_s=0.0, query=query, session=session, reused=known)
            known = min(known, len(base.blocks) * calls.block_tokens)
            base = calls.grown(base, learnt)
        else:
            known = min(known, len(base.blocks) * calls.block_tokens)
    return after


def _step(
    kind: AgentKind,
    calls: _Calls,
    path: _Path,
    rng: np.random.Generator,
    owner: tuple[int, int],
    after: int,
    pause_s: float,
    known: int,
) -> tuple[int, _Path]:
    """Add the calls of one step; returns the one that the next step follows, and the conversation that it goes on with.

    Of several branches that is the one with the longest answer: the step is over when the last branch is.
    """
    query, session = owner
    best, best_last, best_path = -1, after, path
    for _ in range(kind.branches):
        output = _tokens(kind.output_tokens, rng)
        own = calls.call(path, output, after=after, pause_s=pause_s, query=query, session=session, reused=known)
        grown = calls.grown(path, output)
        last = own
        for _ in range(kind.judges):
            answer = _tokens(kind.judge_tokens, rng)
            kept = len(grown.blocks) * calls.block_tokens
            last = calls.call(grown, answer, after=last, pause_s=0.0, query=query, session=session, reused=kept)
        if output > best:
            best, best_last, best_path = output, last, grown
    return best_last, best_path


def _workload(calls: _Calls, starts: list[float], queries: int, hold: bool) -> AgentWorkload:
    columns = list(zip(*calls.rows, strict=True)) or [()] * 7
    prompt, output, after, pause, query, session, reused = (np.array(column) for column in columns)
    after = after.astype(np.int32)
    followers = np.bincount(after[after >= 0], minlength=len(after))
    offset = np.concatenate([[0], np.cumsum([len(ids) for ids in calls.blocks], dtype=np.int64)])
    requests = requests_of(
        np.array(starts),
        prompt,
        output,
        session=session.astype(np.int64),
        after=after,
        pause_s=pause.astype(np.float64),
        hold=(followers == 1) if hold else np.zeros(len(after), np.bool_),
        block_offset=offset.astype(np.int64),
        block_id=np.fromiter((block for ids in calls.blocks for block in ids), np.int64, count=int(offset[-1])),
        block_tokens=calls.block_tokens,
    )
    return AgentWorkload(
        requests=requests, query=query.astype(np.int64), reused_tokens=reused.astype(np.int64), queries=queries
    )


def _count(mean: float, most: int, rng: np.random.Generator) -> int:
    return min(1 + int(rng.poisson(mean - 1)), most)


def _tokens(mean: float, rng: np.random.Generator) -> int:
    """Draw tokens around a mean, half of it as the standard deviation, at least one."""
    return max(1, round(float(rng.gamma(4.0, mean / 4.0))))


def _tool_wait(kind: AgentKind, rng: np.random.Generator) -> float:
    if not kind.tools or kind.tool_s <= 0:
        return 0.0
    if kind.tool_variation <= 0:
        return kind.tool_s
    shape = kind.tool_variation**-2
    return float(rng.gamma(shape, kind.tool_s / shape, size=kind.tools).max())


def _check(kind: AgentKind) -> None:
    if not (1 <= kind.steps <= MAX_STEPS and 1 <= kind.trials <= MAX_TRIALS):
        raise FieldError("agent", f"{kind.name} takes 1 to {MAX_STEPS} steps an attempt and 1 to {MAX_TRIALS} attempts")
    if not (1 <= kind.branches <= 100 and 0 <= kind.judges <= 100 and 0 <= kind.tools <= 100):
        raise FieldError("agent", f"{kind.name} has 1 to 100 branches, and at most 100 judges and tools at once")
    if not (0 < kind.output_tokens <= 1e6 and 1 <= kind.question_tokens <= 10**7 and 0 <= kind.shared_tokens <= 10**7):
        raise FieldError("agent", f"{kind.name} answers and is asked at least a token, and no more than 10⁷")
    if kind.judges and kind.judge_tokens <= 0:
        raise FieldError("agent", f"{kind.name} has judges that answer nothing; give judge_tokens")
