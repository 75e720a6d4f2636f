"""Every sensible way to run one instance of a model on a kind of device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from plenum.planning.serving.question import Question, Stock
from plenum.serving.architecture import Architecture
from plenum.serving.formats import FORMATS, Precision
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import (
    EngineSettings,
    Instance,
    Parallelism,
    cache_capacity_tokens,
    longest_sequence_fits,
)
from plenum.serving.roofline import computed_in
from plenum.serving.steps import StepModel

DEGREES = (1, 2, 4, 8, 16, 32, 64)
"""Degrees of parallelism that engines are run with; attention is dealt out over any divisor of the scale-up domain too (9, 36, 72)."""

MAX_TENSOR = 16
"""Beyond it every engine's all-reduce costs more than the split saves."""

MAX_STAGES = 8
MAX_DEVICES = 72
"""Of one instance: the largest scale-up domain sold as one, and nine servers of eight."""

CHUNKS = (2048, 4096, 8192, 16384)
"""Tokens of one iteration at most; vLLM's defaults lie among them (2,048 … 16,384 by hardware and use)."""

PREFILL_CHUNKS = (8192, 16384)

ROOMY = 64
"""Requests that an instance should hold at once: with fewer, weights are read for hardly anything, and stages are worth a try."""

MAX_OPTIONS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """How to predict one instance: its coefficients, and how far off they may be.

    Parameters
    ----------
    steps
        See :class:`plenum.serving.steps.StepModel`.
    ttft, tpot
        What a prediction is multiplied by to get the ends of the interval that holds the truth in nine cases of ten.
    measured
        What the coefficients rest on, in words.
    """

    steps: StepModel
    ttft: tuple[float, float]
    tpot: tuple[float, float]
    measured: str


