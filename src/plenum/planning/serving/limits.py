"""Why a question has no answer: the limit that binds, as a value with its numbers and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from plenum.planning.serving.layout import Layout, PoolChoice
from plenum.planning.serving.options import MAX_DEVICES, Option, Predictor, instances_of, options_of
from plenum.planning.serving.question import Question, Stock
from plenum.planning.serving.search import MAX_SERVERS, Search, search
from plenum.planning.serving.words import duration, figure
from plenum.serving.fit import model_bytes
from plenum.serving.floors import floor_tpot_s, floor_ttft_s
from plenum.serving.formats import FORMATS
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import (
    RUNTIME_FRACTION,
    WORKSPACE_BYTES,
    cache_capacity_tokens,
    weight_bytes_per_device,
)
from plenum.serving.queueing import TPOT_TAIL, TTFT_TAIL
from plenum.serving.roofline import computed_in

SMALLER = ("fp8", "int4")
"""Formats that are offered where a model does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Why nothing will do.

    Parameters
    ----------
    code
        Permanent: ``serving.context``, ``serving.format``, ``serving.memory``, ``serving.cache``, ``serving.ttft-floor``,
        ``serving.tpot-floor``, ``serving.ttft``, ``serving.tpot``, ``serving.e2e``, ``serving.together``, ``serving.stock``,
        ``serving.budget``, ``serving.apart``, ``serving.instances``. A ``-floor`` is physics: no engine on that hardware will ever do it.
    sentence
        For a person, with the numbers; complete on its own.
    asked, bound, unit
        What was asked for and the nearest that there is, in ``unit``.
    helps
        What would help, a sentence each.
    """

    code: str
    sentence: str
    asked: float
    bound: float
    unit: str
    helps: tuple[str, ...] = ()


def context_limit(question: Question) -> Limit | None:
    """Return the limit of a request longer than the model's context; None where all fit."""
    longest, model = question.traffic.longest_tokens, question.model
    if longest <= model.max_context:
        return None
    return Limit(
        code="serving.context",
        sentence=(
            f"The longest request takes {longest:,.0f} tokens, prompt and answer; {model.name} holds at most {model.max_context:,}."
        ),
        asked=longest,
        bound=float(model.max_context),
        unit="tokens",
        helps=(
            f"Cut prompts and answers to {model.max_context:,} tokens in all.",
            "Choose a model with a longer context; `plenum plan models` lists them.",
        ),
    )


