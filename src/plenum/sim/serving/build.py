"""Requests, pools and policies as the arrays that the loops work on; what cannot be meant is refused here."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.serving import prefix
from plenum.serving.formats import FORMATS
from plenum.serving.instance import Instance, cache_capacity_tokens
from plenum.serving.pools import Pool, Serving
from plenum.serving.routing import policy_named
from plenum.serving.steps import FIELDS
from plenum.serving.workload import Requests
from plenum.sim.serving import fields as f
from plenum.sim.serving.events import FAILED, RECOVERED, TICK, new_tournament, push
from plenum.sim.serving.policies import Admission, Policies
from plenum.sim.serving.world import World

MAX_REQUESTS = 20_000_000
"""Of one run: about 8 GB of state."""

MAX_INSTANCES = 10_000

MAX_CELLS = 200_000_000
"""Instances times sequences of a batch, or times steps of a block."""

MAX_S = 1e9
"""Seconds of any one time of a policy: thirty years."""

MAX_CLASSES = 64
"""Different priorities."""

_LEAST = np.array([-1.0 if name.startswith("decode_more") else 0.0 for name in FIELDS])
"""Of each coefficient: what a correction of decode takes off under load may be all of it, and no time is negative."""

_LIMITS = (
    ("policies.max_queue", -1.0, math.inf),
    ("policies.remote_above_tokens", -1.0, math.inf),
    ("policies.remote_backlog_s", 0.0, math.inf),
    ("policies.transfer_latency_s", 0.0, MAX_S),
    ("policies.nvme_bps", 1.0, math.inf),
    ("admission.ttft_s", 0.0, math.inf),
    ("admission.tpot_s", 0.0, math.inf),
    ("admission.pressure_limit", 1e-6, math.inf),
    ("admission.class_step", 0.0, math.inf),
    ("admission.window_s", 1e-6, math.inf),
    ("admission.output_cap", 0.0, math.inf),
    ("admission.defer_s", 1e-6, MAX_S),
    ("admission.defer_most", 0.0, math.inf),
    ("admission.margin", 1.0, math.inf),
    ("scaling.every_s", 1e-3, MAX_S),
    ("scaling.rate_window_s", 1e-3, MAX_S),
    ("scaling.drain_s", 1e-3, MAX_S),
    ("scaling.cold_start_s", 0.0, MAX_S),
    ("scaling.initial", 0.0, math.inf),
    ("scaling.budget_devices", 0.0, math.inf),
    ("scaling.target_running", 1e-6, math.inf),
    ("scaling.target_cache_used", 1e-6, 1.0),
)
"""The least and the most that numbers of policies may be."""

_ROLES = {"both": f.BOTH, "prefill": f.PREFILL, "decode": f.DECODE}


def world_of(requests: Requests, serving: Serving, policies: Policies, seed: int) -> World:
    """Make the state of a run at time 0.

    Raises
    ------
    FieldError
        A set-up that cannot be meant.
    """
    pools = serving.pools
    each = [pool for pool in pools for _ in range(pool.count)]
    if not each:
        raise FieldError("pools", "there is no instance; give at least one pool a count of 1 or more")
    if len(each) > MAX_INSTANCES:
        raise FieldError("pools", f"{len(each):,} instances are too many; at most {MAX_INSTANCES:,}")
    if len(requests) > MAX_REQUESTS:
        raise FieldError("requests", f"{len(requests):,} requests are too many for one run; at most {MAX_REQUESTS:,}")
    _check_policies(policies)
    ri, rf, models = _requests(requests, each)
    ni, nf = _instances(pools, each, requests, policies)
    classes = int(ri[:, f.RANK].max(initial=0)) + 1
    most, period = int(ni[f.MOST].max()), int(ni[f.PERIOD].max())
    if len(each) * max(most, period) > MAX_CELLS:
        raise FieldError("max_sequences", f"{len(each):,} instances with batches of {most:,} take too much memory")
    first = np.flatnonzero(ri[:, f.AFTER] < 0)
    block = np.ascontiguousarray(requests.block_id, np.int64)
    ids = int(block.max(initial=-1)) + 1 if ni[f.CACHES_PREFIXES].any() else 0
    tiers = [np.array([getattr(p, name) for p in each], np.int64) // requests.block_tokens for name in _TIERS]
    caches = prefix.caches(ids, ni[f.BLOCKS] // ni[f.COST], *tiers)
    world = World(
        ri=ri,
        rf=rf,
        ni=ni,
        nf=nf,
        steps=np.stack([_coefficients(pool) for pool in each]),
        batch=np.zeros((2, len(each), most), np.int64),
        tally=np.zeros((len(each), f.BINS + period), np.int64),
        queue=np.full((2, len(each) + f.QUEUES * models, classes), -1, np.int64),
        keys=new_tournament(len(each)),
        heap=np.zeros((2 * len(requests) + 8 * len(each) + len(policies.failures) + 1024, 5)),
        order=first[np.argsort(requests.arrival_s[first], kind="stable")].astype(np.int64),
        block=block,
        tier=caches.tier,
        links=np.stack((caches.newer, caches.older, caches.pins)),
        ends=np.stack((caches.newest, caches.oldest)),
        sums=np.stack((caches.used, caches.capacity, caches.demoted)),
        due=_due(policies, each, ids),
        eligible=np.zeros(len(each), np.bool_),
        count=np.zeros(f.COUNTS, np.int64),
        clock=_settings(serving, policies, requests, models),
    )
    world.count[f.PREFIX_BLOCK] = requests.block_tokens
    world.count[f.CLASSES], world.count[f.MODELS] = classes, models
    _schedule(world, policies, len(each))
    if policies.routing == "random":
        world.count[f.TURN] = int(np.random.default_rng(seed).integers(1 << 40))
    if policies.decode_routing == "random":
        world.count[f.DECODE_TURN] = int(np.random.default_rng(seed + 1).integers(1 << 40))
    return world


_TIERS = ("dram_tokens", "nvme_tokens")


def _due(policies: Policies, each: list[Pool], ids: int) -> NDArray[np.float64]:
    """Return room for the times at which blocks will be there, where any can be on its way."""
    tiers = any(getattr(pool, name) for pool in each for name in _TIERS)
    moves = tiers or policies.remote_copies or policies.routing == "mooncake"
    return np.zeros((len(each), ids) if moves and ids else (0, 0))


def _requests(requests: Requests, each: list[Pool]) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return the rows of requests, and how many models there are."""
    _check(requests)
    count = len(requests)
    classes, rank = np.unique(requests.priority, return_inverse=True)
    if len(classes) > MAX_CLASSES:
        raise FieldError("requests.priority", f"at most {MAX_CLASSES} different priorities are told apart")
    ri, rf = np.zeros((count, f.REQUEST_INTS), np.int64), np.full((count, f.REQUEST_FLOATS), np.nan)
    for field in (f.AT, f.SOURCE, f.NEXT, f.CROSSED, f.FOLLOWER, f.SIBLING, f.COPIED_FROM, f.VERDICT, f.WHY):
        ri[:, field] = -1
    ri[:, f.OWNER] = np.arange(count)
    ri[:, f.LIMIT] = requests.output_tokens
    ri[:, f.PROMPT] = ri[:, f.TARGET] = requests.prompt_tokens
    ri[:, f.RANK] = rank.reshape(count)
    ri[:, f.ASKED], ri[:, f.SESSION] = requests.model, requests.session
    ri[:, f.AFTER], ri[:, f.KEEPS] = requests.after, requests.hold
    ri[:, f.IDS_FROM], ri[:, f.IDS] = requests.block_offset[:-1], np.diff(requests.block_offset)
    rf[:, f.ARRIVAL], rf[:, f.PAUSE], rf[:, f.CROSSING_S] = requests.arrival_s, requests.pause_s, 0.0
    for r in np.flatnonzero(requests.after >= 0)[::-1].tolist():
        before = int(requests.after[r])
        ri[r, f.SIBLING] = ri[before, f.FOLLOWER]
        ri[before, f.FOLLOWER] = r
    return ri, rf, _checked_models(requests, each)


