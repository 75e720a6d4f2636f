"""Which of the replicas with room a request goes to: what routing reads is measured here; :mod:`plenum.serving.routing` decides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from plenum.gateway.forecast import Forecast
from plenum.gateway.prefixes import BLOCK_BYTES, PrefixIndex
from plenum.gateway.targets import Target
from plenum.model.errors import FieldError
from plenum.serving import routing

BY_PREFIX = (routing.PREFIX_AWARE, routing.KV_AWARE, routing.PREDICTED_LATENCY, routing.MOONCAKE)
"""Policies that look for a prompt in caches."""


def policy_of(name: str) -> int:
    """Return the constant of a policy; of a name that is not known, ``least-loaded``: a gateway goes on whatever a table says."""
    try:
        return routing.policy_named(name)
    except FieldError:
        return routing.LEAST_LOADED


def session_number(tenant: str, session: str) -> int:
    """Return the number of a session, the same in every gateway; -1: there is none."""
    if not session:
        return -1
    return int.from_bytes(hashlib.blake2b(f"{tenant}\0{session}".encode(), digest_size=8).digest()) >> 1


def hits_of(
    index: PrefixIndex, targets: Sequence[Target], blocks: Sequence[int], prompt_bytes: int, prompt_tokens: int
) -> list[int]:
    """Return how many tokens of a prompt each replica has in its cache."""
    if not blocks or prompt_bytes <= 0:
        return [0] * len(targets)
    each = prompt_tokens / max(prompt_bytes / BLOCK_BYTES, len(blocks))
    return [int(index.found(target.replica.run, blocks) * each) for target in targets]


def predicted_ttft_s(forecast: Forecast, target: Target, tokens: int, hit: int) -> float:
    """Return when the first token would come from a replica if the request were sent now."""
    waiting = target.prefilling + target.others_waiting
    running = target.decoding + target.others_running
    return forecast.ttft_s(tokens, hit, target.queued_tokens, waiting, running)


def choose(
    policy: int,
    targets: Sequence[Target],
    hits: Sequence[int],
    forecast: Forecast,
    prompt_tokens: int,
    session: int,
    turn: int,
) -> int:
    """Return the index of the replica to send a request to.

    Parameters
    ----------
    targets
        At least one, ordered by run; all of them may be sent it.
    hits
        Tokens of its prompt in the cache of each.
    session
        :func:`session_number`.
    turn
        Decisions made so far.
    """
    if len(targets) == 1:
        return 0
    waiting = np.array([t.prefilling + t.others_waiting for t in targets], np.int64)
    running = np.array([t.decoding + t.others_running for t in targets], np.int64)
    eligible = np.ones(len(targets), np.bool_)
    if policy == routing.SESSION and session >= 0:
        identity = np.array([t.identity for t in targets], np.uint64)
        return int(routing.choose_for_session(eligible, waiting, running, session, identity))
    predicted = np.zeros(len(targets))
    if policy in (routing.PREDICTED_LATENCY, routing.MOONCAKE):
        predicted[:] = [predicted_ttft_s(forecast, t, prompt_tokens, hit) for t, hit in zip(targets, hits, strict=True)]
    return int(
        routing.choose(
            policy,
            eligible,
            waiting,
            np.array([t.queued_tokens for t in targets], np.int64),
            running,
            np.array([t.cache_used for t in targets]),
            np.array(hits, np.int64),
            predicted,
            prompt_tokens,
            session,
            turn,
        )
    )


def warm() -> None:
    """Compile what routing needs, or load what was compiled, before the first request."""
    ints, floats, ones = np.zeros(2, np.int64), np.zeros(2), np.ones(2, np.bool_)
    routing.choose(0, ones, ints, ints, ints, floats, ints, floats, 1, -1, 0)
    routing.choose_for_session(ones, ints, ints, 1, np.zeros(2, np.uint64))
