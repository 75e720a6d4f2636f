"""An hour of Kimi's requests with the hashes of their prompts' blocks, of 512 tokens each.

    DIR/mooncake/conversation_trace.jsonl.gz     (timestamp [ms], input_length, output_length, hash_ids)

Published with Qin et al., "Mooncake: Trading More Storage for Less Computation" (FAST 2025); arXiv 2407.00079.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plenum.adapters.traces.requests import read_requests
from plenum.serving.workload import Requests

CONVERSATION = Path("mooncake") / "conversation_trace.jsonl.gz"
"""Path in the data folder."""

BLOCK_TOKENS = 512


def read_conversation(data: Path) -> Requests:
    """Read the conversation trace of a data folder: 12,031 requests; sessions are guessed (:func:`sessions_of`).

    Raises
    ------
    FieldError, FileError
        See :func:`plenum.adapters.traces.requests.read_requests`.
    """
    requests = read_requests(data / CONVERSATION, block_tokens=BLOCK_TOKENS)
    return replace(requests, session=sessions_of(requests))


def sessions_of(requests: Requests) -> NDArray[np.int64]:
    """Guess which requests belong together: those whose prompts are equal up to the end of the second block.

    The trace names no sessions. Its first block, a system prompt, is the same for nearly everybody; the second one is a user's own.
    """
    offset = requests.block_offset
    long = np.diff(offset) >= 2
    sessions = np.full(len(requests), -1, np.int64)
    sessions[long] = requests.block_id[offset[:-1][long] + 1]
    return sessions
