"""When a request's first token will come, and how fast the others: a model of the replica, put right by what is measured.

Where the performance model knows the replica's model and accelerator, it predicts (:func:`plenum.serving.steps.step`) and one factor is
learned; else times are linear in what there is to do, and all of it is learned. Both by least squares on relative errors, which forget.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from operator import mul
from typing import Protocol

from plenum.serving.steps import AT, StepModel, chunk_pairs, chunk_pairs_window, step

FORGETTING = 0.98
"""Weight of a measurement after one more has come: some fifty count."""

ENOUGH = 16
"""Measurements before what is learned is relied on, and before its errors say how far."""

MIX_EVERY = 64
"""Answers between two looks at how long prompts and outputs are …"""

MIX_RATIO = 1.5
"""… and by what factor one of them must be off for the model to be taken anew."""

REMEMBERED = 128
MARGIN = 1.5
"""Upper ends over predictions until enough errors are known; the simulator's ``Admission.margin``."""

HIGH = 0.95
"""Quantile of the errors that the upper end of an interval is."""

RIDGE = 1e-9
"""Share of a feature's squares by which its weight is held to what was given: far above rounding, far below what is measured."""

LEAST_S = 1e-6

FASTEST = 4.0
"""A measurement counts as at most so many times as fast as predicted: of relative errors one that is next to nothing, as where several
tokens come in one piece, would outweigh hundreds. What is really faster is learned in a few more steps."""

Row = tuple[float, ...]


