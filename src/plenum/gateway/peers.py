"""The other gateways, as the control plane last told of them: how many share the limits of keys, and where what one keeps is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from plenum.gateway.request import RefusedError
from plenum.ports.gateway import Peer

_TAG = re.compile(r"[a-z]+[-_]([0-9a-f]{8})[-_]")


class Peers:
    """Gateways that are alive, this one among them.

    Files and batches lie with the gateway that took them, so their ids begin with a tag of its own.

    Parameters
    ----------
    name
        Of this gateway; what follows its last dot is the tag.

    Attributes
    ----------
    count
        How many there are; 1 until the control plane has told.
    """

    def __init__(self, name: str = "") -> None:
        self._tag = name.rpartition(".")[2]
        self._others: dict[str, Peer] = {}
        self.count = 1

    def take(self, alive: Iterable[Peer]) -> None:
        """Go by what the control plane says now."""
        tags = {peer.name.rpartition(".")[2]: peer for peer in alive}
        self._others = {tag: peer for tag, peer in tags.items() if tag != self._tag}
        self.count = len(self._others) + 1

    def prefix(self, kind: str) -> str:
        """Return what ids of a kind (``file-``, ``batch_``) begin with here."""
        return f"{kind}{self._tag}{kind[-1]}" if self._tag else kind

    def absent(self, id: str, noun: str) -> RefusedError:
        """Return the refusal of an id that is not known here, which says where it may be asked for."""
        tagged = _TAG.match(id)
        other = self._others.get(tagged[1]) if tagged else None
        if other is None:
            return RefusedError(404, "invalid_request_error", f"{noun}.unknown", f"there is no such {noun}", field="id")
        where = f" at {other.url}" if other.url else ""
        sentence = (
            f"this {noun} lies with gateway {other.name}{where}: ask there, files and batches stay where they were made"
        )
        return RefusedError(421, "invalid_request_error", f"{noun}.elsewhere", sentence, field="id")
