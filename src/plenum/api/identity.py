"""Who asks: bearer tokens of this control plane, made, hashed and looked up."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal

from plenum.api.errors import ExpiredTokenError, InvalidTokenError
from plenum.control.events import Grant
from plenum.control.state import State

PREFIX = "plm"
"""First part of every token, so that scanners for leaked secrets can know them."""

_TOKEN = re.compile(r"plm_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")

Kind = Literal["user", "agent", "join", "gateway"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody who has proved who they are.

    Parameters
    ----------
    name
        Of the user or agent; of a join token its id.
    grants
        What a user may do.
    token
        What tells this login from others: limits count by it.
    bound_to
        The only agent that a join token lets in, or an agent's or gateway's own token speaks for; empty: any.
    expires_at
        Seconds since the epoch; 0: never.
    """

    kind: Kind
    name: str
    grants: tuple[Grant, ...] = ()
    token: str = ""
    bound_to: str = ""
    expires_at: float = 0.0

    @property
    def actor(self) -> str:
        """How the log names them."""
        return f"{self.kind}/{self.name}"

    @property
    def operator(self) -> bool:
        """Whether they may do everything."""
        return any(grant.role == "operator" for grant in self.grants)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A token just made: the text is shown once, the hash is kept."""

    id: str
    text: str
    hash: str


def new_secret() -> Secret:
    """Make a token of 256 random bits."""
    token_id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(12))
    text = f"{PREFIX}_{token_id}_{secrets.token_urlsafe(32)}"
    return Secret(id=token_id, text=text, hash=hash_of(text))


def hash_of(text: str) -> str:
    """Return what is kept of a token: with so many random bits a plain SHA-256 cannot be searched for its source."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_own_token(text: str) -> bool:
    """Return whether a text has the form of a token of this control plane."""
    return _TOKEN.fullmatch(text) is not None


def principal_of(state: State, text: str, now: float) -> Principal:
    """Return who a token of this control plane speaks for.

    Raises
    ------
    InvalidTokenError
        Not a token that is known, or it was revoked, or its user is gone.
    ExpiredTokenError
        It was valid until some time before ``now``.
    """
    match = _TOKEN.fullmatch(text)
    hashed = hash_of(text)
    token = state.token_by_hash.get(hashed)
    # Looking up by a hash tells nothing of the secret by how long it takes; the comparison guards against a hash cut short.
    if match is None or token is None or token.revoked or not hmac.compare_digest(token.hash, hashed):
        raise InvalidTokenError
    if token.id != match[1]:
        raise InvalidTokenError
    if token.expires_at and now >= token.expires_at:
        raise ExpiredTokenError
    if token.kind == "user":
        user = state.users.get(token.user)
        if user is None:
            raise InvalidTokenError
        return Principal(kind="user", name=user.name, grants=user.grants, token=token.id, expires_at=token.expires_at)
    if token.kind in ("agent", "gateway"):
        return Principal(
            kind=token.kind, name=token.user, token=token.id, bound_to=token.user, expires_at=token.expires_at
        )
    if token.kind == "join":
        return Principal(kind="join", name=token.id, token=token.id, bound_to=token.user, expires_at=token.expires_at)
    raise InvalidTokenError