class Fit:
    """Weights of features whose sum is a time: least squares on relative errors, older measurements forgotten, no weight below 0.

    The sums of squares are kept and solved anew for each measurement, not their inverse updated: recursive least squares that forget lose
    their inverse to rounding where measurements hardly differ. In plain Python: with three features at most it is several times as fast as
    arrays, and runs for every request.

    Parameters
    ----------
    weights
        To begin with, and where measurements leave it open.
    variance
        Of the weights: how little is thought of them.
    """

    def __init__(self, weights: Row, variance: float) -> None:
        self.weights = list(weights)
        self._given, self._least = weights, (1.0 - FORGETTING) / variance
        self._trust = 1.0 / variance
        self._squares = [[0.0] * len(weights) for _ in weights]
        self._sums = [0.0] * len(weights)

    def predict(self, features: Row) -> float:
        """Return the time."""
        return max(sum(map(mul, self.weights, features)), LEAST_S)

    def learn(self, features: Row, measured_s: float) -> None:
        """Take in a measurement."""
        measured_s = max(measured_s, self.predict(features) / FASTEST)
        x = [each / measured_s for each in features]
        self._squares = [
            [FORGETTING * s + a * b for s, b in zip(row, x, strict=True)]
            for row, a in zip(self._squares, x, strict=True)
        ]
        self._sums = [FORGETTING * s + a for s, a in zip(self._sums, x, strict=True)]
        self._trust = max(FORGETTING * self._trust, self._least)
        left = list(range(len(x)))
        weights = self._solved(left)
        while min(weights, default=0.0) < 0.0:
            left.pop(weights.index(min(weights)))
            weights = self._solved(left)
        self.weights = [0.0] * len(x)
        for place, weight in zip(left, weights, strict=True):
            self.weights[place] = weight

    def _solved(self, left: list[int]) -> list[float]:
        """Return the weights of some features, the others' being 0: elimination, of what a ridge keeps positive definite."""
        rows: list[list[float]] = []
        for i in left:
            ridge = max(self._trust, RIDGE * self._squares[i][i])
            row = [self._squares[i][k] + ridge * (i == k) for k in left]
            rows.append([*row, self._sums[i] + ridge * self._given[i]])
        size = len(left)
        for i in range(size):
            for k in range(i + 1, size):
                factor = rows[k][i] / rows[i][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
        solved = [0.0] * size
        for i in reversed(range(size)):
            solved[i] = (rows[i][size] - sum(rows[i][k] * solved[k] for k in range(i + 1, size))) / rows[i][i]
        return solved


class Errors:
    """By what factor measurements were off."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=REMEMBERED)
        self._high = MARGIN
        self.count = 0

    def learn(self, predicted_s: float, measured_s: float) -> None:
        """Take in one."""
        self._logs.append(math.log(max(measured_s, LEAST_S) / max(predicted_s, LEAST_S)))
        self.count += 1
        if self.count >= ENOUGH and self.count % ENOUGH == 0:
            ordered = sorted(self._logs)
            self._high = math.exp(max(ordered[min(int(HIGH * len(ordered)), len(ordered) - 1)], 0.0))

    @property
    def high(self) -> float:
        """Factor on a prediction that measurements stay under with a chance of :data:`HIGH`."""
        return self._high


class Model(Protocol):
    """What the features of a replica are."""

    ttft_weights: Row
    tpot_weights: Row
    variance: float

    def ttft(self, tokens: float, hit: float, queued: float, waiting: float, running: float) -> Row:
        """Return the features of a time to the first token."""
        ...

    def tpot(self, running: float) -> Row:
        """Return the features of a time per token."""
        ...


class LinearModel:
    """Nothing is known: a constant, so much for a thousand tokens to compute, so much for each running request."""

    ttft_weights = (0.02, 0.2, 0.001)
    tpot_weights = (0.02, 0.0005)
    variance = 1e3

    def ttft(self, tokens: float, hit: float, queued: float, waiting: float, running: float) -> Row:
        """Return constant, thousands of tokens, requests."""
        return 1.0, (max(tokens - hit, 1.0) + queued) / 1000.0, running

    def tpot(self, running: float) -> Row:
        """Return constant, requests."""
        return 1.0, running


class StepsModel:
    """The performance model's own times; what is learned is by how much they are off.

    Parameters
    ----------
    steps
        Of one replica.
    budget_tokens
        Of one iteration.
    context_tokens
        Of one running request, on average.
    """

    ttft_weights = (1.0,)
    tpot_weights = (1.0,)
    variance = 1.0

    def __init__(self, steps: StepModel, budget_tokens: int, context_tokens: float = 1_000.0) -> None:
        self._c, self._budget, self._context = steps.coefficients, budget_tokens, context_tokens

    def ttft(self, tokens: float, hit: float, queued: float, waiting: float, running: float) -> Row:
        """Return what the simulator predicts (:func:`plenum.sim.serving.choosing.predict_ttft`), for a batch of equal contexts."""
        c, window = self._c, self._c[AT["window"]]
        # Floats all of them, as :func:`warm` has them: numbers of another kind would be compiled for anew, while requests wait.
        hit, queued, waiting, running = float(hit), float(queued), float(waiting), float(running)
        new = max(float(tokens) - hit, 1.0)
        pairs, narrow = chunk_pairs(hit, new), chunk_pairs_window(hit, new, window)
        if waiting > 0:
            pairs += waiting * chunk_pairs(0.0, queued / waiting)
            narrow += waiting * chunk_pairs_window(0.0, queued / waiting, window)
        iterations = max(1.0, math.ceil((queued + new) / self._budget))
        each_s, _ = step(
            c,
            (queued + new) / iterations,
            pairs / iterations,
            narrow / iterations,
            max((waiting + 1.0) / iterations, 1.0),
            running,
            running * self._context,
            running * min(self._context, window),
        )
        return (float(iterations * each_s + c[AT["request_s"]]),)

    def tpot(self, running: float) -> Row:
        """Return the time of one iteration that only decodes."""
        n = max(float(running), 1.0)
        narrow = min(self._context, self._c[AT["window"]])
        return (float(step(self._c, 0.0, 0.0, 0.0, 0.0, n, n * self._context, n * narrow)[0]),)


class Forecast:
    """Predictions for the replicas of one revision.

    Parameters
    ----------
    model
        None: nothing is known.
    retake
        Gives the model for other mean lengths of prompts and outputs, in tokens; None: they do not bear on it.
    """

    def __init__(self, model: Model | None = None, retake: Callable[[float, float], Model] | None = None) -> None:
        self._model = model or LinearModel()
        self._given = model is not None
        self._ttft = Fit(self._model.ttft_weights, self._model.variance)
        self._tpot = Fit(self._model.tpot_weights, self._model.variance)
        self.ttft_errors, self.tpot_errors = Errors(), Errors()
        self._retake, self._taken = retake, (0.0, 0.0)
        self._lengths: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        self._seen = 0

    @property
    def knows_ttft(self) -> bool:
        """Whether predictions of first tokens can be relied on."""
        return self._given or self.ttft_errors.count >= ENOUGH

    @property
    def knows_tpot(self) -> bool:
        """Whether predictions of times per token can be relied on."""
        return self._given or self.tpot_errors.count >= ENOUGH

    def ttft_s(self, tokens: float, hit: float, queued: float, waiting: float, running: float) -> float:
        """Predict the time from sending a request to its first token.

        Parameters
        ----------
        tokens, hit
            Of its prompt, and how many of them are found.
        queued, waiting, running
            At the replica: prompt tokens to compute before it, requests that they belong to, requests that decode.
        """
        return self._ttft.predict(self._model.ttft(tokens, hit, queued, waiting, running))

    def tpot_s(self, running: float) -> float:
        """Predict the time per token with so many requests in the batch."""
        return self._tpot.predict(self._model.tpot(running))

    def work_s(self, tokens: float, hit: float, output: float, places: float) -> float:
        """Return the seconds of a whole replica that a request takes when the batch is full: its prefill, and its part of its steps."""
        if not (self.knows_ttft and self.knows_tpot):
            return 0.0
        places = max(places, 1.0)
        alone = self.ttft_s(tokens, hit, 0.0, 0.0, 0.0)
        return min(alone, alone / places + self._prefill_s(tokens, hit)) + output * self.tpot_s(places) / places

    def places_for(self, tpot_s: float, most: int) -> int:
        """Return how many requests at once, from 1 to ``most``, keep a time per token."""
        if not self.knows_tpot or self.tpot_s(most) <= tpot_s:
            return most
        low, high = 1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.tpot_s(middle) <= tpot_s else (low, middle)
        return low

    def learn_ttft(self, features: tuple[float, float, float, float, float], measured_s: float) -> float:
        """Take in a first token; returns what it was over the prediction."""
        row = self._model.ttft(*features)
        predicted = self._ttft.predict(row)
        self.ttft_errors.learn(predicted, measured_s)
        self._ttft.learn(row, measured_s)
        return measured_s / predicted

    def learn_tpot(self, running: float, measured_s: float) -> None:
        """Take in a time per token."""
        row = self._model.tpot(running)
        self.tpot_errors.learn(self._tpot.predict(row), measured_s)
        self._tpot.learn(row, measured_s)

    def learn_mix(self, prompt_tokens: int, output_tokens: int) -> None:
        """Take in how long a prompt and its answer were; a model that was taken for others is taken anew."""
        if self._retake is None or not (prompt_tokens and output_tokens):
            return
        self._lengths.append((prompt_tokens, output_tokens))
        self._seen += 1
        if self._seen % MIX_EVERY:
            return
        isl, osl = (sum(each) / len(self._lengths) for each in zip(*self._lengths, strict=True))
        if not all(t / MIX_RATIO < mean < t * MIX_RATIO for t, mean in zip(self._taken, (isl, osl), strict=True)):
            self._model, self._taken = self._retake(isl, osl), (isl, osl)

    def _prefill_s(self, tokens: float, hit: float) -> float:
        """What computing the prompt adds to a request that has next to nothing to compute."""
        more = self.ttft_s(tokens, hit, 0.0, 0.0, 0.0) - self.ttft_s(1.0, 0.0, 0.0, 0.0, 0.0)
        return max(more, 0.0)


def warm(model: Model) -> None:
    """Compile what predictions by a model need, or load what was compiled, before the first request."""
    model.ttft(1, 0, 1, 1, 1)
    model.tpot(1)
