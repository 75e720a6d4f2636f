"""Whether a request is served, and how: the ladder from serving it as asked to refusing it, each step with its reason.

Way in: :func:`decide`, with what :mod:`plenum.serving.predict` expects of the request, and :func:`pressure_after`, which measures load
by what arrives, so that saturation is seen before completions slow down.
"""

from __future__ import annotations

import math

from plenum.graph.compiled import entry

ADMIT, CAP, CHEAPER, DEFER, SHED = range(5)
"""Steps of the ladder: as asked; with fewer output tokens; by a cheaper model; later; not at all."""

VERDICTS = ("admit", "cap", "cheaper", "defer", "shed")
"""Names of the steps."""

KEEPS, LIKELY, CAPPED, CHEAPER_KEEPS, YIELDS, LATE, TTFT_MISSED, TPOT_MISSED, SATURATED, CHEAPER_FREE = range(10)

REASONS = (
    ("admission.keeps", "the promise is kept even at the upper end of what is predicted"),
    ("admission.likely", "the promise is expected to be kept, though not with certainty"),
    ("admission.capped", "the output is cut short: more work arrives than can be done"),
    ("admission.cheaper", "the cheaper model keeps the promise that this one would miss"),
    ("admission.yields", "it waits: work of a higher class arrives faster than both can be served"),
    ("admission.late", "it waits: its promise would be missed now and may be kept later"),
    ("admission.ttft", "the first token would come later than promised"),
    ("admission.tpot", "its tokens would come more slowly than promised"),
    ("admission.saturated", "its class is refused: work of higher classes alone is more than can be done"),
    ("admission.free", "the cheaper model has room while higher classes take all of this one"),
)
"""Code and sentence of each reason."""

CAP_PRESSURE = 1.0
"""From this pressure on, outputs of requests that may miss their promise are cut: arrivals bring as much work as can be done."""


@entry
def decide(
    ttft_s: float,
    ttft_high_s: float,
    tpot_s: float,
    tpot_high_s: float,
    ttft_slo_s: float,
    tpot_slo_s: float,
    pressure: float,
    pressure_above: float,
    pressure_limit: float,
    output_tokens: int,
    output_cap: int,
    cheaper_ttft_s: float,
    cheaper_tpot_s: float,
    deferrable: bool,
) -> tuple[int, int]:
    """Decide on one request.

    Parameters
    ----------
    ttft_s, ttft_high_s, tpot_s, tpot_high_s
        Predicted for the instance that it would go to, queue included, and the upper ends of their intervals.
    ttft_slo_s, tpot_slo_s
        Promises of its class, less what it has waited already; infinity: nothing is promised.
    pressure, pressure_above, pressure_limit
        Work that arrives over what can be done (:func:`pressure_after`), of its own class and those above it; of those above it alone;
        and how much of it the class stands: lower classes have lower limits, so that they yield first.
    output_tokens, output_cap
        Tokens asked for at most; and what they may be cut to (0: not at all).
    cheaper_ttft_s, cheaper_tpot_s
        Predicted upper ends for the cheaper model that the tenant allows, the part that higher classes leave taken into account; infinity:
        there is none. It is offered wherever the model asked for would miss the promise, or yield its room to higher classes.
    deferrable
        It may wait: batch work.

    Returns
    -------
    tuple of int, int
        Verdict (:data:`VERDICTS`) and reason (:data:`REASONS`).

    Notes
    -----
    What arrives of a request's own class never has it refused: under an overload of any size as much is taken as the predictions say
    can be kept, so that goodput does not collapse. Batches are shared whatever the class, so a class fills them only as far as leaves the
    higher ones the part of the token time that their work will take.
    """
    there = cheaper_ttft_s < math.inf and cheaper_tpot_s < math.inf
    offered = there and cheaper_ttft_s <= ttft_slo_s and cheaper_tpot_s <= tpot_slo_s
    if pressure_above > pressure_limit or (deferrable and pressure > pressure_limit):
        if offered:
            return CHEAPER, CHEAPER_FREE
        return (DEFER, YIELDS) if deferrable else (SHED, SATURATED)
    if pressure_above > 0.0:
        tpot_slo_s *= 1.0 - pressure_above / pressure_limit
    if max(ttft_s, ttft_high_s) <= ttft_slo_s and max(tpot_s, tpot_high_s) <= tpot_slo_s:
        return ADMIT, KEEPS
    if ttft_s <= ttft_slo_s and tpot_s <= tpot_slo_s:
        if pressure >= CAP_PRESSURE and 0 < output_cap < output_tokens:
            return CAP, CAPPED
        return ADMIT, LIKELY
    if offered:
        return CHEAPER, CHEAPER_KEEPS
    if deferrable:
        return DEFER, LATE
    return SHED, TTFT_MISSED if ttft_s > ttft_slo_s else TPOT_MISSED


@entry
def pressure_after(pressure: float, elapsed_s: float, work_s: float, instances: float, window_s: float) -> float:
    """Return the pressure after one more arrival: instance-seconds of work that arrive in a second, over the instances that there are.

    Parameters
    ----------
    pressure, elapsed_s
        After the arrival before, and the time since; 0 and anything at first.
    work_s
        Instance-seconds that this request takes, as the performance model says.
    instances
        That are ready; none: infinite pressure.
    window_s
        Over about how long arrivals are averaged.

    Notes
    -----
    An exponentially weighted rate: on steady arrivals its mean is the offered load, whatever becomes of the requests.
    """
    if instances <= 0.0:
        return math.inf
    kept = pressure * math.exp(-elapsed_s / window_s) if math.isfinite(pressure) else 0.0
    return kept + work_s / (instances * window_s)


@entry
def retry_after_s(pressure: float, pressure_limit: float, backlog_s: float, window_s: float) -> float:
    """Return when to come back: once the backlog is worked off and, were nothing to arrive, the pressure is below its limit."""
    calm_s = window_s * math.log(pressure / pressure_limit) if pressure > pressure_limit > 0.0 else 0.0
    return max(1.0, backlog_s, min(calm_s, 10.0 * window_s))
