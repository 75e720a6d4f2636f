"""Rows of the matrices of :class:`plenum.sim.serving.world.World`, and the codes that stand in them."""

from __future__ import annotations

FUTURE, WAITING, PENDING, LOADING, PREFILLING, DECODING, CROSSING, HELD, DONE, REFUSED = range(10)
"""Where a request is: not there yet; in a queue; about to be routed; its prefix or its cache on the way; in a batch; over, its cache
kept; over."""

NEW, PULLED, SWAPPED = range(3)
"""What a waiting request needs: a prefill; its cache from the instance that prefilled it; its cache from host memory."""

(
    STATE,
    AT,  # instance; -1: none
    SOURCE,  # instance that prefilled and still keeps the cache; -1: none
    NEEDS,  # NEW, PULLED or SWAPPED
    LIMIT,  # tokens to put out
    GENERATED,  # put out before it last joined a decode batch
    TARGET,  # tokens that its cache has to hold before it decodes
    FILLED,  # of those, tokens that it holds
    CACHED,  # found when first let in
    PREEMPTED,
    PRIVATE,  # KV blocks of its own, as of when it joined
    SHARED,  # blocks of the prefix cache that it pins
    OWNER,  # the request whose ids those have
    HERE,  # KV blocks reserved where it goes while its cache still is at SOURCE
    JOINED,  # the instance's step count when it joined
    UNTIL,  # and when it will be over
    GROWN,  # and when its context fills the window; a large number: it does already
    CROSSED,  # and when it next needs a block; -1: it has all it needs
    CHUNK,  # tokens that the present iteration prefills
    NEXT,  # behind it in its queue; -1: none
    COUNTED,  # tokens that it adds to its instance's backlog
    REASON,
    EPOCH,  # of its events: an older one no longer holds
    PUT_OFF,  # how often it was deferred
    PROMPT,  # from here on as it was asked: tokens
    RANK,  # 0 is the lowest class of priority, and so on without gaps
    ASKED,  # model
    SESSION,
    AFTER,  # the request that it follows; -1: none
    KEEPS,  # its cache is kept for the one that follows
    FOLLOWER,  # the first request after it, and
    SIBLING,  # the next one after the same; -1: none
    IDS_FROM,  # where the ids of its blocks begin
    IDS,  # and how many they are
    COPIED_FROM,  # instance whose cached prefix is copied when it is let in; -1: none
    FOUND_HERE,  # tokens of prefix that needed no copy when it was let in
    VERDICT,  # of admission, the last one
    WHY,  # and its reason
    REQUEST_INTS,
) = range(39)

READY, STARTED_AT, FIRST, LAST, FINISHED, CROSSING_S, ARRIVAL, PAUSE, REQUEST_FLOATS = range(9)
"""Seconds: arrived, work began, first and latest token, done; how long its cache took to cross; and as asked: arrival, pause."""

NO_REASON, TOO_LONG, QUEUE_FULL, NOT_ADMITTED, LOST, NO_INSTANCE, PREDECESSOR = range(7)

REASONS = (
    "",
    "request.too_long",
    "queue.full",
    "admission.refused",
    "instance.lost",
    "instance.none",
    "predecessor.refused",
)
"""Why a request was refused, by its number."""

OFF, STARTING, UP, DRAINING, DOWN = range(5)
"""Conditions of an instance."""

BOTH, PREFILL, DECODE = range(3)
"""Roles of an instance."""

HERE_QUEUE, AWAY_QUEUE, DECODE_QUEUE, QUEUES = range(4)
"""What those who wait for any instance of a model wait for: a prefill, where sites differ at one that decodes; a prefill at one that
does not; a decode."""

