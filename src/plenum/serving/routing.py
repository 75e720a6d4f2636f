"""Which instance a request goes to: one function over plain arrays, for the simulator and for a live gateway.

Way in: :func:`choose`; :func:`choose_with_transfer` where a prefix may be copied from the instance that has most of it. Nothing
here keeps state: whoever calls counts its decisions in ``turn``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner
from plenum.model.errors import FieldError

ROUND_ROBIN, RANDOM, LEAST_LOADED, PREFIX_AWARE, KV_AWARE, PREDICTED_LATENCY, SESSION, MOONCAKE = range(8)

POLICIES = {
    "round-robin": ROUND_ROBIN,
    "random": RANDOM,
    "least-loaded": LEAST_LOADED,
    "prefix-aware": PREFIX_AWARE,
    "kv-aware": KV_AWARE,
    "predicted-latency": PREDICTED_LATENCY,
    "session": SESSION,
    "mooncake": MOONCAKE,
}
"""Names of the policies, as the command line and manifests write them."""

HIT_LEAST = 0.1
"""Part of a prompt that must be found for ``prefix-aware`` to follow it. SGLang's router takes 0.3 of the characters of a chat that
carries its own history; in traces of long documents a tenth is already thousands of tokens."""

IMBALANCE_REQUESTS, IMBALANCE_RATIO = 8, 1.5
"""``prefix-aware`` stops following prefixes while the fullest instance has this many more requests than the emptiest and this many
times as many: the two thresholds of SGLang's cache-aware router (``--balance-abs-threshold``, ``--balance-rel-threshold``), the first
set for instances that hold tens of requests rather than hundreds."""

FULL_CACHE_TOKENS = 32_768.0
"""What ``kv-aware`` counts a full KV cache as, in tokens of prefill. NVIDIA Dynamo's router adds the blocks to prefill and the
blocks held (docs.nvidia.com/dynamo, router, "cost calculation"); this takes the occupied part of the cache for the latter, so that
instances with caches of different sizes can be compared."""

SESSION_SLACK, SESSION_LEAST = 1.25, 8
"""``session``: an instance takes sessions while it has fewer requests than the mean times this, or than the second (arXiv 1608.01350,
consistent hashing with bounded loads)."""

BALANCING = 1.5
"""``mooncake``: the best prefix is worth copying where it is this many times as long as the instance's own
(``kvcache_balancing_threshold`` of arXiv 2407.00079, algorithm 1; the paper gives no value)."""

_EMPTY = np.zeros(0, np.uint64)


def policy_named(name: str) -> int:
    """Return the constant of a policy.

    Raises
    ------
    FieldError
        No such policy; the sentence lists those that there are.
    """
    if name not in POLICIES:
        raise FieldError("routing", f"there is no routing policy {name[:60]!r}; choose from {', '.join(POLICIES)}")
    return POLICIES[name]


@entry
def choose(
    policy: int,
    eligible: NDArray[np.bool_],
    queued_requests: NDArray[np.int64],
    queued_tokens: NDArray[np.int64],
    running: NDArray[np.int64],
    cache_used: NDArray[np.float64],
    hit_tokens: NDArray[np.int64],
    predicted_ttft_s: NDArray[np.float64],
    prompt_tokens: int,
    session: int,
    turn: int,
) -> int:
    """Choose an instance; -1 where none is eligible.

    Parameters
    ----------
    policy
        Of :data:`POLICIES`. ``mooncake`` without a transfer is ``predicted-latency``.
    eligible
        (N,) bool: serves this model and is up.
    queued_requests, queued_tokens
        (N,) int64: requests that wait, and the prompt tokens that are still to be computed, those of running prefills included.
    running
        (N,) int64: requests in the batch.
    cache_used
        (N,) float64: part of KV blocks that live requests hold.
    hit_tokens
        (N,) int64: tokens of this prompt that the instance has in its cache.
    predicted_ttft_s
        (N,) float64: time to the first token there, with the queue and the hit taken into account.
    prompt_tokens, session
        Of the request; session -1: none.
    turn
        Decisions made so far. Ties go to the first instance from ``turn`` on, cyclically, so that idle ones fill evenly.

    Notes
    -----
    O(N). The same arguments give the same answer on every machine.
    """
    count = len(eligible)
    able = 0
    for i in range(count):
        able += eligible[i]
    if able == 0:
        return -1
    if policy == ROUND_ROBIN:
        return _nth(eligible, turn % able)
    if policy == RANDOM:
        return _nth(eligible, np.int64(mix(np.uint64(turn)) % np.uint64(able)))
    if policy == SESSION and session >= 0:
        return choose_for_session(eligible, queued_requests, running, session, _EMPTY)
    if policy == PREFIX_AWARE:
        follow = not _unbalanced(eligible, queued_requests, running)
        best = _longest_hit(eligible, queued_requests, running, hit_tokens, turn) if follow else -1
        if best >= 0 and hit_tokens[best] >= HIT_LEAST * prompt_tokens and hit_tokens[best] > 0:
            return best
    best = -1
    least = math.inf
    for k in range(count):
        i = (turn + k) % count
        if not eligible[i]:
            continue
        if policy == KV_AWARE:
            cost = queued_tokens[i] + max(prompt_tokens - hit_tokens[i], 0) + FULL_CACHE_TOKENS * cache_used[i]
        elif policy in (PREDICTED_LATENCY, MOONCAKE):
            cost = predicted_ttft_s[i]
        else:
            cost = float(queued_requests[i] + running[i])
        if cost < least or best < 0:
            best, least = i, cost
    return best


@entry
def choose_for_session(
    eligible: NDArray[np.bool_],
    queued_requests: NDArray[np.int64],
    running: NDArray[np.int64],
    session: int,
    identity: NDArray[np.uint64],
) -> int:
    """Choose the instance of a session by rendezvous hashing, with a bound on its load.

    Gateways that see about the same loads agree without talking, and an instance that comes or goes moves no sessions but its own.

    Parameters
    ----------
    identity
        (N,) uint64, a number of each instance that stays the same when others come and go (a hash of its name); empty: its index.
    """
    total, able = 0, 0
    for i in range(len(eligible)):
        if eligible[i]:
            able += 1
            total += queued_requests[i] + running[i]
    if able == 0:
        return -1
    bound = max(math.ceil(SESSION_SLACK * (total + 1) / able), SESSION_LEAST)
    best, spare = -1, -1
    highest, least = np.uint64(0), 0
    for i in range(len(eligible)):
        if not eligible[i]:
            continue
        load = queued_requests[i] + running[i]
        name = identity[i] if len(identity) else np.uint64(i)
        weight = mix(mix(np.uint64(session)) ^ mix(~name))
        if load < bound and (best < 0 or weight > highest):
            best, highest = i, weight
        if spare < 0 or load < least:
            spare, least = i, load
    return best if best >= 0 else spare


@entry
def choose_with_transfer(
    eligible: NDArray[np.bool_],
    hit_tokens: NDArray[np.int64],
    predicted_ttft_s: NDArray[np.float64],
    fetched_ttft_s: NDArray[np.float64],
    ttft_slo_s: float,
    turn: int,
) -> tuple[int, int, float]:
    """Choose an instance, and one to copy the prefix from, as Mooncake's conductor does (arXiv 2407.00079, algorithm 1).

    Parameters
    ----------
    eligible, hit_tokens, predicted_ttft_s, turn
        As in :func:`choose`.
    fetched_ttft_s
        (N,) float64: time to the first token where the longest prefix that any instance has is copied there first: queue, transfer
        of what is missing, and prefill of the rest.
    ttft_slo_s
        Promise; infinity: nothing is refused.

    Returns
    -------
    tuple of int, int, float
        The instance (-1: none is eligible, or none keeps the promise), the instance to copy from (-1: nothing is copied), and the
        time to the first token that is expected (infinity where none is eligible).
    """
    source = -1
    for i in range(len(eligible)):
        if eligible[i] and (source < 0 or hit_tokens[i] > hit_tokens[source]):
            source = i
    best, copied = -1, False
    least = math.inf
    for k in range(len(eligible)):
        i = (turn + k) % len(eligible)
        if not eligible[i]:
            continue
        longer = i != source and hit_tokens[source] > BALANCING * hit_tokens[i]
        for fetch in (False, True):
            if fetch and not longer:
                continue
            ttft_s = fetched_ttft_s[i] if fetch else predicted_ttft_s[i]
            if ttft_s < least or best < 0:
                best, copied, least = i, fetch, ttft_s
    if best < 0 or least > ttft_slo_s:
        return -1, -1, least
    return best, source if copied else -1, least


@entry
def mix(value: np.uint64) -> np.uint64:
    """Scatter 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inner
