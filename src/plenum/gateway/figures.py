"""What arms of an experiment came to, and which is the cheapest that is good enough.

Scores are bounded, so their intervals need no guess of how they are spread; and they hold however often somebody looks, so that looking
until one arm is ahead proves nothing that is not so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

SURE = 0.95
"""Chance that all intervals of an experiment hold, at all times."""

COSTS_Z = 2.0
"""Standard errors on each side of a mean cost."""

ENOUGH_COSTS = 30
"""Answers before their mean cost is taken for about normal."""

_MIXTURE = 3.5
"""Of the confidence sequence: narrowest, as a part of its width, at about a hundred scores."""

GOOD, POOR, OPEN = "good enough", "not good enough", "not enough yet"


class Figures(msgspec.Struct, kw_only=True):
    """Sums over one arm's requests.

    Parameters
    ----------
    cost, cost_squares
        Of answers that did not fail, where the arm has prices.
    scores, score
        From clients: how many, and their sum.
    judged, judgement
        From the judge, likewise.
    unjudged
        Answers that the judge was to score and did not.
    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float = 0.0
    total_s: float = 0.0
    cost: float = 0.0
    cost_squares: float = 0.0
    scores: int = 0
    score: float = 0.0
    judged: int = 0
    judgement: float = 0.0
    unjudged: int = 0

    @property
    def done(self) -> int:
        """Answers that did not fail."""
        return max(self.requests - self.failed, 0)

    def add(self, other: Figures) -> None:
        """Add what another gateway saw of the same arm."""
        for name in Figures.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def mean(self, name: str) -> float | None:
        """Return a sum over answers as a mean; None: there is no answer."""
        return getattr(self, name) / self.done if self.done else None

    def quality(self, judged: bool, arms: int) -> Interval:
        """Return the mean score, by the judge or by clients, among so many arms."""
        count, total = (self.judged, self.judgement) if judged else (self.scores, self.score)
        return quality_of(count, total, (1 - SURE) / max(arms, 1))

    def costs(self) -> Interval:
        """Return the mean cost of an answer."""
        if not self.done:
            return Interval(None, 0.0, math.inf)
        mean = self.cost / self.done
        if self.done < ENOUGH_COSTS:
            return Interval(mean, 0.0, math.inf)
        variance = max(self.cost_squares / self.done - mean**2, 0.0) * self.done / (self.done - 1)
        half = COSTS_Z * math.sqrt(variance / self.done)
        return Interval(mean, max(mean - half, 0.0), mean + half)


class Interval(msgspec.Struct, frozen=True):
    """A mean (None: of nothing) and between what the truth lies."""

    mean: float | None
    low: float
    high: float


def quality_of(count: int, total: float, alpha: float) -> Interval:
    """Return the mean of scores from 0 to 1, with the interval that holds with a chance of ``1 - alpha`` however often it is looked at.

    Notes
    -----
    The two-sided normal mixture of Howard et al., Time-uniform, nonparametric, nonasymptotic confidence sequences (Annals of Statistics
    49, 2021), for a variance of at most 1/4.
    """
    if not count:
        return Interval(None, 0.0, 1.0)
    spread = count / 4 + _MIXTURE
    half = math.sqrt(2 * spread * math.log(math.sqrt(spread / _MIXTURE) / alpha)) / count
    mean = total / count
    return Interval(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def grade(found: Interval, good_enough: float) -> str:
    """Return whether an arm's quality is good enough, as far as that is sure."""
    return GOOD if found.low >= good_enough else POOR if found.high < good_enough else OPEN


def verdict(arms: Mapping[str, Figures], good_enough: float, *, judged: bool, priced: bool) -> tuple[str, str]:
    """Return the cheapest arm that is good enough (empty: nobody can say), and a sentence about it.

    Parameters
    ----------
    judged
        Whether the judge's scores count; else those of clients do.
    priced
        Whether all arms have prices.
    """
    if not good_enough:
        return "", "nobody says what is good enough (goodEnough)"
    grades = {name: grade(found.quality(judged, len(arms)), good_enough) for name, found in arms.items()}
    good = [name for name, found in grades.items() if found == GOOD]
    left = [name for name, found in grades.items() if found == OPEN]
    if not good:
        if not left:
            return "", f"no arm is good enough: all are below {good_enough:g}"
        return "", f"not enough yet: more scores are needed of {', '.join(left)}"
    if len(arms) == 1 or len(good) + len(left) == 1:
        return good[0], f"{good[0]} is the only arm that is good enough"
    if not priced:
        return "", f"{', '.join(good)} is good enough; without prices of all arms nobody knows what is cheapest"
    costs = {name: found.costs() for name, found in arms.items()}
    best = min(good, key=lambda name: (costs[name].high, name))
    rivals = [name for name in (*good, *left) if name != best and costs[name].low < costs[best].high]
    if rivals:
        return "", f"not enough yet: {best} is good enough, and {', '.join(rivals)} may be cheaper and as good"
    return best, f"{best} is the cheapest that is good enough"
