"""Invented conversations and agents: requests that follow one another, with prompts that grow by what was said before.

Way in: :func:`chats` for people, :func:`unrolled` for agents, whose calls a graph describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.serving.workload import Requests, requests_of
from plenum.sim.serving.traffic import MAX_REQUESTS, lognormal

MAX_TURNS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What conversations are like; lengths are lognormal with variation ``variation``.

    Parameters
    ----------
    turns
        Mean number of requests of a conversation (geometric).
    system_tokens, systems
        Length of the system prompt, and how many different ones there are.
    user_tokens, output_tokens
        Means of what a person writes each time, and of what comes back.
    think_s
        Mean time from an answer to the next question (exponential).
    most_tokens
        A conversation ends when its prompt would be longer.
    """

    turns: float = 4.0
    system_tokens: int = 1_000
    systems: int = 1
    user_tokens: int = 200
    output_tokens: int = 250
    think_s: float = 30.0
    variation: float = 1.0
    most_tokens: int = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an agent's graph.

    Parameters
    ----------
    new_tokens
        That this call's prompt adds to what it continues: instructions, a question, the result of a tool.
    output_tokens
        That it produces; the calls that continue it have them in their prompts.
    after
        Index of the call that it waits for; -1: it starts with the task.
    pause_s
        From the end of that call: how long the tool takes.
    continues
        Its prompt begins with that call's prompt and output; else with the task's shared part only.
    hold
        Its cache is kept until the call that follows starts.
    """

    new_tokens: int
    output_tokens: int
    after: int = -1
    pause_s: float = 0.0
    continues: bool = True
    hold: bool = False


def chats(rng: np.random.Generator, start_s: NDArray[np.float64], chat: Chat, *, block_tokens: int = 512) -> Requests:
    """Return the requests of conversations that start at the given times.

    Each turn but the first waits for the one before (``after``) and for the person to think (``pause_s``). Its prompt is everything said so
    far, so the full blocks of the prompt before it come back, as do those of the system prompt in every conversation that has it.

    Raises
    ------
    FieldError
        Too many requests, or a description that makes no sense.
    """
    if not 1 <= chat.turns <= MAX_TURNS or chat.systems < 1:
        raise FieldError("turns", f"must be from 1 to {MAX_TURNS}, with one system prompt at least")
    count = len(start_s)
    turns = np.minimum(rng.geometric(1 / chat.turns, count), MAX_TURNS)
    total = int(turns.sum())
    if total > MAX_REQUESTS:
        raise FieldError("turns", f"make {total:,} requests, more than {MAX_REQUESTS:,}")
    user = lognormal(rng, total, chat.user_tokens, chat.variation).astype(np.int64)
    output = lognormal(rng, total, chat.output_tokens, chat.variation).astype(np.int64)
    session = np.repeat(np.arange(count), turns)
    first = np.cumsum(turns) - turns
    turn = np.arange(total) - first[session]
    said = np.cumsum(user + output)
    prompt = chat.system_tokens + said - output - (said[first] - user[first] - output[first])[session]
    system = rng.integers(0, chat.systems, count)[session]
    keep = prompt <= chat.most_tokens  # prompts grow, so what is kept of a conversation is its beginning
    pause_s = np.where(turn > 0, rng.exponential(chat.think_s, total), 0.0)
    after = np.where(turn > 0, np.cumsum(keep) - 2, -1)
    owner = np.stack([system, session], axis=1)
    offset, block = _blocks(prompt[keep], np.full(int(keep.sum()), chat.system_tokens), owner[keep], block_tokens)
    made = requests_of(
        np.asarray(start_s, np.float64)[session[keep]],
        prompt[keep].astype(np.int32),
        output[keep].astype(np.int32),
        session=session[keep].astype(np.int64),
        after=after[keep].astype(np.int32),
        pause_s=pause_s[keep],
        block_offset=offset,
        block_id=block,
        block_tokens=block_tokens,
    )
    if (np.diff(made.arrival_s) < 0).any():
        raise FieldError("start_s", "must ascend")
    return made


def unrolled(
    start_s: NDArray[np.float64],
    graphs: Sequence[Sequence[Call]],
    chosen: NDArray[np.integer] | None = None,
    *,
    shared_tokens: int = 0,
    block_tokens: int = 512,
) -> Requests:
    """Return the requests of agent tasks that start at the given times.

    Parameters
    ----------
    graphs
        Call graphs; a call comes after the one that it waits for.
    chosen
        (T,) index of each task's graph; None: they take turns.
    shared_tokens
        Instructions that all tasks' prompts begin with.

    Raises
    ------
    FieldError
        A graph whose calls are not in order, or too many requests.
    """
    tasks = [int(g) for g in (np.arange(len(start_s)) % len(graphs) if chosen is None else chosen)]
    for number, graph in enumerate(graphs):
        if not graph or any(not -1 <= call.after < k for k, call in enumerate(graph)):
            raise FieldError(f"graphs[{number}]", "needs calls, each after one that stands before it")
    if sum(len(graphs[g]) for g in tasks) > MAX_REQUESTS:
        raise FieldError("graphs", f"make more than {MAX_REQUESTS:,} requests")
    shapes = [_shape(graph, shared_tokens, block_tokens) for graph in graphs]
    sizes = np.array([len(graph) for graph in graphs], np.int64)[tasks]
    begins = np.cumsum(sizes) - sizes
    task = np.repeat(np.arange(len(start_s)), sizes)

    def column(name: str, dtype: type) -> NDArray[Any]:
        each = [np.array([getattr(call, name) for call in graph]) for graph in graphs]
        return np.concatenate([each[g] for g in tasks]).astype(dtype) if tasks else np.zeros(0, dtype)

    after = column("after", np.int64)
    ids, offset, fresh = [np.zeros(0, np.int64)], [0], shared_tokens // block_tokens
    for g in tasks:
        _, blocks, unique = shapes[g]
        for row in blocks:
            ids.append(np.where(row >= 0, row + fresh, -1 - row))
            offset.append(offset[-1] + len(row))
        fresh += unique
    return requests_of(
        np.asarray(start_s, np.float64)[task],
        np.concatenate([shapes[g][0] for g in tasks]) if tasks else np.zeros(0, np.int32),
        column("output_tokens", np.int32),
        session=task.astype(np.int64),
        after=np.where(after >= 0, after + begins[task], -1).astype(np.int32),
        pause_s=column("pause_s", np.float64),
        hold=column("hold", np.bool_),
        block_offset=np.array(offset, np.int64),
        block_id=np.concatenate(ids),
        block_tokens=block_tokens,
    )


def _blocks(
    prompt: NDArray[np.int64], shared: NDArray[np.int64], owner: NDArray[np.int64], block_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the full blocks of prompts: those within the shared beginning belong to its owner, the others to the conversation."""
    counts = prompt // block_tokens
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    row = np.repeat(np.arange(len(prompt)), counts)
    position = np.arange(offset[-1]) - offset[:-1][row]
    common = (position + 1) * block_tokens <= shared[row]
    who = np.where(common, owner[row, 0], owner[row, 1])
    most = int(counts.max(initial=0)) + 1
    key = (who * 2 + ~common) * most + position
    _, block = np.unique(key, return_inverse=True)
    return offset, block.astype(np.int64)


