"""The last records of the log: it is read forwards, so where to begin is found by going back further and further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plenum.cli.times import seconds_of

if TYPE_CHECKING:
    from plenum.adapters.client import Client

FIRST_STEP = 500
MOST_RECORDS = 100_000
"""Records read at most to find those that were asked for."""


def recent(
    client: Client, path: str, most: int | None, *, since_s: float = 0.0, subject: str = "", tenant: str | None = None
) -> dict[str, Any]:
    """Return the last records, oldest first, as a list of the API.

    Parameters
    ----------
    path
        ``events`` or ``decisions``.
    most
        How many; None: as many as there are.
    since_s
        Only those at or after this time, in seconds since the epoch.
    """
    asked = {key: value for key, value in (("subject", subject), ("tenant", tenant)) if value}
    head = int(client.get("/version")["position"])
    # The log keeps an index of subjects: what one thing went through is read from its beginning.
    step = head if subject else FIRST_STEP
    while True:
        after = max(head - step, 0)
        listing = client.listed(f"/{path}", after=after, **asked)
        items = listing["items"]
        reached = bool(items) and since_s > 0 and seconds_of(items[0]["at"]) < since_s
        if after == 0 or reached or step >= MOST_RECORDS or (not since_s and most is not None and len(items) >= most):
            break
        step *= 8
    kept = [item for item in items if seconds_of(item["at"]) >= since_s]
    return {**listing, "items": kept[-most:] if most is not None else kept}
