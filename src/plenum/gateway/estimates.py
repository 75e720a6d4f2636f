"""How many tokens a prompt has, before its engine has said: learned from what engines said of earlier ones."""

from __future__ import annotations

from collections import OrderedDict

FIRST_BYTES_PER_TOKEN = 4.0
MAX_MODELS = 4_096
WEIGHT = 0.05
"""Of each new request in the mean."""


class Estimates:
    """Bytes per token of each endpoint's prompts, templates included."""

    def __init__(self) -> None:
        self._bytes_per_token: OrderedDict[str, float] = OrderedDict()

    def tokens(self, endpoint: str, size_bytes: int) -> int:
        """Return about how many tokens a prompt has; at least 1."""
        return max(1, round(size_bytes / self._bytes_per_token.get(endpoint, FIRST_BYTES_PER_TOKEN)))

    def learn(self, endpoint: str, size_bytes: int, tokens: int) -> None:
        """Note what an engine said of a prompt."""
        if size_bytes <= 0 or tokens <= 0:
            return
        seen = min(16.0, max(0.25, size_bytes / tokens))
        known = self._bytes_per_token.get(endpoint, seen)
        self._bytes_per_token[endpoint] = known + WEIGHT * (seen - known)
        if len(self._bytes_per_token) > MAX_MODELS:
            self._bytes_per_token.popitem(last=False)