def fit_limit(question: Question, predict: Predictor) -> Limit:
    """Return why no option holds the model: no arithmetic for its formats, no room for its weights, or none for a request."""
    able = [s for s in question.stocks if any(computed_in(s.hardware, FORMATS[name]) for name in question.weights)]
    if not able:
        return _format_limit(question)
    tried = [(stock, instance) for stock in able for instance in instances_of(question, stock)]
    stock, instance = min(tried, key=lambda pair: weight_bytes_per_device(pair[1]) / pair[1].hardware.hbm_bytes)
    usable = _usable(instance.hardware)
    needed = weight_bytes_per_device(instance)
    form, devices = instance.precision.weights, instance.devices
    whole = model_bytes(question.model, instance.precision)
    on = f"{_number(devices)} {instance.hardware.name}"
    each = "" if devices == 1 else "each "
    helps = tuple(_fitting(question, stock, predict))
    if needed >= usable:
        return Limit(
            code="serving.memory",
            sentence=(
                f"{question.model.name} in {form} takes {_gb(whole)} of weights; {on} {'has' if devices == 1 else 'have'} "
                f"{each}{_gb(instance.hardware.hbm_bytes)}, of which an engine can use {_gb(usable)}: "
                f"{_gb(needed)} would have to fit there."
            ),
            asked=needed,
            bound=usable,
            unit="bytes",
            helps=helps,
        )
    longest = question.traffic.longest_tokens
    room = max(cache_capacity_tokens(i, longest) // i.parallelism.dp for _, i in tried)
    return Limit(
        code="serving.cache",
        sentence=(
            f"Beside the weights of {question.model.name} in {form} ({_gb(whole)}), {on} keep KV cache for {max(room, 0):,} tokens; "
            f"the longest request needs {question.traffic.longest_tokens:,.0f}."
        ),
        asked=question.traffic.longest_tokens,
        bound=float(room),
        unit="tokens",
        helps=helps,
    )


def _format_limit(question: Question) -> Limit:
    names = ", ".join(dict.fromkeys(s.hardware.name for s in question.stocks))
    native = sorted({name for s in question.stocks for name in s.hardware.peak_flops})
    return Limit(
        code="serving.format",
        sentence=f"{names} cannot compute in {' or '.join(question.weights)}; what they compute in: {', '.join(native)}.",
        asked=float("nan"),
        bound=float("nan"),
        unit="",
        helps=(f"Choose --weights {native[0]}." if native else "Choose other hardware.",),
    )


def _fitting(question: Question, stock: Stock, predict: Predictor) -> Iterator[str]:
    """Yield what would make room: more devices, narrower formats, larger devices."""
    name = stock.hardware.name
    more = options_of(question, replace(stock, count=MAX_DEVICES), predict)
    if stock.count and more:
        least = min(more, key=lambda option: option.devices)
        yield f"{_number(least.devices)} {name} hold it in {least.instance.precision.weights} ({least.instance.parallelism})."
    for form in SMALLER:
        narrower = replace(question, weights=(form,))
        if form not in question.weights and (found := options_of(narrower, stock, predict)):
            least = min(found, key=lambda option: option.devices)
            loss = FORMATS[form].error
            yield f"In {form} it fits {_number(least.devices)} {name}" + (f" (loss: {loss})." if loss else ".")
            break
    if not more and not stock.count:
        yield "Choose hardware with more memory; `plenum plan hardware` lists it."


# -- promises ----------------------------------------------------------------------------------------------------------


def promise_limit(question: Question, options: Sequence[Option]) -> Limit | None:
    """Return the promise that not even a single request keeps; None where one alone keeps all."""
    slo, state = question.slo, Search(question=question, options=options)
    prompt, found = question.traffic.prompt_tokens, question.traffic.found_tokens
    floors = [(floor_ttft_s(o.instance, prompt, found), floor_tpot_s(o.instance, prompt), o) for o in options]
    prompt_floor = min(floors, key=lambda floor: floor[0])
    token_floor = min(floors, key=lambda floor: floor[1])
    if slo.ttft_s < prompt_floor[0]:
        return _ttft_floor(question, prompt_floor[0], prompt_floor[2])
    if slo.tpot_s < token_floor[1] and question.traffic.output_tokens > 1:
        return _tpot_floor(question, token_floor[1], token_floor[2])
    alone = [(state.figures(_alone(option), 1e-6), option) for option in options]
    ttft, by_ttft = min(((float(f.total[TTFT_TAIL]), o) for f, o in alone), key=lambda pair: pair[0])
    tpot, by_tpot = min(((float(f.total[TPOT_TAIL]), o) for f, o in alone), key=lambda pair: pair[0])
    if slo.ttft_s < ttft:
        return _unloaded(question, "ttft", "A time to first token", slo.ttft_s, ttft, by_ttft, prompt_floor[0])
    if slo.tpot_s < tpot:
        return _unloaded(question, "tpot", "A time per output token", slo.tpot_s, tpot, by_tpot, token_floor[1])
    answer = max(question.traffic.output_tail - 1.0, 0.0)
    if slo.e2e_s < ttft + answer * tpot:
        return _unloaded(question, "e2e", "An end-to-end time", slo.e2e_s, ttft + answer * tpot, by_tpot, 0.0)
    return None


def _alone(option: Option) -> Layout:
    chunk = option.instance.settings.max_batched_tokens * option.instance.parallelism.dp
    return Layout(pools=(PoolChoice(option=option, count=1, chunk=chunk),))


def _ttft_floor(question: Question, floor: float, option: Option) -> Limit:
    tokens = question.traffic.prompt_tokens - question.traffic.found_tokens
    return Limit(
        code="serving.ttft-floor",
        sentence=(
            f"A time to first token of {duration(question.slo.ttft_s)} is below the physical floor: computing {tokens:,.0f} prompt "
            f"tokens takes {duration(floor)} on {_number(option.devices)} {option.hardware.name} at the data sheet's peak, the widest "
            "instance there is to choose."
        ),
        asked=question.slo.ttft_s,
        bound=floor,
        unit="s",
        helps=(
            f"Allow more than {duration(floor)}; engines reach about half of the peak, and queues come on top.",
            "Shorten prompts, or keep their common prefix cached: only tokens that are not found need computing.",
            "Choose hardware with more FLOP/s or a larger scale-up domain.",
        ),
    )


def _tpot_floor(question: Question, floor: float, option: Option) -> Limit:
    form = option.instance.precision.weights
    return Limit(
        code="serving.tpot-floor",
        sentence=(
            f"A time per output token of {duration(question.slo.tpot_s)} is below the physical floor: reading what a token visits "
            f"(weights in {form}, its context) takes {duration(floor)} on {_number(option.devices)} {option.hardware.name} at "
            f"{option.hardware.hbm_bps / 1e12:.3g} TB/s each."
        ),
        asked=question.slo.tpot_s,
        bound=floor,
        unit="s",
        helps=(
            f"Allow more than {duration(floor)} per token.",
            "Hold weights in a narrower format, or choose hardware with more memory bandwidth.",
            "Draft tokens (speculative decoding): several tokens then share one reading of the weights.",
        ),
    )


def _unloaded(
    question: Question, code: str, words: str, asked: float, bound: float, option: Option, floor: float
) -> Limit:
    physics = f" The physical floor is {duration(floor)}." if floor > 0 else ""
    return Limit(
        code=f"serving.{code}",
        sentence=(
            f"{words} of {duration(asked)} is not reached even by one request alone: {question.engine} takes {duration(bound)} on "
            f"{_number(option.devices)} {option.hardware.name} ({option.instance.parallelism}, {option.instance.precision.weights}), "
            f"the fastest there is to choose.{physics}"
        ),
        asked=asked,
        bound=bound,
        unit="s",
        helps=(
            f"Allow at least {duration(bound)}.",
            "Choose faster hardware or narrower formats, or allow wider instances.",
            "Measure it: the prediction is no better than its calibration (`plenum plan calibrate`).",
        ),
    )


# -- stock, rate and budget ----------------------------------------------------------------------------------------------


def size_limit(question: Question, options: Sequence[Option], predict: Predictor) -> Limit:
    """Return why no candidate is left though each promise can be kept alone: together, within the stock, or within the budget."""
    if question.disaggregated and (limit := _apart_limit(question, options)):
        return limit
    free = replace(question, usd_per_hour=float("inf"))
    state, found = search(free, options)
    if found and question.usd_per_hour < float("inf"):
        alone = (
            () if question.traffic.rps or question.disaggregated else options
        )  # of a stock as it is, all would be taken
        one = [option.usd_per_hour for option in alone if state.capacity(_alone(option)) > 0]
        return _budget_limit(question, min(one, default=min(c.layout.usd_per_hour for c in found)))
    if not question.traffic.rps:
        return _together_limit(question, options)
    if not _bounded(question) and not question.disaggregated and (limit := _count_limit(state, options)):
        return limit
    most = (
        search(replace(question, traffic=replace(question.traffic, rps=0.0)), options)[1] if _bounded(question) else []
    )
    if not most:
        return _together_limit(question, options)
    best = max(c.capacity_rps for c in most)
    return Limit(
        code="serving.stock",
        sentence=(
            f"{_stocks(question)} serve at most {figure(best)} requests a second within these promises"
            + (f" and ${question.usd_per_hour:,.0f} an hour" if question.usd_per_hour < float("inf") else "")
            + f"; {figure(question.traffic.rps)} were asked for."
        ),
        asked=question.traffic.rps,
        bound=best,
        unit="requests/s",
        helps=tuple(_enough(question, predict)),
    )


def _apart_limit(question: Question, options: Sequence[Option]) -> Limit | None:
    """Return why there cannot be both kinds of instances at all; None where there can."""
    if question.traffic.output_tokens <= 1:
        return Limit(
            code="serving.apart",
            sentence="An answer of one token comes out of its prefill: nothing is left for instances that decode.",
            asked=question.traffic.output_tokens,
            bound=2.0,
            unit="tokens",
            helps=("Choose --mode together.",),
        )
    least = {
        s.hardware.name: min((o.devices for o in options if o.hardware is s.hardware), default=0)
        for s in question.stocks
    }
    room = sum((s.count or MAX_SERVERS) // least[s.hardware.name] for s in question.stocks if least[s.hardware.name])
    if room > 1:
        return None
    name, devices = next((name, devices) for name, devices in least.items() if devices)
    return Limit(
        code="serving.apart",
        sentence=f"Prefill and decode apart take two instances, each of {_number(devices)} {name} at least; there are {_stocks(question)}.",
        asked=2.0 * devices,
        bound=float(sum(s.count for s in question.stocks)),
        unit="devices",
        helps=("Choose --mode together, or offer more devices.",),
    )


def _count_limit(state: Search, options: Sequence[Option]) -> Limit | None:
    """Return the limit of the instances that are planned for; None where it is not what binds."""
    rps = state.question.traffic.rps
    most, best = max(
        ((state.rate_of(o, "both", state.best_chunk(o, "both", 1), 1), o) for o in options), key=lambda pair: pair[0]
    )
    if not 0 < most * MAX_SERVERS < rps:
        return None
    return Limit(
        code="serving.instances",
        sentence=(
            f"At most {MAX_SERVERS:,} instances are planned for at once; so many of {_number(best.devices)} {best.hardware.name} each bear "
            f"about {figure(most * MAX_SERVERS)} requests a second, and {figure(rps)} were asked for."
        ),
        asked=rps,
        bound=most * MAX_SERVERS,
        unit="requests/s",
        helps=("Plan for a part of the traffic, and multiply what it takes.",),
    )


def _bounded(question: Question) -> bool:
    return all(stock.count for stock in question.stocks)


def _enough(question: Question, predict: Predictor) -> Iterator[str]:
    unlimited = replace(question, stocks=tuple(replace(stock, count=0) for stock in question.stocks))
    options = [option for stock in unlimited.stocks for option in options_of(unlimited, stock, predict)]
    _, found = search(unlimited, options)
    if found:
        layout = found[0].layout
        kinds = dict.fromkeys(pool.option.hardware.name for pool in layout.pools)
        devices = " and ".join(f"{layout.devices_of(name)} {name}" for name in kinds)
        yield f"{devices} serve it for ${layout.usd_per_hour:,.0f} an hour."
    yield "Relax the promises, or keep prefixes cached."


def _budget_limit(question: Question, cheapest: float) -> Limit:
    return Limit(
        code="serving.budget",
        sentence=(
            f"The cheapest that serves this costs ${cheapest:,.2f} an hour; at most ${question.usd_per_hour:,.2f} were allowed."
        ),
        asked=question.usd_per_hour,
        bound=cheapest,
        unit="USD/h",
        helps=(
            f"Allow ${cheapest:,.2f} an hour, relax the promises, or offer cheaper hardware; prices are those of `plenum plan hardware`.",
        ),
    )


def _together_limit(question: Question, options: Sequence[Option]) -> Limit:
    """Return the limit where promises exclude each other: how near the nearest option comes to each."""
    state = Search(question=question, options=options)
    slo = question.slo
    near: list[tuple[float, float, float, Option]] = []
    for option in options:
        total = state.figures(_alone(option), 1e-6).total
        ttft, tpot = float(total[TTFT_TAIL]), float(total[TPOT_TAIL])
        near.append((max(ttft / slo.ttft_s, tpot / slo.tpot_s), ttft, tpot, option))
    worst, ttft, tpot, option = min(near, key=lambda entry: entry[0])
    return Limit(
        code="serving.together",
        sentence=(
            f"No option keeps all promises together: the nearest is {_number(option.devices)} {option.hardware.name} "
            f"({option.instance.parallelism}, {option.instance.precision.weights}), alone with {duration(ttft)} to the first token and "
            f"{duration(tpot)} for each further one."
        ),
        asked=1.0,
        bound=worst,
        unit="of the promise",
        helps=("Relax the tighter promise, or offer hardware with both more FLOP/s and more bandwidth.",),
    )


def _stocks(question: Question) -> str:
    return " and ".join(f"{stock.count} {stock.hardware.name}" for stock in question.stocks)


def _usable(hardware: Accelerator) -> float:
    return hardware.hbm_bytes * RUNTIME_FRACTION - WORKSPACE_BYTES


def _number(devices: int) -> str:
    return "one" if devices == 1 else str(devices)


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
