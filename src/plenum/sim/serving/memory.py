"""KV blocks of one instance: those of requests, and those of the prefix cache, which give way to them."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, outer, small
from plenum.serving import prefix
from plenum.sim.serving import fields as f
from plenum.sim.serving.world import World

HBM = prefix.HBM
_PINS, _IN_USE, _CAPACITY = 2, 0, 1


@small
def caches(w: World) -> prefix.Caches:
    """Return the prefix caches of all instances."""
    links, ends, sums = w.links, w.ends, w.sums
    return prefix.Caches(w.tier, links[0], links[1], links[2], ends[0], ends[1], sums[0], sums[1], sums[2])


@small
def available(w: World, i: int) -> int:
    """Return the KV blocks that requests could still take, cached prefixes evicted."""
    return w.ni[f.BLOCKS, i] - w.ni[f.USED, i] - w.ni[f.PINNED, i] * w.ni[f.COST, i]


@small
def occupied(w: World, i: int) -> int:
    """Return the KV blocks that requests hold."""
    return w.ni[f.USED, i] + w.ni[f.PINNED, i] * w.ni[f.COST, i]


@small
def count_occupied(w: World, i: int, now_s: float) -> None:
    """Add the time since the last call to the integral of KV blocks; called before they change."""
    w.nf[f.OCCUPIED, i] += occupied(w, i) * (now_s - w.nf[f.COUNTED_TO, i])
    w.nf[f.COUNTED_TO, i] = now_s


@inner
def take(w: World, i: int, blocks: int) -> None:
    """Give blocks to a request; as many must be available."""
    w.ni[f.USED, i] += blocks
    if w.ni[f.CACHES_PREFIXES, i] == 1:
        room = (w.ni[f.BLOCKS, i] - w.ni[f.USED, i]) // w.ni[f.COST, i]
        if w.sums[_IN_USE, i, HBM] > room:
            prefix.resize(caches(w), i, HBM, room)
    w.ni[f.PEAK, i] = max(w.ni[f.PEAK, i], occupied(w, i))


@small
def blocks_for(w: World, i: int, tokens: int) -> int:
    """Return how many KV blocks so many tokens take."""
    return -(-tokens // w.ni[f.BLOCK, i])


@inner
def shareable(w: World, i: int, r: int) -> int:
    """Return how many blocks of a prompt the prefix cache may keep: whole ones that have an id."""
    if w.ni[f.CACHES_PREFIXES, i] == 0:
        return 0
    return min(w.ri[r, f.IDS], w.ri[r, f.PROMPT] // w.count[f.PREFIX_BLOCK])


@inner
def found(w: World, i: int, r: int) -> tuple[int, int, int]:
    """Return the blocks of a prompt that an instance has in each tier; at least one token is left to compute."""
    start = w.ri[r, f.IDS_FROM]
    most = min(shareable(w, i, r), (w.ri[r, f.TARGET] - 1) // w.count[f.PREFIX_BLOCK])
    return prefix.lookup(caches(w), i, w.block, start, start + most)


@inner
def take_prefix(w: World, i: int, r: int, blocks: int, private: int) -> bool:
    """Pin the first blocks of a prompt, bringing into HBM what is in lower tiers, and take private ones; False if there is no room."""
    start = w.ri[r, f.IDS_FROM]
    more = 0
    for k in range(start, start + blocks):
        block = w.block[k]
        more += w.tier[i, block] != HBM or w.links[_PINS, i, block] == 0
    if private + more * w.ni[f.COST, i] > available(w, i):
        return False
    for k in range(start, start + blocks):  # what is there is pinned first, lest it be evicted for the rest
        if w.tier[i, w.block[k]] == HBM:
            _pin(w, i, k)
    w.ni[f.USED, i] += private
    for k in range(start, start + blocks):
        if w.tier[i, w.block[k]] != HBM:
            _bring_in(w, i, k)
            if w.due.shape[0] > 0:
                w.due[i, w.block[k]] = math.inf  # until whoever called knows when it will be there
    w.ni[f.USED, i] -= private
    take(w, i, private)
    w.ri[r, f.PRIVATE], w.ri[r, f.SHARED], w.ri[r, f.OWNER] = private, blocks, r
    return True


@inner
def share_prompt(w: World, i: int, r: int) -> None:
    """Hand the computed blocks of a prompt over to the prefix cache, pinned; what another request computed meanwhile is kept once."""
    start = w.ri[r, f.IDS_FROM]
    _share(w, i, r, start + w.ri[r, f.SHARED], start + shareable(w, i, r))


@inner
def share_output(w: World, i: int, r: int) -> None:
    """Hand over the blocks that an answer has filled, too, where the prompt that follows goes on from it and so gives them ids."""
    q, known = w.ri[r, f.FOLLOWER], w.ri[r, f.SHARED]
    if q < 0 or w.ni[f.CACHES_PREFIXES, i] == 0 or w.ri[r, f.OWNER] != r or known < shareable(w, i, r):
        return
    start, other = w.ri[r, f.IDS_FROM], w.ri[q, f.IDS_FROM]
    whole = min(shareable(w, i, q), (w.ri[r, f.PROMPT] + w.ri[r, f.LIMIT] - 1) // w.count[f.PREFIX_BLOCK])
    if whole <= known or w.ri[q, f.ASKED] != w.ri[r, f.ASKED]:
        return
    for k in range(known):
        if w.block[start + k] != w.block[other + k]:
            return
    w.ri[r, f.OWNER] = q
    _share(w, i, r, other + known, other + whole)


@inner
def _share(w: World, i: int, r: int, first: int, last: int) -> None:
    """Turn private blocks of a request into those of the prefix cache with these ids, pinned."""
    for k in range(first, last):
        w.ri[r, f.PRIVATE] -= w.ni[f.COST, i]
        w.ni[f.USED, i] -= w.ni[f.COST, i]
        if w.tier[i, w.block[k]] == HBM:
            _pin(w, i, k)
        else:
            _bring_in(w, i, k)
            if w.due.shape[0] > 0:
                w.due[i, w.block[k]] = 0.0
        w.ri[r, f.SHARED] += 1


@outer
def forget_prefixes(w: World, i: int) -> None:
    """Empty the prefix cache of an instance."""
    prefix.clear(caches(w), i)


@inner
def give_back(w: World, i: int, r: int, private: int) -> None:
    """Free everything that a request holds on an instance; its shared blocks stay cached."""
    w.ni[f.USED, i] -= private
    if w.ri[r, f.SHARED] > 0:
        start = w.ri[w.ri[r, f.OWNER], f.IDS_FROM]
        for k in range(start, start + w.ri[r, f.SHARED]):
            w.ni[f.PINNED, i] -= w.links[_PINS, i, w.block[k]] == 1
        prefix.unpin(caches(w), i, w.block, start, start + w.ri[r, f.SHARED])
    w.ri[r, f.PRIVATE], w.ri[r, f.SHARED] = 0, 0


@small
def _pin(w: World, i: int, k: int) -> None:
    w.ni[f.PINNED, i] += w.links[_PINS, i, w.block[k]] == 0
    prefix.pin(caches(w), i, w.block, k, k + 1)


@inner
def _bring_in(w: World, i: int, k: int) -> None:
    """Put one block into HBM, evicting others as private blocks require, and pin it."""
    w.sums[_CAPACITY, i, HBM] = (w.ni[f.BLOCKS, i] - w.ni[f.USED, i]) // w.ni[f.COST, i]
    prefix.insert(caches(w), i, w.block, k, k + 1)
    _pin(w, i, k)
