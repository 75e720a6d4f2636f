"""What an operator may set about the API; every value has a default that is safe to leave."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from plenum.control.commands import ROLES
from plenum.model.errors import FieldError

MIB = 2**20

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that a JWT may carry: with a public key only, so that no key of ours can be mistaken for a shared secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many requests a second on average, and so many at once after a pause."""

    per_s: float
    burst: int

    def __post_init__(self) -> None:
        if not self.per_s > 0 or self.burst < 1:
            raise FieldError("rate", "perS must be above 0 and burst at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimGrant:
    """Who carries this value in this claim of a JWT has this role in this tenant.

    Parameters
    ----------
    claim
        Dotted path into the claims, for example ``realm_access.roles``.
    value
        What the claim is, or holds if it is a list.
    """

    claim: str
    value: str
    role: str
    tenant: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise FieldError("grants.role", f"there is no role {self.role!r}; the roles are {', '.join(ROLES)}")
        if (self.role == "operator") != (self.tenant == "*"):
            raise FieldError("grants", "operator goes with tenant '*', every other role with one tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIssuer:
    """Somebody else whose word on who a person is counts here.

    Parameters
    ----------
    issuer, audience
        ``iss`` and ``aud`` that a JWT must carry.
    jwks
        Its public keys: the path of a file, or an https address.
    user_claim
        Claim that names the person.
    prefix
        Put before that name, so that nobody can pass for a user of this control plane; empty: the issuer's host name and ``:``.
    grants
        What its people may do; somebody whom none of these fits may do nothing.
    """

    issuer: str
    audience: str
    jwks: str
    user_claim: str = "sub"
    prefix: str = ""
    algorithms: tuple[str, ...] = ALGORITHMS
    grants: tuple[ClaimGrant, ...] = ()

    def __post_init__(self) -> None:
        for name in ("issuer", "audience", "jwks", "user_claim"):
            if not getattr(self, name):
                raise FieldError(f"jwt.{name}", "is empty, and it is required")
        if "://" in self.jwks and not self.jwks.startswith("https://"):
            raise FieldError(
                "jwt.jwks",
                "must be the path of a file or an https address: keys are not taken from a line others can change",
            )
        if wrong := sorted(set(self.algorithms) - set(ALGORITHMS)):
            raise FieldError("jwt.algorithms", f"{wrong[0]!r} is not one of {', '.join(ALGORITHMS)}")
        if ":" not in self.name_prefix:
            raise FieldError(
                "jwt.prefix", "must hold a ':', so that its people cannot be taken for users of this control plane"
            )

    @property
    def name_prefix(self) -> str:
        """What stands before the names of its people."""
        return self.prefix or f"{urlsplit(self.issuer).hostname or self.issuer}:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Limits and trust of one API.

    Parameters
    ----------
    rate
        Of one token.
    failure_rate
        Of refused credentials from one address; beyond it they are refused without a look.
    body_bytes, large_body_bytes
        Largest request; the large one for fleets and agents.
    body_timeout_s
        Longest that a request may take to arrive.
    connections
        At once; fewer where the system lets the process have fewer files.
    headers_bytes, headers_s
        Largest head of a request, and longest that a new connection may take to send one.
    in_flight
        Requests and streams at once; more are turned away with 503.
    watchers, watchers_each
        Streams (events, followed logs) at once, in all and for one token.
    send_timeout_s
        A reader who does not take a piece of a stream within this time is cut off.
    stream_s
        Longest life of a stream; the reader resumes where it ended.
    follow_pause_s
        Between two looks at a log that is followed and has nothing new.
    audit_window_s
        Equal refusals within this time become one record that counts them.
    audit_most
        Records of refusals in one such time, from all sources together.
    audit_rate
        Records of refusals of one source; what is more is summed up once a minute, as these records are kept for ever.
    attach
        Addresses, networks and host names of servers that endpoints may attach, besides this control plane's own nodes.
    arguments
        Arguments of engines, such as ``--tokenizer``, that tenants may give in ``spec.arguments`` besides those that are known to name no
        file, code, address or key; ``*``: all.
    backup_folder
        Where a backup is put while it is sent; empty: the system's folder for temporary files.
    """

    rate: Rate = Rate(per_s=5000.0, burst=10_000)
    failure_rate: Rate = Rate(per_s=5.0, burst=50)
    body_bytes: int = MIB
    large_body_bytes: int = 8 * MIB
    body_timeout_s: float = 30.0
    connections: int = 8192
    headers_bytes: int = 64 * 2**10
    headers_s: float = 10.0
    in_flight: int = 4096
    watchers: int = 1024
    watchers_each: int = 32
    send_timeout_s: float = 30.0
    stream_s: float = 3600.0
    follow_pause_s: float = 0.5
    audit_window_s: float = 1.0
    audit_most: int = 100
    audit_rate: Rate = Rate(per_s=0.2, burst=1_000)
    attach: tuple[str, ...] = ("127.0.0.0/8", "::1/128", "localhost")
    arguments: tuple[str, ...] = ()
    backup_folder: str = ""
    jwt: tuple[JwtIssuer, ...] = ()

    def __post_init__(self) -> None:
        if len({issuer.issuer for issuer in self.jwt}) != len(self.jwt):
            raise FieldError("jwt", "names an issuer twice")
