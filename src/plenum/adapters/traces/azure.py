"""An hour of Azure's LLM inference: when requests came, and how long prompts and outputs were.

    DIR/azure-llm/AzureLLMInferenceTrace_conv.csv.gz     (TIMESTAMP, ContextTokens, GeneratedTokens)

Published with Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting" (ISCA 2024, arXiv 2311.18677).
"""

from __future__ import annotations

from pathlib import Path

from plenum.adapters.traces.requests import read_requests
from plenum.serving.workload import Requests

CONVERSATION = Path("azure-llm") / "AzureLLMInferenceTrace_conv.csv.gz"
"""Path in the data folder."""


def read_conversation(data: Path) -> Requests:
    """Read the conversation trace of a data folder: 19,366 requests.

    Raises
    ------
    FieldError, FileError
        See :func:`plenum.adapters.traces.requests.read_requests`.
    """
    return read_requests(data / CONVERSATION)