def _shape(
    graph: Sequence[Call], shared_tokens: int, block_tokens: int
) -> tuple[NDArray[np.int32], list[NDArray[np.int64]], int]:
    """Return a graph's prompt lengths, the ids of their full blocks, and how many ids it needs.

    Ids from 0 on are the task's own; -1 - k is block k of what all tasks share. A call that continues another has the blocks that were full
    in the other's prompt and output, of whichever branch it is the first to fill the rest.
    """
    common = shared_tokens // block_tokens
    prompts: list[int] = []
    blocks: list[list[int]] = []
    grown: list[list[int]] = []  # the blocks of prompt and output, as a call that continues finds them
    unique = 0
    for call in graph:
        before = call.after if call.continues else -1
        start = prompts[before] + graph[before].output_tokens if before >= 0 else shared_tokens
        ids = list(grown[before]) if before >= 0 else [-1 - k for k in range(common)]
        prompt = start + call.new_tokens
        for length, kept in ((prompt, blocks), (prompt + call.output_tokens, grown)):
            missing = length // block_tokens - len(ids)
            ids = ids + list(range(unique, unique + missing))
            unique += missing
            kept.append(ids)
        prompts.append(max(prompt, 1))
    return np.array(prompts, np.int32), [np.array(ids, np.int64) for ids in blocks], unique