class Predictor(Protocol):
    """Where coefficients come from."""

    def __call__(self, instance: Instance) -> Prediction:
        """Return how to predict ``instance``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Option:
    """One way to run an instance.

    Parameters
    ----------
    instance
        The model on devices; ``settings.max_batched_tokens`` is the largest of ``chunks`` until one is chosen.
    prediction
        How long its iterations take.
    cache_tokens
        Tokens of KV cache that it holds, of requests as long as the question's are on average.
    """

    instance: Instance
    prediction: Prediction
    cache_tokens: int

    @property
    def hardware(self) -> Accelerator:
        """What it runs on."""
        return self.instance.hardware

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.instance.devices

    @property
    def usd_per_hour(self) -> float:
        """Price of one instance."""
        return self.devices * self.hardware.usd_per_hour


def options_of(question: Question, stock: Stock, predict: Predictor) -> list[Option]:
    """Return the options on one kind of device that hold the model and its longest request; possibly none."""
    traffic = question.traffic
    context = traffic.prompt_tokens + 0.5 * traffic.output_tokens
    fitting = [
        (instance, cache_capacity_tokens(instance, context))
        for instance in islice(instances_of(question, stock), MAX_OPTIONS)
        if longest_sequence_fits(instance, traffic.longest_tokens)
    ]
    if not question.pipelines:
        fitting = list(_fewest_stages(fitting, ROOMY * context))
    return [Option(instance=instance, prediction=predict(instance), cache_tokens=cache) for instance, cache in fitting]


def _fewest_stages(fitting: list[tuple[Instance, int]], roomy_tokens: float) -> Iterator[tuple[Instance, int]]:
    """Yield, of each format, those with as few pipeline stages as hold the model, and as hold it with ``roomy_tokens`` of cache.

    Stages and experts over several domains are two ways out of one domain's memory: neither makes the other needless.
    """
    kept: set[tuple[Precision, int]] = set()
    for least in (0.0, roomy_tokens):
        fewest: dict[Precision, int] = {}
        for instance, cache in fitting:
            if cache >= least and not beyond_domain(instance):
                stages = instance.parallelism.pp
                fewest[instance.precision] = min(stages, fewest.get(instance.precision, stages))
        kept |= set(fewest.items())
    for instance, cache in fitting:
        if beyond_domain(instance) or (instance.precision, instance.parallelism.pp) in kept:
            yield instance, cache


def beyond_domain(instance: Instance) -> bool:
    """Tell whether one stage of an instance is wider than a scale-up domain."""
    spread = instance.parallelism
    return spread.tp * spread.dp > max(instance.hardware.scaleup_size, 1)


def instances_of(question: Question, stock: Stock) -> Iterator[Instance]:
    """Yield instances in every format and spread that the hardware has devices and arithmetic for, fitting or not."""
    for precision in precisions_of(question, stock.hardware):
        for spread in spreads_of(question.model, stock):
            yield Instance(
                model=question.model,
                hardware=stock.hardware,
                precision=precision,
                parallelism=spread,
                settings=EngineSettings(engine=question.engine, max_batched_tokens=CHUNKS[-1]),
            )


def precisions_of(question: Question, hardware: Accelerator) -> list[Precision]:
    """Return the formats asked for that ``hardware`` can compute, if only by widening them."""
    return [
        _precision(question.model, weights, cache)
        for weights in question.weights
        if computed_in(hardware, FORMATS[weights])
        for cache in question.caches
    ]


def _precision(model: Architecture, weights: str, cache: str) -> Precision:
    """Return formats: those of the publisher's checkpoint if its weights are asked for, else all weights alike.

    Activations are 16 bits wide between matrices, as calibration takes them: engines narrow them only for the product itself.
    """
    experts = model.experts_format if weights == model.weights_format else ""
    return Precision(weights=weights, experts=experts, kv_cache=cache)


def spreads_of(model: Architecture, stock: Stock) -> Iterator[Parallelism]:
    """Yield the spreads that divide the model evenly.

    Tensor parallelism stays in one scale-up domain. An instance whose attention is data parallel may span several whole domains if its
    experts are dealt out over all of them: what tokens visit then goes through the network, and is priced at ``scaleout_bps``.
    """
    heads = min(block.attention.heads for block in model.blocks)
    experts = max(block.feed_forward.experts for block in model.blocks)
    domain = stock.hardware.scaleup_size
    limit = min(stock.count or MAX_DEVICES, MAX_DEVICES)
    for tensor in (d for d in DEGREES if d <= min(MAX_TENSOR, domain) and heads % d == 0):
        for stages in (d for d in DEGREES if d <= min(MAX_STAGES, model.layers)):
            for groups in _group_degrees(domain) if experts else (1,):
                width = tensor * groups
                if width * stages > limit:
                    continue
                if width <= domain and (_is_power(width) or _experts_split(model, width)):
                    yield Parallelism(tp=tensor, pp=stages, dp=groups)
                wide = domain > 1 and width % domain == 0 and stages == 1
                if experts and width > 1 and experts % width == 0 and (width <= domain or wide):
                    yield Parallelism(tp=tensor, pp=stages, dp=groups, ep=width)


def _group_degrees(domain: int) -> list[int]:
    """Return the powers of two, and the divisors of a domain."""
    return sorted({*DEGREES, *(d for d in range(1, min(domain, MAX_DEVICES) + 1) if domain % d == 0)})


def _is_power(degree: int) -> bool:
    return degree & (degree - 1) == 0


def _experts_split(model: Architecture, width: int) -> bool:
    """Tell whether the matrices of every expert can be cut into so many equal parts."""
    return all(b.feed_forward.width % width == 0 for b in model.blocks if b.feed_forward.experts)


def with_limits(option: Option, *, sequences: int, chunk: int) -> Option:
    """Return the option with an engine's limits set."""
    each = chunk // option.instance.parallelism.dp  # engines count by attention group
    settings = replace(option.instance.settings, max_sequences=sequences, max_batched_tokens=each)
    return replace(option, instance=replace(option.instance, settings=settings))