(
    CONDITION,
    POOL,
    MODEL,
    ROLE,
    SITE,
    REMOTE,  # prefills at a site that does not decode, and sites make a difference
    MOST,  # sequences in a batch
    BUDGET,  # tokens of an iteration
    MIXED,  # prefill shares iterations with decode
    CACHES_PREFIXES,
    BLOCKS,  # KV blocks
    BLOCK,  # tokens of one
    PERIOD,  # steps between two blocks of a decoding sequence
    COST,  # KV blocks of one block of the prefix cache
    USED,  # KV blocks of requests
    PINNED,  # blocks of the prefix cache that requests hold
    PREFILLS,  # sequences that prefill
    DECODES,  # sequences that decode
    RESERVED,  # places for sequences on their way
    RUNNING,  # the three together
    QUEUED,
    BACKLOG,  # prompt tokens still to compute
    HOLDS,  # requests that are over and keep their cache
    STEPS,  # decode iterations so far
    GRANTED,  # the step up to which decoding sequences have their blocks
    CHANGE,  # the step at which a sequence ends or fills its window
    GROWING,  # sequences whose context is within the window
    FRESH,  # sequences that joined since the last decode iteration
    TRY,  # somebody waits and might be let in
    QUIET,  # nothing but decode until CHANGE
    NOW_PREFILL,  # tokens that the present iteration prefills
    NOW_DECODE,  # sequences that it decodes
    PREFILL_TOKENS,
    DECODE_TOKENS,
    PEAK,  # most KV blocks that requests held
    ITERATIONS,
    BIN,
    HITS,  # scratch: tokens of a prompt that are cached
    CALLED,  # to look at what has changed
    CALLS,  # the list of those called; its length is a count
    INSTANCE_INTS,
) = range(41)

(
    END,  # of the present iteration; infinite: idle
    TAKES,  # seconds of it
    COSTS,  # joules of it
    STALL,  # seconds of swapping that the next one starts with
    CONTEXT,  # sum of the contexts that decode
    CONTEXT_WINDOW,
    ADVANCE,  # tokens that a sequence gains in a step
    BUSY_PREFILL,
    BUSY_DECODE,
    ENERGY,
    OCCUPIED,  # integral of KV blocks over time
    COUNTED_TO,  # until when
    LAST_DECODE,
    BIN_FROM,
    BIN_TO,
    ITL_SUM,
    LINK_IN,  # until when each way of its link is taken
    LINK_OUT,
    HOST_LINK,
    HOST_BPS,
    BYTES,  # of cache for a token
    BYTES_WINDOW,  # for a token within the window
    BYTES_STATE,  # for a sequence
    ON_SINCE,
    ON_S,
    PREDICTED,  # scratch: seconds to the first token
    FETCHED,  # scratch: the same, with the longest prefix copied there first
    FULL,  # scratch: part of KV blocks that requests hold
    WARM_AT,  # when its latest cold start is over
    ENDED,  # when its latest iteration ended
    INSTANCE_FLOATS,
) = range(31)

(
    ARRIVED,
    IN_SYSTEM,
    OVER,
    TURN,  # routing decisions so far
    DECODE_TURN,
    WORK,  # iterations and events so far
    STATUS,
    EVENTS,  # in the heap
    PUSHED,  # events so far
    CALLED_NOW,  # instances called
    PREFIX_BLOCK,  # tokens of a block of the prefix cache
    ANSWERED,
    ANSWERED_TOKENS,
    CLASSES,
    MODELS,
    COUNTS,
) = range(16)
"""Counts of the whole run."""

(
    NOW,
    AREA,  # integral of requests in the system over time
    ROUTING,  # from here on the policies, as numbers
    DECODE_ROUTING,
    CENTRAL,
    RESERVE,
    SWAP,
    PREEMPT,
    MOST_QUEUED,
    RESTART,
    REMOTE_ABOVE,
    REMOTE_BACKLOG,
    REMOTE_COPIES,
    OVERLAP,
    LATENCY,
    NVME_BPS,
    LINK_BPS,
    SITE_BPS,
    ADMIT,
    ADMIT_TTFT,
    ADMIT_TPOT,
    ADMIT_PRESSURE,
    ADMIT_CLASS,
    ADMIT_WINDOW,
    ADMIT_CAP,
    ADMIT_DEFERRABLE,
    ADMIT_DEFER,
    ADMIT_DEFER_MOST,
    ADMIT_MARGIN,
    SITE_LINKS,  # SITES x SITES: until when the link from one site to another is taken
) = range(30)
"""Clocks and policies of the whole run. After them come, for each model, the pressure of each class; when these were last brought up to
date; and the model that may answer in its place (-1: none)."""

SITES = 32
"""Sites at most."""

SETTINGS = SITE_LINKS + SITES * SITES

HEAD, TAIL = range(2)
"""Ends of a queue."""

IN_DECODE, IN_PREFILL = range(2)
"""Halves of a batch."""

RAN, ALL_OVER, TICKED, OUT_OF_EVENTS, BACKWARDS = range(5)
"""Why the loop stopped."""

BINS, BIN_LEAST_S, BINS_PER_E = 1024, 1e-5, 50.0
"""Histogram of gaps between tokens: from 10 µs on, 50 bins for each factor e (2 % wide), up to two hours."""

NEVER = 1 << 60
