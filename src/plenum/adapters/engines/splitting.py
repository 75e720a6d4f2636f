"""Which requests can be split in prefill and decode, and what of them says how to sample."""

from __future__ import annotations

from typing import Any

import msgspec

from plenum.ports.engine import CHAT, COMPLETIONS, HandleError

_OWN_FIELDS = frozenset(
    (
        *(
            "model",
            "messages",
            "prompt",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "n_predict",
        ),
        *("n", "best_of", "echo", "user", "metadata", "store", "service_tier", "prompt_cache_key"),
    )
)
_STATEFUL = (
    *("tools", "functions", "grammar", "json_schema", "suffix"),
    *("logprobs", "top_logprobs", "logit_bias"),
)
_OF_PROMPTS = ("echo", "prompt_logprobs", "use_beam_search")
"""What needs the prompt computed where the answer is made, or more than one sequence there."""


def read_asked(body: bytes) -> dict[str, Any]:
    """Return a request as an object.

    Raises
    ------
    HandleError
        It is none, so the plain way is to say what is wrong with it.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise HandleError(f"the request cannot be read: {error}") from error


def split_reason(path: str, body: dict[str, Any], *, first_crosses: bool = True) -> str:
    """Return why a request cannot be split in prefill and decode; empty: it can.

    Parameters
    ----------
    first_crosses
        The first token is handed over with the cache: then what constrains or describes each token needs the state that the first one
        left in the sampler.
    """
    if path not in (CHAT, COMPLETIONS):
        return f"{path} is not split"
    given = [name for name in _OF_PROMPTS if body.get(name)]
    if first_crosses:
        given += [name for name in _STATEFUL if body.get(name)]
        if (body.get("response_format") or {}).get("type", "text") != "text":
            given.append("response_format")
    if body.get("n") not in (None, 1) or body.get("best_of") not in (None, 1):
        given.append("n")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        given.append("several prompts")  # a handle is of one
    return f"requests with {', '.join(given)} are not split" if given else ""


def sampling(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that say how to sample, which engines know under the same names."""
    return {name: value for name, value in body.items() if name not in _OWN_FIELDS and value is not None}
