"""Weights of models, brought to a node and checked.

Way in: :func:`stage`. What is local stays where it is; what is fetched lies in a cache by the digest of its content, so that two references
to the same weights take the room once. Each store that weights come from is one function that lists files (``hub``, ``buckets``,
``registries``); fetching, resuming, checking and publishing them is the same for all (``fetching``, ``staging``).
"""

from plenum.adapters.weights.allowed import check_allowed
from plenum.adapters.weights.digests import Progress
from plenum.adapters.weights.references import (
    CATALOGUE,
    ChangedWeightsError,
    DigestError,
    ForbiddenWeightsError,
    UnknownWeightsError,
    WeightsError,
    read_reference,
)
from plenum.adapters.weights.staging import Staged, gguf_in, stage

__all__ = [
    "CATALOGUE",
    "ChangedWeightsError",
    "DigestError",
    "ForbiddenWeightsError",
    "Progress",
    "Staged",
    "UnknownWeightsError",
    "WeightsError",
    "check_allowed",
    "gguf_in",
    "read_reference",
    "stage",
]
