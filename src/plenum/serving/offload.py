"""Where a prompt is computed when another site offers prefill: rules as pure functions, for the simulator and a live gateway.

Prefill-as-a-Service (arXiv 2604.15039): prompts with much left to compute go to the remote prefill cluster, whose cache then crosses
the link; short ones stay. What is *left* depends on which caches may be used: where the link is scarce each site counts its own only,
where it is ample a prefix is copied from where it is.
"""

from __future__ import annotations

from plenum.graph.compiled import entry

LOCAL, REMOTE = 0, 1

SCARCE_ABOVE, AMPLE_BELOW = 0.8, 0.6
"""Part of the link in use above which it is scarce, and below which it is ample again; between them it stays what it was."""


@entry
def place_prefill(
    total_tokens: int, local_tokens: int, remote_tokens: int, threshold_tokens: float, ample: bool
) -> tuple[int, int, int]:
    """Choose the site that computes a prompt.

    Parameters
    ----------
    total_tokens
        Of the prompt, those in caches included.
    local_tokens, remote_tokens
        Tokens of its longest prefix in the caches of each site.
    threshold_tokens
        Tokens left to compute above which a prompt is worth sending away; infinity: none is.
    ample
        The link has bandwidth to spare: caches may be copied across.

    Returns
    -------
    tuple of int, int, int
        :data:`LOCAL` or :data:`REMOTE`; tokens of cache to copy to that site first; tokens that it then computes.
    """
    best = max(local_tokens, remote_tokens)
    known = best if ample else local_tokens
    site = LOCAL if total_tokens - known <= threshold_tokens else REMOTE
    own = local_tokens if site == LOCAL else remote_tokens
    copied = best - own if ample else 0
    return site, copied, total_tokens - own - copied


@entry
def is_ample(link_used: float, was_ample: bool) -> bool:
    """Tell whether the link has bandwidth to spare, with hysteresis so that routing does not flap.

    Parameters
    ----------
    link_used
        Part of the link's bandwidth in use, queued bytes included: may be above 1.
    """
    return link_used < (SCARCE_ABOVE if was_ample else AMPLE_BELOW)


@entry
def raised_threshold(threshold_tokens: float, link_used: float, most_tokens: float) -> float:
    """Return the threshold to use while the link is congested: the planned one, rising to ``most_tokens`` as the link fills up.

    This is the fast of two time scales; the slow one plans the threshold anew (:func:`plenum.planning.prefill.split.plan_prefill`).
    """
    if link_used <= SCARCE_ABOVE:
        return threshold_tokens
    over = min((link_used - SCARCE_ABOVE) / (1.0 - SCARCE_ABOVE), 1.0)
    return threshold_tokens + over * max(most_tokens - threshold_tokens, 0.0)
