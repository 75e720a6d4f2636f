"""Load on a server that speaks OpenAI's dialect: prompts of exact lengths, sent when they are due, and what came back when.

Way in: :func:`replay` sends :class:`~plenum.serving.workload.Requests` and gives :class:`Measured`.
"""

from plenum.adapters.load.measured import Measured, Summary, summarise
from plenum.adapters.load.prompts import Gauge, prompt_of
from plenum.adapters.load.replay import Target, replay

__all__ = ["Gauge", "Measured", "Summary", "Target", "prompt_of", "replay", "summarise"]
