"""Invented conversations: requests that follow one another, with prompts that grow by what was said before.

Way in: :func:`chats`. Agents, whose calls a graph describes, are :func:`plenum.planning.agents.agent_requests`.
"""

from __future__ import annotations

from dataclasses import dataclass

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