def _check(requests: Requests) -> None:
    count, offset = len(requests), requests.block_offset
    for name in ("arrival_s", "pause_s"):
        values = getattr(requests, name)
        if not np.isfinite(values).all() or (values < 0).any():
            raise FieldError(f"requests.{name}", "times must be finite and not negative")
    for name in ("prompt_tokens", "output_tokens"):
        if (getattr(requests, name) < 1).any():
            raise FieldError(f"requests.{name}", "every request has at least 1 token of prompt and 1 of output")
    if ((requests.after >= np.arange(count)) | (requests.after < -1)).any():
        raise FieldError("requests.after", "a request can only follow one that stands before it, or -1: none")
    if len(offset) != count + 1 or (np.diff(offset) < 0).any() or offset[0] != 0 or offset[-1] > len(requests.block_id):
        raise FieldError("requests.block_offset", "must rise from 0, one entry more than there are requests")
    if (requests.block_id < 0).any() or requests.block_tokens < 1:
        raise FieldError("requests.block_id", "ids are 0 or more, and blocks have at least 1 token")


def _checked_models(requests: Requests, each: list[Pool]) -> int:
    """Return how many models there are; each one that is asked for is prefilled and decoded somewhere."""
    roles: dict[int, set[str]] = {}
    for pool in each:
        roles.setdefault(pool.model, set()).add(pool.role)
    for model in np.unique(requests.model).tolist():
        if model not in roles:
            raise FieldError("requests.model", f"no pool serves model {model}; pools serve {sorted(roles)}")
        if roles[model] == {"prefill"}:
            raise FieldError("pools", f"model {model} is only prefilled: add a decode pool, or one of role both")
        if roles[model] == {"decode"}:
            raise FieldError("pools", f"model {model} is only decoded: add a prefill pool, or one of role both")
    if min(roles) < 0:
        raise FieldError("pools.model", "models are counted from 0")
    return max(roles) + 1


