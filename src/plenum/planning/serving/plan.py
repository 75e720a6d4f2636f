"""``plan_serving``: from a question to a plan (hardware, parallelism, batching, pools), or to the limit that forbids one.

Way in: :func:`plan_serving`. The search is analytic; the caller's simulator confirms the finalists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plenum.planning.serving.confirm import (
    Confirmed,
    Replay,
    Verify,
    confirm_most,
    confirm_rate,
    finalists_of,
    replays_of,
)
from plenum.planning.serving.layout import Layout, limited
from plenum.planning.serving.limits import Limit, context_limit, fit_limit, promise_limit, size_limit
from plenum.planning.serving.margins import Break, Driver, bottleneck, capacity_interval, drivers_of, first_break
from plenum.planning.serving.options import Option, Predictor, options_of
from plenum.planning.serving.points import Interval, Point, frontier_of, point_of, points_of
from plenum.planning.serving.question import Question
from plenum.planning.serving.reasons import Step, reasons_of, steps_of
from plenum.planning.serving.search import Candidate, Search, search
from plenum.planning.serving.words import figure
from plenum.planning.surroundings import Demand, Served, Surroundings, surroundings
from plenum.serving.queueing import BUSY


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServingPlan:
    """A plan.

    Parameters
    ----------
    question
        What was asked.
    recommended
        What to run, with its engines' limits, and what it does at the planned rate.
    capacity_rps
        Requests a second that it bears: if the prediction errs to the bad side, as planned, and if to the good side.
    alternatives
        Other layouts, best first, as planned analytically.
    frontier
        Points that keep the promises and that no other beats (see :func:`~plenum.planning.serving.points.frontier_of`).
    points
        All that were looked at, for plots.
    reasons
        Why this one, in sentences.
    breaks
        What breaks first as traffic grows.
    drivers
        What each change would give, most first.
    replays
        The planned traffic simulated at 1x and 1.3x; empty where no simulator was given.
    trials
        Every simulated run on the way there.
    steps
        The four steps of a plan: measure, model, verify, correct.
    around
        What the recommended layout needs besides its devices: cores, memory, drives, network, watts, racks.
    options, tried
        Ways to run one instance, and pools under loads that were computed.
    """

    question: Question
    recommended: Point
    capacity_rps: Interval
    alternatives: tuple[Point, ...]
    frontier: tuple[Point, ...]
    points: tuple[Point, ...]
    reasons: tuple[str, ...]
    breaks: Break
    drivers: tuple[Driver, ...]
    replays: tuple[Replay, ...]
    trials: tuple[Replay, ...]
    steps: tuple[Step, ...]
    around: Surroundings
    options: int
    tried: int

    @property
    def headroom(self) -> float:
        """Times the planned traffic that it bears before a promise breaks."""
        return self.capacity_rps.typical / self.recommended.rate_rps

    @property
    def verified(self) -> bool:
        """Whether a simulator kept every promise at the planned rate."""
        return any(replay.keeps and abs(replay.times - 1.0) < 1e-9 for replay in self.replays)


def plan_serving(question: Question, predict: Predictor, verify: Verify | None = None) -> ServingPlan | Limit:
    """Answer how to serve a model.

    Parameters
    ----------
    question
        Where ``traffic.rps`` is 0: the most requests a second on the stock; else the cheapest that serve the rate.
    predict
        Coefficients of instances, and how far they may be off.
    verify
        A simulator; None: the plan rests on the analytic model alone.

    Returns
    -------
    ServingPlan or Limit
        Where nothing will do, the limit that binds, with its numbers.

    Notes
    -----
    Every instance that holds the model is enumerated; pools, splits and loads are searched with :mod:`plenum.serving.queueing`
    (milliseconds), then at most :data:`~plenum.planning.serving.confirm.MAX_FINALISTS` layouts are simulated.
    """
    if limit := context_limit(question):
        return limit
    options = [option for stock in question.stocks for option in options_of(question, stock, predict)]
    if not options:
        return fit_limit(question, predict)
    if limit := promise_limit(question, options):
        return limit
    state, candidates = search(question, options)
    if not candidates:
        return size_limit(question, options, predict)
    chosen, confirmed = _chosen(state, candidates, verify)
    if chosen is None:
        return _unconfirmed(question, candidates[0])
    return _plan(state, options, candidates, chosen, confirmed, predict, verify)


def _chosen(
    state: Search, candidates: Sequence[Candidate], verify: Verify | None
) -> tuple[Confirmed | None, list[Confirmed]]:
    """Return the layout to recommend, and all that were simulated with success."""
    if verify is None:
        first = candidates[0]
        return Confirmed(candidate=first, rate_rps=first.rate, replays=()), []
    finalists = finalists_of(candidates)
    confirm = confirm_rate if state.question.traffic.rps > 0 else confirm_most
    confirmed = confirm(state, finalists, verify)
    return (confirmed[0] if confirmed and confirmed[0].keeps else None), confirmed


def _unconfirmed(question: Question, candidate: Candidate) -> Limit:
    layout = candidate.layout
    size = f"{layout.devices} device{'s' * (layout.devices > 1)}"
    return Limit(
        code="serving.unconfirmed",
        sentence=(
            f"The nearest layout ({size}) bears {figure(candidate.capacity_rps)} requests a second analytically, "
            "but kept its promises in no simulated run within the stock and the budget."
        ),
        asked=question.traffic.rps,
        bound=candidate.capacity_rps,
        unit="requests/s",
        helps=(
            "Add devices, or relax the promises.",
            "Traffic in bursts needs more room than its mean rate says: look at the trace.",
        ),
    )


def _plan(
    state: Search,
    options: Sequence[Option],
    candidates: Sequence[Candidate],
    chosen: Confirmed,
    confirmed: Sequence[Confirmed],
    predict: Predictor,
    verify: Verify | None,
) -> ServingPlan:
    question, layout, rate = state.question, chosen.candidate.layout, chosen.rate_rps
    capped = question.traffic.rps <= 0
    figures = state.figures(layout, rate)
    final = limited(layout, figures)
    recommended = point_of(state, final, figures)
    scale = (
        rate / chosen.candidate.capacity_rps if capped else 1.0
    )  # what the simulator took off, it takes off both ends
    capacity = Interval(*(bound * scale for bound in capacity_interval(state, layout)))
    points = points_of(state, list(candidates))
    replays = replays_of(state, layout, rate, verify, chosen.replays) if verify else ()
    breaks = first_break(state, layout, rate, capacity.typical)
    failed = [c.candidate.layout for c in confirmed if not c.keeps]
    others = _others(state, candidates, [layout, *failed])
    return ServingPlan(
        question=question,
        recommended=recommended,
        capacity_rps=capacity,
        alternatives=others,
        frontier=tuple(frontier_of(points)),
        points=tuple(points),
        reasons=reasons_of(question, recommended, others, bottleneck(state, layout), confirmed),
        breaks=breaks,
        drivers=tuple(drivers_of(state, layout, options, predict, capped)),
        replays=replays,
        trials=tuple(replay for each in confirmed for replay in each.replays),
        steps=steps_of(question, recommended, replays),
        around=_around(state, final, rate, float(figures.total[BUSY])),
        options=len(options),
        tried=state.tried,
    )


def _around(state: Search, layout: Layout, rate: float, busy: float) -> Surroundings:
    """Size what stands around the devices of a layout."""
    served = [Served(instance=pool.option.instance, count=pool.count) for pool in layout.pools]
    demand = Demand(
        rate_rps=rate,
        prompt_tokens_s=rate * state.question.traffic.prompt_tokens,
        output_tokens_s=rate * state.question.traffic.output_tokens,
        busy=min(busy, 1.0),
    )
    return surroundings(served, demand)


MAX_ALTERNATIVES = 5


def _others(state: Search, candidates: Sequence[Candidate], known: Sequence[Layout]) -> tuple[Point, ...]:
    others = [c for c in candidates if not any(c.layout is layout for layout in known)][:MAX_ALTERNATIVES]
    return tuple(point_of(state, limited(c.layout, c.figures), c.figures) for c in others)
