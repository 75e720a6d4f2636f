"""The facts about endpoints, keys and usage."""

from __future__ import annotations

from typing import Any

import msgspec

from plenum.control.fact import Event
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Usage


class _OfEndpoint(Event, frozen=True, kw_only=True):
    endpoint: str

    def subject(self) -> str:
        """Return ``endpoint/tenant/name``."""
        return f"endpoint/{self.endpoint}"

    def tenant(self) -> str:
        """Return the tenant in the endpoint's id."""
        return self.endpoint.partition("/")[0]


class EndpointApplied(_OfEndpoint, frozen=True, kw_only=True):
    """An endpoint was asked for, or asked for differently; the record's position becomes a new one's uid."""

    audit = True
    spec: Endpoint
    manifest: dict[str, Any] = msgspec.field(default_factory=dict)


class EndpointStopRequested(_OfEndpoint, frozen=True, kw_only=True):
    """An endpoint was deleted by somebody; it goes once its replicas are drained and gone."""

    audit = True
    why: str = "deleted"


class EndpointDeleted(_OfEndpoint, frozen=True, kw_only=True):
    """Nothing of an endpoint runs any more; its name is free."""

    audit = True


class EndpointScaled(_OfEndpoint, frozen=True, kw_only=True):
    """A pool is to have another number of replicas.

    Parameters
    ----------
    why
        ``load``, ``promise``, ``forecast``, ``idle``, ``woken``, ``limits``, ``budget``: what the number follows from; and a sentence.
    signals
        The figures that it was decided on.
    source
        Who says what one replica serves, where the number rests on that: the performance ``model``, or what was ``measured``.
    """

    pool: str
    before: int
    after: int
    why: str
    sentence: str = ""
    signals: dict[str, float] = msgspec.field(default_factory=dict)
    source: str = ""


class RevisionStarted(_OfEndpoint, frozen=True, kw_only=True):
    """A version of an endpoint begins beside those before.

    Parameters
    ----------
    canary
        It proves itself on a part of the requests first; False: it takes over as its replicas come up.
    room
        Pool to the replicas that the rollout reckons with: as were wanted, or as had found room.
    """

    revision: int
    canary: bool = False
    why: str = ""
    room: dict[str, int] = msgspec.field(default_factory=dict)


class RoomReckoned(_OfEndpoint, frozen=True, kw_only=True):
    """A rollout reckons with more replicas of what it replaces, as these have places now; or with fewer, as no more are wanted.

    Parameters
    ----------
    room
        Pool to replicas, as of :class:`RevisionStarted`.
    """

    revision: int
    room: dict[str, int] = msgspec.field(default_factory=dict)


class RevisionSized(_OfEndpoint, frozen=True, kw_only=True):
    """A revision's pool is to have so many replicas; those beyond are drained, the highest ranks first."""

    revision: int
    pool: str
    replicas: int


class CanaryStarted(_OfEndpoint, frozen=True, kw_only=True):
    """A canary is ready, and gets its part of the requests from here on."""

    revision: int
    part: float


class RevisionPromoted(_OfEndpoint, frozen=True, kw_only=True):
    """A canary has proved itself; it replaces the revision before, replica by replica."""

    audit = True
    revision: int
    why: str = ""
    evidence: dict[str, float] = msgspec.field(default_factory=dict)


class RevisionRolledBack(_OfEndpoint, frozen=True, kw_only=True):
    """A revision proved worse than the one before, or never got ready; that one goes on."""

    audit = True
    revision: int
    why: str
    sentence: str
    evidence: dict[str, float] = msgspec.field(default_factory=dict)


class RevisionRetired(_OfEndpoint, frozen=True, kw_only=True):
    """A revision that another has replaced gets nothing new; its replicas go once they are drained."""

    revision: int


class KeyIssued(Event, frozen=True, kw_only=True):
    """A key to ask models with was handed out; only the hash of its secret is known here."""

    audit = True
    key: Key
    note: str = ""

    def subject(self) -> str:
        """Return ``key/id``."""
        return f"key/{self.key.id}"

    def tenant(self) -> str:
        """Return the tenant that it belongs to."""
        return self.key.tenant


class KeyRevoked(Event, frozen=True, kw_only=True):
    """A key stopped being valid."""

    audit = True
    id: str
    of_tenant: str = ""

    def subject(self) -> str:
        """Return ``key/id``."""
        return f"key/{self.id}"

    def tenant(self) -> str:
        """Return the tenant that it belonged to."""
        return self.of_tenant


class UsageRecorded(Event, frozen=True, kw_only=True):
    """What requests took, from a gateway's journal; ``number`` counts a gateway's batches up from 1.

    Parameters
    ----------
    waiting
        Batches that it has left to send.
    freed
        Gateways that are remembered no more, to make place for it.
    """

    gateway: str
    number: int
    rows: tuple[Usage, ...] = ()
    waiting: int = 0
    freed: tuple[str, ...] = ()

    def subject(self) -> str:
        """Return ``usage/gateway``."""
        return f"usage/{self.gateway}"


ALL: tuple[type[Event], ...] = (
    EndpointApplied, EndpointStopRequested, EndpointDeleted, EndpointScaled,
    RevisionStarted, RoomReckoned, RevisionSized, CanaryStarted, RevisionPromoted, RevisionRolledBack, RevisionRetired,
    KeyIssued, KeyRevoked, UsageRecorded,
)  # fmt: skip
"""For the table of all events."""