def _instances(
    pools: tuple[Pool, ...], each: list[Pool], requests: Requests, policies: Policies
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    ni = np.zeros((f.INSTANCE_INTS, len(each)), np.int64)
    nf = np.zeros((f.INSTANCE_FLOATS, len(each)))
    sites = sorted({pool.site for pool in pools})
    if len(sites) > f.SITES:
        raise FieldError("pools.site", f"{len(sites)} sites are too many; at most {f.SITES}")
    decoding = {(pool.model, pool.site) for pool in pools if pool.role != "prefill"}
    start = 0
    for number, pool in enumerate(pools):
        rows = slice(start, start + pool.count)
        start += pool.count
        _fill_pool(ni[:, rows], nf[:, rows], pool, requests)
        ni[f.POOL, rows] = number
        ni[f.SITE, rows] = sites.index(pool.site)
        away = pool.role == "prefill" and (pool.model, pool.site) not in decoding
        ni[f.REMOTE, rows] = away and policies.remote_above_tokens >= 0
        up = policies.scaling.initial if policies.scaling and policies.scaling.initial else pool.count
        ni[f.CONDITION, rows] = np.where(np.arange(pool.count) < up, f.UP, f.OFF)
    ni[f.CHANGE] = f.NEVER
    nf[f.END], nf[f.ENDED] = math.inf, -math.inf
    return ni, nf


def _context(requests: Requests) -> float:
    """Tokens that a request's cache holds on average while it decodes."""
    return float(requests.prompt_tokens.mean() + 0.5 * requests.output_tokens.mean()) if len(requests) else 1.0


def _fill_pool(ni: NDArray[np.int64], nf: NDArray[np.float64], pool: Pool, requests: Requests) -> None:
    settings, instance = pool.instance.settings, pool.instance
    tokens = pool.cache_tokens if pool.cache_tokens >= 0 else cache_capacity_tokens(instance, _context(requests))
    block, shared = settings.block_tokens, requests.block_tokens
    for name in ("max_sequences", "max_batched_tokens", "block_tokens"):
        if getattr(settings, name) < 1:
            raise FieldError(f"settings.{name}", "must be 1 or more")
    if tokens < block:
        raise FieldError("pools", f"{instance.model.name} leaves no room for a KV cache on {instance.hardware.name}")
    caches = settings.prefix_caching and pool.role != "decode" and len(requests.block_id) > 0
    if caches and shared % block:
        sentence = f"prefix blocks of {shared} tokens are not whole KV blocks of {block}; set block_tokens to a divisor"
        raise FieldError("settings.block_tokens", sentence)
    drafted, chance = settings.speculative_tokens, settings.acceptance
    advance = float(sum(chance**k for k in range(drafted + 1)))
    if block < advance:
        sentence = f"blocks of {block} tokens hold less than the {advance:.3g} of one step with drafts; set {math.ceil(advance)} or more"
        raise FieldError("settings.block_tokens", sentence)
    groups = max(instance.parallelism.dp, 1)
    ni[f.MODEL], ni[f.ROLE] = pool.model, _ROLES[pool.role]
    ni[f.MOST], ni[f.BUDGET] = settings.max_sequences, settings.max_batched_tokens * groups
    ni[f.MIXED], ni[f.CACHES_PREFIXES] = settings.chunked_prefill, caches
    ni[f.BLOCKS], ni[f.BLOCK] = tokens // block, block
    ni[f.PERIOD] = max(1, math.floor(block / advance))
    ni[f.COST] = max(1, shared // block)
    nf[f.ADVANCE] = advance
    nf[f.HOST_BPS] = instance.hardware.host_bps * instance.devices
    nf[f.BYTES], nf[f.BYTES_WINDOW], nf[f.BYTES_STATE] = _cache_bytes(instance)


def _cache_bytes(instance: Instance) -> tuple[float, float, float]:
    """Return the bytes of cache for a token, for a token within the window, and for a sequence."""
    width = FORMATS[instance.precision.kv_cache].bytes
    token, window, state = 0.0, 0.0, 0.0
    for block in instance.model.blocks:
        values = block.count * block.attention.cache_values() * width
        token += 0.0 if block.attention.window else values
        window += values if block.attention.window else 0.0
        state += block.count * block.attention.state_values() * width
    return token, window, state


def _coefficients(pool: Pool) -> NDArray[np.float64]:
    c = pool.steps.coefficients
    if c.shape != (len(FIELDS),) or not np.isfinite(c).all() or (c < _LEAST).any():
        raise FieldError("pools.steps", f"step coefficients must be {len(FIELDS)} finite numbers, no time negative")
    return np.ascontiguousarray(c, np.float64)


def _check_policies(policies: Policies) -> None:
    parts = {"policies": policies, "admission": policies.admission, "scaling": policies.scaling}
    for name, least, most in _LIMITS:
        part, _, field = name.partition(".")
        value = getattr(parts[part], field) if parts[part] else least
        if not least <= value <= most:
            span = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
            raise FieldError(name, f"must be {span}, not {value:g}")
    if any(not 0 <= failure.at_s <= MAX_S for failure in policies.failures):
        raise FieldError("policies.failures", f"times must be from 0 to {MAX_S:g} seconds")


def _schedule(world: World, policies: Policies, instances: int) -> None:
    if any(a.at_s > b.at_s for a, b in pairwise(policies.failures)):
        raise FieldError("policies.failures", "failures must be ordered by time")
    for failure in policies.failures:
        if not 0 <= failure.instance < instances:
            raise FieldError("policies.failures", f"there is no instance {failure.instance}; there are {instances}")
        push(world, float(failure.at_s), RECOVERED if failure.up else FAILED, failure.instance, 0)
    if policies.scaling:
        push(world, float(policies.scaling.every_s), TICK, 0, 0)


def _settings(serving: Serving, policies: Policies, requests: Requests, models: int) -> NDArray[np.float64]:
    admission = policies.admission or Admission()
    classes = np.unique(requests.priority)
    option = np.concatenate(
        [np.zeros(f.SETTINGS + models * max(len(classes), 1) + models), _cheaper(serving, admission, models)]
    )
    for name in ("transfer_bps", "site_bps"):
        if not getattr(serving, name) > 0:
            raise FieldError(f"serving.{name}", "must be more than 0 bytes a second")
    if policies.preemption not in ("recompute", "swap"):
        raise FieldError("policies.preemption", f"must be recompute or swap, not {policies.preemption!r}")
    if not 0 <= policies.transfer_overlap <= 1:
        raise FieldError("policies.transfer_overlap", f"must be a part from 0 to 1, not {policies.transfer_overlap:g}")
    option[f.ROUTING] = policy_named(policies.routing)
    option[f.DECODE_ROUTING] = policy_named(policies.decode_routing)
    option[f.CENTRAL], option[f.RESERVE] = policies.central_queue, policies.reserve_output
    option[f.SWAP], option[f.PREEMPT] = policies.preemption == "swap", policies.preempt_lower
    option[f.MOST_QUEUED], option[f.RESTART] = policies.max_queue, policies.restart
    option[f.REMOTE_ABOVE], option[f.REMOTE_BACKLOG] = policies.remote_above_tokens, policies.remote_backlog_s
    option[f.REMOTE_COPIES] = policies.remote_copies
    option[f.OVERLAP], option[f.LATENCY] = policies.transfer_overlap, policies.transfer_latency_s
    option[f.NVME_BPS], option[f.LINK_BPS], option[f.SITE_BPS] = (
        policies.nvme_bps,
        serving.transfer_bps,
        serving.site_bps,
    )
    option[f.ADMIT] = policies.admission is not None
    option[f.ADMIT_TTFT], option[f.ADMIT_TPOT] = admission.ttft_s, admission.tpot_s
    option[f.ADMIT_PRESSURE], option[f.ADMIT_CLASS] = admission.pressure_limit, admission.class_step
    option[f.ADMIT_WINDOW], option[f.ADMIT_CAP] = admission.window_s, admission.output_cap
    option[f.ADMIT_DEFERRABLE] = np.searchsorted(classes, admission.deferrable_below)
    option[f.ADMIT_DEFER], option[f.ADMIT_DEFER_MOST] = admission.defer_s, admission.defer_most
    option[f.ADMIT_MARGIN] = admission.margin
    return option


def _cheaper(serving: Serving, admission: Admission, models: int) -> NDArray[np.float64]:
    """Return the model that may answer in place of each; -1: none."""
    served = {pool.model for pool in serving.pools if pool.count and pool.role != "decode"}
    found = np.full(models, -1.0)
    for model, other in enumerate(admission.cheaper[:models]):
        if other >= 0 and (other == model or other not in served):
            raise FieldError(
                "admission.cheaper", f"model {other} cannot answer for {model}; pools serve {sorted(served)}"
            )
        found[model] = other
    return found