def _nth(eligible: NDArray[np.bool_], n: int) -> int:
    """Return the index of the eligible instance number ``n``."""
    for i in range(len(eligible)):
        if eligible[i]:
            if n == 0:
                return i
            n -= 1
    return -1


@inner
def _unbalanced(eligible: NDArray[np.bool_], queued_requests: NDArray[np.int64], running: NDArray[np.int64]) -> bool:
    most, least = -1, -1
    for i in range(len(eligible)):
        if eligible[i]:
            load = queued_requests[i] + running[i]
            most = max(most, load)
            least = load if least < 0 else min(least, load)
    return most - least > IMBALANCE_REQUESTS and most > IMBALANCE_RATIO * least


@inner
def _longest_hit(
    eligible: NDArray[np.bool_],
    queued_requests: NDArray[np.int64],
    running: NDArray[np.int64],
    hit_tokens: NDArray[np.int64],
    turn: int,
) -> int:
    """Return the instance with the longest hit; of equal ones the one with the fewest requests."""
    best, best_load = -1, 0
    for k in range(len(eligible)):
        i = (turn + k) % len(eligible)
        if not eligible[i]:
            continue
        load = queued_requests[i] + running[i]
        if best < 0 or hit_tokens[i] > hit_tokens[best] or (hit_tokens[i] == hit_tokens[best] and load < best_load):
            best, best_load = i, load
    return best
