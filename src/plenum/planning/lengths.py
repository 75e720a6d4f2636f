"""How long prompts are: a distribution as cells, whose share and means are known on either side of every threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plenum.model.errors import FieldError

CELLS = 4096
"""Cells that a distribution is cut into; thresholds lie between them."""

MAX_TOKENS = 1e9
MAX_LENGTHS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lengths:
    """Prompts by length.

    Parameters
    ----------
    tokens
        (C,) float64, ascending: mean length of each cell.
    share
        (C,) float64: part of all prompts; they add up to 1.
    edge
        (C,) float64: the threshold above which a cell begins: its prompts are longer, those of the cells before it are not.
    label
        In words.
    """

    tokens: NDArray[np.float64]
    share: NDArray[np.float64]
    edge: NDArray[np.float64]
    label: str = ""

    @property
    def mean(self) -> float:
        """Mean length."""
        return float(self.tokens @ self.share)

    def quantile(self, part: float) -> float:
        """Length that ``part`` of the prompts do not exceed."""
        at = int(np.searchsorted(np.cumsum(self.share), part - 1e-12))
        return float(self.tokens[min(at, len(self.tokens) - 1)])

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """Draw prompt lengths, at least one token each."""
        drawn = rng.choice(self.tokens, size=count, p=self.share / self.share.sum())
        return np.maximum(np.rint(drawn), 1).astype(np.int32)


def lognormal_lengths(mu: float, sigma: float, shortest: float, longest: float) -> Lengths:
    """Return a lognormal distribution, truncated: the rest is spread over what is left.

    Cells are equally wide in logarithm; share and mean of each are exact.

    Parameters
    ----------
    mu, sigma
        Mean and standard deviation of the logarithm of the tokens.
    shortest, longest
        Where it is cut off, in tokens.

    Raises
    ------
    FieldError
        Figures that make no distribution.
    """
    if not (0 < shortest < longest <= MAX_TOKENS and 0 < sigma < 20 and abs(mu) < 50):
        sentence = f"a lognormal over {shortest:g} to {longest:g} tokens with mu {mu:g}, sigma {sigma:g} has no prompts"
        raise FieldError("lengths", f"{sentence}; give 0 < shortest < longest and sigma above 0")
    edges = np.geomspace(shortest, longest, CELLS + 1)
    z = (np.log(edges) - mu) / sigma
    share = _between(z)
    if not share.sum() > 0:
        raise FieldError("lengths", f"next to nothing of that lognormal lies between {shortest:g} and {longest:g}")
    mass = math.exp(mu + sigma**2 / 2) * _between(z - sigma)
    middle = np.sqrt(edges[1:] * edges[:-1])
    tokens = np.clip(np.divide(mass, share, out=middle.copy(), where=share > 1e-280), edges[:-1], edges[1:])
    label = f"lognormal({mu:g}, {sigma:g}) in [{shortest:,.0f}, {longest:,.0f}]"
    return Lengths(tokens=tokens, share=share / share.sum(), edge=edges[:-1], label=label)


def measured_lengths(tokens: ArrayLike, label: str = "") -> Lengths:
    """Return the lengths of a trace: each distinct one is a cell, so that a split of it is exact.

    Raises
    ------
    FieldError
        No prompts, or prompts of less than a token.
    """
    lengths = np.asarray(tokens, np.float64).ravel()
    if not 1 <= len(lengths) <= MAX_LENGTHS or not (lengths >= 1).all() or not (lengths <= MAX_TOKENS).all():
        raise FieldError("lengths", "needs at least one prompt, of 1 to 10⁹ tokens each")
    distinct, counts = np.unique(lengths, return_counts=True)
    edge = np.concatenate([[0.0], distinct[:-1]])
    return Lengths(
        tokens=distinct,
        share=counts / len(lengths),
        edge=edge,
        label=label or f"{len(lengths):,} prompts of a trace",
    )


def _between(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mass of the normal distribution between neighbours, from whichever tail is nearer so that nothing cancels."""
    from scipy.special import ndtr

    return np.where(z[:-1] > 0, -np.diff(ndtr(-z)), np.diff(ndtr(z)))
