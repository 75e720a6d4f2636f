"""Which weights a node serves to whom: paths of its disk, and stores that it opens with credentials of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from plenum.adapters.weights.references import ForbiddenWeightsError, read_reference

ALLOWED = "PLENUM_WEIGHTS_ALLOWED"
"""Variable of a node: entries ``[TENANT=]PLACE``, between spaces; a place is a folder, or what references begin with; ``*`` is any."""

DEFAULT = "default=*"
"""The tenant that a single user's installation has may name anything; others what the catalogue has."""


def check_allowed(reference: str, tenant: str, env: Mapping[str, str]) -> None:
    """Pass if a node serves some weights to a tenant; what the catalogue names, it serves to everybody.

    Raises
    ------
    ForbiddenWeightsError
        It does not; says what would allow them.
    UnknownWeightsError
        It is no reference.
    """
    wanted = read_reference(reference)
    if wanted.kind == "catalogue":
        return
    entries = [entry.rpartition("=") for entry in env.get(ALLOWED, DEFAULT).split()]
    places = [place for whose, _, place in entries if whose in ("", tenant)]
    if not any(_within(reference, place) for place in places):
        beside = reference.rpartition("/")[0] or "/"
        raise ForbiddenWeightsError(
            f"this node does not serve {reference} to tenant {tenant}; its operator allows that with {ALLOWED}='{tenant}={beside}'"
        )


def _within(reference: str, place: str) -> bool:
    if place == "*":
        return True
    if "://" not in reference:  # where it really is, lest ``..`` or a link lead out
        return place.startswith("/") and Path(os.path.realpath(reference)).is_relative_to(os.path.realpath(place))
    rest = reference.removeprefix(place)
    return "://" in place and rest != reference and (place[-1] in "/@:" or rest[:1] in ("", "/", "@", ":"))
