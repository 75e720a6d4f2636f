"""Prompts of so many tokens, without the tokenizer: words that each are one token, counted once by the server itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from plenum.model.errors import PlenumError
from plenum.serving.workload import Requests

_TEXT = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were "
    "all her she there would their we him been has when who will no more if out so up said what its about than into them can only "
    "other time new some could these two may first then do any like my now over such our man me even most made after also did many "
    "off before must well back years much where your way down should long each just state those people too how "
    "little good world make very year still see own work"
)
WORDS = _TEXT.split()
"""So common and short that, with the space before it, each is one token of every vocabulary of some ten thousand."""


class GaugeError(PlenumError):
    """What the server says of prompts' lengths makes no sense, so none can be made to measure."""

    code = "bench.lengths"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """How words become tokens on one server.

    Parameters
    ----------
    around_tokens
        Of each prompt beside its words: the chat template.
    tokens_per_word
        1 where lengths can be exact.
    requests
        That were sent to find this out, before those that are measured.
    """

    around_tokens: float = 0.0
    tokens_per_word: float = 1.0
    requests: int = 0

    def words(self, tokens: int) -> int:
        """Return how many words make a prompt of so many tokens; one at least."""
        return max(1, round((tokens - self.around_tokens) / self.tokens_per_word))


async def gauge(once: int, count: Callable[[str], Awaitable[int]]) -> Gauge:
    """Find out how words become tokens.

    Parameters
    ----------
    once
        Tokens of a prompt of all ``WORDS``.
    count
        Gives the tokens that a server counted in the prompt around a text.

    Raises
    ------
    GaugeError
        More words were not more tokens.
    """
    twice = await count(" ".join(WORDS * 2))
    if twice <= once:
        raise GaugeError(f"{len(WORDS)} words are {once} tokens there, and {2 * len(WORDS)} are {twice}")
    each = (twice - once) / len(WORDS)
    return Gauge(around_tokens=once - each * len(WORDS), tokens_per_word=each)


def prompt_of(requests: Requests, index: int, gauge: Gauge, seed: int) -> str:
    """Return the text of one request: where it shares blocks with others the same words, else words of its own."""
    count = gauge.words(int(requests.prompt_tokens[index]))
    begin, end = requests.block_offset[index], requests.block_offset[index + 1]
    block_words = max(1, round(requests.block_tokens / gauge.tokens_per_word))
    words: list[str] = []
    for block in requests.block_id[begin:end].tolist():
        if len(words) >= count:
            break
        words += _words(block_words, seed, 0, block)
    words = words[:count]
    words += _words(count - len(words), seed, 1, index)
    return " ".join(words)


def _words(count: int, *seed: int) -> list[str]:
    places = np.random.default_rng(seed).integers(0, len(WORDS), count)
    return [WORDS[place] for place in places.tolist()]
